"""`hubwire models`: list, get, load and unload."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from hubwire._names import TaskName
from hubwire.cli._options import UsageError, connect
from hubwire.cli._output import enum_label, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hubwire.cli._options import Subparsers
    from hubwire.v1 import model_pb2

_COLUMNS = ("NAME", "STATE", "TASK", "DIMENSIONS", "MAX TOKENS", "DEVICE", "BACKEND", "DTYPE", "SOURCE")

_CANDIDATE_COLUMNS = ("BACKEND", "DTYPE", "CHOSEN", "COSINE", "SHORT", "MIXED", "NOTE")


class Source(NamedTuple):
    """What [NAME=]SOURCE[@REVISION] says; empty where it does not."""

    source: str
    name: str
    revision: str


def add_parser(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the command and its own subcommands."""
    parser = commands.add_parser(
        "models", parents=[common], help="list, load and unload models", description="List the models of a server.", allow_abbrev=False
    )
    parser.set_defaults(run=run_list)
    actions = parser.add_subparsers(metavar="ACTION")
    actions.add_parser("list", parents=[common], help="list the models (default)", allow_abbrev=False).set_defaults(run=run_list)
    get = actions.add_parser("get", parents=[common], help="describe one model", allow_abbrev=False)
    get.add_argument("name", metavar="NAME")
    get.set_defaults(run=run_get)
    load = actions.add_parser("load", parents=[common], help="load a model and serve it", allow_abbrev=False)
    load.add_argument(
        "source",
        type=_parse_source,
        metavar="[NAME=]SOURCE[@REVISION]",
        help="a hub id, a folder on the server, or package:NAME/FOLDER; as --model of 'hubwire serve'",
    )
    load.add_argument("--name", default="", help="the name to serve it under (default: the last part of SOURCE)")
    load.add_argument("--revision", default="", help="a branch, tag or commit of a hub repository (default: its main branch)")
    load.add_argument("--task", choices=get_args(TaskName), help="what to serve it for (default: what it was made for)")
    load.add_argument(
        "--pipeline-task", default="", metavar="NAME", help="the pipeline of transformers to serve it for, as image-classification"
    )
    load.set_defaults(run=run_load)
    unload = actions.add_parser("unload", parents=[common], help="stop serving a model", allow_abbrev=False)
    unload.add_argument("name", metavar="NAME")
    unload.set_defaults(run=run_unload)


def run_list(args: argparse.Namespace) -> int:
    """A table, or a ListModelsResponse."""
    from hubwire.v1 import model_pb2

    with connect(args) as client:
        models = client.list_models(timeout_s=args.timeout)
    if args.json:
        print_json(model_pb2.ListModelsResponse(models=models))
    elif models:
        _print_models(models)
    else:
        print("no models")
    return 0


def run_get(args: argparse.Namespace) -> int:
    """The fields of one model, or a GetModelResponse."""
    from google.protobuf import json_format

    from hubwire.errors import from_status
    from hubwire.v1 import model_pb2

    with connect(args) as client:
        model = client.get_model(args.name, timeout_s=args.timeout)
    if args.json:
        print_json(model_pb2.GetModelResponse(model=model))
    else:
        fields = json_format.MessageToDict(model, preserving_proto_field_name=True)
        fields.pop("candidates", None)
        if model.HasField("error"):
            fields["error"] = str(from_status(model.error))
        print_table([(f"{name}:", value if isinstance(value, str) else json.dumps(value)) for name, value in _flat(fields)])
        if model.candidates:
            print()
            print_table([_CANDIDATE_COLUMNS, *map(_candidate_row, model.candidates)])
    return 0


