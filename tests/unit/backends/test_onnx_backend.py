"""The onnx backend on a tiny model: order, micro-batches, refusals, memory, and what it imports."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hubwire_server.backends.base import RaggedBatch
from hubwire_server.backends.onnx import OnnxBackend, SessionOptions
from hubwire_server.backends.onnx import session as session_module
from hubwire_server.backends.onnx.backend import TRIM_ABOVE_TOKENS
from hubwire_server.backends.onnx.export import export_model, quantize
from hubwire_server.backends.onnx.info import INFO, OnnxInfo, read_info, write_info
from hubwire_server.backends.onnx.microbatches import MAX_PADDING
from hubwire_server.backends.onnx.session import GRAPH, OWNED, _entries, open_session
from hubwire_server.backends.torch.padded import PaddedEncoder
from hubwire_server.errors import HubwireError, Reason
from tests.unit.backends.tiny_models import make_model

TOKENS = 1000
OPTIONS = SessionOptions(threads=1)
MIXED = (40, 3, 3, 17, 120, 1, 16, 3, 44, 0, 41)


def ragged(*lengths: int) -> RaggedBatch:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    generator = np.random.default_rng(1)
    ids = generator.integers(200, TOKENS, offsets[-1]).astype(np.int32)
    return RaggedBatch(ids=ids, type_ids=generator.integers(0, 2, offsets[-1]).astype(np.int32), offsets=offsets)


def one_text(batch: RaggedBatch, text: int) -> RaggedBatch:
    start, stop = batch.offsets[text], batch.offsets[text + 1]
    return RaggedBatch(ids=batch.ids[start:stop], type_ids=batch.type_ids[start:stop], offsets=np.array([0, stop - start]))


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model("Bert", vocab_size=TOKENS)


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export")
    model.save_pretrained(path / "model")
    export_model(model, path, weights=path / "model")
    info = OnnxInfo(architecture="BertModel", row_size=32, max_tokens=160, vocabulary_size=TOKENS, pad_id=0, takes_type_ids=True)
    write_info(path, info)
    return path


@pytest.fixture
def backend(folder: Path) -> Iterator[OnnxBackend]:
    backend = OnnxBackend(folder, read_info(folder), OPTIONS)
    yield backend
    backend.close()


@pytest.fixture
def int8(folder: Path, tmp_path: Path) -> OnnxBackend:
    quantize(folder, tmp_path)
    return OnnxBackend(tmp_path, read_info(tmp_path), OPTIONS)


class Recorder:
    """A session that writes down the mask of each run, and fails where a rectangle is larger than it has memory for."""

    def __init__(self, session: Any, *, tokens: int = 1 << 30) -> None:
        self._session = session
        self._tokens = tokens
        self.refused = 0
        self.masks: list[NDArray[np.int64]] = []
        self.options: list[Any] = []

    def run(self, outputs: list[str], feeds: dict[str, NDArray[np.int64]], options: Any) -> list[NDArray[np.float32]]:
        mask = feeds["attention_mask"]
        if mask.size > self._tokens:
            self.refused += 1
            raise RuntimeError(
                "[ONNXRuntimeError] : 1 : FAIL : BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer"
            )
        self.masks.append(mask)
        self.options.append(options)
        hidden: list[NDArray[np.float32]] = self._session.run(outputs, feeds, options)
        return hidden


def record(backend: OnnxBackend, **options: Any) -> Recorder:
    backend._session = Recorder(backend._session, **options)
    return backend._session


@pytest.mark.parametrize(
    "lengths",
    [MIXED, (7,), (1,), (12,) * 5, (10, 11, 12, 12), (12, 11, 10), (0, 4, 0), (3, 90)],
    ids=str,
)
def test_hidden_states_are_those_of_torch_in_the_order_of_the_batch(lengths: tuple[int, ...], model: Any, backend: OnnxBackend) -> None:
    batch = ragged(*lengths)
    hidden, dtype = backend.forward(batch)
    alone = PaddedEncoder(model, pad=False)
    with torch.inference_mode():
        expected = torch.cat([alone.forward_ragged(one_text(batch, text)) for text, length in enumerate(lengths) if length]).numpy()
    assert (dtype, hidden.dtype, hidden.flags.c_contiguous) == ("float32", np.float32, True)
    assert hidden.shape == expected.shape
    assert np.abs(hidden - expected).max() < 1e-4 * expected.std()


def test_the_description_says_what_was_opened(backend: OnnxBackend) -> None:
    description = backend.description
    assert (description.backend, description.device, description.dtype) == ("onnx", "cpu", "float32")
    assert (description.architecture, description.row_size, description.max_tokens) == ("BertModel", 32, 160)
    assert not description.packed


@pytest.mark.parametrize("lengths", [(), (0,), (0, 0)], ids=str)
def test_a_batch_without_tokens_has_no_hidden_states(lengths: tuple[int, ...], backend: OnnxBackend) -> None:
    hidden, dtype = backend.forward(ragged(*lengths))
    assert (hidden.shape, hidden.dtype, dtype) == ((0, 32), np.float32, "float32")


def test_micro_batches_pad_little_and_keep_to_the_budget(folder: Path) -> None:
    backend = OnnxBackend(folder, read_info(folder), OPTIONS, budget_tokens=256)
    session = record(backend)
    generator = np.random.default_rng(5)
    backend.forward(ragged(*generator.integers(1, 150, 80).tolist()))
    assert sum(len(mask) for mask in session.masks) == 80
    assert max(len(mask) for mask in session.masks) > 1
    for mask in session.masks:
        assert mask.sum() >= (1 - MAX_PADDING) * mask.size
        assert mask.size <= 256 or len(mask) == 1


def test_equal_texts_run_in_one_rectangle_without_padding(backend: OnnxBackend) -> None:
    session = record(backend)
    backend.forward(ragged(*[12] * 64))
    assert [mask.shape for mask in session.masks] == [(64, 12)]
    assert session.masks[0].all()


@pytest.mark.parametrize("bad", [TOKENS, -1, 2**31 - 1, -(2**31)])
def test_a_token_without_an_embedding_is_refused_with_its_text(bad: int, backend: OnnxBackend) -> None:
    batch = ragged(4, 3, 6)
    batch.ids[5] = bad
    with pytest.raises(HubwireError, match=f"token {bad}, but the model has {TOKENS} embeddings") as caught:
        backend.forward(batch)
    assert (caught.value.reason, caught.value.metadata) == (Reason.INTERNAL, {"index": "1"})


def test_a_batch_that_does_not_fit_into_memory_is_halved(backend: OnnxBackend) -> None:
    batch = ragged(*MIXED)
    expected = backend.forward(batch)[0].copy()
    session = record(backend, tokens=120)
    hidden, _ = backend.forward(batch)
    assert np.abs(hidden - expected).max() < 1e-5 * expected.std()
    assert session.refused > 0
    assert max(mask.size for mask in session.masks) == 120


def test_a_text_that_does_not_fit_into_memory_is_refused(backend: OnnxBackend) -> None:
    record(backend, tokens=119)
    with pytest.raises(HubwireError, match="too little memory for a text of 120 tokens") as caught:
        backend.forward(ragged(*MIXED))
    assert caught.value.reason is Reason.OVERLOADED
    assert caught.value.retry_after_ms > 0


def test_a_batch_whose_hidden_states_do_not_fit_into_memory_is_refused(backend: OnnxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise MemoryError

    batch = ragged(*MIXED)
    monkeypatch.setattr(np, "concatenate", refuse)
    with pytest.raises(HubwireError, match="too little memory for a batch of 288 tokens") as caught:
        backend.forward(batch)
    assert caught.value.reason is Reason.OVERLOADED


LOW_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from hubwire_server.backends.base import RaggedBatch
from hubwire_server.backends.onnx import OnnxBackend, SessionOptions, microbatches
from hubwire_server.backends.onnx.info import read_info

microbatches.MAX_PAIRS = 1 << 40
runs = []
folder = Path(sys.argv[1])
backend = OnnxBackend(folder, read_info(folder), SessionOptions(threads=1), budget_tokens=1 << 30)
run = backend._run

def run_in_little_memory(texts, *rest):
    runs.append(len(texts.ids))
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        return run(texts, *rest)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def batch(texts, tokens):
    ids = np.full(texts * tokens, 300, np.int32)
    return RaggedBatch(ids=ids, type_ids=np.zeros_like(ids), offsets=np.arange(0, len(ids) + 1, tokens))

backend.forward(batch(1, 2))
limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (150 << 20)
backend._run = run_in_little_memory
# The attention of 400 texts takes 160 MB a layer, that of one takes 0.4 MB.
print(backend.forward(batch(400, 160))[0].shape, runs[:2])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory of a process is read and limited as Linux does")
def test_memory_that_really_runs_out_is_recognised(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOW_MEMORY, str(folder)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("(64000, 32) [64000, 32000]\n", "")


def test_other_failures_are_passed_on(backend: OnnxBackend) -> None:
    with pytest.raises(Exception, match="160 by 161"):
        backend.forward(ragged(161))  # one more than there are positions


def test_only_large_runs_give_their_memory_back(backend: OnnxBackend) -> None:
    session = record(backend)
    backend.forward(ragged(*[100] * 20))
    with pytest.raises(Exception, match=f"160 by {TRIM_ABOVE_TOKENS + 1}"):
        backend.forward(ragged(TRIM_ABOVE_TOKENS + 1))
    assert len({id(options) for options in session.options[:-1]}) == 1
    assert session.options[-1] is not session.options[0]
    key = "memory.enable_memory_arena_shrinkage"
    assert session.options[-1].get_run_config_entry(key) == "cpu:0"


def test_int8_answers_a_text_alone_as_it_does_in_a_batch(int8: OnnxBackend, backend: OnnxBackend) -> None:
    batch = ragged(*MIXED)
    together, dtype = int8.forward(batch)
    alone = np.concatenate([int8.forward(one_text(batch, text))[0] for text, length in enumerate(MIXED) if length])
    assert np.array_equal(together, alone)
    assert (dtype, int8.description.dtype) == ("float32", "int8")
    # The control: it is int8 that ran, and it was the scale that would have moved.
    assert np.abs(together - backend.forward(batch)[0]).max() > 1e-3 * together.std()
    int8._is_apart = lambda batch: False  # type: ignore[method-assign]  # in place of the rule that is controlled
    assert not np.array_equal(int8.forward(batch)[0], together)


WRITTEN_TO = """
import sys
from pathlib import Path
import numpy as np
from hubwire_server.backends.base import RaggedBatch
from hubwire_server.backends.onnx import OnnxBackend, SessionOptions
from hubwire_server.backends.onnx.info import read_info

