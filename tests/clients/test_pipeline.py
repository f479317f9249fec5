"""RunPipeline and ListPipelines through both clients: Python values out, and back."""

from __future__ import annotations

import math

import numpy as np
import pytest

import hubwire
from hubwire.v1 import pipeline_pb2
from tests.clients.fake_tasks import PNG

FILE = b"\x00\xff file"


def test_inputs_travel_as_what_they_are(client, fake):
    table = {"query": "how many?", "table": {"n": ["1", "2"]}, "image": FILE, "more": [hubwire.Blob(FILE, "audio/wav"), bytearray(b"x")]}
    client.run_pipeline(["a text", FILE, hubwire.Blob(FILE, "image/png"), table], model="m", task="echo", parameters={"top_k": 3})
    (request,) = fake.requests
    text, bare, named, fields = request.inputs
    assert (request.model, request.task, dict(request.parameters)) == ("m", "echo", {"top_k": 3.0})
    assert text == pipeline_pb2.PipelineInput(text="a text")
    assert bare == pipeline_pb2.PipelineInput(blob=pipeline_pb2.Blob(data=FILE))
    assert named == pipeline_pb2.PipelineInput(blob=pipeline_pb2.Blob(data=FILE, media_type="image/png"))
    assert (fields.fields["image"], list(fields.fields["more"])) == ("blob:0", ["blob:1", "blob:2"])
    assert [(blob.data, blob.media_type) for blob in fields.blobs] == [(FILE, ""), (FILE, "audio/wav"), (b"x", "")]


def test_json_comes_back_as_it_went(client):
    value = {
        "text": "ä 🌍",
        "none": None,
        "yes": True,
        "whole": 3,
        "negative": -7,
        "part": 0.25,
        "list": [1, "two", [3.5], {}],
        "nested": {"a": {"b": []}},
    }
    assert client.run_pipeline([value]) == [value]
    (flag,) = client.run_pipeline([{"yes": True, "one": 1}])
    assert flag["yes"] is True
    assert type(flag["one"]) is int


def test_numpys_numbers_and_tuples_are_json(client):
    assert client.run_pipeline([{"n": np.int64(3), "x": np.float32(0.5), "y": np.bool_(True), "t": (1, 2)}]) == [
        {"n": 3, "x": 0.5, "y": True, "t": [1, 2]}
    ]


def test_images_and_arrays_stand_where_their_names_stood(client):
    ((image, depth, text),) = client.run_pipeline([FILE])
    assert image == hubwire.Blob(PNG, "image/png")
    assert (depth.dtype, depth.tolist()) == (np.uint8, [[0, 1, 2], [3, 4, 5]])
    depth += 1  # the caller owns the memory
    assert text == "blob:2", "there is no third blob, so this is a text"


def test_bytes_inside_a_dict_come_back(client):
    assert client.run_pipeline([{"image": FILE}]) == [{"image": hubwire.Blob(FILE)}]


@pytest.mark.parametrize(
    ("inputs", "options", "error", "text"),
    [
        pytest.param("a", {}, TypeError, "inputs must be a list of inputs, not one str", id="a str"),
        pytest.param(b"a", {}, TypeError, "inputs must be a list of inputs, not one bytes", id="bytes"),
        pytest.param({"a": 1}, {}, TypeError, "inputs must be a list of inputs, not a dict", id="a dict"),
        pytest.param([3], {}, TypeError, r"inputs\[0\] must be a str, bytes, a Blob or a dict, not int", id="a number"),
        pytest.param([{3: 1}], {}, TypeError, r"a key of inputs\[0\] must be a str, not int", id="a key that is a number"),
        pytest.param(
            [{"a": [object()]}], {}, TypeError, r"inputs\[0\]\['a'\]\[0\] must be what JSON can hold, or bytes, not object", id="an object"
        ),
        pytest.param([{"a": math.nan}], {}, ValueError, r"inputs\[0\]\['a'\] cannot be sent: a JSON number holds no nan", id="NaN"),
        pytest.param([{"a": 2**53 + 1}], {}, ValueError, "a JSON number holds no 9007199254740993", id="an int that a double rounds"),
        pytest.param([{"a": 10**400}], {}, ValueError, "a JSON number holds no 1000", id="an int that no double reaches"),
        pytest.param([{"a": "\ud800"}], {}, ValueError, r"inputs\[0\]\['a'\] cannot be sent", id="a lone surrogate"),
        pytest.param(["a"], {"parameters": []}, TypeError, "parameters must be a dict, not list", id="parameters that are a list"),
        pytest.param(["a"], {"parameters": {"a": b"x"}}, TypeError, r"parameters\['a'\] must be what JSON can hold, not bytes", id="bytes"),
        pytest.param(["a"], {"task": 3}, TypeError, "task must be a str", id="a task that is a number"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_is_sent(client, fake, inputs, options, error, text):
    with pytest.raises(error, match=text):
        client.run_pipeline(inputs, **options)
    assert not fake.requests


def test_pipelines_are_listed(client):
    assert client.list_pipelines() == [
        hubwire.PipelineTask(name="image-classification", service=""),
        hubwire.PipelineTask(name="text-classification", service="hubwire.v1.TextClassificationService"),
    ]