def run_load(args: argparse.Namespace) -> int:
    """Progress on a terminal, then the model's row; or a LoadModelResponse a line."""
    given: Source = args.source
    for option, written, value in (("--name", given.name, args.name), ("--revision", given.revision, args.revision)):
        if written and value:
            raise UsageError(f"SOURCE says {written!r} already: leave {option} out, or say it there alone")
    if args.pipeline_task and args.task not in (None, "pipeline"):
        raise UsageError("--pipeline-task is for the task pipeline")
    on_terminal = sys.stderr.isatty() and not args.json

    def report(response: model_pb2.LoadModelResponse) -> None:
        if args.json:
            print_json(response)
            sys.stdout.flush()
        elif on_terminal:
            _show_progress(response)

    with connect(args) as client:
        try:
            model = client.load_model(
                given.source,
                given.name or args.name,
                given.revision or args.revision,
                task=args.task,
                pipeline_task=args.pipeline_task,
                on_progress=report,
                timeout_s=args.timeout,
            )
        finally:
            if on_terminal:
                print("\r\x1b[K", end="", file=sys.stderr)
    if not args.json:
        _print_models([model])
    return 0


def run_unload(args: argparse.Namespace) -> int:
    """A confirmation, or an UnloadModelResponse."""
    from hubwire.v1 import model_pb2

    with connect(args) as client:
        client.unload_model(args.name, timeout_s=args.timeout)
    if args.json:
        print_json(model_pb2.UnloadModelResponse())
    else:
        print(f"unloaded {args.name}")
    return 0


def _parse_source(text: str) -> Source:
    """Read [NAME=]SOURCE[@REVISION] by the rules of the server's --model: a name has no slash, and only a hub id has a revision."""
    name, found, source = text.partition("=")
    if not found or "/" in name:
        name, found, source = "", "", text
    revision = ""
    if not source.startswith(("/", ".", "~", "package:", "demo:")):
        source, _, revision = source.partition("@")
    if not source or (found and not name):
        raise argparse.ArgumentTypeError(f"{text!r} is not [NAME=]SOURCE[@REVISION]")
    return Source(source, name, revision)


def _show_progress(response: model_pb2.LoadModelResponse) -> None:
    """Rewrite one line of stderr."""
    share = f" {response.done_bytes / response.total_bytes:.0%}" if response.total_bytes else ""
    print(f"\r\x1b[K{_state(response.state)}{share} {response.message}", end="", file=sys.stderr, flush=True)


def _flat(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields, those of the details of a task among the others: "embedding.dimensions"."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", part) for inner, part in value.items())
        else:
            yield name, value


def _print_models(models: Sequence[model_pb2.Model]) -> None:
    """A table; with a column for what went wrong, where something did."""
    rows = [_COLUMNS, *map(_row, models)]
    if any(model.HasField("error") for model in models):
        rows = [(*row, error) for row, error in zip(rows, ["ERROR", *map(_error, models)], strict=True)]
    print_table(rows)


def _row(model: model_pb2.Model) -> tuple[str, ...]:
    name = f"{model.name} (default)" if model.default_for_task else model.name
    dimensions = model.embedding.dimensions if model.HasField("embedding") else 0
    numbers = (str(dimensions or "-"), str(model.max_tokens or "-"))
    return (
        name,
        _state(model.state),
        _task(model.task),
        *numbers,
        *(text or "-" for text in (model.device, model.backend, model.dtype, model.source)),
    )


def _candidate_row(candidate: model_pb2.BackendCandidate) -> tuple[str, ...]:
    """A way in which the model could run; a dash for what was not measured."""
    times = (f"{nanos / 1e6:.2f} ms" if nanos else "-" for nanos in (candidate.short_nanos, candidate.mixed_nanos))
    cosine = f"{candidate.cosine:.6f}" if candidate.cosine else "-"
    return (candidate.backend, candidate.dtype, "yes" if candidate.chosen else "no", cosine, *times, candidate.note or "-")


def _error(model: model_pb2.Model) -> str:
    from hubwire.errors import from_status

    return " ".join(str(from_status(model.error)).split()) if model.HasField("error") else "-"


def _task(task: int) -> str:
    from hubwire.v1 import model_pb2

    if task == model_pb2.TASK_UNSPECIFIED:
        return "-"
    known = model_pb2.Task.DESCRIPTOR.values_by_number.get(task)
    return enum_label(known.name, "TASK_") if known is not None else f"task {task}"


def _state(state: int) -> str:
    from hubwire.v1 import model_pb2

    # A newer server may send a state that this client does not know.
    known = model_pb2.ModelState.DESCRIPTOR.values_by_number.get(state)
    return enum_label(known.name, "MODEL_STATE_") if known is not None else f"state {state}"
