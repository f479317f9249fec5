"""Reading a model folder in the conventions of sentence-transformers 6.2. JSON only: neither torch nor numpy is needed.

A folder with modules.json lists its modules: a Transformer, a Pooling, and what follows. A folder without it is a plain transformers model,
which sentence-transformers pools by the mean (by the last token, where it was made for causal language modelling). Files written by
versions before 5.4 use other names for types and keys; both are read.

What is not understood is refused with its name, since a module that was passed over would mean other vectors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from hubwire_server.errors import HubwireError, Reason

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

LEGACY_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys before 5.4, in the order in which their vectors are concatenated (sentence_transformer/modules/pooling.py)."""

TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

HARMLESS_LOADING_KEYS = {
    "model_kwargs": {
        "add_pooling_layer",
        "attn_implementation",
        "device_map",
        "dtype",
        "low_cpu_mem_usage",
        "torch_dtype",
        "use_safetensors",
    },
    "processor_kwargs": {"model_max_length", "padding", "padding_side", "truncation", "use_fast"},
    "config_kwargs": {"attn_implementation", "use_cache"},
}
"""Arguments that a folder may pass on to transformers without changing its vectors here; processor_kwargs.model_max_length is honoured."""

TRANSFORMER_KEYS = {
    "config_kwargs",
    "do_lower_case",
    "max_seq_length",
    "modality_config",
    "model_kwargs",
    "module_output_name",
    "processing_kwargs",
    "processor_kwargs",
    "transformer_task",
    "unpad_inputs",
}
"""The settings of a Transformer that are understood; any other is refused unless it is null."""

PROCESSING_KEYS = {"max_length", "truncation", "padding", "return_tensors"}

BUILT_IN_PROMPTS = ("query", "document")
"""The prompts that every model has, as empty texts where its folder sets none."""

OLD_LOADING_KEYS = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}


@dataclass(frozen=True, slots=True)
class ModuleRef:
    """A module after pooling: the name of its class, and its own folder."""

    kind: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceFolder:
    """What a folder says about how its texts become vectors."""

    transformer_path: Path
    folders: tuple[Path, ...]
    """The folders of all modules; that of the Transformer is mostly the model folder itself."""
    max_seq_length: int | None
    """The longest text in tokens, where the folder sets one."""
    lowercase: bool
    pooling: tuple[str, ...]
    include_prompt: bool
    modules: tuple[ModuleRef, ...]
    prompts: dict[str, str]
    default_prompt_name: str
    truncate_dim: int | None
    is_plain: bool
    """Whether this is a transformers folder without modules.json."""


def read_sentence_folder(path: Path) -> SentenceFolder:
    """Reads the folder. Raises HubwireError: MODEL_NOT_SUPPORTED for what is not understood, MODEL_LOAD_FAILED for broken files."""
    if not path.is_dir():
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"{path.name} is not a folder")
    if not (path / "modules.json").exists():
        return _plain_folder(path)
    entries = read_json(path / "modules.json", list)
    settings = read_json(path / "config_sentence_transformers.json", dict, missing_ok=True)
    _refuse_other_model_types(settings)
    refs = [_module_ref(path, entry) for entry in entries]
    if len(refs) < 2 or refs[0].kind != "Transformer" or refs[1].kind != "Pooling":
        kinds = ", ".join(ref.kind for ref in refs) or "nothing"
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"modules.json must begin with Transformer and Pooling; it lists {kinds}")
    transformer = _transformer_config(refs[0].path)
    pooling = read_json(refs[1].path / "config.json", dict)
    prompts, default_prompt_name = _prompts(settings)
    return SentenceFolder(
        transformer_path=refs[0].path,
        folders=tuple(ref.path for ref in refs),
        max_seq_length=_max_seq_length(transformer),
        lowercase=bool(transformer.get("do_lower_case", False)),
        pooling=_pooling_modes(pooling),
        include_prompt=bool(pooling.get("include_prompt", True)),
        modules=tuple(ref for ref in refs[2:] if ref.kind != "Dropout"),
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        truncate_dim=_optional_int(settings, "truncate_dim"),
        is_plain=False,
    )


