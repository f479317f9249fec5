"""Settings: flags, environment and .env, read once and checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubwire_server.settings import ModelArgument, Settings, parse


def test_without_arguments_the_defaults_hold(tmp_path):
    assert parse([], {}, tmp_path) == Settings()


def test_flags_and_environment_fill_the_same_fields_and_the_flag_wins(tmp_path):
    env = {"HUBWIRE_MAX_TEXTS": "7", "HUBWIRE_BATCH_TEXTS": "9", "HUBWIRE_MODEL": "a=x, b=y", "HUBWIRE_THREADS": ""}
    settings = parse(["--max-texts", "8", "--address", "0.0.0.0:1"], env, tmp_path)
    assert (settings.max_texts, settings.batch_texts, settings.address) == (8, 9, "0.0.0.0:1")
    assert settings.models == (ModelArgument("x", "a"), ModelArgument("y", "b"))


def test_a_list_on_the_command_line_replaces_that_of_the_environment(tmp_path):
    settings = parse(["--allow-pickle", "b", "--model=b=y"], {"HUBWIRE_ALLOW_PICKLE": "a", "HUBWIRE_MODEL": "a=x"}, tmp_path)
    assert settings.allow_pickle == {"b"}
    assert settings.models == (ModelArgument("y", "b"),)


def test_dotenv_holds_settings_too_and_the_environment_wins(tmp_path):
    (tmp_path / ".env").write_text("HUBWIRE_MAX_TEXTS=5\nHUBWIRE_BATCH_TEXTS=6\n")
    settings = parse([], {"HUBWIRE_BATCH_TEXTS": "7"}, tmp_path)
    assert (settings.max_texts, settings.batch_texts) == (5, 7)


def test_the_cache_is_in_the_home_unless_something_says_where(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse([], {}, tmp_path).cache_folder == "/home/somebody/.cache/hubwire"
    assert parse([], {"XDG_CACHE_HOME": "/caches"}, tmp_path).cache_folder == "/caches/hubwire"
    assert parse([], {"XDG_CACHE_HOME": "/caches", "HUBWIRE_CACHE_DIR": "/mine"}, tmp_path).cache_folder == "/mine"
    assert parse(["--cache-dir", "~/here"], {"HUBWIRE_CACHE_DIR": "/mine"}, tmp_path).cache_folder == "/home/somebody/here"


@pytest.mark.parametrize(
    ("quota", "threads"), [("max 100000", 4), ("250000 100000", 3), ("50000 100000", 1), ("900000 100000", 4), ("", 4), (None, 4)]
)
def test_the_worker_has_no_more_threads_than_its_container_has_processors(monkeypatch, tmp_path, quota, threads):
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr("hubwire_server.settings.CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert Settings().worker_threads == threads
    assert Settings(threads=7).worker_threads == 7


def test_without_a_home_there_is_no_cache(monkeypatch):
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("Could not determine home directory.")))
    assert Settings().cache_folder == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/model", ModelArgument("org/model")),
        ("e=org/model", ModelArgument("org/model", "e")),
        ("e=org/model@v1", ModelArgument("org/model", "e", "v1")),
        ("package:p/f", ModelArgument("package:p/f")),
        ("/data/run=3/m@2", ModelArgument("/data/run=3/m@2")),
        ("e=/data/run=3/m", ModelArgument("/data/run=3/m", "e")),
    ],
)
def test_a_model_argument_names_source_and_revision(text, expected, tmp_path):
    assert parse(["--model", text], {}, tmp_path).models == (expected,)


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        (["--max-texts", "0"], {}),
        (["--max-texts", "many"], {}),
        (["--address", "nowhere"], {}),
        (["--address", ":50051"], {}),
        (["--address", "h:99999"], {}),
        (["--model", "=x"], {}),
        (["--dtype", "float8"], {}),
        (["--backend", "jax"], {}),
        (["--cache-dir", ""], {}),
        (["--backend", "onnx", "--dtype", "bfloat16"], {}),
        (["--backend", "torch", "--dtype", "int8"], {}),
        (["--device", "cuda", "--backend", "onnx"], {}),
        (["--device", "cuda:0"], {"HUBWIRE_DTYPE": "int8"}),
        (["--no-such-flag"], {}),
        (["--mod", "x"], {}),
        (["--device", "gpu"], {}),
        (["--model", "a=x", "--model", "a=y"], {}),
        (["--hang-timeout-s", "nan"], {}),
        (["--hang-timeout-s", "inf"], {}),
        (["--max-message-bytes", "3000000000"], {}),
        ([], {"HUBWIRE_LOG_LEVEL": "loud"}),
        ([], {"HUBWIRE_DTYPE": "fp16"}),
        ([], {"HUBWIRE_MAX_TEXTS": "many"}),
        ([], {"HUBWIRE_THREADS": "-1"}),
        ([], {"HUBWIRE_MODEL": "a="}),
    ],
)
def test_a_value_that_does_not_fit_ends_the_program_with_exit_code_2_and_its_name(argv, env, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(argv, env, tmp_path)
    assert caught.value.code == 2
    assert "hubwire serve: error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "dotenv", "token"),
    [
        ({"HF_TOKEN": "e"}, "HF_TOKEN=d", "e"),
        ({"HUGGINGFACE_TOKEN": "e"}, "HF_TOKEN=d", "e"),
        ({}, "HF_TOKEN=d", "d"),
        ({}, "HUGGINGFACE_TOKEN='d'", "d"),
        ({}, "OTHER=1", None),
        ({"HF_TOKEN": ""}, "", None),
    ],
)
def test_the_token_comes_from_the_environment_then_from_dotenv_and_is_never_shown(env, dotenv, token, tmp_path):
    (tmp_path / ".env").write_text(dotenv)
    settings = parse([], env, tmp_path)
    assert settings.hub_token == token
    assert "hub_token=<" in repr(settings)
    assert token is None or f"'{token}'" not in repr(settings)
