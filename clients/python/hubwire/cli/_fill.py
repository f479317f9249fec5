"""`hubwire fill`: tokens for the masks of texts."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from hubwire.cli._options import connect
from hubwire.cli._output import print_json, print_table
from hubwire.cli._texts import add_model, add_texts, add_truncation, batches, check_truncation, from_stdin, positive

if TYPE_CHECKING:
    from hubwire.cli._options import Subparsers
    from hubwire.v1 import fill_mask_pb2


def add_parser(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "fill",
        parents=[common],
        help="fill the masks of texts",
        description="Find the tokens that fit where texts hold the mask token of a model, such as [MASK] or <mask>. With - or a pipe "
        "in the place of texts, each line of stdin is a text.",
        allow_abbrev=False,
    )
    add_texts(parser)
    add_model(parser)
    parser.add_argument("--top-k", type=positive, metavar="N", help="show the best N tokens (default: 5)")
    parser.add_argument("--target", action="append", metavar="WORD", help="show only this word; may stand several times")
    add_truncation(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """A line a token; or a FillMaskResponse for each call."""
    from hubwire._calls import fill_mask as calls

    check_truncation(args)
    from_stdin(args)
    number = 0
    with connect(args) as client:
        for texts in batches(args):
            question = calls.fill_mask(
                texts, model=args.model, top_k=args.top_k, targets=args.target, truncate=args.truncate, max_tokens=args.max_tokens
            )
            response = client._unary(client._fill_mask.FillMask, question.request, args.timeout)
            if args.json:
                print_json(response)
            else:
                print_table([row for index, one in enumerate(response.texts) for row in _rows(number + index, one)])
            number += len(texts)
            sys.stdout.flush()
    return 0


def _rows(number: int, message: fill_mask_pb2.FilledText) -> list[list[str]]:
    """The text's number (and its mask's, where there are several), the score, the token, the text with it."""
    several = len(message.masks) > 1
    return [
        [f"{number}.{place}" if several else str(number), f"{one.score:.4f}", one.token, one.sequence]
        for place, mask in enumerate(message.masks)
        for one in mask.tokens
    ]
