"""`hubwire answer`: answers to questions, found in a context."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from hubwire.cli._options import UsageError, connect
from hubwire.cli._output import print_json, print_table
from hubwire.cli._texts import add_model, add_texts, batches, from_stdin, positive

if TYPE_CHECKING:
    from hubwire.cli._options import Subparsers
    from hubwire.v1 import question_answering_pb2

_NO_ANSWER = "(no answer)"


def add_parser(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "answer",
        parents=[common],
        help="answer questions from a text",
        description="Find the part of a context that answers each question. With - or a pipe in the place of questions, each line of "
        "stdin is a question.",
        allow_abbrev=False,
    )
    add_texts(parser, "QUESTION", "question")
    parser.add_argument("--context", required=True, metavar="TEXT|@FILE", help="where the answers are: a text, or @ and the path of a file")
    add_model(parser)
    parser.add_argument("--top-k", type=positive, metavar="N", help="show the best N answers (default: 1)")
    parser.add_argument("--max-answer-tokens", type=positive, metavar="N", help="the longest answer in tokens (default: 15)")
    parser.add_argument("--stride", type=positive, metavar="N", help="the tokens that neighbouring windows of a long context share")
    parser.add_argument("--max-tokens", type=positive, metavar="N", help="the size of a window (default: at most 384)")
    parser.add_argument("--allow-no-answer", action="store_true", help="let there be no answer (models trained on SQuAD 2)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """A line an answer; or an AnswerQuestionsResponse for each call."""
    from hubwire._calls import question_answering as calls

    from_stdin(args)
    context = _context(args.context)
    number = 0
    with connect(args) as client:
        for questions in batches(args):
            question = calls.answer_questions(
                questions,
                context,
                model=args.model,
                top_k=args.top_k,
                max_answer_tokens=args.max_answer_tokens,
                stride=args.stride,
                max_tokens=args.max_tokens,
                allow_no_answer=args.allow_no_answer,
            )
            response = client._unary(client._question_answering.AnswerQuestions, question.request, args.timeout)
            if args.json:
                print_json(response)
            else:
                print_table([row for index, one in enumerate(response.answers) for row in _rows(number + index, one)])
            number += len(questions)
            sys.stdout.flush()
    return 0


def _rows(number: int, message: question_answering_pb2.QuestionAnswers) -> list[list[str]]:
    """The question's number, the score, the place in the context, the answer."""
    if not message.answers:
        return [[str(number), "-", "-", _NO_ANSWER]]
    return [
        [str(number), f"{one.score:.4f}", f"{one.span.start}-{one.span.end}", " ".join(one.text.split()) or _NO_ANSWER]
        for one in message.answers
    ]


def _context(written: str) -> str:
    if not written.startswith("@"):
        return written
    try:
        # newline="" keeps the text as it is: offsets count its characters.
        with open(written[1:], encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"--context: {written[1:]}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--context: {written[1:]} is not UTF-8") from None
