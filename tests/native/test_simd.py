"""The choice of an instruction set."""

from __future__ import annotations

import platform

import pytest

from hubwire_server._native import NativeError, set_simd_level, simd_level


def test_a_pinned_level_is_in_force_until_the_choice_is_given_back() -> None:
    best = simd_level()
    assert set_simd_level("scalar") == best
    assert simd_level() == "scalar"
    assert set_simd_level("auto") == "scalar"
    assert simd_level() == best


def test_a_level_of_another_architecture_is_refused() -> None:
    before = simd_level()
    with pytest.raises(NativeError) as caught:
        set_simd_level("avx2" if platform.machine() in ("arm64", "aarch64") else "neon")
    assert caught.value.reason == "invalid_argument"
    assert simd_level() == before
