"""A circuit breaker: after a few failures in a row a server counts as dead and gets one trial call a minute.

Training must not wait for a dead server. Source: Nygard, *Release It!* (2007), pattern "Circuit Breaker".
"""

from __future__ import annotations

import time
from collections.abc import Callable

FAILURES = 5
"""Failures in a row after which the server counts as dead."""

PAUSE = 60.0
"""Seconds between two trial calls to a dead server."""


class CircuitBreaker:
    """Counts failures in a row. It is open, in the pattern's words, while the server counts as dead. clock: gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures, self._next_trial = 0, 0.0

    @property
    def is_open(self) -> bool:
        """Whether the server counts as dead: no one should wait for it."""
        return self._failures >= FAILURES

    def allows_call(self) -> bool:
        """Whether to call the server now; for a dead server this is True for one caller a minute."""
        if not self.is_open:
            return True
        if self._clock() < self._next_trial:
            return False
        self._next_trial = self._clock() + PAUSE
        return True

    def record_success(self) -> None:
        """Close the breaker: the server has answered."""
        self._failures = 0

    def record_failure(self) -> None:
        """Count a call without an answer; from `FAILURES` in a row on, the breaker is open."""
        self._failures += 1
        self._next_trial = self._clock() + PAUSE
