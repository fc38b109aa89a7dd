"""The replay buffer keeps the newest rows in which some option can be followed."""

from __future__ import annotations

import numpy as np

from coteach.grounding.base import Layout
from coteach.student.replay import Replay
from coteach.student.rollout import Rollout

SLOTS = 3
LAYOUT = Layout(flags=1)


def rollout(situations: list[int], valid: bool = True, options: bool = True) -> Rollout:
    """Return a rollout of one environment in these situations; each row's feature is its situation."""
    made = Rollout.empty(len(situations), 1, LAYOUT, SLOTS)
    made.situation[:-1, 0] = made.features[:-1, 0, 0] = situations
    made.valid[:] = valid
    if options:
        made.controls[:-1, :, 0] = 2
    return made


def test_rows_without_a_way_to_follow_advice_and_restarts_are_left_out() -> None:
    replay = Replay(10, LAYOUT, SLOTS)
    replay.add(rollout([1, 2], options=False))
    replay.add(rollout([3, 4], valid=False))
    assert replay.filled == 0
    replay.add(rollout([5, 6]))
    assert replay.filled == 2 and replay.situation[:2].tolist() == [5, 6] and replay.controls[:2].tolist() == [[2, -1, -1]] * 2


def test_the_oldest_rows_are_replaced() -> None:
    replay = Replay(4, LAYOUT, SLOTS)
    for first in range(0, 6, 2):
        replay.add(rollout([first, first + 1]))
    assert sorted(replay.situation.tolist()) == [2, 3, 4, 5] and replay.filled == 4
    replay.add(rollout(list(range(10, 17))))
    assert sorted(replay.situation.tolist()) == [13, 14, 15, 16]
    assert np.array_equal(replay.features(np.arange(4))[:, 0], replay.situation), "a row's parts stay together"


def test_samples_are_rows_that_were_kept() -> None:
    replay = Replay(100, LAYOUT, SLOTS)
    replay.add(rollout([7, 8, 9]))
    at = replay.sample(50, np.random.default_rng(0))
    assert set(replay.situation[at].tolist()) == {7, 8, 9}


def test_without_room_nothing_is_kept() -> None:
    replay = Replay(0, LAYOUT, SLOTS)
    replay.add(rollout([1, 2, 3]))
    assert replay.filled == 0
