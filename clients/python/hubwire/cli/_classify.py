"""`hubwire classify`: the labels of texts or pairs, or how well labels that the caller names fit them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, get_args

from hubwire._names import FunctionName
from hubwire.cli._options import UsageError, connect
from hubwire.cli._output import print_json, print_table
from hubwire.cli._texts import add_model, add_texts, add_truncation, batches, check_truncation, from_stdin, positive, run_lines

if TYPE_CHECKING:
    from hubwire.cli._options import Subparsers
    from hubwire.v1 import text_classification_pb2

_PAIRS_A_CALL = 512
"""How many pairs of text and label a zero-shot call over lines of stdin costs at most, where one text does not cost more."""


def add_parser(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "classify",
        parents=[common],
        help="give texts labels",
        description="Score the labels of a model for each text, or with --candidate-label any labels. With - or a pipe in the place "
        "of texts, each line of stdin is a text.",
        allow_abbrev=False,
    )
    add_texts(parser)
    add_model(parser)
    parser.add_argument("--pair", action="append", metavar="TEXT", help="the second text of a pair; once for each text")
    parser.add_argument("--top-k", type=positive, metavar="N", help="show the best N labels (default: all)")
    parser.add_argument("--label", action="append", metavar="LABEL", help="show only this label of the model; may stand several times")
    parser.add_argument(
        "--function", choices=get_args(FunctionName), help="what makes scores of logits (default: as the model was trained)"
    )
    parser.add_argument(
        "--candidate-label",
        action="append",
        metavar="LABEL",
        help="zero-shot: score this label, with an NLI model; may stand several times",
    )
    parser.add_argument("--template", metavar="SENTENCE", help="zero-shot: the sentence that each label is put into, at {}")
    parser.add_argument("--multi-label", action="store_true", help="zero-shot: score each label on its own")
    add_truncation(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """A line a text with its labels; or the response of each call; or for lines of stdin a StreamClassifyTextResult a line."""
    check_truncation(args)
    is_stream = from_stdin(args)
    if args.candidate_label:
        return _run_zero_shot(args)
    if args.template is not None or args.multi_label:
        raise UsageError("--template and --multi-label are for --candidate-label")
    if args.pair and is_stream:
        raise UsageError("--pair needs its texts as arguments, not as lines of stdin")
    if args.pair and len(args.pair) != len(args.texts):
        raise UsageError(f"--pair must stand once for each text: {len(args.pair)} for {len(args.texts)} texts")
    return _run_labels(args, is_stream=is_stream)


def _run_labels(args: argparse.Namespace, *, is_stream: bool) -> int:
    from hubwire._calls import text_classification as calls
    from hubwire._stream import StreamWindow

    options = calls.classify_text_options(
        top_k=args.top_k, labels=args.label, function=args.function, truncate=args.truncate, max_tokens=args.max_tokens
    )
    if is_stream:
        window: StreamWindow[int] = StreamWindow(batch_size=64, max_in_flight=2048)
        question = calls.stream_classify_text(args.model, options, ordered=True, window=window)
        return run_lines(args, lambda client: client._text_classification.StreamClassifyText, question, _show)
    request = calls.classify_text(args.texts, args.pair, args.model, options).request
    with connect(args) as client:
        response = client._unary(client._text_classification.ClassifyText, request, args.timeout)
    if args.json:
        print_json(response)
    else:
        print_table([_row(index, message) for index, message in enumerate(response.classifications)])
    return 0


def _run_zero_shot(args: argparse.Namespace) -> int:
    from hubwire._calls import text_classification as calls

    if args.pair or args.label or args.function or args.top_k:
        raise UsageError("--candidate-label takes no --pair, --top-k, --label or --function")
    number = 0
    with connect(args) as client:
        for texts in batches(args, max(1, _PAIRS_A_CALL // len(args.candidate_label))):
            question = calls.classify_zero_shot(
                texts,
                args.candidate_label,
                model=args.model,
                hypothesis_template=args.template or None,
                multi_label=args.multi_label,
                truncate=args.truncate,
                max_tokens=args.max_tokens,
            )
            response = client._unary(client._text_classification.ClassifyZeroShot, question.request, args.timeout)
            if args.json:
                print_json(response)
            else:
                print_table([_row(number + index, message) for index, message in enumerate(response.classifications)])
            number += len(texts)
            sys.stdout.flush()
    return 0


def _show(number: int, _: str, result: Any) -> None:
    print("  ".join(_row(number, result.classification)))


def _row(number: int, message: text_classification_pb2.Classification) -> list[str]:
    return [str(number), *(f"{one.label} {one.score:.4f}" for one in message.labels)]
