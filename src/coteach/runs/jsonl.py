"""Read JSON Lines files, to which runs append. A process that died may have left any line incomplete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TAIL = 1 << 14
"""Bytes at the end of a file in which `last` looks for a line."""


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file; incomplete lines are skipped. Nothing if the file is missing."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    yield from filter(None, map(_object, lines))


def last(path: Path) -> dict[str, Any]:
    """Return the last object of a file, without reading all of it; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(-min(TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
            lines = file.read().splitlines()
    except OSError:
        return {}
    return next(filter(None, map(_object, reversed(lines))), {})


def _object(line: bytes) -> dict[str, Any]:
    """Return the object on a line; empty if the line is incomplete."""
    try:
        value = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
