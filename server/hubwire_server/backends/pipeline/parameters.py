"""The keyword arguments of a pipeline's call, as a caller may give them.

Many pipelines swallow what they do not know, and generation takes arguments that load code or start other models. So a name is only let
through where the pipeline can be seen to read it, and never where it is one of FORBIDDEN.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig

from hubwire_server.errors import HubwireError, Reason

FORBIDDEN = frozenset(
    {
        "assistant_model",
        "assistant_tokenizer",
        "batch_size",
        "binary_output",
        "chat_template",
        "custom_generate",
        "device",
        "generation_config",
        "logits_processor",
        "model",
        "num_workers",
        "prefix_allowed_tokens_fn",
        "self",
        "stopping_criteria",
        "streamer",
        "synced_gpus",
        "tesseract_config",
        "timeout",
        "tokenizer",
        "trust_remote_code",
    }
)
"""What names code, models, files or processes (custom_generate runs code of a repository, tesseract_config is a command line, chat_template
is a program), or what only Python objects can be given for, or what has no meaning here (timeout is for fetching images)."""

FLOATS = frozenset(
    {
        "diversity_penalty",
        "encoder_repetition_penalty",
        "epsilon_cutoff",
        "eta_cutoff",
        "guidance_scale",
        "length_penalty",
        "max_time",
        "min_p",
        "repetition_penalty",
        "temperature",
        "top_p",
        "typical_p",
    }
)
"""Generation refuses whole numbers for some of these, and JSON does not tell 2 from 2.0."""

LIMITS: Mapping[str, int] = {
    "crops_n_layers": 3,
    "max_length": 4_096,
    "max_new_tokens": 4_096,
    "min_length": 4_096,
    "min_new_tokens": 4_096,
    "num_beam_groups": 16,
    "num_beams": 16,
    "num_return_sequences": 16,
    "points_per_batch": 1_024,
    "points_per_crop": 64,
}
"""The most that a caller may ask of what takes memory or time by the number, which a few bytes could make endless. The layers of crops are
four times as many each, and the points of a crop are these squared."""

_GENERATION = set(vars(GenerationConfig()))  # type: ignore[no-untyped-call]  # transformers is typed in part


def known_parameters(pipeline: Any) -> frozenset[str]:
    """The names that a pipeline's call reads: those that its _sanitize_parameters names, as an argument or as the key of a dictionary, what
    its generation takes, and what it hands to its tokenizer."""
    function = type(pipeline)._sanitize_parameters
    signature = inspect.signature(function).parameters
    names = {name for name, parameter in signature.items() if parameter.kind is not inspect.Parameter.VAR_KEYWORD} | {
        constant for constant in function.__code__.co_consts if isinstance(constant, str) and constant.isidentifier()
    }
    if pipeline._pipeline_calls_generate and pipeline.model.can_generate():
        names |= generation_parameters(pipeline.model)
    if "tokenizer_kwargs" in signature and pipeline.tokenizer is not None:
        names |= set(inspect.signature(type(pipeline.tokenizer).__call__).parameters)
    if "candidate_labels" in inspect.signature(type(pipeline).__call__).parameters:
        names.add("candidate_labels")
    return frozenset(names) - FORBIDDEN


def generation_parameters(model: Any) -> set[str]:
    """The names that a model's generation takes."""
    configured = _GENERATION | set(vars(model.generation_config)) | set(inspect.signature(model.generate).parameters)
    return {name for name in configured if not name.startswith("_")} - FORBIDDEN - {"inputs", "kwargs"}


def check_parameters(parameters: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The parameters for a call. Raises HubwireError (PIPELINE_INPUT_INVALID) for one that is unknown, or forbidden or over its
    limit anywhere inside."""
    for name in parameters:
        if name not in known:
            some = ", ".join(sorted(known)[:40]) or "none"
            raise HubwireError(Reason.PIPELINE_INPUT_INVALID, f"the pipeline has no parameter {name[:64]!r}; it has: {some}")
    _refuse_inside(parameters)
    return {name: _with_floats(name, value) for name, value in parameters.items()}


def _refuse_inside(value: Any) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name in FORBIDDEN:
                raise HubwireError(Reason.PIPELINE_INPUT_INVALID, f"the parameter {name!r} is not for callers")
            if name in LIMITS and isinstance(inner, int | float) and not inner <= LIMITS[name]:
                raise HubwireError(Reason.PIPELINE_INPUT_INVALID, f"the parameter {name!r} is {inner}; at most {LIMITS[name]} is taken")
            _refuse_inside(inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_inside(inner)


def _with_floats(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_floats(key, inner) for key, inner in value.items()}
    return float(value) if name in FLOATS and type(value) is int else value
