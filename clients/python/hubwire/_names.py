"""The names that options take. Apart from _types, whose numpy the help of the command line need not wait for."""

from __future__ import annotations

from typing import Literal

PoolingName = Literal["mean", "max", "cls", "last_token", "mean_sqrt_len", "weighted_mean"]
"""How the vectors of the tokens of a text become one vector, in the names of sentence-transformers."""

FloatEncoding = Literal["float32", "float16", "int8"]
"""The encodings that the client restores to float32."""

EncodingName = Literal["float32", "float16", "int8", "binary"]
"""The form in which vectors travel: 4, 2, 1 and 1/8 bytes a value. "binary" stays as it is, one bit a value."""

TruncationSideName = Literal["right", "left"]
"""The end of a text at which tokens are dropped."""

FunctionName = Literal["sigmoid", "softmax", "none"]
"""What turns the logits of a classification head into scores."""

AggregationName = Literal["none", "simple", "first", "average", "max"]
"""How labelled tokens become entities, in the names of transformers."""

ScoringName = Literal["sigmoid", "raw"]
"""The form of the scores of a reranker."""

TaskName = Literal[
    "embedding",
    "sparse_embedding",
    "text_classification",
    "zero_shot_classification",
    "token_classification",
    "question_answering",
    "fill_mask",
    "rerank",
    "pipeline",
]
"""What a model is served for."""
