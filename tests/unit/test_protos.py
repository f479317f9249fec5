"""The contract and the rules of the house: what checks them can fail."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the protos that a test may break."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    return tmp_path / "proto"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def buf(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BUF), *args], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_protos_pass_and_equal_themselves(copy):
    assert buf(copy, "lint").stdout == ""
    assert buf(copy, "breaking", "--against", str(ROOT / "proto")).returncode == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [("  uint32 dimensions = 2;", "  uint64 dimensions = 2;"), ("  bool ordered = 3;", "  bool ordered = 4;")],
    ids=["a type that changes", "a number that changes"],
)
def test_a_change_that_breaks_clients_is_found(copy, old, new):
    edit(copy / "hubwire/v1/embedding.proto", old, new)
    assert buf(copy, "breaking", "--against", str(ROOT / "proto")).returncode != 0


def test_a_field_without_its_documentation_is_found(copy):
    edit(copy / "hubwire/v1/common.proto", "  // end is the position after the last unit of the span.\n", "")
    ended = buf(copy, "lint")
    assert ended.returncode != 0
    assert "comment" in ended.stdout


def test_every_comment_of_the_contract_begins_with_the_name_it_documents():
    """The comments are the documentation in every language."""
    for path in (ROOT / "proto/hubwire/v1").glob("*.proto"):
        lines = path.read_text().splitlines()
        comment: list[str] = []
        for line in lines:
            text = line.strip()
            if text.startswith("//"):
                comment.append(text.removeprefix("//").strip())
                continue
            words = text.replace("(", " ").split()
            if comment and words and words[0] in ("message", "enum", "service", "rpc", "oneof"):
                assert comment[0].split()[0].rstrip(":") == words[1], f"{path.name}: {text}"
            elif comment and "=" in words and text.endswith(";") and words[0] not in ("syntax", "option"):
                assert comment[0].split()[0].rstrip(":") == words[words.index("=") - 1], f"{path.name}: {text}"
            comment = []


def test_the_environment_is_read_in_settings_alone():
    readers = {
        path.relative_to(ROOT / "server/hubwire_server").as_posix()
        for path in (ROOT / "server").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers == {"settings.py"}
