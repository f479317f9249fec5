"""`hubwire tokens`: the entities of texts, shown inside them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, get_args

from hubwire._names import AggregationName
from hubwire.cli._highlight import highlight, is_colourful
from hubwire.cli._options import UsageError, connect
from hubwire.cli._output import print_json
from hubwire.cli._texts import add_model, add_texts, add_truncation, from_stdin, positive, run_lines

if TYPE_CHECKING:
    from hubwire.cli._options import Subparsers
    from hubwire.v1 import token_classification_pb2


def add_parser(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "tokens",
        parents=[common],
        help="find entities in texts",
        description="Label the entities of texts, and show them in the text. With - or a pipe in the place of texts, each line of "
        "stdin is a text.",
        allow_abbrev=False,
    )
    add_texts(parser)
    add_model(parser)
    parser.add_argument("--aggregation", choices=get_args(AggregationName), help="how tokens become entities (default: simple)")
    ignored = parser.add_mutually_exclusive_group()
    ignored.add_argument("--ignore", action="append", metavar="LABEL", help="leave this label out (default: O); may stand several times")
    ignored.add_argument("--all", action="store_true", help="leave no label out")
    add_truncation(parser)
    parser.add_argument("--windows", action="store_true", help="read texts that are too long in overlapping parts")
    parser.add_argument("--stride", type=positive, metavar="N", help="the tokens that neighbouring windows share (needs --windows)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """A line a text with its entities; or a ClassifyTokensResponse; or for lines of stdin a StreamClassifyTokensResult a line."""
    from hubwire._calls import token_classification as calls
    from hubwire._stream import StreamWindow

    is_stream = from_stdin(args)
    options = _options(args)
    colourful = is_colourful()
    if is_stream:
        window: StreamWindow[int] = StreamWindow(batch_size=64, max_in_flight=2048)
        question = calls.stream_classify_tokens(args.model, options, ordered=True, window=window)

        def show(_: int, line: str, result: Any) -> None:
            print(highlight(line, result.classification.entities, colourful=colourful))

        return run_lines(args, lambda client: client._token_classification.StreamClassifyTokens, question, show)
    request = calls.classify_tokens(args.texts, None, args.model, options).request
    with connect(args) as client:
        response = client._unary(client._token_classification.ClassifyTokens, request, args.timeout)
    if args.json:
        print_json(response)
    else:
        for text, message in zip(args.texts, response.classifications, strict=True):
            print(highlight(text, message.entities, colourful=colourful))
    return 0


def _options(args: argparse.Namespace) -> token_classification_pb2.ClassifyTokensOptions:
    from hubwire._calls import token_classification as calls

    if args.windows and args.truncate:
        raise UsageError("--windows and --truncate are two ways with long texts: pass one of them")
    if args.stride is not None and not args.windows:
        raise UsageError("--stride is what windows share: pass --windows as well")
    if args.max_tokens is not None and not args.windows and not args.truncate:
        raise UsageError("--max-tokens needs --truncate or --windows")
    return calls.classify_tokens_options(
        aggregation=args.aggregation,
        ignored_labels=[] if args.all else args.ignore,
        truncate=args.truncate,
        windows=args.windows,
        max_tokens=args.max_tokens,
        stride=args.stride,
    )
