"""Reading the folder of a model with a task head: whether it has that head, and what its outputs are called. JSON only.

A checkpoint says in its configuration which class it was saved from. Another head than the one wanted would be filled with random numbers,
or, where its layers happen to have the same names (those that classify texts and those that classify tokens do), answer another question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubwire_server.backends.base import Head
from hubwire_server.backends.sentence_folder import TRANSFORMER_CONFIGS, read_json
from hubwire_server.errors import HubwireError, Reason

CLASS_ENDINGS: Mapping[Head, tuple[str, ...]] = {
    Head.SEQUENCE_CLASSIFICATION: ("ForSequenceClassification",),
    Head.TOKEN_CLASSIFICATION: ("ForTokenClassification",),
    Head.QUESTION_ANSWERING: ("ForQuestionAnswering", "ForQuestionAnsweringSimple"),
    Head.MASKED_LM: ("ForMaskedLM", "ForPreTraining", "WithLMHeadModel", "ForConditionalGeneration"),
}
"""How the names of the classes end that have a head. Of ForPreTraining only some do, which their weights show."""

BEAM_SEARCH = {"FlaubertForQuestionAnswering", "XLMForQuestionAnswering", "XLNetForQuestionAnswering"}
"""Classes that choose the end of an answer by its start, and so give no logits of their own for the ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFolder:
    """What a folder says about a model with a task head."""

    path: Path
    """Where its configuration and its weights lie."""
    max_seq_length: int | None
    """The longest text in tokens, where the folder of a sentence-transformers model sets one."""
    lowercase: bool
    problem_type: str
    id2label: Mapping[int, str]

    def labels(self, count: int) -> tuple[str, ...]:
        """The names of so many labels, LABEL_0 and so on where there is none, as in transformers."""
        return tuple(self.id2label.get(index, f"LABEL_{index}") for index in range(count))


def read_head_folder(path: Path, head: Head) -> HeadFolder:
    """Reads the folder. Raises HubwireError: MODEL_NOT_SUPPORTED where the checkpoint has another head, and
    MODEL_LOAD_FAILED for broken files.
    """
    if not path.is_dir():
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"{path.name} is not a folder")
    place = _transformer_path(path)
    config = read_json(place / "config.json", dict)
    _refuse_other_heads(config, head)
    if head is Head.MASKED_LM and (path / "modules.json").exists():
        _refuse_other_sparse_modules(path)
    # Those of a SparseEncoder, which is a masked language model, or of a CrossEncoder.
    names = TRANSFORMER_CONFIGS if (path / "modules.json").exists() else ()
    settings: dict[str, Any] = next((found for name in names if (found := read_json(place / name, dict, missing_ok=True))), {})
    return HeadFolder(
        path=place,
        max_seq_length=_positive(settings.get("max_seq_length")),
        lowercase=bool(settings.get("do_lower_case", False)),
        problem_type=str(config.get("problem_type") or ""),
        id2label=_id2label(config),
    )


def _transformer_path(path: Path) -> Path:
    """The folder itself, or the first module of a sentence-transformers folder that keeps its transformer in a folder of its own."""
    if (path / "config.json").exists() or not (path / "modules.json").exists():
        return path
    for entry in read_json(path / "modules.json", list)[:1]:
        place = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(place, str) and place and ".." not in Path(place).parts and not Path(place).is_absolute():
            return path / place
    return path


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that a checkpoint was saved from, as its configuration has them."""
    names = config.get("architectures")
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _refuse_other_sparse_modules(path: Path) -> None:
    """A SparseEncoder may pool in other ways than SPLADE, which would give other vectors than those it was trained for."""
    for module in read_json(path / "modules.json", list):
        kind = str(module.get("type", "")).rpartition(".")[2] if isinstance(module, dict) else ""
        if kind in ("Transformer", "MLMTransformer"):
            continue
        if kind != "SpladePooling":
            raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the module {kind or module!r} of a sparse encoder is not supported")
        config = read_json(path / str(module.get("path", "")) / "config.json", dict)
        for name, ours in (("pooling_strategy", "max"), ("activation_function", "relu")):
            if config.get(name, ours) != ours:
                text = f"the sparse encoder has {name} {config[name]!r}; {ours!r} is supported"
                raise HubwireError(Reason.MODEL_NOT_SUPPORTED, text)


def _refuse_other_heads(config: Mapping[str, Any], head: Head) -> None:
    names = architectures(config)
    if head is Head.QUESTION_ANSWERING and BEAM_SEARCH & set(names):
        raise HubwireError(
            Reason.MODEL_NOT_SUPPORTED,
            f"{', '.join(names)} searches for answers with beams, which is not supported; a checkpoint of {names[0]}Simple would be",
        )
    if names and not any(name.endswith(CLASS_ENDINGS[head]) for name in names):
        wanted = f"{config.get('model_type', '')} {CLASS_ENDINGS[head][0]}".strip()
        raise HubwireError(
            Reason.MODEL_NOT_SUPPORTED, f"the checkpoint has no head for {head}: {wanted} is needed, and it is of {', '.join(names)}"
        )


def _id2label(config: Mapping[str, Any]) -> dict[int, str]:
    names = config.get("id2label") or {}
    try:
        return {int(index): str(name) for index, name in names.items()}
    except (AttributeError, ValueError) as error:
        raise HubwireError(Reason.MODEL_LOAD_FAILED, "the id2label of config.json does not name labels by their numbers") from error


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
