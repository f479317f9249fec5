"""`hubwire rerank`: documents by relevance."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, get_args

from hubwire._names import ScoringName
from hubwire.cli._options import CommandError, connect
from hubwire.cli._output import print_json, print_table
from hubwire.cli._texts import add_model, add_texts, add_truncation, check_truncation, from_stdin, lines_of_stdin, positive

if TYPE_CHECKING:
    from hubwire.cli._options import Subparsers


def add_parser(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "rerank",
        parents=[common],
        help="order documents by relevance",
        description="Order documents by how relevant they are to a query. With - or a pipe in the place of documents, each line of "
        "stdin is a document; all of them go into one call.",
        allow_abbrev=False,
    )
    add_texts(parser, "DOCUMENT", "document")
    parser.add_argument("--query", required=True, metavar="TEXT", help="what is looked for")
    add_model(parser)
    parser.add_argument("--top-n", type=positive, metavar="N", help="show the best N documents (default: all)")
    parser.add_argument("--scoring", choices=get_args(ScoringName), help="the form of the scores (default: sigmoid)")
    add_truncation(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """A line a document: its number, score and text, the best first; or a RerankResponse."""
    from hubwire._calls import rerank as calls

    check_truncation(args)
    # An order is that of all documents: they cannot be ranked in parts.
    documents = list(lines_of_stdin()) if from_stdin(args) else args.texts
    if not documents:
        raise CommandError("stdin holds no document")
    question = calls.rerank(
        args.query,
        documents,
        model=args.model,
        top_n=args.top_n,
        scoring=args.scoring,
        truncate=args.truncate,
        max_tokens=args.max_tokens,
    )
    with connect(args) as client:
        response = client._unary(client._rerank.Rerank, question.request, args.timeout)
    if args.json:
        print_json(response)
    else:
        print_table([[str(one.index), f"{one.score:.4f}", one.document] for one in question.decode(response)])
    return 0
