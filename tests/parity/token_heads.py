"""Tiny models that label or score tokens, one a family, and texts with characters of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.parity.sequence_heads import Head, make_tokenizer
from tests.parity.texts import make_texts
from tests.unit.backends.tiny_models import make_model

ODD_TEXTS = (
    "Zoë met 🦊 Anaïs 👩‍👩‍👧‍👦 in 🇨🇭 Zürich ☕️!",
    "cafe\u0301 n\u0303andu\u0301 a\u030a o\u0308\u0323 z\u0351\u036b\u0343\u036a\u0302 done",
    "שלום עולם، הַשּׁוּעָל הַחוּם in Haifa",
    "قابل الثَّعْلَبُ البنيّ Ahmad في القاهرة ١٢٣",
    "𝒽𝑒𝓁𝓁𝑜 𝕎𝕠𝕣𝕝𝕕 𠮷野家 𐐷 😀😀 quick",
    "敏捷的棕色狐狸跳过了懒狗。東京タワー、カタカナ",
    "\t  spaces\u00a0of \u2003every\u3000kind \n here ",
    "[MASK] and <s> and [SEP] are spelled out </s>",
    'un-be-liev-a-ble! (really?) "quoted" it\'s 3.14159e-9',
    "🤷🏿‍♀️",
    "x",
)
"""Emoji, combining marks, scripts from right to left, characters beyond 16 bits, odd spaces, special tokens, punctuation."""


def all_texts(count: int, seed: int) -> list[str]:
    """Texts of mixed length in several scripts, the odd ones among them. Every fourth is two or three in one, so that windows have work."""
    texts = make_texts(count - len(ODD_TEXTS), seed=seed)
    return [*ODD_TEXTS, *(" ".join(texts[index : index + 3]) if index % 4 == 0 else text for index, text in enumerate(texts))]


def make_token_head(family: str, folder: Path, head: str, labels: Sequence[str], **config: Any) -> Head:
    """A model of a family with a head ("ForTokenClassification", "ForQuestionAnswering"), saved in a folder of its own.

    The head's weights are scaled up so that labels and answers lie far apart: what is compared then does not hang on rounding.
    """
    tokenizer = make_tokenizer(family)
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    model = make_model(family, head, vocab_size=len(tokenizer), num_labels=len(labels), **ids, **names, **config)
    with torch.no_grad():
        (model.classifier if hasattr(model, "classifier") else model.qa_outputs).weight.mul_(3)
    path = folder / f"{family}-{head}"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Head(path.name, path, model, tokenizer)
