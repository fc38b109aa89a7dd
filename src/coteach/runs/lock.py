"""A file that one process at a time holds: the kernel takes it away from a process that dies, however it dies.

In it stands the number of the process that holds it, or held it last, so that whoever is refused can be told who that is.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from coteach.errors import CoteachError

_GLANCES, _BETWEEN = 20, 0.1  # at who holds a file, and seconds before each


@contextmanager
def held(path: Path, refusal: Callable[[str], str]) -> Iterator[IO[str]]:
    """Hold `path`, a file for nothing else, made where it is missing; a child that is passed the open file holds it as well.

    Raises `CoteachError` with the words of `refusal`, given the holder ("process 4711"), where another process holds it, and
    OSError where the file cannot be written.
    """
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CoteachError(refusal(_holder(file))) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file


def _holder(file: IO[str]) -> str:
    """Who holds it. One that has only just taken the file has not said so yet, and the one before still stands in it: wait."""
    for _ in range(_GLANCES):
        time.sleep(_BETWEEN)
        file.seek(0)
        if (number := file.read().strip()).isdecimal():
            return f"process {number}"
    return "another process"
