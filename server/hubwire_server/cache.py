"""`hubwire cache`: what servers on this machine keep between starts, and how to be rid of it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hubwire_server.backends.onnx.cache import EXPORTS, CacheEntry, ExportCache
from hubwire_server.backends.records import Records
from hubwire_server.models import demo
from hubwire_server.settings import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Lists the exported models, or removes them with everything else that is kept. Exit code 0, 1 where the folder cannot be used, 2 for
    wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="hubwire cache",
        allow_abbrev=False,
        description="List what servers keep between starts, or remove it: exported models, which backend was chosen for each, and the "
        "demo models.",
    )
    parser.add_argument("action", nargs="?", choices=["list", "clear"], default="list", help="(default: %(default)s)")
    parser.add_argument(
        "--cache-dir", metavar="FOLDER", help="the folder (default: that of the server: HUBWIRE_CACHE_DIR, ~/.cache/hubwire)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    named = parse([] if args.cache_dir is None else [f"--cache-dir={args.cache_dir}"]).cache_folder
    if not named:
        print("hubwire cache: there is no home folder (hint: name the folder with --cache-dir)", file=sys.stderr)
        return 1
    folder = Path(named)
    try:
        return _clear(folder, args.json) if args.action == "clear" else _list(folder, args.json)
    except OSError as error:
        print(f"hubwire cache: {folder}: {error.strerror} (hint: choose another folder with --cache-dir)", file=sys.stderr)
        return 1


def _list(folder: Path, as_json: bool) -> int:
    entries = ExportCache(folder / EXPORTS).entries()
    if as_json:
        print(json.dumps([{"name": entry.name, "fingerprint": entry.fingerprint, "bytes": entry.bytes} for entry in entries]))
    elif not entries:
        print(f"{folder} holds no exported model")
    else:
        rows = [("FINGERPRINT", "SIZE", "AGE", "NAME"), *map(_row, entries)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _row(entry: CacheEntry) -> tuple[str, ...]:
    days = (time.time() - entry.mtime) / 86_400
    return (entry.fingerprint or "-", f"{entry.bytes / 1e6:.1f} MB", f"{days:.1f} days", entry.name)


def _clear(folder: Path, as_json: bool) -> int:
    freed = ExportCache(folder / EXPORTS).clear() + Records(folder).clear() + demo.clear(folder)
    print(json.dumps({"freed_bytes": freed}) if as_json else f"removed {freed / 1e6:.1f} MB from {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
