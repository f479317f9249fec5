"""From a folder to a model: which class, which weights, and what is refused."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers.utils.logging as transformers_logging
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

from hubwire_server.backends.base import NO_LIMIT, Head, LoadOptions, RowKind
from hubwire_server.backends.torch.packed import positions_after_padding_idx
from hubwire_server.errors import HubwireError, Reason

ENCODER_ONLY = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
    "switch_transformers": "SwitchTransformersEncoderModel",
    "t5gemma": "T5GemmaEncoderModel",
}
"""Encoder-decoders that are embedded with by their encoder alone, as in sentence-transformers (base/modules/transformer.py,
_ENCODER_ONLY_MODELS).
"""

ENCODER_MISSING = {
    "blenderbot",
    "blenderbot-small",
    "m2m_100",
    "marian",
    "moonshine",
    "pegasus",
    "pegasus_x",
    "prophetnet",
    "t5gemma2",
    "t5gemma2_text",
    "udop",
    "whisper",
}
"""Further ones of that list, which are refused. Of most of them from_pretrained leaves the encoder's weights random: the names in a
checkpoint of the whole model do not fit. The others read more than text. As a whole they would give the states of the decoder.
"""


AUTO_CLASSES = {
    Head.BODY: "AutoModel",
    Head.SEQUENCE_CLASSIFICATION: "AutoModelForSequenceClassification",
    Head.TOKEN_CLASSIFICATION: "AutoModelForTokenClassification",
    Head.QUESTION_ANSWERING: "AutoModelForQuestionAnswering",
    Head.MASKED_LM: "AutoModelForMaskedLM",
}
"""The classes of transformers that find the class of a model with a head."""


def load_checkpoint(path: Path, options: LoadOptions, head: Head, device: torch.device, dtype: torch.dtype) -> Any:
    """The model with a head, in eval mode on the device.

    Raises HubwireError: MODEL_NOT_ALLOWED where it needs a pickle or its own code and options forbid that; MODEL_NOT_SUPPORTED where
    transformers has no class for it or weights are missing, those of the head among them; MODEL_LOAD_FAILED where files are broken.
    """
    _silence_transformers()
    if (path / "adapter_config.json").exists():
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, "the model folder is a PEFT adapter; merge it into its base model first")
    trust_remote_code = _needs_remote_code(path, options, head)
    use_safetensors = _chooses_safetensors(path, options)
    with warnings.catch_warnings():
        # What transformers and torch warn of while loading is for their developers; what matters here is checked below.
        warnings.simplefilter("ignore")
        try:
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=True)
            if hasattr(config, "use_cache"):
                config.use_cache = False
            if config.model_type == "t5gemma":
                config.is_encoder_decoder = False  # its encoder's class refuses to load otherwise
            _forget_implementations(config)
            model, info = _model_class(config, head).from_pretrained(
                path,
                config=config,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                use_safetensors=use_safetensors,
                weights_only=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:
            # Broken files and models with code of their own raise whatever they lead to.
            line = _one_line(error).replace(str(path), path.name)
            raise HubwireError(Reason.MODEL_LOAD_FAILED, f"transformers cannot load the model: {line}") from error
    _refuse_missing_weights(model, info, head)
    return model.eval().requires_grad_(False).to(device)


def own_weights(model: Any) -> None:
    """Copies weights on the CPU into memory of the process, one by one. safetensors leaves them in the model's file, which would change
    vectors when it is written to, and end the process when it is cut.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and not tensor.is_inference():  # one made while the model ran is in no file
            tensor.data = tensor.data.clone()


def max_tokens(body: Any) -> int:
    """The longest text that the model reads: its learned positions, else what its configuration says, else NO_LIMIT."""
    config = body.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return NO_LIMIT
    padding_idx = positions_after_padding_idx(body)
    return limit if padding_idx is None else limit - padding_idx - 1


def _silence_transformers() -> None:
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers is typed in part
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # as above
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, "the model folder has no config.json") from None
    except (OSError, ValueError) as error:
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"config.json cannot be read: {_one_line(error)}") from error
    if not isinstance(config, dict):
        raise HubwireError(Reason.MODEL_LOAD_FAILED, "config.json is not a JSON object")
    return config


