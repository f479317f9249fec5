"""The words of the fake model, by id."""

from __future__ import annotations

from hubwire_server.testing import _VOCABULARY

NAMES = sorted(_VOCABULARY, key=_VOCABULARY.__getitem__)
IDS = dict(_VOCABULARY)
