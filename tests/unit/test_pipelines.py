"""The table of pipelines against the list of transformers, and the payloads between the front and the worker."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hubwire.v1 import __name__ as stubs
from hubwire_server import pipelines
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.pipelines import ALIASES, PIPELINES, REPLACEMENTS, SEQ2SEQ, Blob, PipelineInput, canonical


@pytest.fixture(scope="module")
def registry():
    """What transformers itself says."""
    import transformers.pipelines

    return transformers.pipelines


def test_every_pipeline_of_transformers_is_served_or_named_with_a_replacement(registry):
    theirs = set(registry.SUPPORTED_TASKS)
    assert set(PIPELINES) - set(SEQ2SEQ) == theirs - set(REPLACEMENTS)
    assert theirs & set(REPLACEMENTS) == {"video-classification"}


def test_the_other_names_are_those_of_transformers(registry):
    assert dict(registry.TASK_ALIASES).items() <= ALIASES.items()
    assert {name: ALIASES[name] for name in set(ALIASES) - set(registry.TASK_ALIASES)} == {"image-to-text": "image-text-to-text"}
    assert set(ALIASES.values()) <= set(PIPELINES)


def test_what_transformers_has_removed_is_run_here_or_named_with_a_replacement(registry):
    assert set(registry.REMOVED_TASKS) == set(SEQ2SEQ) | (set(registry.REMOVED_TASKS) & set(REPLACEMENTS))


@pytest.mark.parametrize("service", sorted({service for service in PIPELINES.values() if service}))
def test_the_services_that_are_named_exist(service):
    from google.protobuf import descriptor_pool

    import hubwire_server.app  # registers the files of every service that is served

    assert hubwire_server.app is not None
    assert stubs == "hubwire.v1"
    assert descriptor_pool.Default().FindServiceByName(service).full_name == service


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("depth-estimation", "depth-estimation"),
        ("ner", "token-classification"),
        ("summarization", "summarization"),
        ("translation_en_to_de", "translation_en_to_de"),
        ("translation", "translation"),
    ],
)
def test_a_name_is_found(name, expected):
    assert canonical(name, "task") == expected


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("question-answering", "QuestionAnsweringService"),
        ("image-to-image", "diffusers"),
        ("vqa", "image-text-to-text"),
        ("translation_en", "ListPipelines"),
        ("", "ListPipelines"),
    ],
)
def test_what_is_no_pipeline_is_refused_with_what_to_use_instead(name, hint):
    with pytest.raises(HubwireError) as caught:
        canonical(name, "task")
    assert caught.value.reason is Reason.PIPELINE_NOT_SUPPORTED
    assert caught.value.field == "task"
    assert hint in caught.value.message


def test_a_call_comes_out_of_its_payload_as_it_went_in():
    given = PipelineInput(fields={"a": [1, 2.5, None, True, "x"]}, blobs=(Blob(data=b"\x00\xff", dtype="uint8", shape=(2,)),))
    call = pipelines.Call(input=given, parameters={"top_k": 3}, deadline_ns=12)
    payload = pipelines.to_payload(call)
    assert payload.dtype == np.uint8
    assert pipelines.read_call(payload) == call


def test_answers_and_errors_are_told_apart():
    answer = pipelines.Answered(value={"label": "cat"}, blobs=(Blob(data=b"1"),))
    assert pipelines.read_answer(pipelines.to_payload(answer)) == answer
    error = pipelines.read_answer(pipelines.to_payload(pipelines.Refused(reason=Reason.MEDIA_INVALID, text="no image")))
    assert isinstance(error, HubwireError)
    assert (error.reason, error.message) == (Reason.MEDIA_INVALID, "no image")


def test_the_front_lists_pipelines_without_transformers():
    code = "import sys, hubwire_server.app; print({'torch', 'transformers', 'PIL', 'hubwire_server.pipelines'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "{'hubwire_server.pipelines'}"
