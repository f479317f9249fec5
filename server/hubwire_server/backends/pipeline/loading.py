"""From a folder to a pipeline that runs: the class of the model, its weights, and what else the pipeline reads with."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
import transformers.utils.logging as transformers_logging
from transformers.pipelines import PIPELINE_REGISTRY, _resolve_impl

from hubwire_server.backends.base import LoadOptions
from hubwire_server.backends.fingerprint import fingerprint
from hubwire_server.backends.pipeline import fence
from hubwire_server.backends.pipeline.parameters import known_parameters
from hubwire_server.backends.pipeline.seq2seq import Seq2SeqPipeline
from hubwire_server.backends.torch.devices import DTYPES, resolve_device
from hubwire_server.backends.torch.model import own_weights
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.pipelines import SEQ2SEQ, canonical

COMPONENTS: Mapping[str, str] = {
    "tokenizer": "AutoTokenizer",
    "image_processor": "AutoImageProcessor",
    "feature_extractor": "AutoFeatureExtractor",
    "video_processor": "AutoVideoProcessor",
    "processor": "AutoProcessor",
}
"""What a pipeline may read with, and the class of transformers that loads it."""
WITHOUT_POOLER = frozenset({"feature-extraction", "image-feature-extraction"})
"""Pipelines that never read the pooler, which many checkpoints lack."""

PACKAGES: Mapping[str, str] = {"table-question-answering": "pandas"}
"""Packages that a pipeline only asks for once it is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPipeline:
    """A pipeline, and what is said of it. call takes an input and keyword arguments, of which known are the names."""

    task: str
    call: Any
    known: frozenset[str]
    path: Path
    fingerprint: str
    architecture: str
    device: str
    dtype: str


def load_pipeline(path: Path, task: str, options: LoadOptions) -> LoadedPipeline:
    """Loads the model of a folder for a pipeline.

    Raises HubwireError: PIPELINE_NOT_SUPPORTED, MODEL_NOT_ALLOWED, MODEL_NOT_SUPPORTED or MODEL_LOAD_FAILED, each with one line on what is
    wrong.
    """
    if not task:
        text = "the model's configuration does not say which pipeline runs it: name it as pipeline_task"
        raise HubwireError(Reason.PIPELINE_NOT_SUPPORTED, text, field="pipeline_task")
    task = canonical(task, "pipeline_task")
    if options.backend == "onnx" or options.dtype == "int8":
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, "pipelines run in torch, and not in onnx or int8")
    if (package := PACKAGES.get(task)) is not None and find_spec(package) is None:
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"{task} needs the package {package}, which the server does not have")
    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers is typed in part
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # as above
    try:
        with fence.no_connections(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what transformers and torch warn of is for their developers
            call, known = _load(path, task, options, device)
    except HubwireError:
        raise
    except Exception as error:
        # Broken files and models with code of their own raise whatever they lead to.
        logging.getLogger("hubwire.worker").debug("loading a pipeline failed", exc_info=True)
        raise _failed(path, error) from error
    return LoadedPipeline(
        task=task,
        call=call,
        known=known,
        path=path,
        fingerprint=fingerprint(path, ()),
        architecture=type(call.model).__name__,
        device=str(device),
        dtype=str(call.model.dtype).removeprefix("torch."),
    )


def _load(path: Path, task: str, options: LoadOptions, device: torch.device) -> tuple[Any, frozenset[str]]:
    """A pipeline, and the names of its parameters."""
    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=options.allow_remote_code, local_files_only=True)
    if task in SEQ2SEQ or task.startswith("translation_"):
        model = _load_model(path, task, [transformers.AutoModelForSeq2SeqLM], config, options, device)
        summarizer = Seq2SeqPipeline(task, model, _component(path, "AutoTokenizer", options))
        return summarizer, summarizer.known
    _, entry, _ = PIPELINE_REGISTRY.check_task(task)
    pipeline_class: Any = _resolve_impl(entry["impl"])  # type: ignore[no-untyped-call]  # as above
    model = _load_model(path, task, entry["pt"], config, options, device)
    components: dict[str, Any] = {}
    for name, auto_class in COMPONENTS.items():
        needed = getattr(pipeline_class, f"_load_{name}")
        if needed is False:
            continue
        try:
            component = _component(path, auto_class, options)
        except Exception:
            if needed:
                raise
            continue  # None is "where there is one"
        if name != "processor" or isinstance(component, transformers.ProcessorMixin):
            components[name] = component
    pipeline = pipeline_class(model=model, task=task, device=device, **components)
    return pipeline, known_parameters(pipeline)


