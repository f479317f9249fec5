"""The command `hubwire`: one module a subcommand, each with add_parser and run.

Exit codes: 0 for success, 1 for errors (one line on stderr), 2 for wrong usage, 130 after Ctrl-C. Nothing here imports grpc or numpy before
a command runs, so that --help and usage errors are quick.
"""

from __future__ import annotations

from hubwire.cli._main import main

__all__ = ["main"]
