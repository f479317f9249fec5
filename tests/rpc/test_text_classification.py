"""TextClassificationService over gRPC, with the fake model: what comes back for what is asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest

from hubwire.v1 import text_classification_pb2 as pb
from hubwire.v1 import text_classification_pb2_grpc as pb_grpc
from hubwire_server.models.description import Task
from tests.conftest import Server, serve
from tests.rpc.conftest import read_error, read_status

LABELS = ["anger", "joy", "fear", "calm", "joy"]
TEXTS = ["w1", "w2 w3 w4", "w5 unknown w6 w7 w8 w9"]
Stub = pb_grpc.TextClassificationServiceStub


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with a head of five labels, two of which share a name."""
    with serve(task=Task.TEXT_CLASSIFICATION, description={"labels": LABELS}) as running:
        yield running


@pytest.fixture(scope="module")
def stub(server: Server) -> Stub:
    return Stub(server.channel)


@pytest.fixture(scope="module")
def nli() -> Iterator[Stub]:
    """A natural language inference head."""
    with serve(task=Task.ZERO_SHOT_CLASSIFICATION, description={"labels": ["contradiction", "neutral", "entailment"]}) as running:
        yield Stub(running.channel)


def classify(stub: Stub, texts, pairs=(), **options) -> pb.ClassifyTextResponse:
    request = pb.ClassifyTextRequest(texts=texts, text_pairs=pairs, options=pb.ClassifyTextOptions(**options))
    return stub.ClassifyText(request, timeout=30)


def zero_shot(stub: Stub, texts, labels, **options) -> pb.ClassifyZeroShotResponse:
    request = pb.ClassifyZeroShotRequest(texts=texts, candidate_labels=labels, options=pb.ClassifyZeroShotOptions(**options))
    return stub.ClassifyZeroShot(request, timeout=30)


def entries(classification: pb.Classification) -> list[tuple[str, float]]:
    return [(entry.label, entry.score) for entry in classification.labels]


def scores_by_label(classification: pb.Classification) -> dict[str, float]:
    return {entry.label: entry.score for entry in classification.labels}


def logits_of(stub: Stub, text: str, pair: str | None = None) -> np.ndarray:
    """The logits of a text, in the order of the labels of the model. They come from a head without two labels of one name, whose logits are
    the same: those of the fake model do not depend on the names."""
    with serve(task=Task.TEXT_CLASSIFICATION, description={"labels": [f"l{index}" for index in range(5)]}) as other:
        (found,) = classify(
            Stub(other.channel), [text], [] if pair is None else [pair], function="CLASSIFICATION_FUNCTION_NONE"
        ).classifications
    return np.array([scores_by_label(found)[f"l{index}"] for index in range(5)])


def softmax(logits: np.ndarray) -> np.ndarray:
    exps = np.exp(logits.astype(np.float64))
    return exps / exps.sum()


def ranked(labels: list[str], scores: np.ndarray) -> list[tuple[str, float]]:
    return sorted(zip(labels, scores, strict=True), key=lambda entry: -entry[1])


def assert_ranked(classification: pb.Classification, expected: list[tuple[str, float]]) -> None:
    found = entries(classification)
    assert [label for label, _ in found] == [label for label, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=1e-6)


def test_an_answer_carries_labels_model_usage_and_timings(stub):
    response = classify(stub, TEXTS)
    assert [len(found.labels) for found in response.classifications] == [5, 5, 5]
    assert (response.model.name, response.model.fingerprint) == ("fake", "00000000000000fa")
    assert (response.usage.input_tokens, response.usage.truncated_texts) == (3 + 5 + 8, 0)
    timings = response.timings
    stages = (timings.decode_nanos, timings.tokenize_nanos, timings.queue_nanos, timings.transfer_nanos, timings.compute_nanos)
    assert min(*stages, timings.encode_nanos, timings.forward_nanos) > 0
    assert sum(stages) + timings.encode_nanos <= timings.total_nanos


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "UNSPECIFIED": softmax,
    "SOFTMAX": softmax,
    "SIGMOID": lambda logits: 1 / (1 + np.exp(-logits)),
    "NONE": lambda logits: logits,
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_function_scores_the_logits_and_the_best_comes_first(stub, function):
    response = classify(stub, TEXTS, function=f"CLASSIFICATION_FUNCTION_{function}")
    for text, found in zip(TEXTS, response.classifications, strict=True):
        assert_ranked(found, ranked(LABELS, FUNCTIONS[function](logits_of(stub, text))))


@pytest.mark.parametrize(
    ("labels", "problem_type", "function"),
    [
        (["a", "b"], "multi_label_classification", "SIGMOID"),
        (["a", "b"], "single_label_classification", "SOFTMAX"),
        (["a", "b"], "regression", "NONE"),
        (["a"], "", "SIGMOID"),
        (["a"], "regression", "NONE"),
    ],
)
def test_the_default_function_is_the_one_of_the_problem_type(labels, problem_type, function):
    with serve(task=Task.TEXT_CLASSIFICATION, description={"labels": labels, "problem_type": problem_type}) as running:
        stub = Stub(running.channel)
        default = classify(stub, TEXTS).classifications
        others = {
            name: classify(stub, TEXTS, function=f"CLASSIFICATION_FUNCTION_{name}").classifications
            for name in ("SIGMOID", "SOFTMAX", "NONE")
        }
    assert {name for name, found in others.items() if found == default} == {function}


