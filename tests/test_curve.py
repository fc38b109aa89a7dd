"""The learning curve: when a success level counts as reached, and when a rung is over."""

from __future__ import annotations

import json

import numpy as np

from coteach.config import EvaluationConfig
from coteach.evaluation.curve import Curve
from coteach.student.rollout import Episode

CONFIG = EvaluationConfig()
NONE = np.zeros(0, dtype=np.int64)
"""No episode under way."""


def episodes(successes: int, failures: int, controlled: bool = False) -> list[Episode]:
    return [Episode(controlled, 1.0, 5)] * successes + [Episode(controlled, 0.0, 5)] * failures


def test_before_the_first_episode_there_is_no_success() -> None:
    assert Curve(CONFIG).student is None and Curve(CONFIG).controlled is None


def evaluate(curve: Curve, *successes: float, begin: int = 100) -> None:
    for number, success in enumerate(successes):
        curve.add_evaluation(begin * (number + 1), success)


def test_a_level_is_reached_once_by_three_greedy_evaluations_in_a_row() -> None:
    curve = Curve(CONFIG)
    evaluate(curve, 0.0, 1.0, 0.4, 1.0, 1.0)
    assert curve.steps_to == {0.80: 400, 0.95: None}, "1.0 + 0.4 + 1.0 are 0.8 on average"
    evaluate(curve, 1.0, 1.0, 0.0, begin=1000)
    assert curve.steps_to == {0.80: 400, 0.95: 1000}


def test_greedy_evaluations_come_after_each_round_at_first_and_then_less_often() -> None:
    curve, taken = Curve(CONFIG), []
    for steps in range(2_000, 1_000_001, 2_000):
        if curve.evaluation_due(steps):
            curve.add_evaluation(steps, 0.0)
            taken.append(steps)
    gaps = np.diff(taken)
    assert taken[0] == 2_000 and set(gaps[:15]) == {2_000}
    assert all(gap <= 0.05 * steps + 2_000 for steps, gap in zip(taken, gaps, strict=False)) and len(taken) < 100


def test_a_rung_is_over_only_when_success_has_held() -> None:
    curve = Curve(CONFIG)
    evaluate(curve, *[1.0] * (CONFIG.held - 1))
    assert not curve.holds(0.5), "too few greedy evaluations"
    curve.add_evaluation(9_000, 0.9)
    assert curve.holds(0.98) and not curve.holds(0.99)


def test_late_episodes_count_as_failures() -> None:
    curve = Curve(CONFIG)
    curve.add_episodes(episodes(CONFIG.window, 0), np.array([3] * 40 + [90] * 50))
    assert curve.student == CONFIG.window / (CONFIG.window + 50), "fifty have taken longer than any success"
    curve.add_episodes(episodes(CONFIG.window, 0), np.array([3] * 90))
    assert curve.student == 1.0


def test_a_curve_goes_on_from_its_state() -> None:
    curve = Curve(CONFIG)
    curve.add_episodes([*episodes(90, 20), *episodes(3, 1, controlled=True)], NONE)
    evaluate(curve, 0.8, 0.9, 0.9)
    taken_up = Curve(CONFIG)
    taken_up.restore(json.loads(json.dumps(curve.state())))
    assert taken_up.episodes == 114
    for one in (curve, taken_up):
        one.add_episodes(episodes(60, 0), NONE)
        evaluate(one, 1.0, 1.0, begin=1_000)
    assert taken_up.student == curve.student and taken_up.points == curve.points
    assert taken_up.steps_to == curve.steps_to == {0.80: 300, 0.95: 2_000}