folder = Path(sys.argv[1])
weights = folder / "model" / "model.safetensors"
backend = OnnxBackend(folder, read_info(folder), SessionOptions(threads=1))

def vectors(first):
    ids = np.arange(first, first + 100, dtype=np.int32)
    return backend.forward(RaggedBatch(ids=ids, type_ids=ids * 0, offsets=np.array([0, 60, 100])))[0].copy()

expected = [vectors(first) for first in (0, 500, 900)]
with weights.open("r+b") as stream:
    stream.write(b"\x40" * weights.stat().st_size)
print([np.array_equal(vectors(first), before) for first, before in zip((0, 500, 900), expected)])
with weights.open("r+b") as stream:
    stream.truncate(0)
print([np.array_equal(vectors(first), before) for first, before in zip((0, 500, 900), expected)])
"""


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_writing_to_the_models_file_and_cutting_it_change_nothing_that_runs(dtype: str, model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    export_model(model, tmp_path, weights=tmp_path / "model")
    info = OnnxInfo(architecture="BertModel", row_size=32, max_tokens=160, vocabulary_size=TOKENS, pad_id=0, takes_type_ids=True)
    write_info(tmp_path, info)
    folder = tmp_path
    if dtype == "int8":
        folder = tmp_path / "int8"
        folder.mkdir()
        quantize(tmp_path, folder)
        shutil.move(tmp_path / "model", folder / "model")
    assert os.path.samefile(folder / "model.safetensors", folder / "model" / "model.safetensors")
    done = subprocess.run([sys.executable, "-c", WRITTEN_TO, str(folder)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, 2 * "[True, True, True]\n", "")


def test_a_session_has_a_copy_of_the_weights_that_it_is_given(folder: Path, backend: OnnxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, NDArray[np.float32]] = {}
    read = session_module._read_owned
    monkeypatch.setattr(session_module, "_read_owned", lambda folder: given.update(read(folder)) or given)
    expected = backend.forward(ragged(*MIXED))[0].copy()
    other = OnnxBackend(folder, read_info(folder), OPTIONS)
    assert sum(weight.nbytes for weight in given.values()) > TOKENS * 32 * 4
    for weight in given.values():
        weight[:] = 7
    assert np.array_equal(other.forward(ragged(*MIXED))[0], expected)


FOREIGN = """
import json, sys
from pathlib import Path
import numpy as np
from hubwire_server.backends.base import RaggedBatch
from hubwire_server.backends.onnx import ExportCache, ExportKey, OnnxBackend, SessionOptions
from hubwire_server.backends.onnx.check import probe_difference
from hubwire_server.backends.onnx.info import read_info