def test_a_pair_is_read_as_one_and_its_order_matters(stub):
    texts, pairs = ["w1", "w2", "w3 w4"], ["w2 w2", "w1", "w3"]
    response = classify(stub, texts, pairs)
    assert response.usage.input_tokens == sum(len(f"{text} {pair}".split()) + 3 for text, pair in zip(texts, pairs, strict=True))
    for text, pair, found in zip(texts, pairs, response.classifications, strict=True):
        assert_ranked(found, ranked(LABELS, softmax(logits_of(stub, text, pair))))
    assert list(response.classifications) != list(classify(stub, texts).classifications)


@pytest.mark.parametrize(("top_k", "count"), [(0, 5), (1, 1), (3, 3), (5, 5), (99, 5)])
def test_top_k_keeps_the_best(stub, top_k, count):
    whole = classify(stub, TEXTS).classifications
    cut = classify(stub, TEXTS, top_k=top_k).classifications
    assert [entries(found) for found in cut] == [entries(found)[:count] for found in whole]


def test_labels_restrict_the_answer_and_leave_the_scores_as_they_are(stub):
    whole = classify(stub, TEXTS).classifications
    some = classify(stub, TEXTS, labels=["calm", "joy"]).classifications
    for all_labels, found in zip(whole, some, strict=True):
        assert entries(found) == [(label, score) for label, score in entries(all_labels) if label in ("calm", "joy")]
        assert len(found.labels) == 3  # two labels of the model are called "joy"
    best = classify(stub, TEXTS, labels=["calm", "joy"], top_k=1).classifications
    assert [entries(found) for found in best] == [entries(found)[:1] for found in some]


def test_truncation_keeps_the_asked_end_and_is_counted(stub):
    response = classify(stub, ["w1 w2 w3 w4 w5 w6", "w1"], truncation={"side": 2, "max_tokens": 5})
    assert (response.usage.input_tokens, response.usage.truncated_texts) == (5 + 3, 1)
    assert response.classifications[0] == classify(stub, ["w4 w5 w6"]).classifications[0]


def test_of_a_pair_the_longer_text_is_cut_first(stub):
    response = classify(stub, ["w1 w2 w3 w4 w5 w6"], ["w7 w8"], truncation={"max_tokens": 8})
    assert response.usage.truncated_texts == 1
    assert response.classifications[0] == classify(stub, ["w1 w2 w3"], ["w7 w8"]).classifications[0]


def test_an_answer_of_many_labels_is_the_same_as_that_of_each_text(stub):
    """So many that they are scored and written in a thread."""
    texts = [f"w{index} w{index % 7}" for index in range(2_000)]
    together = classify(stub, texts).classifications
    for index in range(0, 2_000, 333):
        np.testing.assert_allclose(
            [score for _, score in entries(together[index])],
            [score for _, score in entries(classify(stub, [texts[index]]).classifications[0])],
            atol=1e-6,
        )


def options(**fields) -> pb.StreamClassifyTextRequest:
    return pb.StreamClassifyTextRequest(options=pb.StreamClassifyTextOptions(**fields))


def items(*found: tuple[str, str, str | None]) -> pb.StreamClassifyTextRequest:
    return pb.StreamClassifyTextRequest(
        items=pb.StreamClassifyTextItems(items=[pb.StreamClassifyTextItem(id=id_, text=text, text_pair=pair) for id_, text, pair in found])
    )


def test_a_stream_answers_texts_and_pairs_each_once_and_bad_ones_with_their_own_status(stub):
    rng = random.Random(3)
    given = [(str(index), f"w{index}" + " w2" * rng.randint(0, 9), rng.choice([None, f"w{index + 1}", "w3 w4 w5"])) for index in range(300)]
    given[7] = ("7", "", None)
    given[8] = ("8", "w1", "")
    given[50] = ("50", "w1 " * 100, None)
    given[51] = ("51", "w1", "w2 " * 100)
    given[99] = ("99", "w1 nan", None)
    requests = [options()] + [items(*given[low : low + 13]) for low in range(0, 300, 13)]
    responses = list(stub.StreamClassifyText(iter(requests), timeout=60))
    results = {result.id: result for response in responses for result in response.results}
    assert sum(len(response.results) for response in responses) == len(results) == 300
    errors = {id_: read_status(result.error) for id_, result in results.items() if result.WhichOneof("outcome") == "error"}
    assert {id_: (error.reason, error.field) for id_, error in errors.items()} == {
        "7": ("TEXT_EMPTY", "text"),
        "8": ("TEXT_EMPTY", "text_pair"),
        "50": ("TEXT_TOO_LONG", "text"),
        "51": ("TEXT_TOO_LONG", "text"),
        "99": ("OUTPUT_NOT_FINITE", ""),
    }
    for id_, text, pair in given:
        if id_ not in errors:
            expected = classify(stub, [text], [] if pair is None else [pair]).classifications[0]
            assert_ranked(results[id_].classification, entries(expected))
    assert all(response.model.name == "fake" and response.timings.total_nanos for response in responses)


