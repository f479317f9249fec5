"""What a run of requests says: percentiles, throughput, and latencies without coordinated omission.

A driver that waits for a stalled server sends nothing meanwhile, so the requests that should have been sent during the stall leave no trace
and one slow request stands for hundreds. With a fixed arrival rate the remedy is exact: the latency of a request counts from the moment at
which it was due, whether or not the driver came to send it then. A closed loop has no due times: its figures are those of callers
who wait, and are reported as such.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The requests of one run, in the order in which they were sent. Times in seconds on one clock of the driver's choice."""

    begins_s: NDArray[np.float64]
    """When each request was sent."""
    latencies_s: NDArray[np.float64]
    """From sending to the whole answer, or to the error."""
    answered: NDArray[np.bool_]
    """False for the requests that failed: they count in no latency and in no throughput."""
    texts_per_request: int = 1
    errors: dict[str, int] = field(default_factory=dict)
    """How many requests failed, by status."""

    @classmethod
    def of(cls, requests: Iterable[tuple[float, float, str]], texts_per_request: int = 1) -> Run:
        """A run from the requests in any order: when each was sent, its latency, and its error or the empty string."""
        ordered = sorted(requests)
        return cls(
            begins_s=np.array([begin for begin, _, _ in ordered]),
            latencies_s=np.array([latency for _, latency, _ in ordered]),
            answered=np.array([not error for _, _, error in ordered], dtype=bool),
            texts_per_request=texts_per_request,
            errors=dict(Counter(error for _, _, error in ordered if error)),
        )

    def ends_s(self) -> NDArray[np.float64]:
        """When the answers came, in order."""
        return np.sort((self.begins_s + self.latencies_s)[self.answered])


def corrected(run: Run, rate_per_s: float) -> NDArray[np.float64]:
    """The latencies of an open loop's answers, each from the moment at which its request was due.

    Request i was due i / rate after the first one. The first due time is not known, but no request is ever sent before it is due, so it
    is the latest one that fits every request.
    """
    due = np.arange(len(run.begins_s)) / rate_per_s
    due += (run.begins_s - due).min(initial=np.inf)
    return (run.begins_s - due + run.latencies_s)[run.answered]


def summary(latencies_s: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Percentiles, mean and maximum, in milliseconds. Raises ValueError where there is nothing to summarize."""
    if not len(latencies_s):
        raise ValueError("no request was answered")
    values_ms = np.asarray(latencies_s) * 1e3
    percentiles = {f"p{percentile}_ms": float(np.percentile(values_ms, percentile)) for percentile in PERCENTILES}
    return percentiles | {"mean_ms": float(values_ms.mean()), "max_ms": float(values_ms.max())}


def texts_per_s(run: Run, concurrency: int, tokens: Sequence[int] = ()) -> float:
    """The throughput of a closed loop while all its callers were busy: from the concurrency-th answer to the concurrency-th before the
    last.

    Ramp and drain are left out, since their share depends on the length of the run and not on the server. What remains may hold longer or
    shorter texts than the whole: with tokens, which are those of each request in the order of sending, over and over, the figure is that
    of texts of their mean length. Raises ValueError where nothing is left.
    """
    answers = run.answered.nonzero()[0]
    if len(answers) < 4 * concurrency:
        raise ValueError(f"{len(answers)} answers are too few to see {concurrency} busy callers: {run.errors}")
    ends = (run.begins_s + run.latencies_s)[answers]
    steady = answers[np.argsort(ends, kind="stable")][concurrency - 1 : len(answers) - concurrency]
    seconds = np.ptp((run.begins_s + run.latencies_s)[steady])
    weights = np.asarray(tokens or [1], dtype=np.float64)
    done = (weights / weights.mean())[steady[1:] % len(weights)].sum()  # the first one only starts the clock
    return float(done * run.texts_per_request / seconds)


def open_loop(run: Run, rate_per_s: float) -> dict[str, Any]:
    """The figures of an open loop: latencies from the due times, p99 from the send times beside them, and the rate of answers."""
    figures = {"offered_per_s": rate_per_s, "achieved_per_s": 0.0, "requests": len(run.begins_s), "errors": run.errors}
    if not run.answered.any():
        return figures
    # The first request is due at its begin and the last one's time has passed one interval later, however soon it was answered.
    duration_s = max(run.ends_s()[-1] - run.begins_s[0], len(run.begins_s) / rate_per_s)
    figures |= {"achieved_per_s": float(run.answered.sum() / duration_s)}
    return figures | summary(corrected(run, rate_per_s)) | {"uncorrected_p99_ms": summary(run.latencies_s[run.answered])["p99_ms"]}
