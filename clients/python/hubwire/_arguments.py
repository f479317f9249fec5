"""Checks of Python arguments: TypeError and ValueError with one sentence that says what to pass, before anything is sent."""

from __future__ import annotations

import inspect
import math
import numbers
import operator
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import Any, SupportsIndex, TypeVar

import numpy as np

_UINT32_MAX = 2**32 - 1

_Key = TypeVar("_Key", bound=str)
_Value = TypeVar("_Value")


def check_text(name: str, value: object) -> str:
    """A str that UTF-8 can hold, and so protobuf."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    utf8_bytes(name, value)
    return value


def utf8_bytes(name: str, text: str) -> int:
    """The size of a text as UTF-8. Raises ValueError where there is none: a lone surrogate."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        where = f"its character {error.start} is the lone surrogate U+{ord(text[error.start]):04X}"
        raise ValueError(f"{name} cannot be sent: {where}") from None


def check_texts(name: str, texts: object, *, async_hint: str) -> list[str]:
    """The texts as a list, in their order. `async_hint` names the method that takes an async iterable; "" where none does."""
    checked = list(check_iterable(name, texts, async_hint=async_hint))
    for index, text in enumerate(checked):
        # Texts are many and most are ASCII: their names need not be written.
        if not isinstance(text, str) or not text.isascii():
            check_text(f"{name}[{index}]", text)
    return checked


def check_items(items: object, *, async_hint: str) -> Iterable[Any]:
    """The items of a stream of the sync client; what they are is seen as they are read."""
    return check_iterable("items", items, async_hint=async_hint)


def check_async_items(items: object) -> Iterable[Any] | AsyncIterable[Any]:
    """The items of a stream of the asyncio client; what they are is seen as they are read."""
    if isinstance(items, AsyncIterable):
        return items
    return check_iterable("items", items, async_hint="")


def check_iterable(name: str, value: object, *, async_hint: str, of: str = "texts") -> Iterable[Any]:
    """An iterable with an order. Refuses what iterates over something else than what was meant, which `of` names."""
    if isinstance(value, str | bytes | bytearray):
        raise TypeError(f"{name} must be a list of {of}, not one {type(value).__name__}{': pass [text]' if of == 'texts' else ''}")
    if isinstance(value, Mapping):
        parts = "items()" if name == "items" else "values()"
        raise TypeError(f"{name} must be a list of {of}, not a {type(value).__name__}: pass its {parts}")
    if isinstance(value, set | frozenset):
        raise TypeError(f"{name} must be a list of {of}, not a {type(value).__name__}, which has no order: pass a list or sorted(...)")
    if isinstance(value, AsyncIterable):
        advice = f"hubwire.aio.Client.{async_hint} takes those" if async_hint else "collect it into a list first"
        raise TypeError(f"{name} must be an iterable of {of}, not an async one: {advice}")
    # Old classes iterate by __getitem__ alone.
    if not isinstance(value, Iterable) and not hasattr(value, "__getitem__"):
        raise TypeError(f"{name} must be an iterable of {of}, not {type(value).__name__}")
    iterable: Iterable[Any] = value  # type: ignore[assignment]  # mypy does not know __getitem__ as a way to iterate
    return iterable


def check_choice(name: str, value: _Key, choices: Mapping[_Key, _Value]) -> _Value:
    """What one of several names stands for."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return choices[value]


def check_flag(name: str, value: object) -> bool:
    """A bool, also as numpy spells it."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"{name} must be True or False, not {value!r}")


def check_uint32(name: str, value: object) -> int:
    """An int that the contract can carry."""
    number = _integer(name, value)
    if not 0 <= number <= _UINT32_MAX:
        raise ValueError(f"{name} must be between 0 and {_UINT32_MAX}, not {number}")
    return number


def check_positive(name: str, value: object) -> int:
    """An int of 1 or more that the contract can carry."""
    number = _integer(name, value)
    if not 1 <= number <= _UINT32_MAX:
        raise ValueError(f"{name} must be between 1 and {_UINT32_MAX}, not {number}")
    return number


def check_count(name: str, value: object) -> int:
    """An int of 1 or more."""
    number = _integer(name, value)
    if number < 1:
        raise ValueError(f"{name} must be 1 or more, not {number}")
    return number


def check_timeout(timeout_s: object) -> float | None:
    """A timeout in the form that grpc takes, where None is no limit."""
    if timeout_s is None:
        return None
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, numbers.Real):
        raise TypeError(f"timeout_s must be a number of seconds or None, not {timeout_s!r}")
    seconds = float(timeout_s)
    if not seconds >= 0:
        raise ValueError(f"timeout_s must be 0 or more seconds, not {timeout_s}")
    return None if seconds == math.inf else seconds


def check_callback(name: str, callback: Callable[[_Value], None] | None) -> Callable[[_Value], None]:
    """A callback that can be called, whether or not there is one. A coroutine function is none: nobody would wait for it."""
    if callback is None:
        return lambda _: None
    if not callable(callback) or inspect.iscoroutinefunction(callback):
        raise TypeError(f"{name} must be a plain function, not {callback!r}")
    return callback


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Metadata of calls, with the keys in the lower case that HTTP/2 asks for."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must map keys to values, not be a {type(metadata).__name__}")
    return {check_text("a key of metadata", key).lower(): check_text(f"metadata[{key!r}]", value) for key, value in metadata.items()}


def check_address(address: object) -> str:
    """A target of gRPC. What is wrong with its host and port, gRPC says."""
    text = check_text("address", address)
    if not text:
        raise ValueError("address is empty: pass 'host:port', or 'unix:/path'")
    if text.startswith(("http://", "https://", "grpc://", "grpcs://")):
        raise ValueError(f"address must be 'host:port', without {text.partition('://')[0]}://, not {text!r}")
    return text


def _integer(name: str, value: object) -> int:
    # bool is an int in Python: dimensions=True would else mean one dimension.
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    return operator.index(value)
