"""The learning curve: when a level counts as reached, and when a rung is over."""

from __future__ import annotations

import json

import pytest

from coteach.curve import HELD_WINDOW, WINDOW, Curve
from coteach.student.rollout import Episode


class Episodes:
    """Numbers them in the order in which they are asked for."""

    def __init__(self) -> None:
        self.begun = {False: 0, True: 0}

    def __call__(self, successes: int, failures: int, led: bool = False) -> list[Episode]:
        first = self.begun[led]
        self.begun[led] += successes + failures
        return [Episode(led, first + i, float(i < successes), 5) for i in range(successes + failures)]


@pytest.fixture
def episodes() -> Episodes:
    return Episodes()


def test_quick_successes_do_not_count_before_the_failures_that_began_with_them(episodes: Episodes) -> None:
    curve = Curve()
    slow, quick = episodes(0, 1), episodes(WINDOW, 0)
    curve.add(quick, 100)
    assert curve.student is None
    curve.add(slow, 900)
    assert curve.student == 1.0 and curve.steps_to == {0.80: 900, 0.95: 900}


def test_before_the_first_episode_there_is_no_success() -> None:
    assert Curve().student is None and Curve().led is None


def test_a_level_is_reached_once_and_by_the_student_alone(episodes: Episodes) -> None:
    curve = Curve()
    curve.add(episodes(WINDOW, 0, led=True), 100)
    assert curve.led == 1.0 and curve.steps_to == {0.80: None, 0.95: None}
    curve.add(episodes(WINDOW - 1, 0), 200)
    assert curve.steps_to[0.80] is None, "too few episodes to tell"
    curve.add(episodes(0, 10), 300)
    assert curve.steps_to == {0.80: 300, 0.95: None}
    curve.add(episodes(WINDOW, 0), 400)
    curve.add(episodes(0, WINDOW), 500)
    assert curve.student == 0.0 and curve.steps_to == {0.80: 300, 0.95: 400}


def test_a_rung_is_over_only_when_success_has_held(episodes: Episodes) -> None:
    curve = Curve()
    curve.add(episodes(HELD_WINDOW - 1, 0), 1)
    assert not curve.holds(0.5)
    curve.add(episodes(1, 0), 2)
    assert curve.holds(1.0) and not curve.holds(1.01)
    curve.add(episodes(0, 20), 3)
    assert not curve.holds(0.99) and curve.holds(0.98)


def test_a_curve_goes_on_from_its_state(episodes: Episodes) -> None:
    curve = Curve()
    curve.add([*episodes(90, 20), *episodes(3, 1, led=True)], 700)
    taken_up = Curve()
    taken_up.restore(json.loads(json.dumps(curve.state())))
    assert taken_up.state() == curve.state() and taken_up.episodes == 114
    curve.add(episodes(60, 0), 800)
    taken_up.add(Episodes()(60, 0), 800)
    assert taken_up.student == curve.student and taken_up.steps_to == curve.steps_to == {0.80: 700, 0.95: None}
