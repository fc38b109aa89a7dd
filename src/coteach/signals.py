"""Ctrl-C and SIGTERM during a round: the round is finished first, so that what is saved is whole.

Outside `deferred()` a signal acts at once. A second Ctrl-C always does.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 143
"""Exit code after SIGTERM (128 + 15)."""


class Signals:
    """Turns SIGINT into KeyboardInterrupt and SIGTERM into SystemExit(143), at the end of the deferred block under way."""

    def __init__(self) -> None:
        self._waiting: int | None = None
        self._deferring = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals here; only the main thread can, elsewhere this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._arrived) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that the first signal does not tear; it acts when the block has ended."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self._waiting is not None:
            self._act(self._waiting)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._deferring and self._waiting is None:
            self._waiting = number
        else:
            self._act(number)

    @staticmethod
    def _act(number: int) -> None:
        if number == signal.SIGTERM:
            raise SystemExit(TERMINATED)
        raise KeyboardInterrupt
