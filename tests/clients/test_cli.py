"""The command line: exit codes, what is printed where, and that nothing but one line goes to stderr."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from google.protobuf import json_format
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2

from hubwire._version import __version__
from hubwire.cli import main
from hubwire.v1 import common_pb2, embedding_pb2, model_pb2

COMMANDS = ["serve", "cache", "embed", "classify", "tokens", "answer", "fill", "rerank", "tokenize", "pipeline", "models", "health"]
SERVER_COMMANDS = ["serve", "cache"]


pytestmark = pytest.mark.usefixtures("address")


@pytest.fixture
def hubwire(fake):
    """A function that runs the command in a process of its own."""

    def run(*arguments, text=b""):
        environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
        command = [sys.executable, "-W", "error", "-m", "hubwire", *arguments]
        done = subprocess.run(command, input=text, capture_output=True, check=False, env=environment)
        assert b"Traceback" not in done.stderr
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{probe.getsockname()[1]}"


def error_line(capsys):
    """The one line on stderr; nothing may be on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hubwire: ")
    assert err.count("\n") == 1
    return err.removeprefix("hubwire: ").rstrip()


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines if line and line[0] in COMMANDS] == COMMANDS
    assert all(len(line) > 2 for line in lines if line and line[0] in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, installed_server, command):
    code = main([command, "--help"])
    if command in SERVER_COMMANDS:
        assert (code, installed_server.calls) == (7, [["--help"]])
    else:
        assert code == 0
        assert capsys.readouterr().out.startswith(f"usage: hubwire {command} ")


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hubwire {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no command"),
        pytest.param(["sing"], id="an unknown command"),
        pytest.param(["embed", "--pooling", "median", "a"], id="an unknown pooling"),
        pytest.param(["embed", "--max-tokens", "5", "a"], id="max-tokens without truncate"),
        pytest.param(["embed", "--dimensions", "-1", "a"], id="negative dimensions"),
        pytest.param(["embed", "--prompt", "a", "--prompt-name", "b", "c"], id="two prompts"),
        pytest.param(["embed", "--timeout", "0", "a"], id="a timeout of nothing"),
        pytest.param(["embed", "--time", "3", "a"], id="an abbreviated option"),
        pytest.param(["embed", "\udcff"], id="an argument that is no text"),
        pytest.param(["models", "get"], id="a model without a name"),
        pytest.param(["models", "paint"], id="an unknown action"),
        pytest.param(["health", "now"], id="an argument too many"),
        pytest.param(["embed", "-", "y"], id="stdin and a text"),
        pytest.param(["embed", "y", "-"], id="a text and stdin"),
        pytest.param(["models", "load", "a=org/model", "--name", "b"], id="two names"),
        pytest.param(["models", "load", "org/model@v1", "--revision", "v2"], id="two revisions"),
        pytest.param(["models", "load", "=org/model"], id="an empty name"),
        pytest.param(["models", "load", "a="], id="an empty source"),
        *(
            pytest.param(["health", "--address", address], id=f"the address {address!r}")
            for address in [
                "",
                "localhost",
                ":50051",
                "localhost:",
                "localhost:0",
                "localhost:65536",
                "localhost:port",
                "localhost:\u0663",
                "::1:50051",
                "[]:50051",
                "unix:",
                "http://localhost:50051",
                "dns:///localhost:50051",
            ]
        ),
    ],
)
def test_wrong_usage_is_2(capsys, fake, arguments):
    assert main(arguments) == 2
    assert "error: " in capsys.readouterr().err
    assert not fake.requests


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("http://localhost:50051/", "(hint: leave http:// out, as in localhost:50051)"),
        ("https://localhost:50051", "(hint: leave https:// out, as in localhost:50051, and --tls to encrypt)"),
    ],
)
def test_a_url_is_no_address_but_holds_one(capsys, address, hint):
    assert main(["health", "--address", address]) == 2
    assert hint in capsys.readouterr().err


def test_an_environment_without_an_address_is_wrong_usage(capsys, monkeypatch):
    monkeypatch.setenv("HUBWIRE_ADDRESS", "somewhere")
    assert main(["health"]) == 2
    assert "HUBWIRE_ADDRESS must be HOST:PORT or unix:PATH, not 'somewhere'" in capsys.readouterr().err


def test_an_option_wins_over_an_environment_without_an_address(fake, monkeypatch):
    monkeypatch.setenv("HUBWIRE_ADDRESS", "somewhere")
    assert main(["health", "--address", fake.address]) == 0


@pytest.mark.parametrize("address", ["[::1]:1", "unix:/nowhere/socket", "localhost:1"])
def test_other_addresses_are_tried(capsys, address):
    assert main(["models", "--timeout", "0.5", "--address", address]) == 1
    assert address in error_line(capsys)


