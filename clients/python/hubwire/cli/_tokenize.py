"""`hubwire tokenize`: the tokens of texts, their number, or the text of token ids."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from hubwire.cli._options import UsageError, connect
from hubwire.cli._output import print_json, print_table
from hubwire.cli._texts import add_model, add_texts, add_truncation, batches, check_truncation, from_stdin

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from hubwire._client import Client
    from hubwire.cli._options import Subparsers
    from hubwire.v1 import tokenization_pb2


def add_parser(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "tokenize",
        parents=[common],
        help="show how a model reads texts",
        description="Show the tokens of texts, or with --count their number, or with --detokenize the text of token ids. With - or a "
        "pipe in the place of texts, each line of stdin is a text.",
        allow_abbrev=False,
    )
    add_texts(parser)
    add_model(parser)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--count", action="store_true", help="print the number of tokens of each text")
    modes.add_argument(
        "--detokenize",
        type=_ids,
        action="append",
        metavar="IDS",
        help="print the text of these ids, as in 101,7592,102; may stand several times",
    )
    parser.add_argument("--no-special-tokens", action="store_true", help="leave out the tokens that the tokenizer adds")
    add_truncation(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """A line a token, a number or a text; or the response of each call."""
    check_truncation(args)
    if args.truncate and (args.count or args.detokenize):
        raise UsageError("--truncate goes with neither --count nor --detokenize")
    if args.detokenize:
        if args.texts:
            raise UsageError("--detokenize takes ids, and no texts beside them")
        return _run_detokenize(args)
    from_stdin(args)
    number = 0
    with connect(args) as client:
        for texts in batches(args):
            response, rows = _count(args, client, texts) if args.count else _tokenize(args, client, texts)
            if args.json:
                print_json(response)
            else:
                print_table([[str(number + index), *row] for index, row in rows])
            number += len(texts)
            sys.stdout.flush()
    return 0


def _count(args: argparse.Namespace, client: Client, texts: list[str]) -> tuple[Message, list[tuple[int, list[str]]]]:
    from hubwire._calls import tokenization as calls

    question = calls.count_tokens(texts, model=args.model, skip_special_tokens=args.no_special_tokens)
    response = client._unary(client._tokenization.CountTokens, question.request, args.timeout)
    return response, [(index, [str(number)]) for index, number in enumerate(response.token_counts)]


def _tokenize(args: argparse.Namespace, client: Client, texts: list[str]) -> tuple[Message, list[tuple[int, list[str]]]]:
    from hubwire._calls import tokenization as calls

    question = calls.tokenize(
        texts, model=args.model, skip_special_tokens=args.no_special_tokens, truncate=args.truncate, max_tokens=args.max_tokens
    )
    response = client._unary(client._tokenization.Tokenize, question.request, args.timeout)
    return response, [(index, row) for index, message in enumerate(response.texts) for row in _rows(message)]


def _rows(message: tokenization_pb2.TokenizedText) -> list[list[str]]:
    """The id, the place in the text and the token."""
    return [
        [str(token_id), "-" if special else f"{span.start}-{span.end}", token]
        for token_id, span, special, token in zip(
            message.token_ids, message.spans, message.special_tokens_mask, message.tokens, strict=True
        )
    ]


def _run_detokenize(args: argparse.Namespace) -> int:
    from hubwire._calls import tokenization as calls

    question = calls.detokenize(args.detokenize, model=args.model, keep_special_tokens=not args.no_special_tokens)
    with connect(args) as client:
        response = client._unary(client._tokenization.Detokenize, question.request, args.timeout)
    if args.json:
        print_json(response)
    else:
        for text in response.texts:
            print(text)
    return 0


def _ids(text: str) -> list[int]:
    parts = text.replace(",", " ").split()
    if not parts or not all(part.isascii() and part.isdecimal() and int(part) < 2**32 for part in parts):
        raise argparse.ArgumentTypeError(f"must be token ids, as in 101,7592,102, not {text!r}")
    return [int(part) for part in parts]
