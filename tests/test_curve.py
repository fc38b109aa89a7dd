"""The learning curve: when a level counts as reached, and when a rung is over."""

from __future__ import annotations

import json

import numpy as np

from coteach.curve import HELD_WINDOW, WINDOW, Curve
from coteach.student.rollout import Episode

NONE = np.zeros(0, dtype=np.int64)
"""No episode under way."""


def episodes(successes: int, failures: int, led: bool = False) -> list[Episode]:
    return [Episode(led, 1.0, 5)] * successes + [Episode(led, 0.0, 5)] * failures


def test_before_the_first_episode_there_is_no_success() -> None:
    assert Curve().student is None and Curve().led is None


def test_a_level_is_reached_once_and_by_the_student_alone() -> None:
    curve = Curve()
    curve.add(episodes(WINDOW, 0, led=True), NONE, 100)
    assert curve.led == 1.0 and curve.steps_to == {0.80: None, 0.95: None}
    curve.add(episodes(WINDOW - 1, 0), NONE, 200)
    assert curve.steps_to[0.80] is None, "too few episodes to tell"
    curve.add(episodes(0, 10), NONE, 300)
    assert curve.steps_to == {0.80: 300, 0.95: None}
    curve.add(episodes(WINDOW, 0), NONE, 400)
    curve.add(episodes(0, WINDOW), NONE, 500)
    assert curve.student == 0.0 and curve.steps_to == {0.80: 300, 0.95: 400}


def test_quick_successes_do_not_hide_the_failures_that_began_with_them() -> None:
    curve = Curve()
    curve.add(episodes(WINDOW, 0), np.array([3] * 40 + [90] * 50), 100)
    assert curve.student == WINDOW / (WINDOW + 50), "fifty have taken longer than any success"
    assert curve.steps_to == {0.80: None, 0.95: None}
    curve.add(episodes(WINDOW, 0), np.array([3] * 90), 200)
    assert curve.student == 1.0 and curve.steps_to == {0.80: 200, 0.95: 200}


def test_a_rung_is_over_only_when_success_has_held() -> None:
    curve = Curve()
    curve.add(episodes(HELD_WINDOW - 1, 0), NONE, 1)
    assert not curve.holds(0.5)
    curve.add(episodes(1, 0), NONE, 2)
    assert curve.holds(1.0) and not curve.holds(1.01)
    curve.add(episodes(0, 20), NONE, 3)
    assert not curve.holds(0.99) and curve.holds(0.98)


def test_a_curve_goes_on_from_its_state() -> None:
    curve = Curve()
    curve.add([*episodes(90, 20), *episodes(3, 1, led=True)], NONE, 700)
    taken_up = Curve()
    taken_up.restore(json.loads(json.dumps(curve.state())))
    assert taken_up.state() == curve.state() and taken_up.episodes == 114
    for one in (curve, taken_up):
        one.add(episodes(60, 0), NONE, 800)
    assert taken_up.student == curve.student and taken_up.steps_to == curve.steps_to == {0.80: 700, 0.95: None}
