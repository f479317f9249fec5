"""Question answering, written down plainly: the reference for spans, and the metric of SQuAD.

Nothing here is fast, and nothing is shared with the server. The probability of an answer is that of its first token to begin it, times that
of its last token to end it; both are softmaxes over every token of the context in every window, and over the tokens that stand for "no
answer". After Devlin et al., "BERT", section 4.2 and 4.3, and the evaluation script of Rajpurkar et al., "SQuAD".
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A question with a part of its context. spans has the characters of each token of the context, None for all other tokens; null is the
    token that stands for no answer."""

    start: list[float]
    end: list[float]
    spans: list[tuple[int, int] | None]
    null: int | None


@dataclass(frozen=True)
class Found:
    """Characters first to last of the context, and the probability that they are the answer."""

    first: int
    last: int
    score: float


def probabilities(windows: list[Window], which: str) -> list[dict[int, float]]:
    """The probability of each token that takes part, a dictionary a window."""
    logits = [
        {token: getattr(window, which)[token] for token, span in enumerate(window.spans) if span is not None or token == window.null}
        for window in windows
    ]
    largest = max(value for window in logits for value in window.values())
    weights = [{token: math.exp(value - largest) for token, value in window.items()} for window in logits]
    total = math.fsum(value for window in weights for value in window.values())
    return [{token: value / total for token, value in window.items()} for window in weights]


def all_answers(windows: list[Window], max_answer_tokens: int) -> list[Found]:
    """Every answer that there is, best first; of several with the same characters the best."""
    starts, ends = probabilities(windows, "start"), probabilities(windows, "end")
    best: dict[tuple[int, int], float] = {}
    for window, start, end in zip(windows, starts, ends, strict=True):
        for first, first_span in enumerate(window.spans):
            for last in range(first, min(first + max_answer_tokens, len(window.spans))):
                last_span = window.spans[last]
                if first_span is not None and last_span is not None:
                    place = (first_span[0], last_span[1])
                    best[place] = max(best.get(place, 0.0), start[first] * end[last])
    found = [Found(first, last, score) for (first, last), score in best.items()]
    return sorted(found, key=lambda answer: (-answer.score, answer.first, answer.last))


def no_answer_score(windows: list[Window]) -> float:
    """The lowest probability of no answer over the windows; 0 where no token stands for it."""
    starts, ends = probabilities(windows, "start"), probabilities(windows, "end")
    scores = [
        start[window.null] * end[window.null] for window, start, end in zip(windows, starts, ends, strict=True) if window.null is not None
    ]
    return min(scores, default=0.0)


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, articles and extra spaces, as the SQuAD metric compares answers."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, expected: list[str]) -> bool:
    """Whether an answer is one of those expected."""
    return any(normalize_answer(answer) == normalize_answer(text) for text in expected)


def f1(answer: str, expected: list[str]) -> float:
    """The best F1 of the words of an answer against those expected."""
    return max(_f1(normalize_answer(answer).split(), normalize_answer(text).split()) for text in expected)


def _f1(words: list[str], expected: list[str]) -> float:
    if not words or not expected:
        return float(words == expected)
    common = sum((Counter(words) & Counter(expected)).values())
    return 2 * common / (len(words) + len(expected))
