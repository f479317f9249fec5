"""Answers of the understanding tasks that break the contract are an InternalError, and never a wrong result."""

from __future__ import annotations

import pytest

import hubwire
from hubwire._calls import (
    fill_mask,
    pipeline,
    question_answering,
    rerank,
    sparse_embedding,
    text_classification,
    token_classification,
    tokenization,
)
from hubwire._stream import StreamWindow
from hubwire.v1 import (
    embedding_pb2,
    fill_mask_pb2,
    pipeline_pb2,
    question_answering_pb2,
    rerank_pb2,
    text_classification_pb2,
    token_classification_pb2,
    tokenization_pb2,
)

SPARSE = sparse_embedding.embed_sparse_options(max_terms=None, return_tokens=False, truncate=None, max_tokens=None)
TEXT, TOKENS = text_classification.classify_text_options(), token_classification.classify_tokens_options()


def window():
    return StreamWindow(batch_size=1, max_in_flight=1)


@pytest.mark.parametrize(
    ("question", "response"),
    [
        pytest.param(
            text_classification.classify_text(["a"], None, "", TEXT), text_classification_pb2.ClassifyTextResponse(), id="no labels at all"
        ),
        pytest.param(
            text_classification.classify_text(["a"], None, "", TEXT),
            text_classification_pb2.ClassifyTextResponse(classifications=[{}]),
            id="a text without labels",
        ),
        pytest.param(
            text_classification.classify_zero_shot(["a"], ["x"]),
            text_classification_pb2.ClassifyZeroShotResponse(),
            id="zero-shot: too few",
        ),
        pytest.param(
            token_classification.classify_tokens(None, [["a"]], "", TOKENS),
            token_classification_pb2.ClassifyTokensResponse(),
            id="entities of too few texts",
        ),
        pytest.param(
            question_answering.answer_questions(["a"], "b"),
            question_answering_pb2.AnswerQuestionsResponse(),
            id="too few questions answered",
        ),
        pytest.param(fill_mask.fill_mask(["a"]), fill_mask_pb2.FillMaskResponse(), id="too few texts filled"),
        pytest.param(rerank.rerank("q", ["a"]), rerank_pb2.RerankResponse(documents=[{"index": 1}]), id="a document that was not sent"),
        pytest.param(
            sparse_embedding.embed_sparse(["a"], "", SPARSE),
            embedding_pb2.EmbedSparseResponse(vectors=[{"indices": [1, 2], "values": [1.0]}]),
            id="an index without a value",
        ),
        pytest.param(
            sparse_embedding.embed_sparse(["a"], "", SPARSE),
            embedding_pb2.EmbedSparseResponse(vectors=[{"indices": [1, 2], "values": [1.0, 2.0], "tokens": ["a"]}]),
            id="an index without a token",
        ),
        pytest.param(
            tokenization.tokenize(["a"]), tokenization_pb2.TokenizeResponse(texts=[{"token_ids": [1]}]), id="a token without its text"
        ),
        pytest.param(tokenization.detokenize([[1]]), tokenization_pb2.DetokenizeResponse(), id="too few texts"),
        pytest.param(tokenization.count_tokens(["a"]), tokenization_pb2.CountTokensResponse(), id="too few counts"),
        pytest.param(pipeline.run_pipeline(["a"]), pipeline_pb2.RunPipelineResponse(), id="too few outputs"),
        pytest.param(
            pipeline.run_pipeline(["a"]),
            pipeline_pb2.RunPipelineResponse(outputs=[{"blobs": [{"data": b"123", "dtype": "float32", "shape": [1]}]}]),
            id="an array of the wrong size",
        ),
        pytest.param(
            pipeline.run_pipeline(["a"]),
            pipeline_pb2.RunPipelineResponse(outputs=[{"blobs": [{"data": b"1", "dtype": "float33", "shape": [1]}]}]),
            id="an array of nothing known",
        ),
        pytest.param(
            pipeline.run_pipeline(["a"]),
            pipeline_pb2.RunPipelineResponse(outputs=[{"blobs": [{"data": bytes(8), "dtype": "object", "shape": [1]}]}]),
            id="an array of pointers",
        ),
    ],
)
def test_an_answer_that_breaks_the_contract_is_an_internal_error(question, response):
    with pytest.raises(hubwire.InternalError, match=r"the server (sent|ranked)"):
        question.decode(response)


@pytest.mark.parametrize(
    ("question", "result", "response"),
    [
        pytest.param(
            text_classification.stream_classify_text("", TEXT, ordered=False, window=window()),
            text_classification_pb2.StreamClassifyTextResult(id="0"),
            text_classification_pb2.StreamClassifyTextResponse(),
            id="classify text",
        ),
        pytest.param(
            token_classification.stream_classify_tokens("", TOKENS, ordered=False, window=window()),
            token_classification_pb2.StreamClassifyTokensResult(id="0"),
            token_classification_pb2.StreamClassifyTokensResponse(),
            id="classify tokens",
        ),
        pytest.param(
            sparse_embedding.stream_embed_sparse("", SPARSE, ordered=False, window=window()),
            embedding_pb2.StreamEmbedSparseResult(id="0"),
            embedding_pb2.StreamEmbedSparseResponse(),
            id="embed sparse",
        ),
    ],
)
def test_a_result_without_an_outcome_is_an_internal_error(question, result, response):
    with pytest.raises(hubwire.InternalError, match="neither a result nor an error"):
        question.outcome(result, response)
