"""The benchmarks' texts: the same for the same seed, and as long as they say."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.load import workloads
from benchmarks.load.bench_load import model_folder
from hubwire_server._native import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer((model_folder() / "tokenizer.json").read_text())


@pytest.mark.parametrize("workload", workloads.WORKLOADS)
def test_a_text_has_exactly_the_tokens_that_it_should(workload, tokenizer):
    batch = tokenizer.encode(workloads.texts(workload, 300), max_tokens=512, threads=1)
    assert batch.token_counts.tolist() == workloads.token_counts(workload, 300)


def test_short_and_long_texts_all_have_the_same_length():
    assert set(workloads.token_counts("short", 50)) == {12}
    assert set(workloads.token_counts("long", 50)) == {256}


@pytest.mark.parametrize("count", [100, 1000])
def test_mixed_texts_have_the_median_and_the_mean_of_their_description(count):
    counts = workloads.token_counts("mixed", count)
    assert statistics.median(counts) == pytest.approx(38, abs=1)
    assert statistics.mean(counts) == pytest.approx(54, abs=1)
    assert max(counts) == 256
    assert counts != sorted(counts)


def test_the_seed_decides_lengths_and_words():
    assert workloads.texts("mixed", 40) == workloads.texts("mixed", 40)
    assert workloads.texts("mixed", 40) != workloads.texts("mixed", 40, seed=8)
    assert workloads.token_counts("mixed", 40) != workloads.token_counts("mixed", 40, seed=8)
    assert len(set(workloads.texts("short", 40))) == 40


def test_an_unknown_workload_is_refused():
    with pytest.raises(ValueError, match="'tiny'"):
        workloads.texts("tiny", 1)
