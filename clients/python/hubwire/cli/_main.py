"""From arguments to an exit code."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence

from hubwire._version import __version__
from hubwire.cli import _answer, _classify, _embed, _fill, _health, _models, _pipeline, _rerank, _server, _tokenize, _tokens
from hubwire.cli._options import CommandError, UsageError, complete, connection_options
from hubwire.cli._output import print_error

_EXIT_ERROR = 1
_EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. `argv` is without the program's name; None for sys.argv."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except CommandError as error:
        print_error(str(error), error.hint)
        return _EXIT_ERROR
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return _EXIT_ERROR
    except SystemExit as stop:  # argparse after --help or wrong usage, and whatever a server does
        if isinstance(stop.code, str):
            print_error(stop.code)
            return _EXIT_ERROR
        return stop.code or 0


def _dispatch(arguments: list[str]) -> int:
    # argparse would read the server's options as its own, so they never come near it.
    if arguments and arguments[0] in _server.COMMANDS:
        return _server.run(arguments[0], arguments[1:])
    parser = _parser()
    try:
        "".join(arguments).encode()
    except UnicodeEncodeError:
        parser.error("an argument is not UTF-8")
    args = parser.parse_args(arguments)
    try:
        return _run(complete(args))
    except UsageError as error:
        parser.exit(2, f"{parser.prog} {args.command}: error: {error}\n")


def _run(args: argparse.Namespace) -> int:
    # gRPC writes lines of its own to stderr, as for a failed handshake; what they say is in the error too. It reads this once, as it loads.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from hubwire.cli._output import hint_for
    from hubwire.errors import HubwireError

    try:
        code: int = args.run(args)
        return code
    except HubwireError as error:
        raise CommandError(str(error), hint_for(error, args.address)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hubwire", description="Serve Hugging Face models over gRPC, and talk to a server that does.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"hubwire {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = connection_options()
    commands.add_parser("serve", add_help=False, help="start a server (needs the package hubwire-server)")
    commands.add_parser("cache", add_help=False, help="list or clear what servers keep on this machine (needs hubwire-server)")
    for command in (_embed, _classify, _tokens, _answer, _fill, _rerank, _tokenize, _pipeline, _models, _health):
        command.add_parser(commands, common)
    return parser


def _forget_stdout() -> None:
    """The reader of stdout is gone: keep Python from complaining about that once more when it flushes at exit."""
    with contextlib.suppress(OSError, io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
