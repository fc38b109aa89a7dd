"""Handle Ctrl-C and SIGTERM during a round: the round is finished first, so that a complete state is saved.

Outside `deferred()` a signal acts at once. A second Ctrl-C always acts at once, and so does the first if the round does not
end in time: then the round is lost, and the run can be resumed from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 143
"""Exit code after SIGTERM (128 + 15)."""
INTERRUPTED = 130
"""Exit code after SIGINT (128 + 2)."""

GRACE = 4.0
"""Grace period: seconds that a round may take to end after the first signal."""
TEARDOWN, LAST_TEARDOWN = 3.0, 0.4
"""Seconds that the loop then has to return, and that it has after a second signal; else the process is ended."""


class Signals:
    """Turn SIGINT into KeyboardInterrupt and SIGTERM into SystemExit(143), at the end of the current deferred block.

    time_limit: whether the block has only `GRACE` seconds to end. If the program then hangs while it stops (on a server, on a
    full disk), the process is ended after `TEARDOWN` seconds; after a second signal, after `LAST_TEARDOWN`.
    """

    def __init__(self, time_limit: bool = False) -> None:
        self.time_limit = time_limit
        self._waiting: int | None = None
        self._deferring = self._acted = self._sent_again = False
        self._timer: threading.Timer | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals within this context. Only the main thread can; in another one this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._arrived) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            self._stop_timer()
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer the first signal to the end of this context."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            if not self._acted:
                self._stop_timer()
        if self._waiting is not None:
            self._act(self._waiting)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._deferring and self._waiting is None:
            self._waiting = number
            self._schedule(GRACE, lambda: self._send_again(number))
            return
        first = not self._acted and self._waiting is None
        self._schedule(GRACE + TEARDOWN if first else TEARDOWN if self._sent_again else LAST_TEARDOWN, lambda: _end(number))
        self._sent_again = False
        self._act(number)

    def _send_again(self, number: int) -> None:
        """Send the same signal again, to the main thread: that wakes it even if it waits for a lock or a socket."""
        self._sent_again = True
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    def _schedule(self, seconds: float, do: Callable[[], None]) -> None:
        """Call `do` after some seconds, in place of what was scheduled before; nothing without a time limit."""
        self._stop_timer()
        if self.time_limit:
            self._timer = threading.Timer(seconds, do)
            self._timer.daemon = True
            self._timer.start()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _act(self, number: int) -> None:
        self._acted = True
        if number == signal.SIGTERM:
            raise SystemExit(TERMINATED)
        raise KeyboardInterrupt


def _end(number: int) -> None:
    """End the process at once."""
    with contextlib.suppress(OSError):
        os.write(2, b"coteach: ended in the middle of a call; --resume goes on from the last checkpoint\n")
    os._exit(TERMINATED if number == signal.SIGTERM else INTERRUPTED)
