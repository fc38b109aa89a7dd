"""Guidance turns advice over options into target probabilities over actions; the imitation coefficient falls with success."""

import numpy as np
import pytest

from coteach.config import CollectConfig, GuidanceConfig
from coteach.student import guidance

CONFIG = GuidanceConfig()


def test_options_whose_controllers_agree_add_up() -> None:
    q, there = guidance.action_targets(np.array([[0.5, 0.3, 0.2]]), np.array([[2, 2, 0]], np.int8), 4)
    assert there.all()
    assert q[0] == pytest.approx([0.2, 0.0, 0.8, 0.0])


def test_advice_that_cannot_be_followed_now_is_shared_among_what_can() -> None:
    q, there = guidance.action_targets(np.array([[0.5, 0.3, 0.2]]), np.array([[-1, 2, 0]], np.int8), 4)
    assert q[0] == pytest.approx([0.4, 0.0, 0.6, 0.0])
    q, there = guidance.action_targets(np.array([[1.0, 0.0, 0.0]]), np.array([[-1, 2, 0]], np.int8), 4)
    assert not there[0] and not q.any()


def test_sharp_advice_keeps_its_order_and_ignores_empty_slots() -> None:
    advice = np.array([[0.4, 0.35, 0.25, 0.0], [0.0, 0.0, 0.0, 0.0]])
    sharp = guidance.sharpen(advice, 4.0)
    assert sharp[0].sum() == pytest.approx(1.0) and sharp[0, 3] == 0.0
    assert (np.diff(sharp[0]) < 0).all() and sharp[0, 0] > advice[0, 0]
    assert not sharp[1].any()
    assert np.allclose(guidance.sharpen(advice, 1.0), advice)


def test_the_imitation_coefficient_falls_to_0_as_the_student_catches_up() -> None:
    coefficients = [guidance.imitation_coefficient(CONFIG, student, 0.4) for student in (0.0, 0.2, 0.3, 0.4, 0.9)]
    assert coefficients[0] == 1.0 and coefficients[-1] == 0.0
    assert coefficients == sorted(coefficients, reverse=True)
    assert guidance.imitation_coefficient(CONFIG, None, None) == 1.0


def test_a_better_student_still_imitates_advice_that_is_mostly_right() -> None:
    assert (
        guidance.imitation_coefficient(CONFIG, 0.98, 0.82)
        == guidance.imitation_coefficient(CONFIG, 0.8, 0.8)
        == CONFIG.least_coefficient
    )


def test_a_failing_teacher_is_imitated_only_while_the_student_fails_too() -> None:
    assert guidance.imitation_coefficient(CONFIG, 0.0, 0.0) == guidance.imitation_coefficient(CONFIG, 0.04, 0.02) == 1.0
    assert guidance.imitation_coefficient(CONFIG, 0.5, 0.0) == guidance.imitation_coefficient(CONFIG, 0.5, 0.04) == 0.0


def test_the_teacher_controls_fewer_episodes_as_the_student_catches_up() -> None:
    config = CollectConfig()
    assert guidance.controlled_share(config, 1.0) == config.led_share_max
    assert guidance.controlled_share(config, 0.0) == config.led_share_min
