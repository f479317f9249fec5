"""The tokenizer of a model as JSON, for the front, which holds neither torch nor transformers."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hubwire_server.backends.base import NO_LIMIT
from hubwire_server.errors import HubwireError, Reason

FILE = "exported_tokenizer.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedTokenizer:
    """A tokenizer in the form of the `tokenizers` library."""

    json: str
    model_max_length: int
    """The longest text that the tokenizer's own configuration sets, or NO_LIMIT."""
    special_ids: tuple[int, ...]
    """The ids of all special tokens."""
    has_chat_template: bool
    unk_token_id: int
    """The id of this special token, as of those below; -1 where the tokenizer has none."""
    cls_token_id: int
    sep_token_id: int
    pad_token_id: int
    mask_token_id: int
    mask_token: str
    """How the token for a masked word is written; empty where there is none."""
    padding_side: str
    """"left" or "right"."""
    word_pieces: bool
    """Whether the vocabulary marks the tokens that continue a word. transformers decides by this how it tells words apart
    (pipelines/token_classification.py, gather_pre_entities)."""
    segments: bool
    """Whether transformers hands the segment of each token to the model. Where it does not, all are of the first one, whatever the
    tokenizer says of pairs."""
    clean_up_spaces: bool
    """Whether transformers takes the spaces before punctuation out of a decoded text (tokenization_utils_tokenizers.py, _decode)."""


def export_tokenizer(path: Path, *, allow_remote_code: bool = False, lowercase: bool = False) -> ExportedTokenizer:
    """Exports the tokenizer of a folder. lowercase puts texts into lower case first, where the tokenizer does not do so already.

    Raises HubwireError: MODEL_NOT_SUPPORTED where the tokenizer has no JSON form, MODEL_LOAD_FAILED where its files are broken.
    """
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside transformers are for its developers
            tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=allow_remote_code, local_files_only=True)
    except Exception as error:
        # The tokenizers of transformers raise bare Exception too.
        if "trust_remote_code" in str(error):
            raise HubwireError(
                Reason.MODEL_NOT_ALLOWED, "the tokenizer comes with its own Python code; the flag --allow-remote-code permits running it"
            ) from error
        line = next(iter(str(error).splitlines()), type(error).__name__).replace(str(path), path.name)
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"transformers cannot load the tokenizer: {line[:300]}") from error
    if not tokenizer.is_fast:
        raise HubwireError(
            Reason.MODEL_NOT_SUPPORTED, f"the tokenizer {type(tokenizer).__name__} runs in Python alone and has no JSON form"
        )
    if not _has_vocabulary(path, type(tokenizer).vocab_files_names):
        # transformers makes a tokenizer of nothing in this case, which turns every word into [UNK].
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, "the model folder has no tokenizer: expected tokenizer.json")
    text = tokenizer.backend_tokenizer.to_str()
    return ExportedTokenizer(
        json=_with_lowercase(text) if lowercase else text,
        model_max_length=min(int(tokenizer.model_max_length), NO_LIMIT),
        special_ids=tuple(sorted(set(tokenizer.all_special_ids))),
        has_chat_template=bool(tokenizer.chat_template),
        unk_token_id=_id(tokenizer.unk_token_id),
        cls_token_id=_id(tokenizer.cls_token_id),
        sep_token_id=_id(tokenizer.sep_token_id),
        pad_token_id=_id(tokenizer.pad_token_id),
        mask_token_id=_id(tokenizer.mask_token_id),
        mask_token=str(tokenizer.mask_token or ""),
        padding_side=str(tokenizer.padding_side),
        word_pieces=bool(getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)),
        segments="token_type_ids" in tokenizer.model_input_names,
        # transformers leaves the texts of byte-pair vocabularies alone, whatever their settings say.
        clean_up_spaces=bool(tokenizer.clean_up_tokenization_spaces) and type(tokenizer.backend_tokenizer.model).__name__ != "BPE",
    )


def brings_chat_template(path: Path) -> bool:
    """Whether the tokenizer of a folder has a chat template, as its files say; transformers is not needed for it."""
    if (path / "chat_template.jinja").exists() or any(path.glob("additional_chat_templates/*.jinja")):
        return True
    try:
        settings = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # what is wrong with it is for export_tokenizer to say
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def write_tokenizer(folder: Path, tokenizer: ExportedTokenizer) -> None:
    """Keeps an exported tokenizer. Raises OSError."""
    (folder / FILE).write_bytes(msgspec.json.encode(tokenizer))


def read_tokenizer(folder: Path) -> ExportedTokenizer:
    """What write_tokenizer kept. Raises OSError, and ValueError where it is broken."""
    return msgspec.json.decode((folder / FILE).read_bytes(), type=ExportedTokenizer)


def _id(token_id: int | None) -> int:
    return -1 if token_id is None else int(token_id)


def _has_vocabulary(path: Path, file_names: dict[str, str]) -> bool:
    """Whether the folder holds a file with a vocabulary: one that the tokenizer's class names, or one that transformers converts."""
    names = {*file_names.values(), "tokenizer.json", "tekken.json"}
    return any(file.name in names or file.suffix in (".model", ".tiktoken") for file in path.iterdir())


def _with_lowercase(text: str) -> str:
    """The tokenizer with Lowercase as its first normalizer (sentence-transformers, base/modules/transformer.py, do_lower_case)."""
    tokenizer = json.loads(text)
    normalizer = tokenizer.get("normalizer")
    steps = [] if normalizer is None else normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    if any(step["type"] == "Lowercase" for step in steps):
        return text
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}
    return json.dumps(tokenizer, ensure_ascii=False)
