"""Ctrl-C and SIGTERM do not interrupt a round: they act when it has ended, or after a time limit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coteach.runs import signals as module
from coteach.runs.signals import TERMINATED, Signals


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_waits_until_the_round_has_ended(number: signal.Signals, raised: type[BaseException]) -> None:
    signals, done = Signals(), []
    with signals.handled(), pytest.raises(raised) as left:
        with signals.deferred():
            signal.raise_signal(number)
            done.append("the round")
        done.append("after it")
    assert done == ["the round"]
    if raised is SystemExit:
        assert left.value.code == TERMINATED == 143


def test_between_rounds_a_signal_acts_at_once() -> None:
    signals = Signals()
    with signals.handled(), pytest.raises(KeyboardInterrupt):
        with signals.deferred():
            pass
        signal.raise_signal(signal.SIGINT)


def test_a_second_signal_does_not_wait() -> None:
    signals, done = Signals(), []
    with signals.handled(), pytest.raises(KeyboardInterrupt), signals.deferred():
        signal.raise_signal(signal.SIGINT)
        done.append("first")
        signal.raise_signal(signal.SIGINT)
        done.append("second")
    assert done == ["first"]


def test_the_signal_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Signals().handled():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_signal_handlers_are_not_changed_in_another_thread() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def look() -> None:
        with Signals().handled():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


# With a time limit: what happens when, by a clock that does not run


class Clock:
    """Replaces timers: records the seconds of each, and runs the last one when a test says so."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.pending: Callable[[], None] | None = None
        self.ended: list[int] = []

    def timer(self, seconds: float, do: Callable[[], None]) -> Any:
        clock = self

        class Timer:
            daemon = False

            def start(self) -> None:
                clock.waits.append(seconds)
                clock.pending = do

            def cancel(self) -> None:
                clock.pending = None

        return Timer()

    def expire(self) -> None:
        """Let the time of the current timer expire."""
        assert self.pending is not None
        self.pending()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(module.threading, "Timer", clock.timer)
    monkeypatch.setattr(module, "_end", clock.ended.append)
    yield clock


def test_a_round_that_ends_in_time_stops_the_timer(clock: Clock) -> None:
    signals, done = Signals(time_limit=True), []
    with signals.handled(), pytest.raises(KeyboardInterrupt), signals.deferred():
        signal.raise_signal(signal.SIGINT)
        done.append("the round")
    assert done == ["the round"] and clock.waits == [module.GRACE] and clock.pending is None and not clock.ended


def test_a_round_that_does_not_end_is_interrupted_and_if_that_hangs_too_the_program_ends(clock: Clock) -> None:
    signals, done = Signals(time_limit=True), []
    with signals.handled(), pytest.raises(KeyboardInterrupt), signals.deferred():
        signal.raise_signal(signal.SIGINT)
        done.append("waits")
        try:
            clock.expire()
            done.append("goes on")
        finally:
            assert clock.waits == [module.GRACE, module.TEARDOWN]
            clock.expire()  # hangs while it stops
    assert done == ["waits"] and clock.ended == [signal.SIGINT]
    assert module.GRACE + module.TEARDOWN < 10, "seconds, as the documentation promises"


def test_a_second_ctrl_c_acts_at_once_and_ends_the_program_within_a_second(clock: Clock) -> None:
    signals = Signals(time_limit=True)
    with signals.handled(), pytest.raises(KeyboardInterrupt), signals.deferred():
        signal.raise_signal(signal.SIGINT)
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            assert clock.waits == [module.GRACE, module.LAST_TEARDOWN]
            clock.expire()
    assert clock.ended == [signal.SIGINT] and module.LAST_TEARDOWN < 1


def test_without_a_time_limit_no_timer_is_set(clock: Clock) -> None:
    signals = Signals()
    with signals.handled(), pytest.raises(KeyboardInterrupt), signals.deferred():
        signal.raise_signal(signal.SIGINT)
    assert clock.waits == []
