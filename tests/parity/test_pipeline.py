"""Pipelines equal those of transformers, which are called directly on the same models and inputs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from PIL import Image

from hubwire.v1 import pipeline_pb2, pipeline_pb2_grpc
from hubwire_server.settings import ModelArgument, Settings
from tests.conftest import Server, serve
from tests.pipeline_models import MODELS, picture, png, tone, wav

WORDS = ["the", "invoice", "number", "is", "17"]
BOXES = [[word, [100 * index, 10, 100 * index + 90, 40]] for index, word in enumerate(WORDS)]
TEXTS = ["It was a dark and stormy night.", "Nobody came.", "The quick brown fox jumps over the lazy dog, again and again."]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all tiny models."""
    path = tmp_path_factory.mktemp("pipelines")
    for name, model in MODELS.items():
        model.save(path / name)
    return path


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Server]:
    """A server that runs them all. A task by which a typed service knows a model, too, would be that one."""
    other_names = {"text-classification": "sentiment-analysis"}
    models = tuple(ModelArgument(str(folder / name), name, task=other_names.get(model.task, model.task)) for name, model in MODELS.items())
    with serve(settings=Settings(models=models, shutdown_grace_s=0.2)) as server:
        yield server


def ours(server: Server, model: str, given: list[dict[str, Any]], parameters: dict[str, Any]) -> list[Any]:
    """What the server answers, with arrays and images in the place of references."""
    request = pipeline_pb2.RunPipelineRequest(model=model, inputs=[pipeline_pb2.PipelineInput(**one) for one in given])
    request.parameters.update(parameters)
    response = pipeline_pb2_grpc.PipelineServiceStub(server.channel).RunPipeline(request, timeout=60)
    assert response.task == MODELS[model].task
    assert response.model.name == model
    return [resolved(json_format.MessageToDict(output.value), output.blobs) for output in response.outputs]


def resolved(value: Any, blobs: Any) -> Any:
    """The value with its blobs in place."""
    if isinstance(value, dict):
        return {name: resolved(inner, blobs) for name, inner in value.items()}
    if isinstance(value, list):
        return [resolved(inner, blobs) for inner in value]
    if isinstance(value, str) and value.startswith("blob:"):
        blob = blobs[int(value.removeprefix("blob:"))]
        if blob.media_type == "image/png":
            return np.asarray(Image.open(io.BytesIO(blob.data)))
        return np.frombuffer(blob.data, blob.dtype).reshape(list(blob.shape))
    return value


def theirs(folder: Path, model: str, given: list[Any], parameters: dict[str, Any]) -> list[Any]:
    """What transformers returns."""
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = transformers.pipeline(MODELS[model].task, str(folder / model), device="cpu")
        return [pipeline(one, **parameters) for one in given]


def same(mine: Any, other: Any) -> None:
    """Equal texts, order and whole numbers, and other numbers within TOLERANCE."""
    if isinstance(other, dict):
        assert set(mine) == set(other)
        for name in other:
            same(mine[name], other[name])
    elif isinstance(other, list | tuple):
        assert len(mine) == len(other)
        for left, right in zip(mine, other, strict=True):
            same(left, right)
    elif isinstance(other, Image.Image) or hasattr(other, "shape"):
        array = np.asarray(other)
        assert mine.dtype == array.dtype
        assert mine.shape == array.shape
        np.testing.assert_allclose(mine, array, atol=TOLERANCE)
    elif isinstance(other, float):
        assert mine == pytest.approx(other, abs=TOLERANCE)
    else:
        assert mine == other


IMAGES = [picture(seed, size) for seed, size in ((0, (60, 40)), (1, (32, 32)), (2, (33, 90)))]
IMAGE_INPUTS = [{"blob": {"data": png(seed, size)}} for seed, size in ((0, (60, 40)), (1, (32, 32)), (2, (33, 90)))]


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("vit", {}),
        ("vit", {"top_k": 2, "function_to_apply": "sigmoid"}),
        ("yolos", {"threshold": 0.0}),
        ("segformer", {}),
        ("glpn", {}),
    ],
)
def test_image_pipelines_equal_those_of_transformers(model, parameters, served, folder):
    mine = ours(served, model, IMAGE_INPUTS, parameters)
    assert mine[0] != []
    assert not (isinstance(mine[0], list) and isinstance(mine[1], list) and repr(mine[0]) == repr(mine[1]))
    same(mine, theirs(folder, model, IMAGES, parameters))


def test_image_features_are_one_array(served, folder):
    same(ours(served, "features", IMAGE_INPUTS, {}), theirs(folder, "features", IMAGES, {"return_tensors": True}))


def test_sounds_are_classified_as_by_transformers(served, folder):
    samples = [tone(hertz=hertz) for hertz in (200.0, 440.0, 1_000.0)]
    mine = ours(served, "wav2vec2", [{"blob": {"data": wav(one)}} for one in samples], {"top_k": 3})
    same(mine, theirs(folder, "wav2vec2", [(one / 32_768).astype(np.float32) for one in samples], {"top_k": 3}))


def test_a_sound_may_be_an_array_with_its_rate(served, folder):
    raw = (tone() / 32_768).astype(np.float32)
    given = {
        "fields": {"raw": "blob:0", "sampling_rate": 16_000},
        "blobs": [{"data": raw.tobytes(), "dtype": "float32", "shape": raw.shape}],
    }
    same(ours(served, "wav2vec2", [given], {}), theirs(folder, "wav2vec2", [raw], {}))


@pytest.mark.parametrize("parameters", [{}, {"top_k": 1}, {"top_k": 3, "function_to_apply": "none"}])
def test_texts_and_pairs_are_classified_as_by_transformers(parameters, served, folder):
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    mine = ours(served, "bert", [*({"text": text} for text in TEXTS), {"fields": pair}], parameters)
    same(mine, theirs(folder, "bert", [*TEXTS, pair], parameters))


def test_questions_about_documents_are_answered_as_by_transformers(served, folder):
    given = {"question": "what is the number?", "word_boxes": BOXES}
    mine = ours(served, "layoutlm", [{"fields": {**given, "image": "blob:0"}, "blobs": [{"data": png()}]}], {"top_k": 3})
    same(mine, theirs(folder, "layoutlm", [{**given, "image": picture()}], {"top_k": 3}))


@pytest.mark.parametrize(
    ("model", "prefix", "name", "settings"),
    [
        ("t5", "summarize: ", "summary_text", {"max_new_tokens": 12, "num_beams": 2}),
        ("translator", "translate English to German: ", "translation_text", {"max_new_tokens": 9}),
    ],
)
@pytest.mark.parametrize("parameters", [{}, {"max_new_tokens": 5}, {"num_beams": 3, "num_return_sequences": 2, "repetition_penalty": 2}])
def test_generated_texts_equal_generate_with_the_prefix_and_settings_of_the_task(model, prefix, name, settings, parameters, served, folder):
    import transformers

    network = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder / model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / model)
    expected = []
    for text in TEXTS:
        encoded = tokenizer(prefix + text, return_tensors="pt", return_token_type_ids=False)
        exact = {key: float(value) if key == "repetition_penalty" else value for key, value in parameters.items()}
        ids = network.generate(**encoded, **{**settings, **exact})
        expected.append([{name: text} for text in tokenizer.batch_decode(ids, skip_special_tokens=True)])
    mine = ours(served, model, [{"text": text} for text in TEXTS], parameters)
    assert mine == expected
    assert len({repr(one) for one in mine}) > 1, "the model says the same of every text: the test could not fail"
