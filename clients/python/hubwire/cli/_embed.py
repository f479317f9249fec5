"""`hubwire embed`: texts from the command line in one call, or lines of stdin as a stream."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, get_args

from hubwire._names import PoolingName
from hubwire.cli._options import connect
from hubwire.cli._output import print_json
from hubwire.cli._texts import add_model, add_texts, add_truncation, check_truncation, count, from_stdin, run_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hubwire.cli._options import Subparsers
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
    add_texts(parser)
    add_model(parser)
    parser.add_argument("--pooling", choices=get_args(PoolingName), help="how token vectors become one (default: the model's own)")
    parser.add_argument("--normalize", action=argparse.BooleanOptionalAction, help="scale vectors to length 1 (default: as the model does)")
    add_truncation(parser)
    parser.add_argument("--dimensions", type=count, metavar="N", help="keep the first N values (default: all)")
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument("--prompt-name", metavar="NAME", help="one of the model's own prompts")
    prompts.add_argument("--prompt", metavar="TEXT", help="put this before every text; an empty one means no prompt")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """One line a text; or an EmbedResponse; or for lines of stdin a StreamEmbedResult a line."""
    from hubwire._calls import embedding as calls
    from hubwire._stream import StreamWindow

    check_truncation(args)
    is_stream = from_stdin(args)
    options = _options(args)
    if is_stream:
        window: StreamWindow[int] = StreamWindow(batch_size=64, max_in_flight=2048)
        # Lines come out in the order in which they came in, as from every filter.
        question = calls.stream_embed(args.model, options, "float32", ordered=True, window=window)
        return run_lines(args, lambda client: client._embedding.StreamEmbed, question, _show)
    with connect(args) as client:
        request = calls.embed(args.texts, args.model, options, "float32").request
        response = client._unary(client._embedding.Embed, request, args.timeout)
    if args.json:
        print_json(response)
    else:
        for index, vector in enumerate(response.vectors):
            _print_vector(index, vector.values)
    return 0


def _options(args: argparse.Namespace) -> embedding_pb2.EmbedOptions:
    from hubwire._calls import embedding as calls
    from hubwire.v1 import common_pb2

    options = calls.embed_options(
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


def _show(number: int, _: str, result: Any) -> None:
    _print_vector(number, result.vector.values)


def _print_vector(index: int, values: Sequence[float]) -> None:
    shown = " ".join(f"{value:.4f}" for value in values[:_SHOWN_VALUES])
    print(f"{index}  {len(values)} dimensions  {shown}{' ...' if len(values) > _SHOWN_VALUES else ''}")
