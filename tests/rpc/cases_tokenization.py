"""Bad input for TokenizationService. Any model will do, also one that is there for embeddings."""

from __future__ import annotations

from hubwire.v1 import tokenization_pb2, tokenization_pb2_grpc
from hubwire_server.errors import Reason
from tests.rpc.error_cases import Call, Case


def tokenize(*texts: str, pairs=(), model: str = "", **options) -> Call:
    request = tokenization_pb2.TokenizeRequest(
        texts=texts, text_pairs=pairs, model=model, options=tokenization_pb2.TokenizeOptions(**options)
    )
    return lambda server: tokenization_pb2_grpc.TokenizationServiceStub(server.channel).Tokenize(request, timeout=60)


def detokenize(*texts: list[int], model: str = "") -> Call:
    request = tokenization_pb2.DetokenizeRequest(texts=[tokenization_pb2.TokenIds(token_ids=ids) for ids in texts], model=model)
    return lambda server: tokenization_pb2_grpc.TokenizationServiceStub(server.channel).Detokenize(request, timeout=60)


def count(*texts: str, pairs=(), model: str = "") -> Call:
    request = tokenization_pb2.CountTokensRequest(texts=texts, text_pairs=pairs, model=model)
    return lambda server: tokenization_pb2_grpc.TokenizationServiceStub(server.channel).CountTokens(request, timeout=60)


def raw(method: str) -> Call:
    return lambda server: server.channel.unary_unary(f"/hubwire.v1.TokenizationService/{method}")(b"\x12\x20abc", timeout=60)


CASES = [
    Case("truncated bytes to tokenize", Reason.MALFORMED_REQUEST, raw("Tokenize")),
    Case("truncated bytes to detokenize", Reason.MALFORMED_REQUEST, raw("Detokenize")),
    Case("truncated bytes to count", Reason.MALFORMED_REQUEST, raw("CountTokens")),
    Case("more than 1 MiB to tokenize", Reason.TEXT_TOO_LARGE, tokenize("w" * 600_000, "w" * 600_000), "texts"),
    Case("more than 8 MiB to count", Reason.TEXT_TOO_LARGE, count(*["w" * 1_000_000] * 9), "texts"),
    Case("too many ids to detokenize", Reason.VALUE_OUT_OF_RANGE, detokenize([1] * 262_145), "texts"),
    Case("no texts to tokenize", Reason.FIELD_REQUIRED, tokenize(), "texts"),
    Case("no texts to count", Reason.FIELD_REQUIRED, count(), "texts"),
    Case("no ids to detokenize", Reason.FIELD_REQUIRED, detokenize(), "texts"),
    Case("fewer pairs than texts to tokenize", Reason.COUNT_MISMATCH, tokenize("w1", "w2", pairs=["w3"]), "text_pairs"),
    Case("more pairs than texts to count", Reason.COUNT_MISMATCH, count("w1", pairs=["w2", "w3"]), "text_pairs"),
    Case("an unknown unit to tokenize", Reason.ENUM_UNKNOWN, tokenize("w1", offset_unit=9), "options.offset_unit"),
    Case("an unknown side to tokenize", Reason.ENUM_UNKNOWN, tokenize("w1", truncation={"side": 9}), "options.truncation.side"),
    Case(
        "a truncation above the model to tokenize",
        Reason.VALUE_OUT_OF_RANGE,
        tokenize("w1", truncation={"max_tokens": 33}),
        "options.truncation.max_tokens",
    ),
    Case(
        "a truncation of a pair to nothing",
        Reason.VALUE_OUT_OF_RANGE,
        tokenize("w1", pairs=["w2"], truncation={"max_tokens": 4}),
        "options.truncation.max_tokens",
    ),
    Case("a text of 5 MB to tokenize", Reason.TEXT_TOO_LARGE, tokenize("w1", "w " * 2_500_000), "texts[1]"),
    Case("a pair of 5 MB to count", Reason.TEXT_TOO_LARGE, count("w1", pairs=["w " * 2_500_000]), "text_pairs[0]"),
    Case("too many texts to tokenize", Reason.TOO_MANY_TEXTS, tokenize(*["w1"] * 2_049), "texts"),
    Case("too many texts to detokenize", Reason.TOO_MANY_TEXTS, detokenize(*[[1]] * 2_049), "texts"),
    Case("an id above the vocabulary", Reason.VALUE_OUT_OF_RANGE, detokenize([1], [2, 3, 1_009]), "texts[1].token_ids[2]", model="fake"),
    Case("an id of 32 bits", Reason.VALUE_OUT_OF_RANGE, detokenize([], [2**32 - 1]), "texts[1].token_ids[0]", model="fake"),
    Case("an unknown model to tokenize", Reason.MODEL_NOT_FOUND, tokenize("w1", model="none"), model="none"),
    Case("an unknown model to detokenize", Reason.MODEL_NOT_FOUND, detokenize([1], model="none"), model="none"),
    Case("an unknown model to count", Reason.MODEL_NOT_FOUND, count("w1", model="none"), model="none"),
    Case("a model that loads to tokenize", Reason.MODEL_NOT_READY, tokenize("w1"), server="loading", model="fake"),
]
