"""The texts of every benchmark: seeded, so that every run and every server reads the same ones.

Three workloads, in tokens of a text, the two special ones included:
    short   12 in every text: a query, where the latency of one forward counts
    mixed   lognormal, median 38, mean about 54, at most 256: what documents look like, where padding costs most
    long    256 in every text: the longest that all-MiniLM-L6-v2 reads
"""

from __future__ import annotations

import math
import random
from statistics import NormalDist

SHORT_TOKENS = 12
LONG_TOKENS = 256
MEDIAN_TOKENS = 38
SIGMA = 0.88
"""The spread of the logarithm of a mixed length: with MEDIAN_TOKENS and the cut at LONG_TOKENS it gives a mean of 54."""
LEAST_TOKENS = 4
SPECIAL_TOKENS = 2
"""[CLS] and [SEP]."""
SEED = 7
WORKLOADS = ("short", "mixed", "long")
_VOCABULARY = (
    "the model reads a stream of texts and gives each them one vector that database can search by meaning not letters water city "
    "music history small large green paper house river winter train question answer light number world people work again under "
    "over between before after first last every other always never quickly slowly north south garden window market "
)
WORDS = _VOCABULARY.split()
"""Each is one token of the uncased vocabulary of BERT, which all-MiniLM-L6-v2 has: the number of words is the number of tokens."""


def token_counts(workload: str, count: int, seed: int = SEED) -> list[int]:
    """The tokens of each of the texts that `texts` makes of the same arguments. Raises ValueError for an unknown workload."""
    if workload == "short":
        return [SHORT_TOKENS] * count
    if workload == "long":
        return [LONG_TOKENS] * count
    if workload != "mixed":
        raise ValueError(f"there is no workload {workload!r}, only {', '.join(WORKLOADS)}")
    # The quantiles themselves instead of random draws: so few texts as a benchmark has time for have the median and the mean of many.
    lengths = NormalDist(math.log(MEDIAN_TOKENS), SIGMA)
    counts = [min(LONG_TOKENS, max(LEAST_TOKENS, round(math.exp(lengths.inv_cdf((n + 0.5) / count))))) for n in range(count)]
    random.Random(seed).shuffle(counts)
    return counts


def texts(workload: str, count: int, seed: int = SEED) -> list[str]:
    """count texts of a workload, the same for the same seed. Raises ValueError for an unknown workload."""
    rng = random.Random(seed + 1)
    return [text_of(tokens, rng) for tokens in token_counts(workload, count, seed)]


def text_of(tokens: int, rng: random.Random) -> str:
    """A text of exactly so many tokens, at least LEAST_TOKENS."""
    return " ".join(rng.choices(WORDS, k=tokens - SPECIAL_TOKENS))
