"""The client for asyncio: hubwire.aio.Client has the methods of hubwire.Client, which documents them."""

from __future__ import annotations

from hubwire._aio.embedding import EmbeddingMethods
from hubwire._aio.fill_mask import FillMaskMethods
from hubwire._aio.model import ModelMethods
from hubwire._aio.pipeline import PipelineMethods
from hubwire._aio.question_answering import QuestionAnsweringMethods
from hubwire._aio.rerank import RerankMethods
from hubwire._aio.sparse_embedding import SparseEmbeddingMethods
from hubwire._aio.text_classification import TextClassificationMethods
from hubwire._aio.token_classification import TokenClassificationMethods
from hubwire._aio.tokenization import TokenizationMethods

__all__ = ["Client"]


class Client(
    EmbeddingMethods,
    SparseEmbeddingMethods,
    TextClassificationMethods,
    TokenClassificationMethods,
    QuestionAnsweringMethods,
    FillMaskMethods,
    RerankMethods,
    TokenizationMethods,
    PipelineMethods,
    ModelMethods,
):
    """A connection to a Hubwire server, for one event loop: make it inside a coroutine.

        async with hubwire.aio.Client("127.0.0.1:50051") as client:
            vectors = await client.embed(["a text", "another"])    # (2, dimensions) float32

    Errors and repetition are those of hubwire.Client. Cancelling a task cancels its call.
    """