def _component(path: Path, auto_class: str, options: LoadOptions) -> Any:
    loader: Any = getattr(transformers, auto_class)
    return loader.from_pretrained(path, trust_remote_code=options.allow_remote_code, local_files_only=True)


def _load_model(path: Path, task: str, classes: Sequence[Any], config: Any, options: LoadOptions, device: torch.device) -> Any:
    """The model, in eval mode on the device. A checkpoint that lacks weights is refused: they would be filled with random numbers."""
    model, info = _model_class(task, classes, config).from_pretrained(
        path,
        config=config,
        dtype=_dtype(options.dtype, device),
        trust_remote_code=options.allow_remote_code,
        use_safetensors=_chooses_safetensors(path, options),
        weights_only=True,
        local_files_only=True,
        output_loading_info=True,
    )
    missing = sorted(name for name in info["missing_keys"] if not (task in WITHOUT_POOLER and "pooler" in name.split(".")))
    missing += sorted(str(mismatch[0] if isinstance(mismatch, tuple) else mismatch) for mismatch in info["mismatched_keys"])
    if missing:
        own = ", ".join(config.architectures or ()) or "a class that its configuration does not name"
        text = f"the checkpoint is of {own} and lacks weights of {type(model).__name__}, which {task} needs: {', '.join(missing[:3])}"
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, text + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""))
    model = model.eval().requires_grad_(False).to(device)
    own_weights(model)
    return model


def _model_class(task: str, classes: Sequence[Any], config: Any) -> Any:
    """The first of a pipeline's classes that has the model's own architecture, else the first that has its family."""
    fitting = [
        auto for auto in classes if type(config) in auto._model_mapping or auto.__name__ in (getattr(config, "auto_map", None) or ())
    ]
    for auto in fitting:
        found = auto._model_mapping.get(type(config), ())
        if any(one.__name__ in (config.architectures or ()) for one in (found if isinstance(found, tuple) else (found,))):
            return auto
    if not fitting:
        needed = " or ".join(auto.__name__ for auto in classes)
        text = f"{task} needs {needed}, which transformers {transformers.__version__} does not have for the family {config.model_type!r}"
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, text)
    return fitting[0]


def _dtype(name: str, device: torch.device) -> torch.dtype | str:
    """The number format of a name. "auto" is float32 on a CPU, and that of the checkpoint elsewhere, as pipelines have it."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if name not in DTYPES:
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"{name!r} is no number format: use auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _chooses_safetensors(path: Path, options: LoadOptions) -> bool:
    """True for safetensors, False for a pickle that may be read. Raises HubwireError where the folder has neither."""
    if any((path / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
        return True
    if not any((path / name).exists() for name in ("pytorch_model.bin", "pytorch_model.bin.index.json")):
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, "the model folder has no weights: expected model.safetensors")
    if not options.allow_pickle:
        text = "the model's weights are a pickle (pytorch_model.bin), not safetensors; the flag --allow-pickle permits reading it"
        raise HubwireError(Reason.MODEL_NOT_ALLOWED, text)
    return False


def _failed(path: Path, error: Exception) -> HubwireError:
    if "trust_remote_code" in str(error):
        text = "the model comes with its own Python code; the flag --allow-remote-code permits running it"
        return HubwireError(Reason.MODEL_NOT_ALLOWED, text)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (lines[0] if lines else type(error).__name__).replace(str(path), path.name)[:300]
    # A library that a pipeline needs and that is not installed is no fault of the files.
    reason = Reason.MODEL_NOT_SUPPORTED if isinstance(error, ImportError) else Reason.MODEL_LOAD_FAILED
    return HubwireError(reason, f"transformers cannot load the pipeline: {text}")
