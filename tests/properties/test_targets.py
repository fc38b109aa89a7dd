"""From advice over options to what the student learns, for any advice: targets over actions, sharp advice, shaped rewards."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from coteach.config import CollectConfig, GuidanceConfig
from coteach.student.guidance import action_targets, controlled_share, imitation_coefficient, shape_rewards, sharpen

Array = NDArray[np.float64]

ACTIONS = 5

shares = st.floats(1e-3, 1.0)


@st.composite
def advices(draw: st.DrawFn) -> Array:
    """(S, K) distributions over options; slots without an option are 0, and whole rows may be."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    advice = draw(arrays(np.float64, shape, elements=shares)) * draw(arrays(np.bool_, shape))
    normal: Array = advice / np.maximum(advice.sum(axis=1, keepdims=True), 1e-12)
    return normal


@st.composite
def advised(draw: st.DrawFn) -> tuple[Array, NDArray[np.int8]]:
    """Advice, and the action (-1: none) of each option's controller."""
    advice = draw(advices())
    return advice, draw(arrays(np.int8, advice.shape, elements=st.integers(-1, ACTIONS - 1)))


# --- targets over actions ---


@given(advised())
def test_targets_are_the_advice_carried_out_among_what_can_be_followed(given_: tuple[Array, NDArray[np.int8]]) -> None:
    """q(a) = sum over the options whose controller takes a, by a loop; normalised over what can be followed."""
    advice, actions = given_
    targets, there = action_targets(advice, actions, ACTIONS)
    assert targets.dtype == np.float32 and targets.shape == (len(advice), ACTIONS)
    for row in range(len(advice)):
        expected = np.zeros(ACTIONS)
        for share, action in zip(advice[row], actions[row], strict=True):
            if action >= 0:
                expected[action] += share
        assert there[row] == (expected.sum() > 0)
        np.testing.assert_allclose(targets[row], expected / (expected.sum() or 1.0), rtol=1e-5)


@given(advised(), st.floats(0.01, 1.0))
def test_targets_do_not_depend_on_the_scale_of_the_advice(given_: tuple[Array, NDArray[np.int8]], scale: float) -> None:
    advice, actions = given_
    targets, there = action_targets(advice, actions, ACTIONS)
    scaled, still_there = action_targets(scale * advice, actions, ACTIONS)
    np.testing.assert_allclose(scaled, targets, rtol=1e-5)
    np.testing.assert_array_equal(there, still_there)


# --- sharp advice ---


@given(advices(), st.floats(0.25, 8.0))
def test_sharp_advice_is_a_distribution_in_the_order_of_the_advice(advice: Array, power: float) -> None:
    sharp = sharpen(advice, power)
    assert not sharp[advice == 0].any()
    for before, after in zip(advice, sharp, strict=True):
        assert after.sum() == 0 if before.sum() == 0 else np.isclose(after.sum(), 1.0)
        assert (np.diff(after[np.argsort(before)]) >= 0).all()


@given(advices(), st.floats(0.25, 3.0), st.floats(0.25, 3.0))
def test_sharpening_twice_is_sharpening_once_by_the_product(advice: Array, first: float, second: float) -> None:
    np.testing.assert_allclose(sharpen(sharpen(advice, first), second), sharpen(advice, first * second), atol=1e-9)
    np.testing.assert_allclose(sharpen(advice, 1.0), advice, atol=1e-9)


@given(advices(), st.floats(1.0, 6.0), st.floats(0.0, 6.0))
def test_the_higher_the_power_the_more_the_best_option_has(advice: Array, power: float, more: float) -> None:
    assert (sharpen(advice, power + more).max(axis=1) >= sharpen(advice, power).max(axis=1) - 1e-9).all()


# --- shaped rewards ---


@given(st.data(), st.integers(1, 12), st.integers(1, 3), st.floats(0.5, 1.0), st.booleans())
def test_shaping_adds_to_a_return_only_what_hangs_on_its_ends(
    data: st.DataObject, steps: int, envs: int, gamma: float, ends: bool
) -> None:
    """The potentials in between cancel: gamma^T Phi(last) - Phi(first), the former 0 where the episode terminated.

    Whatever an agent does, a terminated episode thus gains -Phi(first): policies keep their order (Ng et al. 1999).
    """
    rewards = data.draw(arrays(np.float32, (steps, envs), elements=st.floats(-1.0, 1.0, width=32)))
    potential = data.draw(arrays(np.float64, (steps + 1, envs), elements=st.floats(0.0, 1.0)))
    terminated = np.zeros((steps, envs), np.bool_)
    terminated[-1] = ends
    discount = gamma ** np.arange(steps)
    gained = discount @ shape_rewards(rewards, potential, terminated, gamma).astype(np.float64) - discount @ rewards
    np.testing.assert_allclose(gained, (not ends) * gamma**steps * potential[-1] - potential[0], atol=1e-5)


# --- how far the student follows ---


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_better_the_student_the_less_it_follows(student: float, better: float, controlled: float) -> None:
    student, better = sorted((student, better))
    follows = [imitation_coefficient(GuidanceConfig(), success, controlled) for success in (better, student)]
    assert 0.0 <= follows[0] <= follows[1] <= 1.0


@given(st.floats(0.0, 1.0))
def test_the_share_of_led_environments_stays_within_what_is_configured(follows: float) -> None:
    config = CollectConfig()
    assert config.led_share_min <= controlled_share(config, follows) <= config.led_share_max
