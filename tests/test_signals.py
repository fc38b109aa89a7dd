"""Ctrl-C and SIGTERM never tear a round: they act when it has ended."""

from __future__ import annotations

import signal
import threading

import pytest

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


def test_afterwards_signals_are_handled_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Signals().handled():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_than_the_main_one_leaves_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def look() -> None:
        with Signals().handled():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]