def _needs_remote_code(path: Path, options: LoadOptions, head: Head) -> bool:
    """Whether the model runs code of its own. A family that transformers knows never does, whatever its folder offers."""
    config = _read_config(path)
    model_type = config.get("model_type")
    if head is Head.BODY and model_type in ENCODER_MISSING:
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the encoder of {model_type!r} cannot be loaded without its decoder")
    if model_type in CONFIG_MAPPING:
        if head is not Head.BODY and model_type not in _class_names(head):
            raise HubwireError(
                Reason.MODEL_NOT_SUPPORTED, f"transformers {transformers_version()} has no class of {model_type!r} for {head}"
            )
        return False
    if not config.get("auto_map"):
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"transformers {transformers_version()} knows no model type {model_type!r}")
    _refuse_code_elsewhere(config["auto_map"])
    if not options.allow_remote_code:
        raise HubwireError(
            Reason.MODEL_NOT_ALLOWED,
            f"the model type {model_type!r} comes with its own Python code; the flag --allow-remote-code permits running it",
        )
    return True


def _refuse_code_elsewhere(auto_map: Any) -> None:
    """Code of another repository, as in "owner/name--file.Class", would have to be fetched now, and by no commit that anyone chose."""
    for reference in auto_map.values() if isinstance(auto_map, dict) else ():
        repository, separator, _ = str(reference).partition("--")
        if separator:
            raise HubwireError(
                Reason.MODEL_NOT_SUPPORTED, f"the model's code lies in another repository, {repository}; copy it into the model's own"
            )


def transformers_version() -> str:
    """The version of the installed transformers."""
    import transformers

    return str(transformers.__version__)


def _forget_implementations(config: Any) -> None:
    """Takes out which attention and which experts the folder asks for. They may name a kernel on the hub, which transformers would fetch
    and run, and they are ours to choose. Setting them reaches the configurations inside this one too.
    """
    config._attn_implementation = None
    config._experts_implementation = None


def _chooses_safetensors(path: Path, options: LoadOptions) -> bool:
    """True for safetensors, False for a pickle that may be read. Raises HubwireError where the folder has neither."""
    if (path / "model.safetensors").exists() or (path / "model.safetensors.index.json").exists():
        return True
    if not ((path / "pytorch_model.bin").exists() or (path / "pytorch_model.bin.index.json").exists()):
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, "the model folder has no weights: expected model.safetensors")
    if not options.allow_pickle:
        raise HubwireError(
            Reason.MODEL_NOT_ALLOWED,
            "the model's weights are a pickle (pytorch_model.bin), not safetensors; the flag --allow-pickle permits reading it",
        )
    return False


def _class_names(head: Head) -> Mapping[str, str]:
    """The class of each model type that has a head."""
    names: Mapping[str, str] = getattr(modeling_auto, f"MODEL_FOR_{head.name}_MAPPING_NAMES")
    return names


def _model_class(config: Any, head: Head) -> Any:
    name = ENCODER_ONLY.get(config.model_type) if head is Head.BODY else None
    if name is None:
        return getattr(modeling_auto, AUTO_CLASSES[head])
    import transformers

    return getattr(transformers, name)


def _refuse_missing_weights(model: Any, info: dict[str, Any], head: Head) -> None:
    """A layer that is not in the checkpoint was filled with random numbers. The pooler is the one that nothing reads which gives a row a
    token.
    """
    may_miss = {"pooler"} if head.row_kind is RowKind.TOKEN else set()
    problems = sorted(name for name in info["missing_keys"] if not may_miss & set(name.split(".")))
    problems += sorted(str(mismatch[0] if isinstance(mismatch, tuple) else mismatch) for mismatch in info["mismatched_keys"])
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        text = f"the checkpoint lacks weights of the model: {', '.join(problems[:3])}{more}"
        if head is not Head.BODY:
            origin = ", ".join(model.config.architectures or ["an unknown class"])
            text += f". {head} needs those of {type(model).__name__}, and it is of {origin}"
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, text)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
