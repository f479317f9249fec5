"""Everything at once, for a few seconds: callers that cancel, streams that are abandoned, a worker that is killed. Nothing may be left
behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import time

import numpy as np

import hubwire
import hubwire.aio
from hubwire_server.testing import running_server
from tests.faults.test_worker import eventually

SECONDS = 5.0


async def test_a_storm_of_cancels_and_kills_leaves_nothing_behind(caplog, measured):
    caplog.set_level(logging.ERROR, logger="asyncio")
    rng = random.Random(1)
    async with running_server() as server, hubwire.aio.Client(server.address, max_attempts=1) as client:
        expected = await client.embed([f"w{index}" for index in range(900)])
        end = time.monotonic() + SECONDS
        counts = {"answered": 0, "cancelled": 0, "refused": 0, "streamed": 0, "killed": 0}

        async def unary() -> None:
            while time.monotonic() < end:
                indices = [rng.randrange(900) for _ in range(rng.randint(1, 20))]
                call = asyncio.create_task(client.embed([f"w{index}" for index in indices]))
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.random() * 0.02)
                    call.cancel()
                try:
                    np.testing.assert_allclose(await call, expected[indices], atol=1e-6)
                    counts["answered"] += 1
                except asyncio.CancelledError:
                    counts["cancelled"] += 1
                except hubwire.HubwireError as error:
                    # A small batch may meet two kills in a row, and then counts as their cause.
                    assert error.reason == "WORKER_CRASHED"  # noqa: PT017 (only some calls fail)
                    counts["refused"] += 1

        async def stream() -> None:
            while time.monotonic() < end:
                size = rng.randint(1, 600)
                leave_after = rng.choice([size, rng.randint(1, size)])
                seen = set()
                async with contextlib.aclosing(client.stream_embed([f"w{index}" for index in range(size)])) as results:
                    async for id_, outcome in results:
                        assert id_ not in seen
                        seen.add(id_)
                        if isinstance(outcome, np.ndarray):
                            np.testing.assert_allclose(outcome, expected[id_], atol=1e-6)
                        counts["streamed"] += 1
                        if len(seen) == leave_after:
                            break
                assert len(seen) == leave_after

        async def killer() -> None:
            while time.monotonic() < end:
                await asyncio.sleep(0.8)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server.app.dispatcher.worker.pid, signal.SIGKILL)
                    counts["killed"] += 1

        await asyncio.gather(*(unary() for _ in range(12)), *(stream() for _ in range(6)), killer())
        measured("what happened", counts)
        assert counts["answered"] > 20
        assert counts["cancelled"] > 20
        assert counts["killed"] >= 2
        await eventually(lambda: server.app.dispatcher.used_tokens == 0)
        assert server.app.dispatcher.waiting_texts == 0
        assert all(model.leases == 0 for model in server.app.registry.all())
        assert (await client.embed(["w1"])).shape == (1, 8)
    assert [record.getMessage() for record in caplog.records if "never retrieved" in record.getMessage()] == []