ExportKey(fingerprint="0", dtype="float32", allow_pickle=False, allow_remote_code=False).name()
folder = Path(sys.argv[1])
backend = OnnxBackend(folder, read_info(folder), SessionOptions(threads=2))
ids = np.array([300, 400, 500], np.int32)
backend.forward(RaggedBatch(ids=ids, type_ids=ids * 0, offsets=np.array([0, 1, 3])))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_a_start_from_an_export_imports_neither_torch_nor_transformers_nor_onnx(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FOREIGN, str(folder)], capture_output=True, text=True, timeout=60, check=True)
    modules = set(json.loads(done.stdout))
    assert "onnxruntime" in modules
    assert not modules & {"torch", "transformers", "onnx", "safetensors", "tokenizers", "sentence_transformers"}
    assert done.stderr == ""


@pytest.mark.parametrize(
    "content", [None, b"{", b'{"architecture": 3}', b'{"architecture": "\xff"}'], ids=["missing", "cut", "of another kind", "not in UTF-8"]
)
def test_a_folder_whose_info_is_broken_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / INFO).write_bytes(content)
    with pytest.raises(HubwireError, match=INFO) as caught:
        read_info(tmp_path)
    assert caught.value.reason is Reason.MODEL_LOAD_FAILED
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("damage", ["no graph", "no list", "no weights", "cut weights", "no graph at all in it"])
def test_a_folder_that_cannot_be_opened_is_refused_in_one_line(damage: str, folder: Path, tmp_path: Path) -> None:
    for name in (GRAPH, OWNED, "model.safetensors"):
        shutil.copyfile(folder / name, tmp_path / name)
    missing = {"no graph": GRAPH, "no list": OWNED, "no weights": "model.safetensors"}
    if damage in missing:
        (tmp_path / missing[damage]).unlink()
    elif damage == "cut weights":
        os.truncate(tmp_path / "model.safetensors", 1000)
    else:
        (tmp_path / GRAPH).write_bytes(b"not a graph")
    with pytest.raises(HubwireError, match="ONNX Runtime cannot open the exported model") as caught:
        open_session(tmp_path, OPTIONS)
    assert caught.value.reason is Reason.MODEL_LOAD_FAILED
    assert "\n" not in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_what_the_options_say_reaches_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3, 6, 7}, raising=False)
    assert _entries(SessionOptions(threads=2, spinning="default")) == {}
    assert _entries(SessionOptions(threads=2, spinning="stop")) == {"session.force_spinning_stop": "1"}
    assert _entries(SessionOptions(threads=2, spinning="none")) == {"session.intra_op.allow_spinning": "0"}
    with_affinity = SessionOptions(threads=4, spinning="default", affinity=True)
    assert _entries(with_affinity) == {"session.intra_op_thread_affinities": "4;7;8"}
    # Where there are more cores than threads, others would choose the same ones; where there are fewer, some would have none.
    for threads in (1, 3, 5):
        assert _entries(SessionOptions(threads=threads, spinning="default", affinity=True)) == {}


