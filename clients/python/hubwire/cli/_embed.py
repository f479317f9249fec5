"""`hubwire embed`: texts from the command line in one call, or lines of stdin as a stream."""

from __future__ import annotations

import argparse
import io
import sys
from typing import TYPE_CHECKING, get_args

from hubwire._names import PoolingName, TruncationSideName
from hubwire.cli._options import CommandError, UsageError, connect
from hubwire.cli._output import hint_for, print_error, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hubwire.cli._options import Subparsers
    from hubwire.errors import HubwireError
    from hubwire.v1 import embedding_pb2

_SHOWN_VALUES = 4


def add_parser(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "embed",
        parents=[common],
        help="turn texts into vectors",
        description="Turn texts into vectors. With - or a pipe in the place of texts, each line of stdin is a text, and any number works.",
        allow_abbrev=False,
    )
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="a text, or - for the lines of stdin")
    parser.add_argument("--model", default="", help="the name of a served model (default: the server's)")
    parser.add_argument("--pooling", choices=get_args(PoolingName), help="how token vectors become one (default: the model's own)")
    parser.add_argument("--normalize", action=argparse.BooleanOptionalAction, help="scale vectors to length 1 (default: as the model does)")
    parser.add_argument(
        "--truncate", choices=get_args(TruncationSideName), help="cut texts that are too long at this end (default: refuse them)"
    )
    parser.add_argument("--max-tokens", type=_count, metavar="N", help="cut to N tokens (needs --truncate)")
    parser.add_argument("--dimensions", type=_count, metavar="N", help="keep the first N values (default: all)")
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument("--prompt-name", metavar="NAME", help="one of the model's own prompts")
    prompts.add_argument("--prompt", metavar="TEXT", help="put this before every text; an empty one means no prompt")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """One line a text; or an EmbedResponse; or for lines of stdin a StreamEmbedResult a line."""
    from_stdin = args.texts == ["-"] or not args.texts
    if "-" in args.texts and not from_stdin:
        raise UsageError("- stands for the lines of stdin: pass it alone, or texts without it")
    if not args.texts and sys.stdin.isatty():
        raise UsageError("no text: pass texts, or - for the lines of stdin")
    options = _options(args)
    return _run_lines(args, options) if from_stdin else _run_texts(args, options)


def _options(args: argparse.Namespace) -> embedding_pb2.EmbedOptions:
    from hubwire import _requests
    from hubwire.v1 import common_pb2

    if args.max_tokens is not None and args.truncate is None:
        raise UsageError("--max-tokens cuts texts: choose an end with --truncate")
    options = _requests.embed_options(
        pooling=args.pooling,
        normalize=args.normalize,
        truncate=args.truncate,
        max_tokens=args.max_tokens,
        dimensions=args.dimensions,
        prompt_name=args.prompt_name,
        prompt=args.prompt,
    )
    # People and JSON both read the plain numbers.
    options.encoding = common_pb2.VECTOR_ENCODING_FLOAT
    return options


def _run_texts(args: argparse.Namespace, options: embedding_pb2.EmbedOptions) -> int:
    from hubwire import _requests

    with connect(args) as client:
        response = client._embed(_requests.embed(args.texts, args.model, options), args.timeout)
    if args.json:
        print_json(response)
    else:
        for index, vector in enumerate(response.vectors):
            _print_vector(index, vector.values)
    return 0


def _run_lines(args: argparse.Namespace, options: embedding_pb2.EmbedOptions) -> int:
    from hubwire import _requests
    from hubwire._stream import StreamWindow
    from hubwire.errors import from_status

    window: StreamWindow[int] = StreamWindow(batch_size=64, max_in_flight=2048)
    # Lines come out in the order in which they came in, as from every filter.
    opening = _requests.stream_opening(args.model, options, ordered=True)
    total = failed = 0
    hint = ""
    said: set[str] = set()
    with connect(args) as client:
        for number, result, _ in client._stream_embed(_lines(_stdin()), opening, window, args.timeout):
            total += 1
            if result.HasField("error"):
                failed += 1
                error = from_status(result.error)
                hint = hint or hint_for(error, args.address)
            if args.json:
                print_json(result)
            elif result.HasField("error"):
                if _is_about_text(error):
                    print_error(f"line {number + 1}: {error}")
                elif str(error) not in said:
                    said.add(str(error))
                    print_error(str(error))
            else:
                _print_vector(number, result.vector.values)
            sys.stdout.flush()
    if failed:
        raise CommandError(f"{failed} of {total} texts failed", hint)
    return 0


def _is_about_text(error: HubwireError) -> bool:
    """True where other texts of the stream may fare better. A busy server or a model that is gone is news once, not for every line."""
    from hubwire.errors import NotFoundError, UnavailableError

    blamed = error.field == "text" or error.field.startswith("text.")
    return blamed and error.retry_after_s is None and not isinstance(error, NotFoundError | UnavailableError)


def _stdin() -> Iterable[bytes]:
    """The lines of stdin."""
    try:
        # A file object of our own: the thread that reads may still wait in it when Ctrl-C ends the process. Python closes sys.stdin then,
        # and aborts with a fatal error where another thread is inside it.
        return open(sys.stdin.fileno(), "rb", closefd=False)  # it lives as long as the process
    except io.UnsupportedOperation:
        return (line.encode() for line in sys.stdin)


def _lines(stdin: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(stdin, start=1):
        try:
            yield line.rstrip(b"\r\n").decode()
        except UnicodeDecodeError:
            raise CommandError(f"line {number} of stdin is not UTF-8") from None


def _print_vector(index: int, values: Sequence[float]) -> None:
    shown = " ".join(f"{value:.4f}" for value in values[:_SHOWN_VALUES])
    print(f"{index}  {len(values)} dimensions  {shown}{' ...' if len(values) > _SHOWN_VALUES else ''}")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {2**32 - 1}, not {text!r}")
    return int(text)
