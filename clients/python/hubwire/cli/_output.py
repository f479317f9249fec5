"""What is printed: JSON for programs on stdout, one line for people about an error on stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from hubwire.errors import HubwireError

_HINTS = {
    "TEXT_TOO_LONG": "pass --truncate right, or split the text",
    "TEXT_EMPTY": "leave empty texts out",
    "TOO_MANY_TEXTS": "pipe the texts in, one a line: they are streamed then",
    "MESSAGE_TOO_LARGE": "pipe the texts in, one a line: they are streamed then",
    "PROMPT_NOT_FOUND": "'hubwire models get NAME' shows the prompts of a model",
    "LABEL_NOT_FOUND": "'hubwire models get NAME' shows the labels of a model",
    "MASK_NOT_FOUND": "'hubwire models get NAME' shows the mask token of a model",
    "PIPELINE_NOT_SUPPORTED": "'hubwire pipeline --list' shows what can be loaded",
    "MODEL_NOT_FOUND": "'hubwire models' lists what is served",
    "MODEL_ALREADY_EXISTS": "choose another name with --name, or 'hubwire models unload NAME' first",
    "MODEL_NOT_READY": "'hubwire models' shows when it is ready",
    "OVERLOADED": "the server is busy, try again later",
    "INTERNAL": "the server's log says more",
}


def print_json(message: Message) -> None:
    """One line of the protobuf JSON mapping, with the field names of the protos."""
    from google.protobuf import json_format

    print(json.dumps(json_format.MessageToDict(message, preserving_proto_field_name=True)))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell. Rows may be of different lengths."""
    widths = [max(len(row[place]) for row in rows if len(row) > place) for place in range(max(map(len, rows), default=0))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())


def print_error(message: str, hint: str = "") -> None:
    """One line on stderr, whatever the message holds."""
    line = " ".join(f"hubwire: {message}".split())
    print(f"{line} (hint: {hint})" if hint else line, file=sys.stderr)


def hint_for(error: HubwireError, address: str) -> str:
    """What to do about an error; empty where nothing useful can be said."""
    from hubwire import errors

    if error.reason in _HINTS:
        return _HINTS[error.reason]
    if isinstance(error, errors.UnavailableError) and "WRONG_VERSION_NUMBER" in error.message:
        return f"the server at {address} speaks no TLS, or not of a version that this client knows: try without --tls"
    if isinstance(error, errors.UnavailableError) and "CERTIFICATE_VERIFY_FAILED" in error.message:
        return f"the certificate of {address} is signed by no authority that this machine trusts"
    if isinstance(error, errors.UnavailableError) and not error.reason:
        return f"is a server running at {address}? 'hubwire serve' starts one"
    if isinstance(error, errors.DeadlineExceededError):
        return "allow more time with --timeout"
    if isinstance(error, errors.UnimplementedError):
        return f"is {address} a Hubwire server of this version?"
    return ""


def enum_label(name: str, prefix: str) -> str:
    """An enum value for people: "MODEL_STATE_READY" is "ready"."""
    return name.removeprefix(prefix).lower().replace("_", " ")
