"""What a tuned LLM learns from one lesson, for any lesson: the scaling of Q, the three losses, the drawing of lessons."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from coteach.config import TeacherConfig
from coteach.grounding.base import Situation
from coteach.teacher.base import Lesson
from coteach.teacher.local import tuning
from coteach.teacher.prompt import Prompt

Array = NDArray[np.float64]

CONFIG = TeacherConfig()

scores = st.floats(-4.0, 4.0)


def softmax(logits: Array) -> Array:
    weight: Array = np.exp(logits - logits.max())
    return weight / weight.sum()


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuning.Case, torch.Tensor]:
    """A lesson over two to six options, and raw scores of the LLM as a leaf of autograd."""
    options = draw(st.integers(2, 6))
    target, untuned, current, now = (draw(arrays(np.float64, options, elements=scores)) for _ in range(4))
    q = draw(arrays(np.float64, options, elements=st.floats(0.0, 1.0)))
    assume(np.ptp(q) > 1e-3)
    prompt = Prompt((1,), tuple((token,) for token in range(2, 2 + options)))
    case = tuning.Case(prompt, np.zeros(options), softmax(target), softmax(untuned), softmax(current), q, 1.0)
    return case, torch.from_numpy(now).requires_grad_()


def gradient(loss: torch.Tensor, leaf: torch.Tensor) -> Array:
    (slope,) = torch.autograd.grad(loss, [leaf])
    return slope.numpy()


@given(cases(), st.floats(0.01, 10.0), st.floats(-5.0, 5.0))
def test_rescaled_q_fills_the_unit_interval_in_its_order(
    given_: tuple[tuning.Case, torch.Tensor], scale: float, shift: float
) -> None:
    q = given_[0].pessimistic_q
    rescaled = tuning.rescaled(q)
    assert rescaled.min() == 0 and rescaled.max() == 1
    assert (np.diff(rescaled[np.argsort(q)]) >= 0).all()
    np.testing.assert_allclose(tuning.rescaled(scale * q + shift), rescaled, atol=1e-6)
    assert not tuning.rescaled(np.full_like(q, shift)).any()


@given(cases())
def test_the_policy_gradient_is_that_of_the_expected_q(given_: tuple[tuning.Case, torch.Tensor]) -> None:
    """d/ds_k of -sum p Q is -p_k (Q_k - sum p Q) by hand, whatever baseline the loss takes away."""
    case, now = given_
    p, q = softmax(now.detach().numpy()), tuning.rescaled(case.pessimistic_q)
    slope = gradient(tuning.policy_gradient(torch.log_softmax(now, 0), case, CONFIG), now)
    np.testing.assert_allclose(slope, -p * (q - p @ q), atol=1e-12)


@given(cases())
def test_distilling_has_the_difference_as_its_gradient(given_: tuple[tuning.Case, torch.Tensor]) -> None:
    case, now = given_
    loss = tuning.distilled(torch.log_softmax(now, 0), case, CONFIG)
    assert loss.item() >= -1e-12
    np.testing.assert_allclose(gradient(loss, now), softmax(now.detach().numpy()) - case.target, atol=1e-12)


@given(cases())
def test_a_preference_moves_two_options_by_the_same_and_no_other(given_: tuple[tuning.Case, torch.Tensor]) -> None:
    case, now = given_
    assume((case.current * (case.target.max() - case.target)).max() > 0)
    slope = gradient(tuning.preferred(torch.log_softmax(now, 0), case, CONFIG), now)
    assert slope[case.target.argmax()] < 0, "the best becomes more probable"
    np.testing.assert_allclose(slope.sum(), 0.0, atol=1e-12)
    assert (np.abs(slope) > 1e-12).sum() == 2


@given(cases())
def test_divergence_is_0_only_from_itself(given_: tuple[tuning.Case, torch.Tensor]) -> None:
    case, _ = given_
    assert tuning.kl(case.target, case.target) == 0
    assert tuning.kl(case.target, case.untuned) >= 0.5 * np.abs(case.target - case.untuned).sum() ** 2 - 1e-12


@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=12), st.integers(1, 6), st.integers(1, 8), st.integers(0, 99))
def test_every_step_sees_lessons_of_weight_1_and_none_that_weighs_nothing(
    weights: list[float], steps: int, situations: int, seed: int
) -> None:
    assume(sum(weights) > 1e-6)
    asked = Situation("You see a ball.", ("explore", "take it"))
    lessons = [Lesson(asked, np.array([0.5, 0.5]), weight=weight) for weight in weights]
    plan = tuning.draw(lessons, steps, situations, np.random.default_rng(seed))
    assert len(plan) == steps
    for step in plan:
        assert len(step) <= situations and np.isclose(sum(weight for _, weight in step), 1.0)
        assert all(weights[index] > 0 for index, _ in step)


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 20))
def test_the_learning_rate_falls_and_a_longer_tuning_has_a_lower_one(lessons: int, tune_steps: int, situations: int) -> None:
    config = TeacherConfig(tune_steps=tune_steps, tune_situations=situations)
    steps = tuning.steps_for(lessons, config)
    rates = [tuning.rate(step, steps, config) for step in range(steps)]
    assert steps >= tune_steps and rates == sorted(rates, reverse=True)
    assert rates[-1] > 0 and rates[0] <= config.lora_learning_rate
