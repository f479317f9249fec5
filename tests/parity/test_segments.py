"""Models whose tokenizer keeps the segments to itself: pairs have the scores that transformers gives them.

The post-processor of such a tokenizer may well count the second text as segment 1. transformers hands to the model what
model_input_names lists, and a model that is given no segments takes all tokens for those of the first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from hubwire.v1 import text_classification_pb2 as pb
from hubwire.v1 import text_classification_pb2_grpc as pb_grpc
from hubwire_server.tasks.text_classification import ClassifyOptions, ClassifyTextRequest, TextClassificationTask
from hubwire_server.tasks.texts import Caller, Truncation
from tests.conftest import Server
from tests.parity.sequence_heads import Head, head_server, in_process, make_head
from tests.parity.texts import make_texts

LABELS = ("sadness", "joy", "love", "anger", "fear")
TEXTS = make_texts(60, seed=71)
PAIRS = make_texts(60, seed=72)
TOLERANCE = 1e-4
WITH, WITHOUT = "with-segments", "without-segments"


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Head]:
    """The same BERT twice, of which one tokenizer lists token_type_ids and the other does not."""
    folder = tmp_path_factory.mktemp("heads")
    return {name: make_bert(folder / name, name) for name in (WITH, WITHOUT)}


def make_bert(folder: Path, name: str) -> Head:
    """A BERT in a folder of its own, as transformers reads it."""
    made = make_head("Bert", folder, LABELS)
    if name == WITHOUT:
        tokenizer = made.tokenizer
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]
        tokenizer.save_pretrained(made.path)
    return Head(name, made.path, made.model, transformers.AutoTokenizer.from_pretrained(made.path))


@pytest.fixture(scope="module", params=["torch", "onnx"])
def server(request: pytest.FixtureRequest, heads: dict[str, Head], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with head_server(list(heads.values()), "text_classification", request.param, tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest.fixture(scope="module")
def expected(heads: dict[str, Head]) -> dict[str, np.ndarray]:
    """The scores of each pair alone, shape (pairs, labels), in the order of LABELS."""
    return {name: np.stack([reference(head, *pair) for pair in zip(TEXTS, PAIRS, strict=True)]) for name, head in heads.items()}


def reference(head: Head, text: str, pair: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe: Any = transformers.pipeline("text-classification", model=head.model, tokenizer=head.tokenizer, device="cpu")
        scores = {one["label"]: one["score"] for one in pipe({"text": text, "text_pair": pair}, top_k=None, truncation=True)}
    return np.array([scores[label] for label in LABELS])


def over_grpc(server: Server, head: Head) -> np.ndarray:
    """The scores of all pairs in one request."""
    request = pb.ClassifyTextRequest(texts=TEXTS, text_pairs=PAIRS, model=head.name, options=pb.ClassifyTextOptions(truncation={}))
    response = pb_grpc.TextClassificationServiceStub(server.channel).ClassifyText(request, timeout=60)
    found = [{entry.label: entry.score for entry in one.labels} for one in response.classifications]
    return np.array([[scores[label] for label in LABELS] for scores in found])


def through_the_task(server: Server, head: Head) -> np.ndarray:
    """The scores of all pairs in one request, without a wire."""
    request = ClassifyTextRequest(texts=TEXTS, pairs=PAIRS, model=head.name, options=ClassifyOptions(truncation=Truncation()))
    with in_process(server) as run:
        ranked = run(lambda task: TextClassificationTask(task).classify(request, Caller(client="parity"))).ranked
    scores = np.empty(ranked.scores.shape)
    np.put_along_axis(scores, ranked.columns, ranked.scores, axis=1)
    return scores


@pytest.mark.parametrize("door", [through_the_task, over_grpc])
@pytest.mark.parametrize("name", [WITH, WITHOUT])
def test_pairs_have_the_scores_that_transformers_gives_them(server, heads, expected, name, door, measured):
    largest = float(np.abs(door(server, heads[name]) - expected[name]).max())
    measured("largest difference of a score", f"{largest:.1e}")
    assert largest < TOLERANCE


def test_the_tokenizers_differ_in_what_they_hand_on_alone(heads, expected):
    """Both count the second text as segment 1, one of them tells the model, and the model minds."""
    sides = {name: head.tokenizer(TEXTS[0], PAIRS[0]) for name, head in heads.items()}
    assert sides[WITH]["input_ids"] == sides[WITHOUT]["input_ids"]
    assert set(sides[WITH]["token_type_ids"]) == {0, 1}
    assert "token_type_ids" not in sides[WITHOUT]
    assert set(heads[WITHOUT].tokenizer.backend_tokenizer.encode(TEXTS[0], PAIRS[0]).type_ids) == {0, 1}
    assert all(torch.equal(*both) for both in zip(*(head.model.state_dict().values() for head in heads.values()), strict=True))
    assert np.abs(expected[WITH] - expected[WITHOUT]).max() > 100 * TOLERANCE
