"""When to ask a server that fails: after a few failures in a row it is left alone, and tried once a minute.

A circuit breaker (Nygard, *Release It!*): training must not wait for a server that is dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FAILURES = 5
"""In a row, after which the server counts as dead."""

PAUSE = 60.0
"""Seconds between two attempts at a dead server."""


class CircuitBreaker:
    """Counts failures in a row; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures, self._next = 0, 0.0

    @property
    def lost(self) -> bool:
        """Whether the server counts as dead: nobody should wait for it."""
        return self._failures >= FAILURES

    def may_ask(self) -> bool:
        """Whether to ask now. A dead server is asked by one caller a minute."""
        if not self.lost:
            return True
        if self._clock() < self._next:
            return False
        self._next = self._clock() + PAUSE
        return True

    def succeeded(self) -> None:
        """The server answered: it is alive."""
        self._failures = 0

    def failed(self) -> None:
        """It did not."""
        self._failures += 1
        self._next = self._clock() + PAUSE