def read_json(path: Path, kind: type[Any], *, missing_ok: bool = False) -> Any:
    """The JSON value of a file, which must be a list or a dict. A missing file gives an empty one where missing_ok, else HubwireError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if missing_ok:
            return kind()
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the model folder has no {_short(path)}") from None
    except (OSError, ValueError) as error:
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"{_short(path)} cannot be read: {error}") from error
    if not isinstance(value, kind):
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"{_short(path)} is not a JSON {'array' if kind is list else 'object'}")
    return value


def _plain_folder(path: Path) -> SentenceFolder:
    config = read_json(path / "config.json", dict)
    architectures = config.get("architectures") or [""]
    is_causal = str(architectures[0]).endswith("ForCausalLM") and config.get("is_causal", True)
    return SentenceFolder(
        transformer_path=path,
        folders=(path,),
        max_seq_length=None,
        lowercase=False,
        pooling=("lasttoken",) if is_causal else ("mean",),
        include_prompt=True,
        modules=(),
        prompts={},
        default_prompt_name="",
        truncate_dim=None,
        is_plain=True,
    )


def _module_ref(path: Path, entry: Any) -> ModuleRef:
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str) or not isinstance(entry.get("path"), str):
        raise HubwireError(Reason.MODEL_LOAD_FAILED, "modules.json has an entry without type and path")
    place = PureWindowsPath(entry["path"])
    if place.anchor or ".." in place.parts:
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"modules.json points out of the model folder: {entry['path']!r}")
    if not entry["type"].startswith("sentence_transformers."):
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the module {entry['type']} is not part of sentence-transformers")
    return ModuleRef(kind=entry["type"].rpartition(".")[2], path=path / entry["path"])


def _transformer_config(path: Path) -> dict[str, Any]:
    """The settings of the Transformer module, in today's words."""
    config: dict[str, Any] = next((found for name in TRANSFORMER_CONFIGS if (found := read_json(path / name, dict, missing_ok=True))), {})
    for old, new in OLD_LOADING_KEYS.items():
        config.setdefault(new, config.pop(old, {}))
    for name, harmless in HARMLESS_LOADING_KEYS.items():
        if unknown := sorted(set(config[name]) - harmless - {"trust_remote_code"}):
            raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the model loads its Transformer with {name} {', '.join(unknown)}")
    if unknown := sorted(name for name, value in config.items() if name not in TRANSFORMER_KEYS and value is not None):
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the Transformer module has settings that are not understood: {', '.join(unknown)}")
    task = config.get("transformer_task", "feature-extraction")
    if task != "feature-extraction" or config.get("module_output_name", "token_embeddings") != "token_embeddings":
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the Transformer module does not give token embeddings (its task is {task})")
    modalities = config.get("modality_config", {"text": {"method": "forward", "method_output_name": "last_hidden_state"}})
    if "message" in modalities:
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, "the model reads its texts through a chat template")
    text = modalities.get("text", {})
    if text.get("method") != "forward" or text.get("method_output_name") not in ("last_hidden_state", ["last_hidden_state"]):
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, "the Transformer module does not give the last hidden state of texts")
    for name in ("text", "common"):
        processing = (config.get("processing_kwargs") or {}).get(name) or {}
        if unknown := sorted(set(processing) - PROCESSING_KEYS):
            raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the model tokenizes its texts with {', '.join(unknown)}")
        if processing.get("truncation", True) in (False, "do_not_truncate"):
            raise HubwireError(Reason.MODEL_NOT_SUPPORTED, "the model tokenizes its texts with truncation False")
    return config


def _max_seq_length(transformer: dict[str, Any]) -> int | None:
    """In the order in which sentence-transformers lets one setting override the other."""
    processing = transformer.get("processing_kwargs") or {}
    places = ((processing.get("common") or {}, "max_length"), (processing.get("text") or {}, "max_length"))
    for settings, key in (*places, (transformer["processor_kwargs"], "model_max_length"), (transformer, "max_seq_length")):
        if (value := _optional_int(settings, key)) is not None:
            return value
    return None


def _pooling_modes(config: dict[str, Any]) -> tuple[str, ...]:
    modes: Any = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in LEGACY_POOLING_KEYS.items() if config.get(key)] or ["mean"]
    names = (modes,) if isinstance(modes, str) else tuple(str(mode) for mode in modes)
    if not names or not set(names) <= set(POOLING_MODES):
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the model pools by {', '.join(names) or 'nothing'}")
    return names


def _prompts(settings: dict[str, Any]) -> tuple[dict[str, str], str]:
    prompts = {str(name): "" if text is None else str(text) for name, text in (settings.get("prompts") or {}).items()}
    default_prompt_name = settings.get("default_prompt_name") or ""
    if default_prompt_name in BUILT_IN_PROMPTS and default_prompt_name not in prompts:
        default_prompt_name = ""
    if default_prompt_name and default_prompt_name not in prompts:
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the model's default prompt {default_prompt_name!r} is not among its prompts")
    return prompts, default_prompt_name


def _refuse_other_model_types(settings: dict[str, Any]) -> None:
    model_type = settings.get("model_type", "SentenceTransformer")
    if model_type != "SentenceTransformer":
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the model is a {model_type}, not an embedding model")


def _optional_int(settings: dict[str, Any], key: str) -> int | None:
    value = settings.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or value <= 0:
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"the model's {key} is {value!r}, not a positive integer")
    return value


def _short(path: Path) -> str:
    """A file's name with that of its folder where it is a module's ("1_Pooling/config.json"); never a path of this machine."""
    return f"{path.parent.name}/{path.name}" if path.parent.name[:1].isdigit() and "_" in path.parent.name else path.name