def test_an_ordered_stream_takes_the_options_of_classify_text(stub):
    given = [(str(index), f"w{index}", None) for index in range(200)]
    asked = pb.ClassifyTextOptions(top_k=2, labels=["joy", "fear"], function="CLASSIFICATION_FUNCTION_SIGMOID")
    answers = stub.StreamClassifyText(iter([options(options=asked, ordered=True), items(*given)]), timeout=60)
    results = [result for answer in answers for result in answer.results]
    assert [result.id for result in results] == [id_ for id_, _, _ in given]
    request = pb.ClassifyTextRequest(texts=[text for _, text, _ in given], options=asked)
    for result, expected in zip(results, stub.ClassifyText(request, timeout=30).classifications, strict=True):
        assert_ranked(result.classification, entries(expected))


def test_a_stream_that_breaks_its_rules_answers_what_it_accepted_first(stub):
    call = stub.StreamClassifyText(iter([options(), items(("a", "w1", None)), options()]), timeout=30)
    answered = []
    with pytest.raises(grpc.RpcError) as caught:
        for response in call:
            answered += [result.id for result in response.results]
    assert answered == ["a"]
    assert read_error(caught.value).reason == "STREAM_OUT_OF_ORDER"


CANDIDATES = ["w10", "w20 w21", "w30", "w40"]


def nli_logits(nli: Stub, text: str, label: str, template: str = "This example is {}.") -> np.ndarray:
    """The logits of the pair that a label makes, in the order of the head's labels."""
    found = classify(nli, [text], [template.replace("{}", label)], function="CLASSIFICATION_FUNCTION_NONE").classifications[0]
    return np.array([scores_by_label(found)[name] for name in ("contradiction", "neutral", "entailment")], dtype=np.float64)


def test_zero_shot_is_the_softmax_of_the_entailments(nli):
    response = zero_shot(nli, TEXTS, CANDIDATES)
    for text, found in zip(TEXTS, response.classifications, strict=True):
        expected = softmax(np.array([nli_logits(nli, text, label)[2] for label in CANDIDATES]))
        assert_ranked(found, ranked(CANDIDATES, expected))
    assert response.model.name == "fake"
    sentences = [len(f"This example is {label}.".split()) + 3 for label in CANDIDATES]
    assert response.usage.input_tokens == sum(len(text.split()) + sentence for text in TEXTS for sentence in sentences)


@pytest.mark.parametrize(("labels", "multi_label"), [(CANDIDATES, True), (CANDIDATES[:1], False), (CANDIDATES[:1], True)])
def test_labels_that_exclude_nothing_are_scored_each_against_its_contradiction(nli, labels, multi_label):
    response = zero_shot(nli, TEXTS, labels, multi_label=multi_label)
    for text, found in zip(TEXTS, response.classifications, strict=True):
        pairs = [nli_logits(nli, text, label)[[0, 2]] for label in labels]
        assert_ranked(found, ranked(labels, np.array([softmax(pair)[1] for pair in pairs])))


def test_a_template_of_the_request_takes_the_place_of_the_default(nli):
    response = zero_shot(nli, ["w1"], CANDIDATES, hypothesis_template="w5 {} w6")
    expected = softmax(np.array([nli_logits(nli, "w1", label, "w5 {} w6")[2] for label in CANDIDATES]))
    assert_ranked(response.classifications[0], ranked(CANDIDATES, expected))


def test_truncation_of_zero_shot_cuts_the_text_alone_and_counts_it_once(nli):
    text = " ".join(f"w{index}" for index in range(40))
    response = zero_shot(nli, [text, "w1"], ["w10", "w20"], hypothesis_template="{}", truncation={"max_tokens": 9})
    assert response.usage.truncated_texts == 1
    expected = zero_shot(nli, ["w0 w1 w2 w3 w4", "w1"], ["w10", "w20"], hypothesis_template="{}")
    assert list(response.classifications) == list(expected.classifications)
    assert response.usage.input_tokens == expected.usage.input_tokens


def test_a_head_without_entailment_still_classifies(nli, stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ClassifyZeroShot(pb.ClassifyZeroShotRequest(model="fake", texts=["w1"], candidate_labels=["w2"]), timeout=30)
    details = read_error(caught.value)
    assert (details.reason, details.field, details.model) == ("OPTION_NOT_SUPPORTED", "model", "fake")
    assert "anger, joy, fear" in details.message
    assert len(classify(nli, ["w1"]).classifications[0].labels) == 3
