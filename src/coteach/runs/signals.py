"""Ctrl-C and SIGTERM during a round: the round is finished first, so that what is saved is whole.

Outside `deferred()` a signal acts at once. A second Ctrl-C always does; so does the first where the round does not end in
time: then what the round has changed is of no use, and the last checkpoint stands.
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

GRACE = 4.0
"""Seconds that a round may take to end."""
TEARDOWN, LAST_TEARDOWN = 3.0, 0.4
"""Seconds in which the loop must be left after that, and after a second signal, whatever it hangs on (a server, a full disk)."""


class Signals:
    """Turns SIGINT into KeyboardInterrupt and SIGTERM into SystemExit(143), at the end of the deferred block under way.

    hurry: the block has `GRACE` seconds to end; where even the way out hangs then, or after a second signal, the process ends.
    """

    def __init__(self, hurry: bool = False) -> None:
        self.hurry = hurry
        self._waiting: int | None = None
        self._deferring = self._acted = self._late = False
        self._timer: threading.Timer | None = None

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
            self._stop_timer()
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
            if not self._acted:
                self._stop_timer()
        if self._waiting is not None:
            self._act(self._waiting)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._deferring and self._waiting is None:
            self._waiting = number
            self._later(GRACE, lambda: self._insist(number))
            return
        first = not self._acted and self._waiting is None
        self._later(GRACE + TEARDOWN if first else TEARDOWN if self._late else LAST_TEARDOWN, lambda: _end(number))
        self._late = False
        self._act(number)

    def _insist(self, number: int) -> None:
        """The same signal once more, to the main thread: that wakes it even where it waits for a lock or a socket."""
        self._late = True
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        """Do this then, in place of what was to be done before; nothing where there is no hurry."""
        self._stop_timer()
        if self.hurry:
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
    """End the process here and now."""
    with contextlib.suppress(OSError):
        os.write(2, b"coteach: ended in the middle of a call; --resume goes on from the last checkpoint\n")
    os._exit(TERMINATED if number == signal.SIGTERM else INTERRUPTED)
