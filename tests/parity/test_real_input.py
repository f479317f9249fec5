"""Real sentences and questions go through a running server without one error, and its answers score as those of the reference do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from hubwire.v1 import question_answering_pb2, question_answering_pb2_grpc, token_classification_pb2, token_classification_pb2_grpc
from tests.conftest import Server
from tests.parity.labelled_data import Question, needs_data, wnut_sentences, xquad_questions
from tests.parity.reference_answers import Window, all_answers, exact_match, f1
from tests.parity.sequence_heads import Head, head_server
from tests.unit.backends.tiny_models import make_model, save_folder

pytestmark = needs_data
MAX_TOKENS = 160
LABELS = {0: "O", 1: "B-person", 2: "I-person", 3: "B-location", 4: "I-location"}
BATCH = 64


def make_head(folder: Path, head: str, **config: object) -> Head:
    """A tiny model with the tokenizer of a real one."""
    model = make_model("Bert", head, **config)
    path = save_folder(model, folder / head)
    tokenizer = AutoTokenizer.from_pretrained(path, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(path)
    return Head(head, path, model, tokenizer)


@pytest.fixture(scope="module")
def entities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    head = make_head(tmp_path_factory.mktemp("heads"), "ForTokenClassification", num_labels=len(LABELS), id2label=LABELS)
    with head_server([head], "token_classification", "torch", tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Head:
    head = make_head(tmp_path_factory.mktemp("heads"), "ForQuestionAnswering")
    with torch.no_grad():
        head.model.qa_outputs.weight.mul_(3)
    head.model.save_pretrained(head.path)
    return head


@pytest.fixture(scope="module")
def answers(answering: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with head_server([answering], "question_answering", "onnx", tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.mark.parametrize("aggregation", ["AGGREGATION_SIMPLE", "AGGREGATION_FIRST", "AGGREGATION_AVERAGE", "AGGREGATION_MAX"])
def test_the_sentences_of_wnut_17(entities, aggregation, measured):
    stub = token_classification_pb2_grpc.TokenClassificationServiceStub(entities.channel)
    sentences = wnut_sentences()
    options = token_classification_pb2.ClassifyTokensOptions(aggregation=aggregation, windows={})
    found = 0
    for low in range(0, len(sentences), BATCH):
        part = sentences[low : low + BATCH]
        texts = [" ".join(words) for words in part]
        split = [token_classification_pb2.Words(words=words) for words in part]
        whole = stub.ClassifyTokens(token_classification_pb2.ClassifyTokensRequest(texts=texts, options=options), timeout=60)
        words = stub.ClassifyTokens(token_classification_pb2.ClassifyTokensRequest(split_texts=split, options=options), timeout=60)
        for index, text in enumerate(texts):
            for entity in [*whole.classifications[index].entities, *words.classifications[index].entities]:
                assert text[entity.span.start : entity.span.end] == entity.text
                assert entity.label in ("person", "location")
                assert 0 < entity.score <= 1
            for entity in words.classifications[index].entities:
                assert entity.text in " ".join(part[index][entity.words.start : entity.words.end])
            found += len(whole.classifications[index].entities)
    assert len(sentences) > 1_000
    assert found > 1_000
    measured("sentences, entities", (len(sentences), found))


def ask(server: Server, questions: list[Question], **options: object) -> list[str]:
    """The best answer to each question."""
    stub = question_answering_pb2_grpc.QuestionAnsweringServiceStub(server.channel)
    texts = []
    for low in range(0, len(questions), BATCH):
        part = questions[low : low + BATCH]
        request = question_answering_pb2.AnswerQuestionsRequest(
            questions=[each.question for each in part],
            contexts=[each.context for each in part],
            options=question_answering_pb2.AnswerQuestionsOptions(**options),
        )
        for each, entry in zip(part, stub.AnswerQuestions(request, timeout=100).answers, strict=True):
            (best,) = entry.answers
            assert each.context[best.span.start : best.span.end] == best.text != ""
            texts.append(best.text)
    return texts


def reference(head: Head, question: Question) -> str:
    """The best answer by the plain reference."""
    encoded = head.tokenizer(
        question.question,
        question.context,
        truncation="only_second",
        max_length=MAX_TOKENS,
        stride=MAX_TOKENS // 4,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = []
    with torch.inference_mode():
        for row in range(len(encoded["input_ids"])):
            output = head.model(**{name: torch.tensor([encoded[name][row]]) for name in ("input_ids", "token_type_ids")})
            of = encoded.sequence_ids(row)
            spans = [tuple(place) if of[token] == 1 else None for token, place in enumerate(encoded["offset_mapping"][row])]
            windows.append(Window(output.start_logits[0].tolist(), output.end_logits[0].tolist(), spans, 0))
    best = all_answers(windows, 15)[0]
    return question.context[best.first : best.last]


def scores(texts: list[str], questions: list[Question]) -> tuple[float, float]:
    """Exact match and F1 over questions, in per cent."""
    exact = np.mean([exact_match(text, each.answers) for text, each in zip(texts, questions, strict=True)])
    overlap = np.mean([f1(text, each.answers) for text, each in zip(texts, questions, strict=True)])
    return 100 * float(exact), 100 * float(overlap)


def test_the_questions_of_xquad(answers, answering, measured):
    questions = xquad_questions()
    assert len(questions) == 1_190
    texts = ask(answers, questions)
    chosen = slice(0, len(questions), 12)
    expected = [reference(answering, each) for each in questions[chosen]]
    assert texts[chosen] == expected
    assert scores(texts[chosen], questions[chosen]) == scores(expected, questions[chosen])
    measured("exact match and F1 in per cent, of a model with random weights", scores(texts, questions))


def test_the_metric_gives_all_points_to_the_answers_themselves():
    questions = xquad_questions()
    assert scores([each.answers[0] for each in questions], questions) == (100.0, 100.0)
    assert scores([f"The {each.answers[0].upper()}!" for each in questions], questions) == (100.0, 100.0)
    exact, overlap = scores([f"{each.answers[0]} besides" for each in questions], questions)
    assert (exact, 0 < overlap < 100) == (0.0, True)
    assert scores(["nothing of it"] * len(questions), questions)[0] == 0.0
