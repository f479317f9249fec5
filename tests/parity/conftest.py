"""sentence-transformers, the reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def st() -> ModuleType:
    """sentence-transformers, whose import and loading warn of their own dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sentence_transformers
        import sentence_transformers.sentence_transformer.modules  # reached as an attribute
    return sentence_transformers


@pytest.fixture(scope="session")
def theirs(st: ModuleType) -> Callable[..., Any]:
    """Loads a folder with sentence-transformers in float32 on the CPU."""

    def load(path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return st.SentenceTransformer(str(path), device="cpu", local_files_only=True)

    return load
