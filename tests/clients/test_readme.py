"""The code of the client's README runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "clients" / "python" / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[-1].strip())
def test_a_block_runs(fake, block):
    assert "127.0.0.1:50051" in block
    exec(compile(block.replace("127.0.0.1:50051", fake.address), str(README), "exec"), {"__name__": "readme"})
    assert fake.requests


def test_there_are_blocks():
    assert len(BLOCKS) == 7
