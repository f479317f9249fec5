"""What can go wrong, in one place.

HubwireError is the one exception that a caller may see. Its Reason decides the gRPC code and whether a retry makes sense: REASONS is that
table. It is raised anywhere, carried from the worker in a frame (workers/frames.py), and made into what a caller sees at one place
(status.py).

Nothing here knows gRPC: codes are the names of gRPC's status codes. proto/hubwire/v1/errors.proto documents every reason; a test compares
both lists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a call failed: the names of hubwire.v1.ErrorReason without their prefix."""

    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    FIELD_REQUIRED = "FIELD_REQUIRED"
    ENUM_UNKNOWN = "ENUM_UNKNOWN"
    VALUE_OUT_OF_RANGE = "VALUE_OUT_OF_RANGE"
    TEXT_EMPTY = "TEXT_EMPTY"
    TEXT_TOO_LARGE = "TEXT_TOO_LARGE"
    TEXT_TOO_LONG = "TEXT_TOO_LONG"
    TOO_MANY_TEXTS = "TOO_MANY_TEXTS"
    PROMPT_NOT_FOUND = "PROMPT_NOT_FOUND"
    OPTION_NOT_SUPPORTED = "OPTION_NOT_SUPPORTED"
    STREAM_OUT_OF_ORDER = "STREAM_OUT_OF_ORDER"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    METHOD_NOT_FOUND = "METHOD_NOT_FOUND"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    MODEL_NOT_READY = "MODEL_NOT_READY"
    MODEL_LOAD_FAILED = "MODEL_LOAD_FAILED"
    MODEL_ALREADY_EXISTS = "MODEL_ALREADY_EXISTS"
    MODEL_SOURCE_NOT_FOUND = "MODEL_SOURCE_NOT_FOUND"
    MODEL_NOT_ALLOWED = "MODEL_NOT_ALLOWED"
    MODEL_NOT_SUPPORTED = "MODEL_NOT_SUPPORTED"
    OVERLOADED = "OVERLOADED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    WORKER_CRASHED = "WORKER_CRASHED"
    OUTPUT_NOT_FINITE = "OUTPUT_NOT_FINITE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    INTERNAL = "INTERNAL"
    COUNT_MISMATCH = "COUNT_MISMATCH"
    VALUE_REPEATED = "VALUE_REPEATED"
    LABEL_NOT_FOUND = "LABEL_NOT_FOUND"
    MASK_NOT_FOUND = "MASK_NOT_FOUND"
    TARGET_NOT_FOUND = "TARGET_NOT_FOUND"
    PIPELINE_NOT_SUPPORTED = "PIPELINE_NOT_SUPPORTED"
    PIPELINE_INPUT_INVALID = "PIPELINE_INPUT_INVALID"
    MEDIA_INVALID = "MEDIA_INVALID"


@dataclass(frozen=True, slots=True)
class ReasonInfo:
    """The gRPC code of a reason, and whether the same call may succeed later."""

    code: str
    retryable: bool = False


