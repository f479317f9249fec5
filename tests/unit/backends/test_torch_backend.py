"""Loading a folder into the torch backend: what is refused and why, and what forward does when memory runs out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from hubwire_server.backends.base import LoadOptions, RaggedBatch
from hubwire_server.backends.torch import TorchBackend, detect_device, load
from hubwire_server.backends.torch.model import _forget_implementations
from hubwire_server.errors import HubwireError, Reason
from tests.unit.backends.tiny_models import MINILM, make_model, save_folder

OPTIONS = LoadOptions(threads=1)


def ragged(*lengths: int) -> RaggedBatch:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.random.default_rng(1).integers(1000, 30_000, offsets[-1]).astype(np.int32)
    return RaggedBatch(ids=ids, type_ids=np.zeros_like(ids), offsets=offsets)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_folder(make_model("Bert"), tmp_path)


def edit_config(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


def pickle_weights(path: Path) -> None:
    torch.save(make_model("Bert").state_dict(), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def remote_code(path: Path) -> None:
    edit_config(path, model_type="own_bert", auto_map={"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"})
    (path / "own.py").write_text(
        "from transformers import BertConfig, BertModel\n\n\nclass OwnConfig(BertConfig):\n    model_type = 'own_bert'\n\n\n"
        "class OwnModel(BertModel):\n    config_class = OwnConfig\n"
    )


def drop_a_layer(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(path / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in state.items() if "layer.1.output.dense" not in name}, path / "model.safetensors", {"format": "pt"}
    )


def drop_the_pooler(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(path / "model.safetensors")
    save_file({name: tensor for name, tensor in state.items() if "pooler" not in name}, path / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("break_it", "reason", "says"),
    [
        (pickle_weights, Reason.MODEL_NOT_ALLOWED, "--allow-pickle"),
        (remote_code, Reason.MODEL_NOT_ALLOWED, "--allow-remote-code"),
        (drop_a_layer, Reason.MODEL_NOT_SUPPORTED, r"lacks weights of the model: encoder\.layer\.1\.output\.dense\.bias"),
        (lambda path: edit_config(path, hidden_size=64), Reason.MODEL_LOAD_FAILED, "cannot load"),
        (lambda path: edit_config(path, model_type="pegasus"), Reason.MODEL_NOT_SUPPORTED, "the encoder of 'pegasus'"),
        (lambda path: edit_config(path, model_type="nonsense"), Reason.MODEL_NOT_SUPPORTED, "knows no model type 'nonsense'"),
        (lambda path: (path / "config.json").unlink(), Reason.MODEL_NOT_SUPPORTED, r"no config\.json"),
        (lambda path: (path / "config.json").write_text("{"), Reason.MODEL_LOAD_FAILED, r"config\.json cannot be read"),
        (lambda path: (path / "model.safetensors").unlink(), Reason.MODEL_NOT_SUPPORTED, "no weights"),
        (lambda path: (path / "model.safetensors").write_bytes(b"x" * 100), Reason.MODEL_LOAD_FAILED, "cannot load"),
        (lambda path: (path / "adapter_config.json").write_text("{}"), Reason.MODEL_NOT_SUPPORTED, "PEFT adapter"),
    ],
    ids=[
        "weights as a pickle",
        "code of its own",
        "a layer is missing",
        "weights of another shape",
        "an encoder that cannot be had alone",
        "an unknown model type",
        "no config",
        "a broken config",
        "no weights",
        "broken weights",
        "an adapter",
    ],
)
def test_a_folder_that_cannot_be_loaded_says_why(folder: Path, break_it: Callable[[Path], Any], reason: Reason, says: str) -> None:
    break_it(folder)
    with pytest.raises(HubwireError, match=says) as caught:
        load(folder, OPTIONS)
    assert caught.value.reason is reason, caught.value
    assert "\n" not in caught.value.message
    assert str(folder) not in caught.value.message


@pytest.mark.parametrize(
    ("change", "options", "architecture"),
    [
        (pickle_weights, LoadOptions(threads=1, allow_pickle=True), "BertModel"),
        (remote_code, LoadOptions(threads=1, allow_remote_code=True), "OwnModel"),
        (drop_the_pooler, OPTIONS, "BertModel"),
    ],
    ids=["a pickle", "code of its own", "no pooler"],
)
def test_what_is_allowed_is_loaded(folder: Path, change: Callable[[Path], Any], options: LoadOptions, architecture: str) -> None:
    expected = load(folder, OPTIONS).forward(batch := ragged(5, 9))[0].copy()
    change(folder)
    backend = load(folder, options)
    assert backend.description.architecture == architecture
    assert np.array_equal(backend.forward(batch)[0], expected)


@pytest.mark.parametrize("min_gain", [0.0, float("inf")], ids=["prepacked linears", "plain linears"])
def test_a_loaded_model_reads_its_files_no_more(folder: Path, monkeypatch: pytest.MonkeyPatch, min_gain: float) -> None:
    monkeypatch.setattr("hubwire_server.backends.torch.linear.MIN_GAIN", min_gain)
    backend = load(folder, OPTIONS)
    expected = backend.forward(batch := ragged(5, 9))[0].copy()
    weights = folder / "model.safetensors"
    with weights.open("r+b") as stream:
        stream.write(b"\x40" * weights.stat().st_size)
    assert np.array_equal(backend.forward(batch)[0], expected)
    with weights.open("r+b") as stream:
        stream.truncate(0)
    assert np.array_equal(backend.forward(batch)[0], expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel"},
        {"attn_implementation": {"": "evil/kernel"}},
        {"experts_implementation": "evil/kernel"},
    ],
    ids=["attention", "attention under its inner name", "attention in a table", "experts"],
)
def test_an_attention_that_the_folder_names_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    import transformers.integrations.hub_kernels as hub_kernels

    def fetch(*names: Any, **_: Any) -> None:
        raise AssertionError(f"fetched {names}")

    for name in ("load_and_register_attn_kernel", "get_kernel"):
        monkeypatch.setattr(hub_kernels, name, fetch)
    edit_config(folder, **changes)
    backend = load(folder, OPTIONS)
    assert backend.description.packed, backend.description.packed_note


def test_an_attention_named_inside_a_nested_config_is_passed_over() -> None:
    config = transformers.CLIPConfig(text_config={"attn_implementation": "evil/kernel"})
    config.vision_config._attn_implementation = "evil/kernel"
    _forget_implementations(config)
    assert [each._attn_implementation for each in (config, config.text_config, config.vision_config)] == [None] * 3


def test_a_batch_of_texts_without_tokens_gives_no_rows(folder: Path) -> None:
    for dtype, array_dtype in (("float32", np.float32), ("bfloat16", np.uint16)):
        backend = load(folder, LoadOptions(threads=1, dtype=dtype))
        for lengths in ((), (0,), (0, 0)):
            hidden, name = backend.forward(ragged(*lengths))
            assert (hidden.shape, hidden.dtype, name) == ((0, 32), array_dtype, dtype)


def test_code_of_another_repository_is_refused_by_its_name(folder: Path) -> None:
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "owner/code--own.OwnConfig", "AutoModel": "owner/code--own.OwnModel"})
    with pytest.raises(HubwireError, match="another repository, owner/code;") as caught:
        load(folder, LoadOptions(threads=1, allow_remote_code=True))
    assert caught.value.reason is Reason.MODEL_NOT_SUPPORTED


def test_a_model_that_reads_no_tokens_is_refused(tmp_path: Path) -> None:
    config = transformers.CanineConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48)
    transformers.CanineModel(config).save_pretrained(tmp_path)
    with pytest.raises(HubwireError, match="no table of token embeddings") as caught:
        load(tmp_path, OPTIONS)
    assert caught.value.reason is Reason.MODEL_NOT_SUPPORTED


def test_a_pickle_that_runs_code_is_refused_even_where_pickles_are_allowed(folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"embeddings": Evil()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(HubwireError) as caught:
        load(folder, LoadOptions(threads=1, allow_pickle=True))
    assert caught.value.reason is Reason.MODEL_LOAD_FAILED
    assert not (tmp_path / "ran").exists()


def test_the_description_of_minilm() -> None:
    description = load(MINILM, OPTIONS).description
    assert (description.backend, description.architecture, description.device) == ("torch", "BertModel", "cpu")
    assert (description.dtype, description.row_size, description.max_tokens, description.packed) == ("float32", 384, 512, True)
    assert "equal to one text at a time" in description.packed_note


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (LoadOptions(device="cuda:63"), "no device 'cuda:63'"),
        (LoadOptions(device="gpu"), "'gpu' is no device"),
        (LoadOptions(dtype="int4"), "'int4' is no number format"),
    ],
)
def test_a_device_or_number_format_that_is_not_there(options: LoadOptions, says: str) -> None:
    with pytest.raises(HubwireError, match=says) as caught:
        load(MINILM, options)
    assert caught.value.reason is Reason.MODEL_LOAD_FAILED


def test_the_detected_device_can_be_loaded_to(folder: Path) -> None:
    assert load(folder, LoadOptions(device="auto", threads=1)).description.device == detect_device()


class NarrowMemory:
    """An encoder that runs out of memory above a number of tokens."""

    max_row_tokens = None

    def __init__(self, encoder: Any, limit: int, error: RuntimeError) -> None:
        self._encoder, self._limit, self._error = encoder, limit, error
        self.sizes: list[int] = []

    def forward_ragged(self, batch: RaggedBatch, rows: Any = None) -> torch.Tensor:
        if len(batch.ids) > self._limit:
            raise self._error
        self.sizes.append(len(batch.ids))
        return self._encoder.forward_ragged(batch, rows)


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory")


def narrow(backend: TorchBackend, limit: int, error: RuntimeError = OUT_OF_MEMORY) -> NarrowMemory:
    memory = NarrowMemory(backend._encoder, limit, error)
    backend._encoder = memory  # type: ignore[assignment]  # the attribute is inferred as what the check chose
    return memory


@pytest.mark.parametrize("error", [OUT_OF_MEMORY, RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes")])
def test_a_batch_that_does_not_fit_is_halved(folder: Path, error: RuntimeError) -> None:
    backend = load(folder, OPTIONS)
    batch = ragged(10, 3, 10, 1, 9, 10, 4, 2)
    expected = backend.forward(batch)[0].copy()
    memory = narrow(backend, 12, error)
    assert np.allclose(backend.forward(batch)[0], expected, atol=1e-5)
    assert (sum(memory.sizes), len(memory.sizes) > 3) == (49, True)


def test_a_single_text_that_does_not_fit_is_refused_for_now(folder: Path) -> None:
    backend = load(folder, OPTIONS)
    narrow(backend, 12)
    with pytest.raises(HubwireError, match="a text of 13 tokens") as caught:
        backend.forward(ragged(5, 13))
    assert (caught.value.reason, caught.value.retryable) == (Reason.OVERLOADED, True)


def test_other_errors_of_a_model_are_not_swallowed(folder: Path) -> None:
    backend = load(folder, OPTIONS)
    narrow(backend, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        backend.forward(ragged(5))


@pytest.mark.parametrize("token", [-1, 30_522])
def test_a_token_without_an_embedding_names_its_text(folder: Path, token: int) -> None:
    batch = ragged(3, 4)
    batch.ids[4] = token
    with pytest.raises(HubwireError, match=f"token {token}") as caught:
        load(folder, OPTIONS).forward(batch)
    assert caught.value.metadata == {"index": "1"}


def test_ids_that_cannot_be_written_to_are_fine(folder: Path) -> None:
    """The worker hands over views of a received frame, which are read-only."""
    batch = ragged(5, 6)
    for array in (batch.ids, batch.type_ids, batch.offsets):
        array.flags.writeable = False
    assert load(folder, OPTIONS).forward(batch)[0].shape == (11, 32)
