"""The commands of the server's own package, under this roof."""

from __future__ import annotations

import importlib

from hubwire.cli._options import CommandError

COMMANDS = {"serve": "hubwire_server.__main__", "cache": "hubwire_server.cache"}
"""The module of each, whose main takes the arguments."""


def run(command: str, arguments: list[str]) -> int:
    """Hand every argument to the server, --help too."""
    name = COMMANDS[command]
    try:
        server = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that is missing inside an installed server is a defect to be seen, not a server that is not installed.
        if error.name is None or not name.startswith(error.name):
            raise
        raise CommandError("the server is not installed", hint="pip install hubwire-server") from None
    code: int = server.main(arguments)
    return code