REASONS: Mapping[Reason, ReasonInfo] = {
    Reason.MALFORMED_REQUEST: ReasonInfo("INVALID_ARGUMENT"),
    Reason.FIELD_REQUIRED: ReasonInfo("INVALID_ARGUMENT"),
    Reason.ENUM_UNKNOWN: ReasonInfo("INVALID_ARGUMENT"),
    Reason.VALUE_OUT_OF_RANGE: ReasonInfo("INVALID_ARGUMENT"),
    Reason.TEXT_EMPTY: ReasonInfo("INVALID_ARGUMENT"),
    Reason.TEXT_TOO_LARGE: ReasonInfo("INVALID_ARGUMENT"),
    Reason.TEXT_TOO_LONG: ReasonInfo("INVALID_ARGUMENT"),
    Reason.TOO_MANY_TEXTS: ReasonInfo("INVALID_ARGUMENT"),
    Reason.PROMPT_NOT_FOUND: ReasonInfo("INVALID_ARGUMENT"),
    Reason.OPTION_NOT_SUPPORTED: ReasonInfo("INVALID_ARGUMENT"),
    Reason.STREAM_OUT_OF_ORDER: ReasonInfo("INVALID_ARGUMENT"),
    Reason.MESSAGE_TOO_LARGE: ReasonInfo("RESOURCE_EXHAUSTED"),
    Reason.METHOD_NOT_FOUND: ReasonInfo("UNIMPLEMENTED"),
    Reason.MODEL_NOT_FOUND: ReasonInfo("NOT_FOUND"),
    Reason.MODEL_NOT_READY: ReasonInfo("UNAVAILABLE", retryable=True),
    Reason.MODEL_LOAD_FAILED: ReasonInfo("FAILED_PRECONDITION"),
    Reason.MODEL_ALREADY_EXISTS: ReasonInfo("ALREADY_EXISTS"),
    Reason.MODEL_SOURCE_NOT_FOUND: ReasonInfo("NOT_FOUND"),
    Reason.MODEL_NOT_ALLOWED: ReasonInfo("PERMISSION_DENIED"),
    Reason.MODEL_NOT_SUPPORTED: ReasonInfo("FAILED_PRECONDITION"),
    Reason.OVERLOADED: ReasonInfo("RESOURCE_EXHAUSTED", retryable=True),
    Reason.DEADLINE_EXCEEDED: ReasonInfo("DEADLINE_EXCEEDED"),
    Reason.WORKER_CRASHED: ReasonInfo("INTERNAL"),
    Reason.OUTPUT_NOT_FINITE: ReasonInfo("INTERNAL"),
    Reason.SHUTTING_DOWN: ReasonInfo("UNAVAILABLE", retryable=True),
    Reason.INTERNAL: ReasonInfo("INTERNAL"),
    Reason.COUNT_MISMATCH: ReasonInfo("INVALID_ARGUMENT"),
    Reason.VALUE_REPEATED: ReasonInfo("INVALID_ARGUMENT"),
    Reason.LABEL_NOT_FOUND: ReasonInfo("INVALID_ARGUMENT"),
    Reason.MASK_NOT_FOUND: ReasonInfo("INVALID_ARGUMENT"),
    Reason.TARGET_NOT_FOUND: ReasonInfo("INVALID_ARGUMENT"),
    Reason.PIPELINE_NOT_SUPPORTED: ReasonInfo("INVALID_ARGUMENT"),
    Reason.PIPELINE_INPUT_INVALID: ReasonInfo("INVALID_ARGUMENT"),
    Reason.MEDIA_INVALID: ReasonInfo("INVALID_ARGUMENT"),
}


@dataclass(eq=False)
class HubwireError(Exception):
    """An error that a caller may see, in words for developers and details for programs.

    field is a path relative to the request message ("texts[3]"); metadata holds numbers as text; retry_after_ms is set for retryable
    reasons alone; model is the name of the model that the error is about.
    """

    reason: Reason
    message: str
    field: str = ""
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    retry_after_ms: int = 0
    model: str = ""

    def __post_init__(self) -> None:
        Exception.__init__(self, self.message)

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    def about(self, *, field: str, model: str) -> HubwireError:
        """The same error where it reaches a caller: with the field and the model, unless it has them already."""
        copy = HubwireError(self.reason, self.message, self.field or field, dict(self.metadata), self.retry_after_ms, self.model or model)
        return copy.with_traceback(self.__traceback__)

    @property
    def code(self) -> str:
        """The name of the gRPC status code."""
        return REASONS[self.reason].code

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later."""
        return REASONS[self.reason].retryable


def out_of_range(text: str, field: str, minimum: int, maximum: int) -> HubwireError:
    """A number that is too small or too large. text says what it is, and what is taken."""
    return HubwireError(Reason.VALUE_OUT_OF_RANGE, text, field, {"minimum": str(minimum), "maximum": str(maximum)})


def shutting_down() -> HubwireError:
    """What everything that the server cannot finish any more is answered with."""
    return HubwireError(Reason.SHUTTING_DOWN, "the server is shutting down", retry_after_ms=1_000)
