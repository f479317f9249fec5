"""Python arguments to request messages. Wrong ones are TypeError and ValueError here; what only the server can judge, it judges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hubwire._arguments import check_choice, check_flag, check_text, check_texts, check_uint32
from hubwire._names import EncodingName, PoolingName, TruncationSideName
from hubwire.v1 import common_pb2, embedding_pb2, model_pb2

_ASYNC_HINT = "hubwire.aio.Client.stream_embed"

POOLINGS: Mapping[PoolingName, embedding_pb2.Pooling.ValueType] = {
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
    options = embedding_pb2.EmbedOptions(encoding=check_choice("encoding", encoding, _ENCODINGS))
    if normalize is not None:
        options.normalize = check_flag("normalize", normalize)
    if pooling is not None:
        options.pooling = check_choice("pooling", pooling, POOLINGS)
    if dimensions is not None:
        options.dimensions = check_uint32("dimensions", dimensions)
    if prompt_name is not None and prompt is not None:
        raise ValueError("pass prompt_name or prompt, not both")
    if prompt_name is not None:
        options.prompt_name = check_text("prompt_name", prompt_name)
    if prompt is not None:
        options.prompt = check_text("prompt", prompt)
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
    side = check_choice("truncate", "right" if truncate is True else truncate, _SIDES)
    return common_pb2.Truncation(side=side, max_tokens=0 if max_tokens is None else check_uint32("max_tokens", max_tokens))


def embed(texts: Iterable[str], model: str, options: embedding_pb2.EmbedOptions) -> embedding_pb2.EmbedRequest:
    """The request of Embed."""
    return embedding_pb2.EmbedRequest(model=check_text("model", model), texts=check_texts(texts, async_hint=_ASYNC_HINT), options=options)


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
        model=check_text("model", model),
        texts=check_texts(texts, async_hint=_ASYNC_HINT),
        options=embedding_pb2.EmbedTokensOptions(
            normalize=None if normalize is None else check_flag("normalize", normalize),
            encoding=check_choice("encoding", encoding, _ENCODINGS),
            truncation=truncation(truncate, max_tokens),
            offset_unit=common_pb2.OFFSET_UNIT_CODE_POINT,
        ),
    )


def stream_opening(model: str, options: embedding_pb2.EmbedOptions, *, ordered: bool) -> embedding_pb2.StreamEmbedRequest:
    """The first message of StreamEmbed."""
    return embedding_pb2.StreamEmbedRequest(
        options=embedding_pb2.StreamEmbedOptions(model=check_text("model", model), options=options, ordered=check_flag("ordered", ordered))
    )


def load_model(source: str, name: str, revision: str) -> model_pb2.LoadModelRequest:
    """The request of LoadModel."""
    return model_pb2.LoadModelRequest(
        source=check_text("source", source), name=check_text("name", name), revision=check_text("revision", revision)
    )
