"""A plain grpc.aio server of the Embed method, as one writes it in an afternoon. It runs in the environment of a peer.

python -m benchmarks.load.peers.grpc_handler sentence-transformers|transformers PORT FOLDER THREADS

sentence-transformers   encode() in a thread, one request a batch
transformers            padded batches of what arrived, in its order, at most BATCH_TEXTS texts
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from hubwire.v1 import embedding_pb2, embedding_pb2_grpc

BATCH_TEXTS = 32
MAX_TOKENS = 256


class SentenceTransformersEngine:
    """encode() of sentence-transformers, called with the texts of one request."""

    def __init__(self, folder: str, pool: ThreadPoolExecutor) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(folder, device="cpu")
        self._pool = pool

    def _encode(self, texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._model.encode(list(texts), batch_size=BATCH_TEXTS, show_progress_bar=False).tolist()
        return vectors

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """The vectors of texts."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._encode, texts)


class TransformersEngine:
    """A tokenizer that pads and a model of transformers; while a batch is computed, the next one gathers."""

    def __init__(self, folder: str, pool: ThreadPoolExecutor) -> None:
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder).eval()
        self._pool = pool
        self._waiting: asyncio.Queue[tuple[str, asyncio.Future[list[float]]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def _encode(self, texts: Sequence[str]) -> list[list[float]]:
        import torch

        batch = self._tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            hidden = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            vectors: list[list[float]] = torch.nn.functional.normalize(pooled).tolist()
        return vectors

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """The vectors of texts."""
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._batches())
        futures = [loop.create_future() for _ in texts]
        for text, future in zip(texts, futures, strict=True):
            self._waiting.put_nowait((text, future))
        return await asyncio.gather(*futures)

    async def _batches(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < BATCH_TEXTS and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            vectors = await asyncio.get_running_loop().run_in_executor(self._pool, self._encode, [text for text, _ in batch])
            for (_, future), vector in zip(batch, vectors, strict=True):
                if not future.done():  # its caller may have gone
                    future.set_result(vector)


class Handler(embedding_pb2_grpc.EmbeddingServiceServicer):
    """The Embed method."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def Embed(self, request: Any, context: Any) -> Any:  # noqa: N802  # the method's name in the contract
        """Answers with the vectors as floats."""
        response = embedding_pb2.EmbedResponse()
        for vector in await self._engine.embed(request.texts):
            response.vectors.add().values.extend(vector)
        return response


async def serve(engine_name: str, port: int, folder: str, threads: int) -> None:
    """Serves until the process is ended."""
    import torch

    torch.set_num_threads(threads)
    # One thread: two forwards at once would fight for the same cores, and a tokenizer that pads may not be shared between threads.
    pool = ThreadPoolExecutor(max_workers=1)
    engine = {"sentence-transformers": SentenceTransformersEngine, "transformers": TransformersEngine}[engine_name](folder, pool)
    await engine.embed(["a first text, before the port is open"])
    server = grpc.aio.server()
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(Handler(engine), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
