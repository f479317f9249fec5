"""Real labelled text beside the checkout: sentences of WNUT-17 and questions of XQuAD. Without it the tests that need it are not run."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("HUBWIRE_TEST_DATA") or Path(__file__).parents[2].parent / "shared" / "data")

needs_data = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason="NOT RUN: real input is in the folder of HUBWIRE_TEST_DATA, or in shared/data beside the checkout; neither is there",
)


@dataclass(frozen=True)
class Question:
    """A question of XQuAD, its context, and the texts that answer it."""

    question: str
    context: str
    answers: list[str]


def wnut_sentences() -> list[list[str]]:
    """The words of the test sentences of WNUT-17."""
    sentences: list[list[str]] = [[]]
    for line in (FOLDER / "emerging.test.annotated").read_text(encoding="utf-8").splitlines():
        word = line.split("\t")[0].strip()
        if word:
            sentences[-1].append(word)
        elif sentences[-1]:
            sentences.append([])
    return [sentence for sentence in sentences if sentence]


def xquad_questions() -> list[Question]:
    """The English questions of XQuAD."""
    articles = json.loads((FOLDER / "xquad.en.json").read_text(encoding="utf-8"))["data"]
    return [
        Question(entry["question"], paragraph["context"], [answer["text"] for answer in entry["answers"]])
        for article in articles
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    ]
