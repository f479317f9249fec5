"""The synchronous client. hubwire.aio is its twin; what both share stands in _calls, _stream, _retry and errors."""

from __future__ import annotations

from hubwire._sync.embedding import EmbeddingMethods
from hubwire._sync.fill_mask import FillMaskMethods
from hubwire._sync.model import ModelMethods
from hubwire._sync.pipeline import PipelineMethods
from hubwire._sync.question_answering import QuestionAnsweringMethods
from hubwire._sync.rerank import RerankMethods
from hubwire._sync.sparse_embedding import SparseEmbeddingMethods
from hubwire._sync.text_classification import TextClassificationMethods
from hubwire._sync.token_classification import TokenClassificationMethods
from hubwire._sync.tokenization import TokenizationMethods


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
    """A connection to a Hubwire server. Safe to share between threads; not across a fork.

        with hubwire.Client("127.0.0.1:50051") as client:
            vectors = client.embed(["a text", "another"])    # (2, dimensions) float32

    Every method raises a HubwireError where the call fails, and TypeError or ValueError for wrong arguments, and ValueError for a client
    that is closed, before anything is sent.

    Unary calls are repeated, within their timeout, where the server names a delay after which to call again, and where it is UNAVAILABLE
    and the call may safely run twice (every method but unload_model). health is asked once, since it reports the present. Streams
    (stream_embed and its kind, load_model) are not repeated.
    """
