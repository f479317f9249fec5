"""The driver of StreamEmbed: one stream with a fixed number of texts in flight, in a process of its own.

It shares the cores with the server, so it does as little as a client can: items are serialized before the clock starts, each response
is answered by one message with as many new texts as it brought results, and results are counted from their lengths.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from benchmarks.load import workloads
from benchmarks.load.commands import answer_commands, own_output
from benchmarks.load.ghz import with_length
from hubwire.v1 import embedding_pb2

METHOD = "/hubwire.v1.EmbeddingService/StreamEmbed"
OPTIONS_MESSAGE = b"\x0a\x00"
"""StreamEmbedRequest.options (field 1), empty: the default model, its default options, results as they are ready."""
ITEMS_TAG = b"\x12"
"""StreamEmbedRequest.items (field 2)."""
ITEM_TAG = b"\x0a"
"""StreamEmbedItems.items (field 1)."""
TEXT_TAG = b"\x12"
"""StreamEmbedItem.text (field 2)."""
RESULT_TAG = 0x0A
"""StreamEmbedResponse.results (field 1)."""
LEAST_VECTOR_BYTES = 384
"""No vector is shorter, in any encoding but the binary one, and no error is longer: what is shorter is an error."""
DISTINCT_TEXTS = 1024


def encode_item(text: str) -> bytes:
    """A text as an entry of StreamEmbedItems."""
    return ITEM_TAG + with_length(TEXT_TAG + with_length(text.encode()))


def count_results(response: bytes) -> tuple[int, int]:
    """The results of a serialized StreamEmbedResponse, which begin it, and their tokens. Raises ValueError where one of them is an
    error.
    """
    count = position = 0
    while position < len(response) and response[position] == RESULT_TAG:
        size = shift = 0
        while True:
            position += 1
            size |= (response[position] & 0x7F) << shift
            shift += 7
            if response[position] < 0x80:
                break
        if size < LEAST_VECTOR_BYTES:
            raise ValueError(f"a text was answered with an error: {response[position + 1 : position + 1 + size]!r}")
        position += 1 + size
        count += 1
    # The few bytes that are left are cheap to read as what they are.
    return count, embedding_pb2.StreamEmbedResponse.FromString(response[position:]).usage.input_tokens


async def stream(address: str, items: Sequence[bytes], total: int, in_flight: int) -> dict[str, Any]:
    """Streams total texts, the items over and over, and returns tokens per second while the stream was full, and the seconds in all."""
    source: Iterator[bytes] = itertools.islice(itertools.cycle(items), total)
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(METHOD)()
        await call.write(OPTIONS_MESSAGE)
        points = [(time.perf_counter(), 0, 0)]
        await _send(call, source, in_flight)
        while points[-1][1] < total:
            response = await call.read()
            if response is grpc.aio.EOF:
                raise RuntimeError(f"the stream ended after {points[-1][1]} of {total} results: {await call.details()}")
            results, tokens = count_results(response)
            points.append((time.perf_counter(), points[-1][1] + results, points[-1][2] + tokens))
            await _send(call, source, results)
        await call.done_writing()
        if await call.read() is not grpc.aio.EOF:
            raise RuntimeError("there were more results than texts")
    return {
        "tokens_per_s": steady_rate(points, in_flight),
        "seconds": points[-1][0] - points[0][0],
        "texts": total,
        "tokens": points[-1][2],
    }


def steady_rate(points: Sequence[tuple[float, int, int]], in_flight: int) -> float:
    """Tokens per second between the first in_flight results and the last ones, as latency.texts_per_s has it for unary calls. A point is a
    time, and how many results and tokens had come until then.
    """
    total = points[-1][1]
    steady = [point for point in points if in_flight <= point[1] <= total - in_flight]
    if len(steady) < 2:  # a short stream is all ramp and drain
        steady = [points[0], points[-1]]
    (start_s, _, first), (end_s, _, last) = steady[0], steady[-1]
    return (last - first) / (end_s - start_s)


async def _send(call: Any, source: Iterator[bytes], count: int) -> None:
    entries = b"".join(itertools.islice(source, count))
    if entries:
        await call.write(ITEMS_TAG + with_length(entries))


def main() -> None:
    """Answers "stream" commands: address, workload, total and in_flight."""
    output = own_output()
    serialized: dict[str, list[bytes]] = {}

    def run(address: str, workload: str, total: int, in_flight: int) -> dict[str, Any]:
        if workload not in serialized:
            serialized[workload] = [encode_item(text) for text in workloads.texts(workload, DISTINCT_TEXTS)]
        return asyncio.run(stream(address, serialized[workload], total, in_flight))

    answer_commands({"python": sys.version.split()[0], "grpcio": grpc.__version__}, {"stream": run}, output)


if __name__ == "__main__":
    main()
