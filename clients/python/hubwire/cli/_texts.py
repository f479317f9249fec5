"""Where the texts of a command come from, the options that several commands share, and how the lines of stdin are streamed."""

from __future__ import annotations

import argparse
import io
import itertools
import sys
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from hubwire._names import TruncationSideName
from hubwire.cli._options import CommandError, UsageError, connect
from hubwire.cli._output import hint_for, print_error, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from hubwire._calls.question import StreamQuestion
    from hubwire._client import Client
    from hubwire.errors import HubwireError

_LINES_A_CALL = 256
"""How many lines of stdin a call takes where there is no stream for them. A server takes 2,048 texts a message where its operator did not
choose another number."""

_Value = TypeVar("_Value")


def add_texts(parser: argparse.ArgumentParser, metavar: str = "TEXT", kind: str = "text") -> None:
    """Declare the texts of a command."""
    parser.add_argument("texts", nargs="*", metavar=metavar, help=f"a {kind}, or - for the lines of stdin")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names a model."""
    parser.add_argument("--model", default="", help="the name of a served model (default: the server's)")


def add_truncation(parser: argparse.ArgumentParser) -> None:
    """Declare how long texts are cut."""
    parser.add_argument(
        "--truncate", choices=get_args(TruncationSideName), help="cut texts that are too long at this end (default: refuse them)"
    )
    parser.add_argument("--max-tokens", type=positive, metavar="N", help="cut to N tokens (needs --truncate)")


def check_truncation(args: argparse.Namespace) -> None:
    """Raise UsageError for a limit that nothing needs."""
    if args.max_tokens is not None and args.truncate is None:
        raise UsageError("--max-tokens cuts texts: choose an end with --truncate")


def from_stdin(args: argparse.Namespace) -> bool:
    """True where the texts are the lines of stdin. Raises UsageError for - among texts, and for no texts at a keyboard."""
    if "-" in args.texts and args.texts != ["-"]:
        raise UsageError("- stands for the lines of stdin: pass it alone, or texts without it")
    if not args.texts and sys.stdin.isatty():
        raise UsageError("no text: pass texts, or - for the lines of stdin")
    return args.texts == ["-"] or not args.texts


def lines_of_stdin() -> Iterator[str]:
    """The lines of stdin, as they come."""
    for number, line in enumerate(_stdin(), start=1):
        try:
            yield line.rstrip(b"\r\n").decode()
        except UnicodeDecodeError:
            raise CommandError(f"line {number} of stdin is not UTF-8") from None


def batches(args: argparse.Namespace, size: int = _LINES_A_CALL) -> Iterator[list[str]]:
    """The texts of each call of a command without a stream: those of the arguments at once, lines of stdin up to `size` at a time."""
    if not from_stdin(args):
        yield args.texts
        return
    lines = lines_of_stdin()
    while batch := list(itertools.islice(lines, size)):
        yield batch


def run_lines(
    args: argparse.Namespace,
    rpc: Callable[[Client], Any],
    question: StreamQuestion[Any, Any, Any],
    show: Callable[[int, str, Any], None],
) -> int:
    """Stream the lines of stdin and print a result a line, in their order: the message as JSON, or what `show` prints of line and message.

    A line that fails is reported and does not stop the others; it makes the command fail at its end.
    """
    from hubwire.errors import from_status

    total = failed = 0
    hint = ""
    said: set[str] = set()
    with connect(args) as client:
        # A line is its own id, so that it is here when its result is.
        items = (((number, line), line) for number, line in enumerate(lines_of_stdin()))
        for (number, line), result, _ in client._stream_results(rpc(client), items, question, args.timeout):
            total += 1
            if result.HasField("error"):
                failed += 1
                error = from_status(result.error)
                hint = hint or hint_for(error, args.address)
                if not args.json:
                    _print_failure(number, error, said)
            elif not args.json:
                show(number, line, result)
            if args.json:
                print_json(result)
            sys.stdout.flush()
    if failed:
        raise CommandError(f"{failed} of {total} texts failed", hint)
    return 0


def positive(text: str) -> int:
    """A whole number of 1 or more, as argparse takes a type."""
    return _whole(text, 1)


def count(text: str) -> int:
    """A whole number of 0 or more, as argparse takes a type."""
    return _whole(text, 0)


def _whole(text: str, minimum: int) -> int:
    if not text.isascii() or not text.isdecimal() or not minimum <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from {minimum} to {2**32 - 1}, not {text!r}")
    return int(text)


def _stdin() -> Iterable[bytes]:
    try:
        # A file object of our own: the thread that reads may still wait in it when Ctrl-C ends the process. Python closes sys.stdin then,
        # and aborts with a fatal error where another thread is inside it.
        return open(sys.stdin.fileno(), "rb", closefd=False)  # it lives as long as the process
    except io.UnsupportedOperation:
        return (line.encode() for line in sys.stdin)


def _print_failure(number: int, error: HubwireError, said: set[str]) -> None:
    if _is_about_text(error):
        print_error(f"line {number + 1}: {error}")
    elif str(error) not in said:
        said.add(str(error))
        print_error(str(error))


def _is_about_text(error: HubwireError) -> bool:
    """True where other texts of the stream may fare better. A busy server or a model that is gone is news once, not for every line."""
    from hubwire.errors import NotFoundError, UnavailableError

    blamed = error.field == "text" or error.field.startswith("text.")
    return blamed and error.retry_after_s is None and not isinstance(error, NotFoundError | UnavailableError)
