"""From hidden states to vectors: modes, modules, prompts, and what a request may not ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hubwire_server.backends.embedding_head import EmbeddingHead
from hubwire_server.errors import HubwireError, Reason

HIDDEN = np.random.default_rng(1).standard_normal((7, 4)).astype(np.float32)
OFFSETS = np.array([0, 3, 7], dtype=np.int64)


def make_head(path: Path, pooling: Any, modules: list[str] | None = None, *, dense_in: int = 4, settings: Any = None) -> EmbeddingHead:
    """A head whose Dense modules, where there are any, are dense_in to 3 and then 3 to 3, without an activation."""
    kinds = ["Transformer", "Pooling", *(modules or [])]
    entries = [
        {"path": f"{index}_{kind}" if index else "", "type": f"sentence_transformers.models.{kind}"} for index, kind in enumerate(kinds)
    ]
    (path / "modules.json").write_text(json.dumps(entries))
    (path / "config_sentence_transformers.json").write_text(json.dumps(settings or {}))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling, "include_prompt": False}))
    size = dense_in
    for index, kind in enumerate(kinds):
        if kind == "Dense":
            (path / f"{index}_Dense").mkdir()
            config = {"bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
            (path / f"{index}_Dense" / "config.json").write_text(json.dumps(config))
            save_file({"linear.weight": torch.arange(3.0 * size).view(3, size) - 4}, path / f"{index}_Dense" / "model.safetensors")
            size = 3
    return EmbeddingHead.from_folder(path, hidden_size=4)


def pool(head: EmbeddingHead, **options: Any) -> Any:
    return head.pool(HIDDEN, "float32", OFFSETS, **options)


MEANS = np.stack([HIDDEN[:3].mean(axis=0), HIDDEN[3:].mean(axis=0)])


def test_a_trailing_normalize_is_left_to_the_front(tmp_path: Path) -> None:
    head = make_head(tmp_path, "mean", ["Normalize", "Normalize"])
    assert (head.normalize, head.modules, head.dimensions, head.pooling_fixed) == (True, (), 4, False)
    assert np.allclose(pool(head), MEANS, atol=1e-6)


def test_a_normalize_in_the_middle_is_applied(tmp_path: Path) -> None:
    head = make_head(tmp_path, "mean", ["Normalize", "Dense"])
    weight = np.arange(12, dtype=np.float32).reshape(3, 4) - 4
    assert (head.normalize, head.dimensions, head.pooling_fixed) == (False, 3, False)
    assert np.allclose(pool(head), MEANS / np.linalg.norm(MEANS, axis=1, keepdims=True) @ weight.T, atol=1e-5)


def test_several_modes_are_concatenated_and_another_may_be_chosen(tmp_path: Path) -> None:
    head = make_head(tmp_path, ["cls", "mean"])
    assert (head.pooling, head.dimensions, head.pooling_fixed) == (("cls", "mean"), 8, False)
    assert np.allclose(pool(head), np.concatenate([HIDDEN[[0, 3]], MEANS], axis=1), atol=1e-6)
    assert np.allclose(pool(head, mode="max"), np.stack([HIDDEN[:3].max(axis=0), HIDDEN[3:].max(axis=0)]))
    assert pool(head).flags.c_contiguous


def test_modules_that_fit_only_the_own_pooling_fix_it(tmp_path: Path) -> None:
    head = make_head(tmp_path, ["cls", "mean"], ["Normalize", "Dense", "Dense"], dense_in=8)
    assert (head.pooling_fixed, head.dimensions, pool(head).shape) == (True, 3, (2, 3))
    with pytest.raises(HubwireError, match="fit no other pooling") as caught:
        pool(head, mode="cls")
    assert caught.value.reason is Reason.OPTION_NOT_SUPPORTED


def test_the_tokens_of_a_prompt_are_skipped(tmp_path: Path) -> None:
    vectors = pool(make_head(tmp_path, "mean"), skip=np.array([1, 2], dtype=np.int64))
    assert np.allclose(vectors, np.stack([HIDDEN[1:3].mean(axis=0), HIDDEN[5:].mean(axis=0)]), atol=1e-6)


def test_truncate_dim_cuts_after_a_normalize_of_its_own(tmp_path: Path) -> None:
    head = make_head(tmp_path, "mean", ["Normalize"], settings={"truncate_dim": 2})
    assert (head.normalize, head.dimensions) == (False, 2)
    assert np.allclose(pool(head), (MEANS / np.linalg.norm(MEANS, axis=1, keepdims=True))[:, :2], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_half_precision_is_pooled_in_float32(tmp_path: Path, dtype: str) -> None:
    tensor = torch.from_numpy(HIDDEN).to(getattr(torch, dtype))
    array = (tensor.view(torch.uint16) if dtype == "bfloat16" else tensor).numpy()
    vectors = make_head(tmp_path, "mean").pool(array, dtype, OFFSETS, threads=2)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors[0], tensor.float()[:3].mean(dim=0), atol=1e-5)


def test_a_value_that_is_not_finite_names_its_text(tmp_path: Path) -> None:
    hidden = HIDDEN.copy()
    hidden[5, 2] = np.nan
    with pytest.raises(HubwireError, match="NaN or infinity") as caught:
        make_head(tmp_path, "mean").pool(hidden, "float32", OFFSETS)
    assert (caught.value.reason, caught.value.metadata) == (Reason.OUTPUT_NOT_FINITE, {"index": "1"})


def test_hidden_states_of_another_type_than_announced_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HubwireError, match="announced as bfloat16"):
        make_head(tmp_path, "mean").pool(HIDDEN, "bfloat16", OFFSETS)


def test_modules_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HubwireError, match="takes vectors of size 5, but those before it have size 4") as caught:
        make_head(tmp_path, "mean", ["Dense"], dense_in=5)
    assert caught.value.reason is Reason.MODEL_NOT_SUPPORTED
