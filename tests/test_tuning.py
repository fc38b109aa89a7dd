"""The three ways to tune: each makes the option that the evidence is for more probable, in its own manner."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import tiny_lm
from coteach.config import TUNE_METHODS, TeacherConfig
from coteach.errors import CoteachError
from coteach.grounding.base import Situation
from coteach.teacher.base import Lesson
from coteach.teacher.local import tuning
from coteach.teacher.local.teacher import LocalTeacher
from coteach.teacher.prompt import Prompt

SITUATIONS = [
    Situation("You see a ball.", ("explore", "take the ball", "drop it")),
    Situation("You see a key.", ("explore", "take the key", "drop it", "wait")),
]
LESSONS = [
    Lesson(SITUATIONS[0], np.array([0.1, 0.8, 0.1]), pessimistic_q=np.array([0.5, 0.9, 0.4])),
    Lesson(SITUATIONS[1], np.array([0.1, 0.1, 0.1, 0.7]), pessimistic_q=np.array([0.2, 0.1, 0.3, 0.6])),
]
CASE = tuning.Case(
    Prompt((1,), ((2,), (3,), (4,))),
    np.zeros(3),
    target=np.array([0.7, 0.2, 0.1]),
    untuned=np.array([0.2, 0.3, 0.5]),
    current=np.array([0.2, 0.3, 0.5]),
    pessimistic_q=np.array([0.9, 0.5, 0.1]),
    weight=1.0,
)


def log_p(p):
    return torch.tensor(np.log(p), requires_grad=True)


def teacher(method):
    config = TeacherConfig(device="cpu", tune_method=method, lora_rank=4, lora_learning_rate=2e-2, tune_steps=15, anchor=0.0)
    return LocalTeacher(tiny_lm.loaded(), config)


@pytest.mark.parametrize("method", TUNE_METHODS)
def test_every_method_makes_what_worked_more_probable(method: str) -> None:
    tuned = teacher(method)
    before = tuned.advise(SITUATIONS)
    tuned.tune(LESSONS, seed=0)
    for lesson, was, now in zip(LESSONS, before, tuned.advise(SITUATIONS), strict=True):
        best = lesson.target.argmax()
        assert now[best] > was[best] + 0.1 and now.argmax() == best


def test_every_method_that_can_be_configured_exists() -> None:
    assert tuple(tuning.METHODS) == TUNE_METHODS


def test_the_policy_gradient_is_that_of_the_expected_worth() -> None:
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    tuning.policy_gradient(torch.log_softmax(logits, 0), CASE, TeacherConfig()).backward()
    again = logits.detach().clone().requires_grad_(True)
    expected = (torch.softmax(again, 0) * torch.tensor(tuning.rescaled(CASE.pessimistic_q))).sum()
    (gradient,) = torch.autograd.grad(-expected, [again])
    assert logits.grad is not None and gradient.abs().max() > 0.05
    assert_allclose(logits.grad.numpy(), gradient.numpy(), atol=1e-12)


def test_how_much_return_is_at_stake_does_not_change_what_is_learned_from_it() -> None:
    small = replace(CASE, pessimistic_q=0.5 + 0.01 * CASE.pessimistic_q)
    losses = [tuning.policy_gradient(log_p(CASE.current), case, TeacherConfig()).item() for case in (CASE, small)]
    assert_allclose(*losses, atol=1e-9)
    flat = replace(CASE, pessimistic_q=np.full(3, 0.4))
    assert tuning.policy_gradient(log_p(CASE.current), flat, TeacherConfig()).item() == 0.0


def test_preferences_begin_at_the_reference_and_reject_the_most_probable_wrong_option() -> None:
    scores = log_p(CASE.untuned)
    loss = tuning.preferred(scores, CASE, TeacherConfig())
    assert_allclose(loss.item(), np.log(2))
    loss.backward()
    assert scores.grad is not None
    assert_allclose(scores.grad.numpy(), TeacherConfig().dpo_beta * np.array([-0.5, 0.0, 0.5]))


def test_an_option_as_good_as_the_best_is_not_rejected() -> None:
    scores = log_p(CASE.untuned)
    tuning.preferred(scores, replace(CASE, target=np.array([0.45, 0.1, 0.45])), TeacherConfig()).backward()
    assert scores.grad is not None
    assert_allclose(scores.grad.numpy(), TeacherConfig().dpo_beta * np.array([-0.5, 0.5, 0.0]))


def test_a_lesson_without_worth_is_taught_by_its_target() -> None:
    bare = [replace(lesson, pessimistic_q=None) for lesson in LESSONS]
    same = [replace(lesson, pessimistic_q=lesson.target) for lesson in LESSONS]
    one, other = teacher("pg"), teacher("pg")
    one.tune(bare, seed=0), other.tune(same, seed=0)
    assert one.lm.adapter.fingerprint() == other.lm.adapter.fingerprint()


@pytest.mark.parametrize("q", [[0.5, 0.5], [0.5, np.nan, 0.5]])
def test_a_q_that_is_not_one_number_for_each_option_is_refused(q: list[float]) -> None:
    with pytest.raises(CoteachError, match="must be one finite number for each option"):
        teacher("pg").tune([replace(LESSONS[0], pessimistic_q=np.array(q))], seed=0)


def test_many_lessons_take_more_steps_and_smaller_ones() -> None:
    config = TeacherConfig(tune_steps=12, tune_situations=6, lora_learning_rate=1e-3)
    assert [tuning.steps_for(lessons, config) for lessons in (1, 24, 240)] == [12, 12, 100]
    assert tuning.rate(0, 12, config) == 1e-3
    assert 0.0 < tuning.rate(99, 100, config) < tuning.rate(0, 100, config) < 1e-3
