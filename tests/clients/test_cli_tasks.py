"""The commands of the understanding tasks: what goes out, what is printed, and how they fail."""

from __future__ import annotations

import json
import re
import sys
import types

import pytest
from google.protobuf import json_format

from hubwire.cli import main
from hubwire.cli._highlight import highlight
from hubwire.v1 import (
    common_pb2,
    fill_mask_pb2,
    model_pb2,
    pipeline_pb2,
    question_answering_pb2,
    rerank_pb2,
    text_classification_pb2,
    token_classification_pb2,
    tokenization_pb2,
)
from tests.clients.fake_tasks import PNG

pytestmark = pytest.mark.usefixtures("address")

CUT = {"side": common_pb2.TRUNCATION_SIDE_LEFT, "max_tokens": 7}
UNIT = {"offset_unit": common_pb2.OFFSET_UNIT_CODE_POINT}
CONTEXT = "Ada lives in London"


@pytest.fixture
def run(capsys):
    """A function that runs a command which succeeds, and gives the lines that it prints."""

    def run(*arguments):
        assert main(list(arguments)) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out.splitlines()

    return run


@pytest.mark.parametrize(
    ("arguments", "request_message"),
    [
        pytest.param(
            "classify a --model m --top-k 2 --label x --label y --function softmax --truncate left --max-tokens 7",
            text_classification_pb2.ClassifyTextRequest(
                model="m",
                texts=["a"],
                options={
                    "top_k": 2,
                    "labels": ["x", "y"],
                    "function": text_classification_pb2.CLASSIFICATION_FUNCTION_SOFTMAX,
                    "truncation": CUT,
                },
            ),
            id="classify",
        ),
        pytest.param(
            "classify a b --pair c --pair d",
            text_classification_pb2.ClassifyTextRequest(texts=["a", "b"], text_pairs=["c", "d"], options={}),
            id="classify pairs",
        ),
        pytest.param(
            "classify a --candidate-label x --candidate-label y --template It:{} --multi-label",
            text_classification_pb2.ClassifyZeroShotRequest(
                texts=["a"], candidate_labels=["x", "y"], options={"hypothesis_template": "It:{}", "multi_label": True}
            ),
            id="classify by candidate labels",
        ),
        pytest.param(
            "tokens a --model m --aggregation max --ignore X --truncate left --max-tokens 7",
            token_classification_pb2.ClassifyTokensRequest(
                model="m",
                texts=["a"],
                options={
                    **UNIT,
                    "aggregation": token_classification_pb2.AGGREGATION_MAX,
                    "ignored_labels": {"labels": ["X"]},
                    "truncation": CUT,
                },
            ),
            id="tokens",
        ),
        pytest.param(
            "tokens a --all --windows --stride 3 --max-tokens 7",
            token_classification_pb2.ClassifyTokensRequest(
                texts=["a"], options={**UNIT, "ignored_labels": {}, "windows": {"stride": 3, "max_tokens": 7}}
            ),
            id="tokens in windows",
        ),
        pytest.param(
            "answer a --context c --model m --top-k 2 --max-answer-tokens 9 --stride 3 --max-tokens 7 --allow-no-answer",
            question_answering_pb2.AnswerQuestionsRequest(
                model="m",
                questions=["a"],
                contexts=["c"],
                options={**UNIT, "top_k": 2, "max_answer_tokens": 9, "windows": {"stride": 3, "max_tokens": 7}, "allow_no_answer": True},
            ),
            id="answer",
        ),
        pytest.param(
            "fill a --model m --top-k 2 --target x --target y --truncate left --max-tokens 7",
            fill_mask_pb2.FillMaskRequest(model="m", texts=["a"], options={**UNIT, "top_k": 2, "targets": ["x", "y"], "truncation": CUT}),
            id="fill",
        ),
        pytest.param(
            "rerank a b --query q --model m --top-n 1 --scoring raw --truncate left --max-tokens 7",
            rerank_pb2.RerankRequest(
                model="m",
                query="q",
                documents=["a", "b"],
                options={"top_n": 1, "scoring": rerank_pb2.RERANK_SCORING_RAW, "truncation": CUT},
            ),
            id="rerank",
        ),
        pytest.param(
            "tokenize a --model m --no-special-tokens --truncate left --max-tokens 7",
            tokenization_pb2.TokenizeRequest(model="m", texts=["a"], options={**UNIT, "skip_special_tokens": True, "truncation": CUT}),
            id="tokenize",
        ),
        pytest.param(
            "tokenize a --count --no-special-tokens",
            tokenization_pb2.CountTokensRequest(texts=["a"], skip_special_tokens=True),
            id="tokenize and count",
        ),
        pytest.param(
            "tokenize --detokenize 104,105 --detokenize 97 --no-special-tokens",
            tokenization_pb2.DetokenizeRequest(texts=[{"token_ids": [104, 105]}, {"token_ids": [97]}]),
            id="detokenize",
        ),
        pytest.param(
            'pipeline a --model m --task t --parameters {"top_k":3}',
            pipeline_pb2.RunPipelineRequest(model="m", task="t", inputs=[{"text": "a"}], parameters={"top_k": 3}),
            id="pipeline",
        ),
        pytest.param(
            "models load org/model --task rerank",
            model_pb2.LoadModelRequest(source="org/model", task=model_pb2.TASK_RERANK),
            id="load for a task",
        ),
        pytest.param(
            "models load org/model --task pipeline --pipeline-task depth-estimation",
            model_pb2.LoadModelRequest(source="org/model", task=model_pb2.TASK_PIPELINE, pipeline_task="depth-estimation"),
            id="load for a pipeline",
        ),
    ],
)
def test_options_reach_the_server(fake, capsys, arguments, request_message):
    main(arguments.split())
    assert fake.requests == [request_message]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param("classify a b --pair c", "--pair must stand once for each text: 1 for 2 texts", id="too few pairs"),
        pytest.param("classify - --pair c", "--pair needs its texts as arguments", id="pairs of stdin"),
        pytest.param("classify a --top-k 0", "must be a whole number from 1 to", id="no labels"),
        pytest.param("classify a --function tanh", "invalid choice: 'tanh'", id="an unknown function"),
        pytest.param("classify a --multi-label", "are for --candidate-label", id="zero-shot without labels"),
        pytest.param("classify a --candidate-label x --top-k 3", "--candidate-label takes no", id="zero-shot with top-k"),
        pytest.param("classify a -", "- stands for the lines of stdin", id="stdin and a text"),
        pytest.param("tokens a --aggregation mean", "invalid choice: 'mean'", id="an unknown aggregation"),
        pytest.param("tokens a --windows --truncate left", "pass one of them", id="two ways with long texts"),
        pytest.param("tokens a --stride 3", "pass --windows as well", id="a stride without windows"),
        pytest.param("tokens a --max-tokens 3", "needs --truncate or --windows", id="a limit without a way"),
        pytest.param("tokens a --all --ignore X", "not allowed with", id="all labels but one"),
        pytest.param("answer a", "required: --context", id="no context"),
        pytest.param("answer a --context @/nowhere/file", "/nowhere/file: No such file", id="a context that is not there"),
        pytest.param("fill a --max-tokens 3", "choose an end with --truncate", id="fill: a limit without truncation"),
        pytest.param("rerank a", "required: --query", id="no query"),
        pytest.param("rerank a --query q --scoring softmax", "invalid choice: 'softmax'", id="an unknown scoring"),
        pytest.param("tokenize a --count --detokenize 1", "not allowed with", id="count and detokenize"),
        pytest.param("tokenize a --detokenize 1", "and no texts beside them", id="ids and texts"),
        pytest.param("tokenize --detokenize a,b", "must be token ids", id="ids that are no numbers"),
        pytest.param("tokenize a --count --truncate left", "goes with neither", id="count what is cut"),
        pytest.param("pipeline a --parameters [1]", "must be a JSON object, not '[1]'", id="parameters that are a list"),
        pytest.param("pipeline a --list", "--list takes no input", id="a list and an input"),
        pytest.param("pipeline a -", "- stands for the lines of stdin", id="stdin and an input"),
        pytest.param("models load org/model --task rerank --pipeline-task x", "is for the task pipeline", id="a pipeline for another task"),
        pytest.param("models load org/model --task singing", "invalid choice: 'singing'", id="an unknown task"),
    ],
)
def test_wrong_usage_is_2_and_says_why(capsys, fake, arguments, text):
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err.splitlines()[-1]
    assert not fake.requests