def test_the_caller_is_on_its_own_core_during_a_run_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    backend = OnnxBackend(folder, read_info(folder), SessionOptions(threads=len(allowed), affinity=True))
    set_affinity, calls = os.sched_setaffinity, []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: calls.append(sorted(cores)) or set_affinity(pid, cores))
    backend.forward(ragged(5))
    assert calls == ([allowed[:1], allowed] if len(allowed) > 1 else [])
    with pytest.raises(Exception, match="out of"):
        monkeypatch.setattr(backend, "_check_vocabulary", lambda batch: None)
        backend.forward(RaggedBatch(np.array([10**6], np.int32), np.zeros(1, np.int32), np.array([0, 1])))
    assert sorted(os.sched_getaffinity(0)) == allowed


CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
needs_cores = pytest.mark.skipif(len(CORES) < 2, reason="threads are only tied where there are several cores")


@needs_cores
def test_cores_that_were_taken_from_the_caller_are_not_given_back(folder: Path) -> None:
    backend = OnnxBackend(folder, read_info(folder), SessionOptions(threads=len(CORES), affinity=True))
    try:
        os.sched_setaffinity(0, CORES[1:])
        backend.forward(ragged(5))
        assert sorted(os.sched_getaffinity(0)) == CORES[1:]
    finally:
        os.sched_setaffinity(0, CORES)


@needs_cores
@pytest.mark.parametrize("refused", [1, 2], ids=["before a run", "after a run"])
def test_where_a_core_is_gone_runs_go_on_without_it(
    refused: int, folder: Path, backend: OnnxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tied = OnnxBackend(folder, read_info(folder), SessionOptions(threads=len(CORES), affinity=True))
    calls = 0

    def refuse(pid: int, cores: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == refused:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    expected = backend.forward(ragged(5))[0]
    for _ in range(2):
        assert np.abs(tied.forward(ragged(5))[0] - expected).max() < 1e-5 * expected.std()
    assert calls == refused


@pytest.mark.parametrize("spinning", ["default", "stop", "none"])
@pytest.mark.parametrize("affinity", [False, True])
def test_every_session_gives_the_same(spinning: Any, affinity: bool, folder: Path, backend: OnnxBackend) -> None:
    other = OnnxBackend(folder, read_info(folder), SessionOptions(threads=2, spinning=spinning, affinity=affinity))
    batch = ragged(*MIXED)
    expected = backend.forward(batch)[0]
    assert np.abs(other.forward(batch)[0] - expected).max() < 1e-5 * expected.std()