def test_no_text_on_a_terminal_is_wrong_usage(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    assert main(["embed"]) == 2
    assert "no text" in capsys.readouterr().err


def test_embed_prints_a_line_a_text(capsys, numbers):
    assert main(["embed", "one", "two"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "0  10 dimensions  " + " ".join(f"{value:.4f}" for value in numbers("one")[:4]) + " ..."
    assert second.startswith("1  10 dimensions  ")


def test_embed_prints_the_response_as_json(capsys, numbers):
    assert main(["embed", "one", "two", "--json"]) == 0
    out = capsys.readouterr().out
    response = json_format.Parse(out, embedding_pb2.EmbedResponse())
    np.testing.assert_allclose(response.vectors[1].values, numbers("two"), rtol=1e-6)
    assert (response.dimensions, response.model.name, response.usage.input_tokens) == (10, "small", 6)
    assert "input_tokens" in out


def test_embed_options_reach_the_server(capsys, fake):
    options = "--model small --pooling cls --no-normalize --truncate left --max-tokens 7 --dimensions 4 --prompt-name query"
    assert main(["embed", *options.split(), "one"]) == 0
    assert fake.requests == [
        embedding_pb2.EmbedRequest(
            model="small",
            texts=["one"],
            options=embedding_pb2.EmbedOptions(
                pooling=embedding_pb2.POOLING_CLS,
                normalize=False,
                truncation=common_pb2.Truncation(side=common_pb2.TRUNCATION_SIDE_LEFT, max_tokens=7),
                dimensions=4,
                prompt_name="query",
                encoding=common_pb2.VECTOR_ENCODING_FLOAT,
            ),
        )
    ]


@pytest.mark.parametrize("arguments", [[], ["-"]], ids=["a pipe", "a dash"])
def test_lines_of_stdin_are_streamed(capsys, fake, stdin, numbers, arguments):
    stdin("one\nzwei Wörter\r\nthree")
    assert main(["embed", "--json", "--model", "small", *arguments]) == 0
    results = [json_format.Parse(line, embedding_pb2.StreamEmbedResult()) for line in capsys.readouterr().out.splitlines()]
    assert [result.id for result in results] == ["0", "1", "2"]
    np.testing.assert_allclose(results[1].vector.values, numbers("zwei Wörter"), rtol=1e-6)
    assert (fake.requests[0].options.model, fake.requests[0].options.ordered) == ("small", True)


def test_a_line_that_fails_fails_the_command_and_no_other_line(capsys, stdin):
    stdin("one\n\nthree\n")
    assert main(["embed"]) == 1
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["0", "2"]
    assert err.splitlines() == [
        "hubwire: line 2: text has no characters [TEXT_EMPTY]",
        "hubwire: 1 of 3 texts failed (hint: leave empty texts out)",
    ]


@pytest.mark.parametrize(
    ("code", "reason", "details"),
    [
        pytest.param("NOT_FOUND", "MODEL_NOT_FOUND", {"field": "text", "model": "small"}, id="the model is gone"),
        pytest.param("UNAVAILABLE", "MODEL_NOT_READY", {"field": "text", "retry_after_s": 1}, id="the model is not ready"),
        pytest.param("RESOURCE_EXHAUSTED", "OVERLOADED", {"field": "text", "retry_after_s": 1}, id="the server is busy"),
        pytest.param("INVALID_ARGUMENT", "OPTION_NOT_SUPPORTED", {"field": "options.options.pooling"}, id="an option"),
        pytest.param("INTERNAL", "INTERNAL", {}, id="no field"),
    ],
)
def test_what_fails_every_line_is_said_once(capsys, fake, stdin, status, code, reason, details):
    fake.item_failure = status(code_pb2.Code.Value(code), "text: it cannot be", reason, **details)
    stdin("one\ntwo\nthree\n")
    assert main(["embed"]) == 1
    out, err = capsys.readouterr()
    said, counted = err.splitlines()
    assert out == ""
    assert said.startswith("hubwire: text: it cannot be")
    assert said.endswith(f"[{reason}]")
    assert counted.startswith("hubwire: 3 of 3 texts failed")


def test_a_line_that_fails_is_a_result_in_json(capsys, stdin):
    stdin("one\n\n")
    assert main(["embed", "--json"]) == 1
    out, err = capsys.readouterr()
    failed = json_format.Parse(out.splitlines()[1], embedding_pb2.StreamEmbedResult())
    assert failed.error.code == code_pb2.INVALID_ARGUMENT
    assert err == "hubwire: 1 of 2 texts failed (hint: leave empty texts out)\n"


def test_lines_that_are_no_text_are_an_error(hubwire):
    code, _, err = hubwire("embed", text=b"one\n\xff\n")
    assert (code, err) == (1, "hubwire: line 2 of stdin is not UTF-8\n")


def test_models_are_a_table(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert out == (
        "NAME   STATE    TASK       DIMENSIONS  MAX TOKENS  DEVICE  BACKEND  DTYPE    SOURCE\n"
        "small  ready    embedding  10          8           -       onnx     float32  org/small\n"
        "tiny   loading  -          -           -           -       -        -        -\n"
    )


def test_a_model_that_failed_says_why(capsys, fake, status):
    error = status(code_pb2.FAILED_PRECONDITION, "no\nweights", "MODEL_LOAD_FAILED")
    fake.models = [fake.models[0], model_pb2.Model(name="broken", state=model_pb2.MODEL_STATE_FAILED, error=error)]
    assert main(["models"]) == 0
    first, ready, failed = capsys.readouterr().out.splitlines()
    assert first.endswith("  ERROR")
    assert ready.endswith("  -")
    assert failed.split() == ["broken", "failed", *"-------", "no", "weights", "[MODEL_LOAD_FAILED]"]


@pytest.mark.parametrize("arguments", ["models --json", "models --json list", "models list --json"])
def test_models_are_json(capsys, arguments):
    assert main(arguments.split()) == 0
    assert len(json_format.Parse(capsys.readouterr().out, model_pb2.ListModelsResponse()).models) == 2


def test_one_model_is_printed_and_is_json(capsys):
    assert main(["models", "get", "small"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "max_tokens:            8" in lines
    assert "embedding.dimensions:  10" in lines
    assert 'embedding.pooling:     ["POOLING_MEAN", "POOLING_MAX"]' in lines
    assert lines[-4:] == [
        "BACKEND  DTYPE    CHOSEN  COSINE    SHORT     MIXED     NOTE",
        "torch    float32  no      1.000000  10.40 ms  81.00 ms  packed",
        "onnx     float32  yes     1.000000  3.10 ms   79.00 ms  -",
        "torch    float16  no      -         -         -         too slow",
    ]
    assert main(["models", "get", "small", "--json"]) == 0
    assert json_format.Parse(capsys.readouterr().out, model_pb2.GetModelResponse()).model.max_tokens == 8


def test_loading_prints_the_model_and_in_json_the_progress(capsys):
    assert main(["models", "load", "org/model", "--name", "mine", "--revision", "v2"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1].startswith("mine  ready")
    assert err == ""
    assert main(["models", "load", "org/model", "--revision", "v2", "--json"]) == 0
    first, last = (json_format.Parse(line, model_pb2.LoadModelResponse()) for line in capsys.readouterr().out.splitlines())
    assert (first.done_bytes, last.model.revision) == (1, "v2")


def test_loading_shows_progress_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["models", "load", "org/model"]) == 0
    assert "downloading 50% fetching" in capsys.readouterr().err


def test_unloading_says_so(capsys, fake):
    assert main(["models", "unload", "small"]) == 0
    assert capsys.readouterr().out == "unloaded small\n"
    assert main(["models", "unload", "small", "--json"]) == 0
    json_format.Parse(capsys.readouterr().out, model_pb2.UnloadModelResponse())
    assert fake.unloaded == ["small", "small"]


@pytest.mark.parametrize(
    ("arguments", "source", "name", "revision"),
    [
        ("org/model", "org/model", "", ""),
        ("mine=org/model", "org/model", "mine", ""),
        ("mine=org/model@v2", "org/model", "mine", "v2"),
        ("org/model@v2 --name mine", "org/model", "mine", "v2"),
        ("mine=org/model --revision v2", "org/model", "mine", "v2"),
        ("./a=b@c", "./a=b@c", "", ""),
        ("mine=/a=b@c", "/a=b@c", "mine", ""),
        ("mine=package:name/folder@c", "package:name/folder@c", "mine", ""),
        ("~/models/a@b", "~/models/a@b", "", ""),
        ("mine=demo:a@b", "demo:a@b", "mine", ""),
    ],
)
def test_a_source_is_written_as_for_the_server(fake, arguments, source, name, revision):
    assert main(["models", "load", *arguments.split()]) == 0
    assert fake.requests == [model_pb2.LoadModelRequest(source=source, name=name, revision=revision)]


@pytest.mark.parametrize(
    ("arguments", "code", "out"),
    [
        pytest.param(["health"], 0, "SERVING\n", id="serving"),
        pytest.param(["health", "--service", "resting"], 1, "NOT_SERVING\n", id="not serving"),
    ],
)
def test_health_is_0_only_where_it_serves(capsys, arguments, code, out):
    assert main(arguments) == code
    assert capsys.readouterr().out == out
    assert main([*arguments, "--json"]) == code
    response = json_format.Parse(capsys.readouterr().out, health_pb2.HealthCheckResponse())
    assert health_pb2.HealthCheckResponse.ServingStatus.Name(response.status) == out.strip()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(
            ["models", "get", "nope"],
            "no model 'nope' [MODEL_NOT_FOUND] (hint: 'hubwire models' lists what is served)",
            id="an unknown model",
        ),
        pytest.param(["models", "load", "org/broken"], "no weights [MODEL_LOAD_FAILED]", id="a load that fails"),
        pytest.param(["health", "--service", "unknown"], "the server knows no service unknown [NOT_FOUND]", id="the health of nothing"),
    ],
)
def test_errors_are_one_line_and_1(capsys, arguments, line):
    assert main(arguments) == 1
    assert error_line(capsys) == line


def test_an_error_of_several_lines_is_one_line(capsys, fake, status):
    fake.failures.append(status(code_pb2.INTERNAL, "first\n  second\tthird", "INTERNAL"))
    assert main(["embed", "a"]) == 1
    assert error_line(capsys) == "first second third [INTERNAL] (hint: the server's log says more)"


def test_the_timeout_is_the_deadline(capsys, fake):
    fake.delay_s = 1.0
    assert main(["embed", "--timeout", "0.1", "a"]) == 1
    assert error_line(capsys).endswith("(hint: allow more time with --timeout)")


def test_no_server_is_an_error_with_a_hint(hubwire, closed_port):
    code, out, err = hubwire("health", "--address", closed_port)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.endswith(f"(hint: is a server running at {closed_port}? 'hubwire serve' starts one)\n")


def test_tls_with_a_server_that_speaks_none_is_one_line(hubwire):
    code, out, err = hubwire("health", "--tls")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.endswith("speaks no TLS, or not of a version that this client knows: try without --tls)\n")


def test_json_from_a_process_is_read_back(hubwire):
    code, out, err = hubwire("embed", "--json", "wörter")
    assert (code, err) == (0, "")
    assert len(json_format.Parse(out, embedding_pb2.EmbedResponse()).vectors) == 1
    assert json.loads(out)["dimensions"] == 10


def test_a_reader_that_leaves_is_no_traceback(fake):
    process = subprocess.Popen(
        [sys.executable, "-m", "hubwire", "embed", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"0  ")
        process.stdout.close()
        process.stdin.write(b"two\n" * 100)
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_ctrl_c_is_130_and_silent_while_stdin_waits(fake):
    process = subprocess.Popen(
        [sys.executable, "-m", "hubwire", "embed", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"0  ")
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
        assert process.stderr.read() == b""
    assert process.returncode == 130


@pytest.fixture
def installed_server(monkeypatch):
    """A server package that records its arguments."""
    server = types.ModuleType("hubwire_server")
    server.calls = []
    server.main = lambda argv: server.calls.append(argv) or 7
    monkeypatch.setitem(sys.modules, "hubwire_server", types.ModuleType("hubwire_server"))
    for name in ("__main__", "cache"):
        monkeypatch.setitem(sys.modules, f"hubwire_server.{name}", server)
    return server


@pytest.mark.parametrize("command", SERVER_COMMANDS)
@pytest.mark.parametrize("arguments", [[], ["--help"], ["--address", "127.0.0.1:0", "--model", "embed=org/model", "--unheard-of"]])
def test_the_server_commands_hand_everything_to_the_server(installed_server, command, arguments):
    assert main([command, *arguments]) == 7
    assert installed_server.calls == [arguments]


@pytest.mark.parametrize(("stop", "code"), [(None, 0), (0, 0), (3, 3), ("no port is free", 1)])
def test_serve_keeps_the_exit_code_of_a_server_that_exits(installed_server, capsys, stop, code):
    installed_server.main = lambda argv: sys.exit(stop)
    assert main(["serve"]) == code
    assert capsys.readouterr().err == ("hubwire: no port is free\n" if code == 1 else "")


@pytest.mark.parametrize("command", SERVER_COMMANDS)
def test_a_server_command_without_the_server_says_what_to_install(capsys, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "hubwire_server", None)
    for name in ("__main__", "cache"):
        monkeypatch.delitem(sys.modules, f"hubwire_server.{name}", raising=False)
    assert main([command]) == 1
    assert error_line(capsys) == "the server is not installed (hint: pip install hubwire-server)"
