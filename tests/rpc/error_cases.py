"""What a case of the error table is. The cases themselves stand in cases_*.py, one file a service; test_error_table.py runs them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hubwire_server.errors import Reason
from tests.conftest import Server

Call = Callable[[Server], object]


@dataclass(frozen=True)
class Case:
    """A call and what its error says. server chooses one of the fixtures of servers() in test_error_table.py: "plain" serves an embedding
    model, and the name of a task serves a fake model for that task."""

    name: str
    reason: Reason
    call: Call
    field: str = ""
    server: str = "plain"
    model: str = ""
