"""`hubwire pipeline`: any other pipeline of transformers, over files and texts."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from hubwire.cli._options import UsageError, connect
from hubwire.cli._output import print_json, print_table
from hubwire.cli._texts import lines_of_stdin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hubwire.cli._options import Subparsers


def add_parser(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "pipeline",
        parents=[common],
        help="run any other pipeline of transformers",
        description="Run the pipeline that a model was loaded for. An input is the path of a file (its bytes are sent), a JSON "
        "object, or else a text; with - or a pipe, each line of stdin is such an input, in a call of its own.",
        allow_abbrev=False,
    )
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="the path of a file, a JSON object, a text, or - for the lines of stdin")
    parser.add_argument("--model", default="", help="the name of a served model (default: the first that runs a pipeline)")
    parser.add_argument("--task", default="", metavar="NAME", help="fail unless the model runs this pipeline, as image-classification")
    parser.add_argument("--parameters", type=_json_object, metavar="JSON", help="what the pipeline's call takes, as '{\"top_k\": 3}'")
    parser.add_argument("--list", action="store_true", help="list the pipelines that a model can be loaded for")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The JSON of each output, with <...> for arrays, images and masks; or a RunPipelineResponse for each call."""
    if args.list:
        if args.inputs or args.parameters or args.task or args.model:
            raise UsageError("--list takes no input and no other option of pipeline")
        return _run_list(args)
    if "-" in args.inputs and args.inputs != ["-"]:
        raise UsageError("- stands for the lines of stdin: pass it alone, or inputs without it")
    if not args.inputs and sys.stdin.isatty():
        raise UsageError("no input: pass files, texts or JSON objects, or - for the lines of stdin")
    return _run_inputs(args)


def _run_inputs(args: argparse.Namespace) -> int:
    from hubwire._calls import pipeline as calls

    with connect(args) as client:
        for inputs in _batches(args):
            question = calls.run_pipeline(inputs, model=args.model, task=args.task, parameters=args.parameters)
            response = client._unary(client._pipeline.RunPipeline, question.request, args.timeout)
            if args.json:
                print_json(response)
            else:
                for output in question.decode(response):
                    print(json.dumps(output, default=_describe, ensure_ascii=False, indent=2))
            sys.stdout.flush()
    return 0


def _batches(args: argparse.Namespace) -> Iterator[list[Any]]:
    """The inputs of each call. Inputs may be large and slow, so a line of stdin is a call of its own."""
    if args.inputs and args.inputs != ["-"]:
        yield [_read(one) for one in args.inputs]
        return
    for line in lines_of_stdin():
        yield [_read(line)]


def _read(written: str) -> Any:
    if written.lstrip().startswith("{"):
        try:
            return _json_object(written)
        except argparse.ArgumentTypeError:
            pass  # a text may begin with a brace
    try:
        if os.path.isfile(written):
            with open(written, "rb") as file:
                return file.read()
    except OSError as error:
        raise UsageError(f"{written}: {error.strerror}") from None
    except ValueError:
        pass  # no path holds a zero byte, but a text of stdin may
    return written


def _run_list(args: argparse.Namespace) -> int:
    from hubwire.v1 import pipeline_pb2

    with connect(args) as client:
        response = client._unary(client._pipeline.ListPipelines, pipeline_pb2.ListPipelinesRequest(), args.timeout)
    if args.json:
        print_json(response)
    else:
        print_table([("PIPELINE", "SERVED BETTER BY"), *((one.name, one.service or "-") for one in response.tasks)])
    return 0


def _describe(value: Any) -> str:
    """What stands for bytes and arrays among JSON."""
    from hubwire._types import Blob

    if isinstance(value, Blob):
        return f"<{value.media_type or 'bytes'}, {len(value.data)} bytes>"
    return f"<array of {value.dtype}, shape {list(value.shape)}>"


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, not {text!r}")
    return value
