"""The version, as in pyproject.toml (a test compares them). A constant: reading installed metadata would slow the command line."""

from __future__ import annotations

__version__ = "0.1.0"
