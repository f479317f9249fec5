"""The front that the suites of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import hubwire
from tests.faults.front import Front, front, wait_until_serving


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A front whose model is ready."""
    with front(tmp_path_factory.mktemp("front")) as started, hubwire.Client(started.address) as client:
        wait_until_serving(client)
        yield started
