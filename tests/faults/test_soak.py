"""A long stream from the Python client to a real server: 2,000 texts here, 20,000 with `make soak`."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import numpy as np
import psutil

import hubwire

MAX_GROWTH_BYTES = 30_000_000
INVALID_EVERY = 97


def texts(count: int) -> Iterator[tuple[str, str]]:
    """Short texts, every 97th of them invalid."""
    rng = random.Random(3)
    words = [
        "a",
        "short",
        "text",
        "about",
        "one",
        "of",
        "the",
        "many",
        "things",
        "that",
        "people",
        "search",
        "for",
        "and",
        "find",
        "or",
        "do",
        "not",
        "find",
    ]
    for index in range(count):
        if index % INVALID_EVERY == 0:
            yield f"id-{index}", "" if index % 2 else "word " * 400
        else:
            yield f"id-{index}", " ".join(rng.choice(words) for _ in range(rng.randint(3, 12)))


def test_a_long_stream_answers_every_id_once_with_flat_memory(running, soak_texts, measured):
    front = psutil.Process(running.process.pid)
    answered: dict[str, str] = {}
    with hubwire.Client(running.address) as client:
        # What the process allocates once for any stream is not growth.
        assert len(list(client.stream_embed(texts(500)))) == 500
        before = front.memory_info().rss
        highest = before
        start = time.monotonic()
        for id_, outcome in client.stream_embed(texts(soak_texts)):
            assert id_ not in answered
            if isinstance(outcome, np.ndarray):
                assert outcome.shape == (384,)
                answered[id_] = "vector"
            else:
                answered[id_] = outcome.reason
            if len(answered) % 100 == 0:
                highest = max(highest, front.memory_info().rss)
        seconds = time.monotonic() - start
    expected = {f"id-{index}": "vector" for index in range(soak_texts)}
    expected |= {f"id-{index}": "TEXT_EMPTY" if index % 2 else "TEXT_TOO_LONG" for index in range(0, soak_texts, INVALID_EVERY)}
    assert answered == expected
    measured("texts", soak_texts)
    measured("texts per second", round(soak_texts / seconds))
    measured("growth of the front in bytes", highest - before)
    assert highest - before < MAX_GROWTH_BYTES
