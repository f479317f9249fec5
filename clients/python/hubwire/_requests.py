"""Python arguments to request messages. Wrong ones are TypeError and ValueError here; what only the server can judge, it judges."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from hubwire._types import EncodingName, PoolingName, TruncationSideName
from hubwire.v1 import common_pb2, embedding_pb2, model_pb2

_UINT32_MAX = 2**32 - 1

_POOLINGS: Mapping[PoolingName, embedding_pb2.Pooling.ValueType] = {
    "mean": embedding_pb2.POOLING_MEAN,
    "max": embedding_pb2.POOLING_MAX,
    "cls": embedding_pb2.POOLING_CLS,
    "last_token": embedding_pb2.POOLING_LAST_TOKEN,
    "mean_sqrt_len": embedding_pb2.POOLING_MEAN_SQRT_LEN,
    "weighted_mean": embedding_pb2.POOLING_WEIGHTED_MEAN,
}
# float32 travels as bytes: numpy reads a vector of them at once, and a repeated float one by one.
_ENCODINGS: Mapping[EncodingName, common_pb2.VectorEncoding.ValueType] = {
    "float32": common_pb2.VECTOR_ENCODING_FLOAT32_BYTES,
    "float16": common_pb2.VECTOR_ENCODING_FLOAT16_BYTES,
    "int8": common_pb2.VECTOR_ENCODING_INT8_BYTES,
    "binary": common_pb2.VECTOR_ENCODING_BINARY_BYTES,
}
_SIDES: Mapping[TruncationSideName, common_pb2.TruncationSide.ValueType] = {
    "right": common_pb2.TRUNCATION_SIDE_RIGHT,
    "left": common_pb2.TRUNCATION_SIDE_LEFT,
}

_Key = TypeVar("_Key", bound=str)
_Value = TypeVar("_Value")


def embed_options(
    *,
    pooling: PoolingName | None = None,
    normalize: bool | None = None,
    truncate: bool | TruncationSideName | None = None,
    max_tokens: int | None = None,
    dimensions: int | None = None,
    encoding: EncodingName = "float32",
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> embedding_pb2.EmbedOptions:
    """The options of Embed and StreamEmbed. None leaves a choice to the model."""
    options = embedding_pb2.EmbedOptions(encoding=_choose("encoding", encoding, _ENCODINGS), normalize=normalize)
    if pooling is not None:
        options.pooling = _choose("pooling", pooling, _POOLINGS)
    if dimensions is not None:
        options.dimensions = _uint32("dimensions", dimensions)
    if prompt_name is not None and prompt is not None:
        raise ValueError("pass prompt_name or prompt, not both")
    if prompt_name is not None:
        options.prompt_name = prompt_name
    if prompt is not None:
        options.prompt = prompt
    cut = truncation(truncate, max_tokens)
    if cut is not None:
        options.truncation.CopyFrom(cut)
    return options


def truncation(truncate: bool | TruncationSideName | None, max_tokens: int | None) -> common_pb2.Truncation | None:
    """The permission to cut texts; None where they must not be cut."""
    if truncate is None or truncate is False:
        if max_tokens is not None:
            raise ValueError("max_tokens cuts texts, which must be allowed: pass truncate=True as well")
        return None
    side = _choose("truncate", "right" if truncate is True else truncate, _SIDES)
    return common_pb2.Truncation(side=side, max_tokens=0 if max_tokens is None else _uint32("max_tokens", max_tokens))


def embed(texts: Iterable[str], model: str, options: embedding_pb2.EmbedOptions) -> embedding_pb2.EmbedRequest:
    """The request of Embed."""
    return embedding_pb2.EmbedRequest(model=model, texts=check_texts(texts), options=options)


def embed_tokens(
    texts: Iterable[str],
    *,
    model: str,
    normalize: bool | None,
    truncate: bool | TruncationSideName | None,
    max_tokens: int | None,
    encoding: EncodingName,
) -> embedding_pb2.EmbedTokensRequest:
    """The request of EmbedTokens. Spans count code points, which is how Python indexes text."""
    return embedding_pb2.EmbedTokensRequest(
        model=model,
        texts=check_texts(texts),
        options=embedding_pb2.EmbedTokensOptions(
            normalize=normalize,
            encoding=_choose("encoding", encoding, _ENCODINGS),
            truncation=truncation(truncate, max_tokens),
            offset_unit=common_pb2.OFFSET_UNIT_CODE_POINT,
        ),
    )


def stream_opening(model: str, options: embedding_pb2.EmbedOptions, *, ordered: bool) -> embedding_pb2.StreamEmbedRequest:
    """The first message of StreamEmbed."""
    return embedding_pb2.StreamEmbedRequest(options=embedding_pb2.StreamEmbedOptions(model=model, options=options, ordered=ordered))


def load_model(source: str, name: str, revision: str) -> model_pb2.LoadModelRequest:
    """The request of LoadModel."""
    return model_pb2.LoadModelRequest(source=source, name=name, revision=revision)


def check_callback(name: str, callback: Callable[[_Value], None] | None) -> Callable[[_Value], None]:
    """A callback that can be called, whether or not there is one. Raises TypeError for what cannot, and for a coroutine function, which
    nobody would wait for."""
    if callback is None:
        return lambda _: None
    if not callable(callback) or inspect.iscoroutinefunction(callback):
        raise TypeError(f"{name} must be a plain function, not {callback!r}")
    return callback


def check_texts(texts: Iterable[str]) -> list[str]:
    """The texts as a list. Raises TypeError for one bare text, whose characters would else be the texts, and for what is not text."""
    refuse_bare_text("texts", texts)
    checked = list(texts)
    for index, text in enumerate(checked):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}] must be a str, not {type(text).__name__}")
    return checked


def refuse_bare_text(name: str, value: object) -> None:
    """Raise TypeError where a caller passed one text in the place of many."""
    if isinstance(value, str | bytes | bytearray):
        raise TypeError(f"{name} must be a list of texts, not one {type(value).__name__}: pass [text]")


def _choose(name: str, value: _Key, choices: Mapping[_Key, _Value]) -> _Value:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return choices[value]


def _uint32(name: str, value: Any) -> int:
    # bool is an int in Python: dimensions=True would else mean one dimension.
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    number = int(value)
    if not 0 <= number <= _UINT32_MAX:
        raise ValueError(f"{name} must be between 0 and {_UINT32_MAX}, not {number}")
    return number
