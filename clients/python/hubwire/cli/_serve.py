"""`hubwire serve`: the server's own command line, under this roof."""

from __future__ import annotations

import importlib

from hubwire.cli._options import CommandError

_SERVER = "hubwire_server.__main__"


def run(arguments: list[str]) -> int:
    """Hand every argument to the server, --help too."""
    try:
        server = importlib.import_module(_SERVER)
    except ModuleNotFoundError as error:
        # A module that is missing inside an installed server is a defect to be seen, not a server that is not installed.
        if error.name is None or not _SERVER.startswith(error.name):
            raise
        raise CommandError("the server is not installed", hint="pip install hubwire-server") from None
    code: int = server.main(arguments)
    return code
