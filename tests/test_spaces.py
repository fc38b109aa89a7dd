"""Observations of Gymnasium's simple spaces are encoded as rows of one layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from coteach.errors import CoteachError
from coteach.grounding.spaces import Encoder

PICTURE = spaces.Box(0, 255, (4, 5, 3), np.uint8)
SPACES: list[spaces.Space[Any]] = [
    spaces.Discrete(7),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 4]),
    spaces.MultiBinary((2, 3)),
    spaces.Box(-1, 1, (2, 3)),
    spaces.Box(0, 255, (6,), np.uint8),
    PICTURE,
    spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]),
    spaces.Dict({"a": PICTURE, "b": spaces.Box(-np.inf, np.inf, (2,)), "c": spaces.Discrete(3)}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_every_observation_has_a_row_of_the_layout_and_different_ones_differ(space: spaces.Space[Any]) -> None:
    encoder = Encoder(space, "x")
    space.seed(0)
    seen = [space.sample() for _ in range(40)]
    rows = [encoder.encode(one) for one in seen]
    assert all(row.shape == (encoder.layout.size,) and row.dtype == encoder.layout.dtype for row in rows)
    for one, row in zip(seen, rows, strict=True):
        assert all((row == again).all() == (str(one) == str(other)) for other, again in zip(seen, rows, strict=True))


def test_discrete_parts_are_flags_only() -> None:
    encoder = Encoder(spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)]), "x")
    assert encoder.layout.binary and encoder.layout.flags == 5
    assert encoder.encode((1, np.array([1, 0]))).tolist() == [0, 1, 0, 1, 0]


def test_numbers_come_first_then_flags_then_pictures_with_their_channels_in_front() -> None:
    encoder = Encoder(SPACES[-1], "x")
    layout = encoder.layout
    assert (layout.numbers, layout.flags, layout.pictures, layout.size) == (2, 3, ((3, 4, 5),), 65)
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    row = encoder.encode({"a": picture, "b": np.array([0.5, -7.0]), "c": 2})
    assert row[:5].tolist() == [0.5, -7.0, 0, 0, 1]
    assert np.array_equal(row[5:].reshape(3, 4, 5), np.moveaxis(picture, 2, 0))


def test_a_picture_with_its_channels_in_front_already_is_left_so() -> None:
    encoder = Encoder(spaces.Box(0, 255, (3, 8, 8), np.uint8), "x")
    assert encoder.layout.pictures == ((3, 8, 8),) and encoder.layout.dtype is np.uint8
    picture = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    assert np.array_equal(encoder.encode(picture), picture.ravel())


def test_centre_and_spread_come_from_the_bounds_if_these_are_finite() -> None:
    box = spaces.Box(np.array([0.0, -np.inf, -3.4e38], np.float32), np.array([12.0, np.inf, 3.4e38], np.float32))
    layout = Encoder(box, "x").layout
    assert layout.centre == (6.0, 0.0, 0.0) and layout.spread == pytest.approx((12 / np.sqrt(12), 1.0, 1.0))


def test_what_has_no_fixed_length_is_refused_and_named() -> None:
    space = spaces.Dict({"seen": spaces.Dict({"words": spaces.Text(5)})})
    with pytest.raises(CoteachError, match="task 'x': observation space Text at seen/words: expected Box, Discrete"):
        Encoder(space, "x")
