"""The replay buffer keeps the newest rows in which some option can be followed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from coteach.config import Config
from coteach.errors import Note
from coteach.grounding.base import Family, Layout, Situations
from coteach.grounding.spaces import Encoder
from coteach.student.replay import Replay
from coteach.student.rollout import Rollout
from coteach.student.student import Student

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


PICTURE = Layout(numbers=1, flags=2, pictures=((3, 20, 30),))


def test_the_bytes_of_a_picture_stay_bytes_beside_numbers(tmp_path: Path) -> None:
    made = Rollout.empty(8, 4, PICTURE, SLOTS)
    rng = np.random.default_rng(0)
    made.features[:] = rng.integers(0, 256, made.features.shape)
    made.features[..., 0] = rng.normal(size=made.features.shape[:2])
    made.valid[:], made.controls[:] = True, 1
    replay = Replay(32, PICTURE, SLOTS)
    replay.add(made)
    rows = replay.features(np.arange(32))
    assert rows.dtype == np.float32 and sorted(rows.tolist()) == sorted(made.features[:-1].reshape(32, -1).tolist())
    assert replay.size < 32 * (PICTURE.size + 100)
    replay.save(tmp_path / "replay.safetensors")
    assert (tmp_path / "replay.safetensors").stat().st_size < 32 * (PICTURE.size + 100)
    again = Replay(32, PICTURE, SLOTS)
    again.load(tmp_path / "replay.safetensors")
    assert np.array_equal(again.features(np.arange(32)), rows)


def test_large_pictures_are_warned_of_before_the_run_begins() -> None:
    space = spaces.Dict({"screen": spaces.Box(0, 255, (210, 160, 3), np.uint8), "lives": spaces.Box(0.0, 9.0, (1,))})
    layout = Encoder(space, "screen").layout
    family = Family("Screen", layout, ("left", "right"), 2, "Play.", lambda *given: None, "screen")  # type: ignore[arg-type, return-value]
    with pytest.warns(Note, match=r"100,801 columns: replayed rows take up to 3.1 GiB.*a round 0.8 GiB; show smaller pictures"):
        Student(Config(), family, Situations(), 0)
