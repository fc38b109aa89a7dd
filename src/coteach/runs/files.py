"""Files that are written whole or not at all, and disks that fail with a message that names the path."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from coteach.errors import RunFailed

ESCAPE = "backslashreplace"
"""What UTF-8 cannot say (half a surrogate pair, in the words of a task or a model) is escaped, as JSON does."""


def replace_text(path: Path, text: str) -> None:
    """Write a file through a temporary one beside it, on the disk before it takes the name."""
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
    """`text` as the name of one file or folder: what could lead elsewhere, or out of a shell's word, becomes a dash."""
    return re.sub(r"[^\w.+=-]", "-", text, flags=re.ASCII).lstrip(".-") or "_"


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal into the run's failure."""
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"cannot write {error.filename or path}: {error.strerror or error}; mend that and use --resume"
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
