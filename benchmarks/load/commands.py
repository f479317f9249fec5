"""The child's side of a measurement in a process of its own (processes.Child). It needs only Python: peers have other environments."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any


def answer_commands(ready: Mapping[str, Any], handlers: Mapping[str, Callable[..., Mapping[str, Any]]], output: int) -> None:
    """The child's side: answers commands on the file descriptor that own_output gave, until the parent is gone."""
    with os.fdopen(output, "w") as stream:
        print(json.dumps({"ready": ready}), file=stream, flush=True)
        for line in sys.stdin:
            message = json.loads(line)
            try:
                answer = {"figures": handlers[message.pop("command")](**message)}
            except Exception as error:  # of whatever a peer raises: the parent reports it as the reason
                answer = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"}
            print(json.dumps(answer), file=stream, flush=True)


def own_output() -> int:
    """Keeps standard output for answers, and sends what libraries print to the log. To be called before they are imported."""
    output = os.dup(1)
    os.dup2(2, 1)
    return output
