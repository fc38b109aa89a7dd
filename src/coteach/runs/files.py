"""Write files atomically, and turn disk errors into a message that names the path."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from coteach.errors import CoteachError, RunFailed

ESCAPE = "backslashreplace"
"""The error handler for text that UTF-8 cannot encode, for example half a surrogate pair: it is escaped, as in JSON."""


def user_path(text: str | Path) -> Path:
    """Return a path that a user gave, with ~ expanded. CoteachError if there is no such home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise CoteachError(f"{text}: there is no home that ~ could stand for; set HOME, or write the path in full") from None


def replace_text(path: Path, text: str) -> None:
    """Write a file atomically: a temporary file in the same folder is written to the disk, then renamed. May raise OSError."""
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with partial.open("w", encoding="utf-8", errors=ESCAPE) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def file_name(text: str) -> str:
    """Return `text` as a safe name of one file or folder: anything but ASCII letters, digits and _.+=- becomes a dash."""
    return re.sub(r"[^\w.+=-]", "-", text, flags=re.ASCII).lstrip(".-") or "_"


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn an OSError into a RunFailed that names the file, or else `path`."""
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"cannot write {os.fsdecode(error.filename or path)}: {error.strerror or error}; mend that and use --resume"
        ) from error
    except SafetensorError as error:  # how PEFT's files fail
        raise RunFailed(f"cannot write {path}: {error}; mend that and use --resume") from error


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
