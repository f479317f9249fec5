"""What a backend has to know of an exported model, stored beside its graph."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hubwire_server.backends.base import Head
from hubwire_server.errors import HubwireError, Reason

INFO = "info.json"


class ExportError(Exception):
    """A model cannot be exported; the message is one line on why. It stands here, since importing export.py takes seconds."""


class OnnxInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An exported model. dtype is "float32" or "int8" (the weights; what comes out is float32)."""

    architecture: str
    head: Head = Head.BODY
    row_size: int
    """The number of values in a row of the output."""
    max_tokens: int
    """The longest text that the model reads, special tokens included, or NO_LIMIT of base.py."""
    vocabulary_size: int
    pad_id: int
    """The token that fills up the shorter texts of a batch. It is masked."""
    takes_type_ids: bool
    eos_id: int = -1
    """The token whose state the head reads. Where one text of a rectangle has more of it than another, the head takes that of the wrong
    text. -1 for a head that does not look for it.
    """
    dtype: str = "float32"


def read_info(folder: Path) -> OnnxInfo:
    """What write_info wrote. Raises HubwireError (MODEL_LOAD_FAILED) where it is missing or broken."""
    try:
        return msgspec.json.decode((folder / INFO).read_bytes(), type=OnnxInfo)
    except (OSError, ValueError, msgspec.MsgspecError) as error:  # ValueError where it is not in UTF-8
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"the exported model's {INFO} cannot be read: {why(error, folder)}") from error


def why(error: Exception, folder: Path) -> str:
    """What is wrong with the export in a folder, as one line for clients: it does not say where the folder lies."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    line = next(iter((text or "").splitlines()), type(error).__name__)
    return line.replace(str(folder.resolve()), folder.name).replace(str(folder), folder.name)[:300]


def write_info(folder: Path, info: OnnxInfo) -> None:
    """Stores info in the folder of an export. Raises OSError."""
    (folder / INFO).write_bytes(msgspec.json.format(msgspec.json.encode(info)) + b"\n")
