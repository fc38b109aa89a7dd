"""Files of one JSON object a line, as a run appends to them: a process that died may have torn any line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TAIL = 1 << 14
"""Bytes at the end of a file in which its last line is looked for."""


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; lines that are not whole are left out."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    yield from filter(None, map(_object, lines))


def last(path: Path) -> dict[str, Any]:
    """The last object of a JSON-lines file, however long the file is; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(-min(TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
            lines = file.read().splitlines()
    except OSError:
        return {}
    return next(filter(None, map(_object, reversed(lines))), {})


def _object(line: bytes) -> dict[str, Any]:
    """The object on a line of a JSON-lines file; empty where it is not whole."""
    try:
        value = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
