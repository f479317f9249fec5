"""Small tokenizers with decoders, in the JSON form of the `tokenizers` library, and models that have them."""

from __future__ import annotations

import json

from hubwire_server._native import Tokenizer
from hubwire_server.models.description import MaskedLanguageModelDetails, ModelDescription, Task, TokenizerDetails
from hubwire_server.models.registry import ReadyModel


def word_pieces() -> str:
    """As BERT's: words in lower case, whose later pieces begin with "##"."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "##s", "sleeps", ".", "'", "t", "isn"]
    return json.dumps(
        _tokenizer(words, words[:5], begin="[CLS]", end="[SEP]")
        | {
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": {word: index for index, word in enumerate(words)},
            },
        }
    )


def byte_level() -> str:
    """As RoBERTa's: words with the space before them, as "Ġ"."""
    letters = ["Ġ", *"thefoxslp"]
    merges = ["t h", "th e", "f o", "fo x", "Ġ fox", "Ġ s", "Ġs l", "Ġsl e", "Ġsle e", "Ġslee p", "Ġsleep s"]
    words = ["<s>", "</s>", "<mask>", *letters, *(merge.replace(" ", "") for merge in merges)]
    return json.dumps(
        _tokenizer(words, words[:3], begin="<s>", end="</s>")
        | {
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "unk_token": None, "vocab": {word: index for index, word in enumerate(words)}, "merges": merges},
        }
    )


def make_ready(tokenizer_json: str, *, mask_token: str, vocabulary_size: int = 0, clean_up_spaces: bool = False) -> ReadyModel:
    """A masked language model that serves, as tasks see it."""
    tokenizer = Tokenizer(tokenizer_json)
    unknown = tokenizer.token_to_id("[UNK]")
    mask = tokenizer.token_to_id(mask_token)
    assert mask is not None
    description = ModelDescription(
        fingerprint="",
        task=Task.FILL_MASK,
        architecture="",
        backend="",
        device="",
        dtype="",
        packed=True,
        packed_note="",
        candidates=(),
        max_tokens=100,
        tokenizer=TokenizerDetails(
            special_ids=(),
            unk_token_id=-1 if unknown is None else unknown,
            mask_token_id=mask,
            mask_token=mask_token,
            clean_up_spaces=clean_up_spaces,
        ),
        masked_language_model=MaskedLanguageModelDetails(
            mask_token=mask_token, vocabulary_size=vocabulary_size or len(tokenizer.token_lengths())
        ),
    )
    return ReadyModel("model", "key", description, tokenizer)


def _tokenizer(words: list[str], special: list[str], *, begin: str, end: str) -> dict[str, object]:
    ids = {word: words.index(word) for word in special}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": word, **flags} for word, index in ids.items()],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": begin, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": end, "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {word: {"id": word, "ids": [ids[word]], "tokens": [word]} for word in (begin, end)},
        },
    }