@pytest.mark.parametrize("command", ["classify", "tokens", "answer --context c", "fill", "rerank --query q", "tokenize", "pipeline"])
def test_nothing_to_do_on_a_terminal_is_wrong_usage(capsys, monkeypatch, command):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    assert main(command.split()) == 2
    assert re.search("no (text|input)", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message", "count"),
    [
        ("classify a b", text_classification_pb2.ClassifyTextResponse, lambda one: len(one.classifications)),
        ("classify a b --candidate-label x", text_classification_pb2.ClassifyZeroShotResponse, lambda one: len(one.classifications)),
        ("tokens Ada Bob", token_classification_pb2.ClassifyTokensResponse, lambda one: len(one.classifications)),
        ("answer a b --context ab", question_answering_pb2.AnswerQuestionsResponse, lambda one: len(one.answers)),
        ("fill a[MASK] b[MASK]", fill_mask_pb2.FillMaskResponse, lambda one: len(one.texts)),
        ("rerank a b --query q", rerank_pb2.RerankResponse, lambda one: len(one.documents)),
        ("tokenize a b", tokenization_pb2.TokenizeResponse, lambda one: len(one.texts)),
        ("tokenize a b --count", tokenization_pb2.CountTokensResponse, lambda one: len(one.token_counts)),
        ("tokenize --detokenize 97 --detokenize 98", tokenization_pb2.DetokenizeResponse, lambda one: len(one.texts)),
        ("pipeline a b", pipeline_pb2.RunPipelineResponse, lambda one: len(one.outputs)),
        ("pipeline --list", pipeline_pb2.ListPipelinesResponse, lambda one: len(one.tasks)),
    ],
)
def test_json_is_the_response_in_one_line(run, arguments, message, count):
    (line,) = run(*arguments.split(), "--json")
    assert count(json_format.Parse(line, message())) == 2


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("classify", text_classification_pb2.StreamClassifyTextResult),
        ("tokens", token_classification_pb2.StreamClassifyTokensResult),
    ],
)
def test_lines_of_stdin_are_streamed_as_json(run, fake, stdin, command, message):
    stdin("Ada\nBob and Eve\n")
    results = [json_format.Parse(line, message()) for line in run(command, "--json", "--model", "m")]
    assert [result.id for result in results] == ["0", "1"]
    assert all(result.HasField("classification") for result in results)
    assert (fake.requests[0].options.model, fake.requests[0].options.ordered) == ("m", True)


