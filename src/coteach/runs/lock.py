"""A lock file that one process at a time can hold (flock). The kernel releases it when the process dies for any reason.

The file contains the number of the process that holds it, or held it last, so that an error message can name it.
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

_ATTEMPTS, _INTERVAL = 20, 0.1  # to read the holder's number, and seconds before each


@contextmanager
def held(path: Path, refusal: Callable[[str], str]) -> Iterator[IO[str]]:
    """Hold the lock file `path`, which is made if it is missing. A child process that inherits the open file holds it too.

    Raises CoteachError if another process holds it: `refusal` gives the message from the holder ("process 4711"). Raises
    OSError if the file cannot be written.
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
    """Return who holds the file. A process that has just locked it may not have written its number yet: wait first."""
    for _ in range(_ATTEMPTS):
        time.sleep(_INTERVAL)
        file.seek(0)
        if (number := file.read().strip()).isdecimal():
            return f"process {number}"
    return "another process"
