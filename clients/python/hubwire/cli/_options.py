"""What every command that talks to a server takes, and how a command fails."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from hubwire._client import Client

    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_ADDRESS = "127.0.0.1:50051"


class CommandError(Exception):
    """The command failed: exit code 1, and one line on stderr."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(Exception):
    """The arguments contradict each other in a way that argparse does not see: exit code 2."""


def connection_options() -> argparse.ArgumentParser:
    """A parent parser. It sets no defaults, so that an option may stand before or after a nested subcommand; `complete` sets them."""
    parent = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = parent.add_argument_group("connection and output")
    group.add_argument(
        "--address",
        type=_address,
        metavar="HOST:PORT",
        help=f"the server; or unix:PATH for a socket (default: HUBWIRE_ADDRESS, else {DEFAULT_ADDRESS})",
    )
    group.add_argument("--tls", action="store_true", help="encrypt the connection")
    group.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="give up after this long (default: 60; streams and loads: never)"
    )
    group.add_argument("--json", action="store_true", help="print the protobuf JSON of the response: one JSON document a line")
    return parent


def complete(args: argparse.Namespace) -> argparse.Namespace:
    """Set the defaults of the connection options. Raises UsageError for an environment that holds no address."""
    if not hasattr(args, "address"):
        try:
            args.address = _address(os.environ.get("HUBWIRE_ADDRESS") or DEFAULT_ADDRESS)
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"HUBWIRE_ADDRESS {error}") from None
    args.tls = getattr(args, "tls", False)
    args.timeout = getattr(args, "timeout", None)
    args.json = getattr(args, "json", False)
    return args


def connect(args: argparse.Namespace) -> Client:
    """A client of the server that the options name."""
    from hubwire._client import Client

    return Client(args.address, tls=args.tls)


def _address(text: str) -> str:
    if text.startswith("unix:"):
        if text == "unix:":
            raise argparse.ArgumentTypeError("must be unix:PATH, with a path")
        return text
    scheme, found, rest = text.partition("://")
    if found:
        hint = ", and --tls to encrypt" if scheme.endswith("s") else ""
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, not {text!r} (hint: leave {scheme}:// out, as in {rest.strip('/')}{hint})")
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in host and bare is host) or "/" in host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT or unix:PATH, not {text!r}")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return seconds