@pytest.mark.parametrize("command", ["classify", "tokens"])
def test_a_line_that_fails_fails_the_command_and_no_other_line(capsys, stdin, command):
    stdin("Ada\n\nBob\n")
    assert main([command]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err.splitlines() == [
        "hubwire: line 2: text has no characters [TEXT_EMPTY]",
        "hubwire: 1 of 3 texts failed (hint: leave empty texts out)",
    ]


def test_labels_are_a_table(run, stdin):
    assert run("classify", "ab", "a much longer text") == ["0  short 0.8187  long 0.1813", "1  long 0.8347   short 0.1653"]
    stdin("ab\n")
    assert run("classify") == ["0  short 0.8187  long 0.1813"]
    assert run("classify", "a", "--candidate-label", "x", "--candidate-label", "y") == ["0  x 0.5000  y 0.3333"]


def test_entities_are_marked_in_their_text(run, stdin):
    assert run("tokens", "so Ada met Bob.") == ["so Ada [NAME] met Bob. [NAME]"]
    stdin("Ada\nnobody\n")
    assert run("tokens") == ["Ada [NAME]", "nobody"]


@pytest.mark.parametrize(
    ("terminal", "variables", "colourful"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_entities_are_coloured_on_a_terminal_alone(run, monkeypatch, terminal, variables, colourful):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    (line,) = run("tokens", "so Ada")
    assert ("\x1b[" in line) == colourful
    assert re.sub(r"\x1b\[[0-9;]*m", "", line) == "so Ada [NAME]"


def test_overlapping_and_empty_entities_are_left_in_the_text():
    spans = [(2, 2), (0, 3), (1, 2), (4, 7)]
    entities = [token_classification_pb2.Entity(label="X", span={"start": start, "end": end}) for start, end in spans]
    assert highlight("Ada Bob", entities, colourful=False) == "Ada [X] Bob [X]"


def test_a_label_has_one_colour():
    entity = token_classification_pb2.Entity(label="PER", span={"start": 0, "end": 3})
    first, second = (highlight(text, [entity], colourful=True) for text in ("Ada", "Bob"))
    assert first.replace("Ada", "Bob") == second


def test_answers_are_a_table(run, tmp_path):
    assert run("answer", "London", "Paris", "--context", CONTEXT) == ["0  0.5000  13-19  London", "1  -       -      (no answer)"]
    assert run("answer", "Paris", "--context", CONTEXT, "--allow-no-answer") == ["0  0.2500  0-0  (no answer)"]
    file = tmp_path / "context.txt"
    file.write_bytes("é\r\n".encode() + CONTEXT.encode())
    assert run("answer", "London", "--context", f"@{file}") == ["0  0.5000  16-22  London"]


def test_a_context_that_is_no_text_is_wrong_usage(capsys, tmp_path):
    file = tmp_path / "context.bin"
    file.write_bytes(b"\xff")
    assert main(["answer", "a", "--context", f"@{file}"]) == 2
    assert "is not UTF-8" in capsys.readouterr().err


def test_fillings_are_a_table(run):
    assert run("fill", "a [MASK]") == ["0  0.5000  one  a one", "0  0.2500  two  a two"]
    assert run("fill", "[MASK] [MASK]", "--target", "x") == ["0.0  0.5000  x  x [MASK]", "0.1  0.5000  x  [MASK] x"]


def test_documents_are_a_table(run, stdin):
    assert run("rerank", "--query", "q", "ab", "abcd") == ["1  0.0400  abcd", "0  0.0200  ab"]
    stdin("ab\nabcd\n")
    assert run("rerank", "--query", "q", "--top-n", "1") == ["1  0.0400  abcd"]


def test_no_document_at_all_is_an_error(capsys, fake, stdin):
    stdin("")
    assert main(["rerank", "--query", "q"]) == 1
    assert capsys.readouterr().err == "hubwire: stdin holds no document\n"
    assert not fake.requests


def test_tokens_are_a_table(run):
    assert run("tokenize", "ab") == ["0  0   -    <s>", "0  97  0-1  a", "0  98  1-2  b", "0  1   -    </s>"]
    assert run("tokenize", "--count", "ab", "a") == ["0  4", "1  3"]
    assert run("tokenize", "--detokenize", "104,105", "--detokenize", "97 98") == ["hi", "ab"]


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        (["fill"], 2),
        (["tokenize", "--count"], 2),
        (["answer", "--context", "c"], 2),
        (["classify", "--candidate-label", "x", "--candidate-label", "y"], 2),
    ],
)
def test_many_lines_are_several_calls_and_keep_their_numbers(run, fake, stdin, arguments, calls):
    stdin("[MASK]\n" * 300)
    numbers = [int(line.split()[0]) for line in run(*arguments)]
    assert list(dict.fromkeys(numbers)) == list(range(300))
    assert len(fake.requests) == calls


def test_inputs_of_a_pipeline_are_files_objects_or_texts(run, fake, tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(PNG)
    lines = run("pipeline", str(file), '{"query": "q"}', "{no json", "a text")
    assert [one.WhichOneof("input") for one in fake.requests[0].inputs] == ["blob", "fields", "text", "text"]
    assert fake.requests[0].inputs[0].blob.data == PNG
    decoder, text, values = json.JSONDecoder(), "\n".join(lines), []
    while text:
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:].lstrip()
    assert values == [["<image/png, 8 bytes>", "<array of uint8, shape [2, 3]>", "blob:2"], {"query": "q"}, "{no json", "a text"]


def test_lines_of_stdin_are_inputs_of_a_pipeline(run, fake, stdin):
    stdin("one\ntwo\n")
    assert run("pipeline") == ['"one"', '"two"']
    assert [len(request.inputs) for request in fake.requests] == [1, 1]


def test_pipelines_are_a_table(run):
    assert run("pipeline", "--list") == [
        "PIPELINE              SERVED BETTER BY",
        "image-classification  -",
        "text-classification   hubwire.v1.TextClassificationService",
    ]


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("LABEL_NOT_FOUND", "'hubwire models get NAME' shows the labels of a model"),
        ("MASK_NOT_FOUND", "'hubwire models get NAME' shows the mask token of a model"),
        ("PIPELINE_NOT_SUPPORTED", "'hubwire pipeline --list' shows what can be loaded"),
    ],
)
def test_errors_of_the_server_are_one_line_with_a_hint(capsys, fake, status, reason, hint):
    fake.failures.append(status(3, "it cannot be", reason))
    assert main(["fill", "a"]) == 1
    assert capsys.readouterr().err == f"hubwire: it cannot be [{reason}] (hint: {hint})\n"
