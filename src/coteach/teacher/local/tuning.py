"""The mathematics of tuning a local teacher: which lessons a step sees, the loss, and the optimisation.

The loss of a lesson is that of `teacher.tune_method` plus anchor KL(untuned || p), with p the teacher's calibrated distribution
over the options. `distill` moves p towards the improved advice, `pg` along the policy gradient of the evidence, `dpo` from a
wrong option towards the best one. The prompts are made by `teacher.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coteach.config import TeacherConfig
from coteach.errors import CoteachError
from coteach.teacher.base import Lesson
from coteach.teacher.local.scoring import Scorer, in_packs
from coteach.teacher.local.token_budget import Budget, to_tune
from coteach.teacher.prompt import Prompt

Plan = list[list[tuple[int, float]]]
"""For each step the lessons that it sees: (index of the lesson, its weight in the step's mean)."""


@dataclass(frozen=True)
class Case:
    """A lesson ready for tuning. Arrays are (options,) float64.

    bias:    score of each option after an empty situation, for calibration.
    target:  the improved advice p+.
    untuned: advice of the untuned teacher.
    current: advice of the teacher before this tuning.
    pessimistic_q: Q of each option by the evidence, for `pg`.
    weight:  weight of the lesson in the reported means.
    """

    prompt: Prompt
    bias: NDArray[np.float64]
    target: NDArray[np.float64]
    untuned: NDArray[np.float64]
    current: NDArray[np.float64]
    pessimistic_q: NDArray[np.float64]
    weight: float


def steps_for(lessons: int, config: TeacherConfig) -> int:
    """Return the optimiser steps of a tuning: `tune_steps`, or more if so many lessons need more."""
    return max(config.tune_steps, math.ceil(config.tune_passes * lessons / config.tune_situations))


def rate(step: int, steps: int, config: TeacherConfig) -> float:
    """Return the learning rate of a step, counted from 0. It falls linearly to zero.

    A new AdamW takes large first steps before it knows the gradient's scale, and its last steps should converge. A tuning with
    more than `tune_steps` steps takes smaller ones: one of a hundred instead of 12 begins with 0.6 of the learning rate.
    """
    longer = max(1.0, steps / config.tune_steps)
    return float(config.lora_learning_rate * longer**-config.tune_length_decay * (1.0 - step / steps))


def draw(lessons: Sequence[Lesson], steps: int, situations: int, rng: np.random.Generator) -> Plan:
    """Draw the lessons of each step by weight, with replacement (drawn twice counts twice); all of them if they are few."""
    for lesson in lessons:
        _require_distribution(lesson)
    weight = np.array([lesson.weight for lesson in lessons], np.float64)
    if not len(lessons) or not np.isfinite(weight).all() or (weight < 0).any() or weight.sum() == 0:
        raise CoteachError(f"cannot tune on {len(lessons)} lessons: expected at least one, of positive finite weight")
    share = weight / weight.sum()
    if np.count_nonzero(share) <= situations:
        everything = [(int(index), float(share[index])) for index in np.flatnonzero(share)]
        return [everything for _ in range(steps)]
    plan = []
    for _ in range(steps):
        index, count = np.unique(rng.choice(len(share), situations, p=share), return_counts=True)
        plan.append([(int(i), float(c) / situations) for i, c in zip(index, count, strict=True)])
    return plan


def used(plan: Plan) -> list[int]:
    """Return the indices of the lessons that occur in `plan`, in order."""
    return sorted({index for step in plan for index, _ in step})


def renumbered(plan: Plan, kept: Sequence[int]) -> Plan:
    """Return `plan` with indices into `kept` instead of into all lessons."""
    new_index = {old: new for new, old in enumerate(kept)}
    return [[(new_index[index], weight) for index, weight in step] for step in plan]


def divergence(cases: Sequence[Case], advice: Sequence[NDArray[np.float64]]) -> float:
    """Return the weighted mean over `cases` of KL(target || advice), in nats."""
    return _mean(cases, [kl(case.target, p) for case, p in zip(cases, advice, strict=True)])


def drift(cases: Sequence[Case], advice: Sequence[NDArray[np.float64]]) -> float:
    """Return the weighted mean over `cases` of KL(untuned || advice), in nats."""
    return _mean(cases, [kl(case.untuned, p) for case, p in zip(cases, advice, strict=True)])


def kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Return KL(p || q) in nats; q must be > 0 everywhere, p may have zeros."""
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))


def descend(scorer: Scorer, weights: Mapping[str, Tensor], cases: Sequence[Case], plan: Plan, config: TeacherConfig) -> int:
    """Optimise `weights` (the LoRA weights in the scorer's model) along `plan`; return the number of steps taken.

    A lesson whose loss is not finite is left out of its step; a step whose gradient is not finite is skipped.
    """
    leaves, budget = list(weights.values()), to_tune(scorer.model, config.lora_layers)
    optimiser = torch.optim.AdamW(leaves, lr=config.lora_learning_rate, weight_decay=0.0)
    steps = 0
    for number, step in enumerate(plan):
        optimiser.param_groups[0]["lr"] = rate(number, len(plan), config)
        optimiser.zero_grad(set_to_none=True)
        shares = [weight for _, weight in step]
        distance = accumulate(scorer, leaves, [cases[index] for index, _ in step], shares, config, budget)
        if distance < config.tune_near_enough:
            break
        if bool(torch.isfinite(torch.nn.utils.clip_grad_norm_(leaves, config.lora_max_grad_norm))):
            optimiser.step()
            steps += 1
    optimiser.zero_grad(set_to_none=True)
    return steps


def assign(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy `values` into `weights`, by name."""
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])


def accumulate(
    scorer: Scorer,
    leaves: Sequence[Tensor],
    cases: Sequence[Case],
    shares: Sequence[float],
    config: TeacherConfig,
    budget: Budget,
) -> float:
    """Add the gradient of a step's loss to the gradients of `leaves`; return the step's mean KL(target || p).

    Computes as many lessons at once as `budget` allows: the gradient is a sum over lessons, however they are packed.
    """

    def learn(pack: list[int]) -> tuple[float, Sequence[Tensor | None]]:
        scores = scorer.score_with_gradient([cases[slot].prompt for slot in pack])
        total, distance = torch.zeros((), dtype=scores[0].dtype, device=scores[0].device), 0.0
        for slot, score in zip(pack, scores, strict=True):
            loss, to_target = _loss(score, cases[slot], config)
            if bool(torch.isfinite(loss)):
                total = total + shares[slot] * loss
                distance += shares[slot] * to_target
        # Not `backward`: if memory runs out half-way, no leaf may have got its part already.
        return distance, torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else [None] * len(leaves)

    distance = 0.0
    for _, (reached, gradients) in in_packs([case.prompt for case in cases], budget, learn):
        distance += reached
        for leaf, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
    return distance


def _loss(score: Tensor, case: Case, config: TeacherConfig) -> tuple[Tensor, float]:
    """Return a lesson's loss, differentiable in `score` (raw scores of the options), and its KL(target || p)."""
    log_p = torch.log_softmax((score - _like(score, case.bias)) / config.temperature, dim=0)
    loss = METHODS[config.tune_method](log_p, case, config) + config.anchor * _kl(case.untuned, log_p)
    return loss, float(_kl(case.target, log_p.detach()))


def distilled(log_p: Tensor, case: Case, config: TeacherConfig) -> Tensor:
    """Return KL(target || p) in nats, p in its logarithm `log_p`: the distance to the improved advice."""
    return _kl(case.target, log_p)


def policy_gradient(log_p: Tensor, case: Case, config: TeacherConfig) -> Tensor:
    """Return -sum_o p(o) A(o) with A = Q - sum p Q: REINFORCE's gradient, with the sum over options instead of samples.

    Q is scaled to [0, 1], so that the size of the returns in a lesson does not change how fast it is learned. The baseline is
    detached: it changes the loss, not its gradient.
    """
    q = _like(log_p, rescaled(case.pessimistic_q))
    p = log_p.exp()
    loss: Tensor = -(p * (q - (p * q).sum().detach())).sum()
    return loss


def preferred(log_p: Tensor, case: Case, config: TeacherConfig) -> Tensor:
    """Return -log sigmoid(beta (log p(best)/p(wrong) - log q(best)/q(wrong))), q the untuned teacher.

    DPO: Rafailov et al. 2023 (arXiv 2305.18290, eq. 7). The best option is that of the improved advice. The wrong option
    maximises current(o) (target(best) - target(o)): the teacher advises it often, the improved advice does not. As p comes from
    scores divided by the teacher's temperature, beta (`config.dpo_beta`) is per unit of these.
    """
    best = int(np.argmax(case.target))
    wrong = int(np.argmax(case.current * (case.target[best] - case.target)))
    before = float(np.log(case.untuned[best] / case.untuned[wrong]))
    return -torch.nn.functional.logsigmoid(config.dpo_beta * (log_p[best] - log_p[wrong] - before))


METHODS: dict[str, Callable[[Tensor, Case, TeacherConfig], Tensor]] = {
    "distill": distilled,
    "pg": policy_gradient,
    "dpo": preferred,
}
"""Loss of one lesson from the log-probabilities of its options, by the names in `teacher.tune_method`."""


def rescaled(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale `q` to [0, 1]; all 0 if all its values are equal."""
    low, high = q.min(), q.max()
    return (q - low) / (high - low) if high > low else np.zeros_like(q)


def _kl(p: NDArray[np.float64], log_q: Tensor) -> Tensor:
    return torch.nn.functional.kl_div(log_q, _like(log_q, p), reduction="sum")


def _like(tensor: Tensor, values: NDArray[np.float64]) -> Tensor:
    """Return `values` as a tensor of the same type and on the same device as `tensor`."""
    return torch.as_tensor(values, dtype=tensor.dtype, device=tensor.device)


def _mean(cases: Sequence[Case], values: Sequence[float]) -> float:
    return float(np.average(values, weights=[case.weight for case in cases]))


def _require_distribution(lesson: Lesson) -> None:
    target, q, options = lesson.target, lesson.pessimistic_q, lesson.situation.options
    if q is not None and (q.shape != target.shape or not np.isfinite(q).all()):
        raise CoteachError(f"lesson {lesson.situation.text[:60]!r}: its Q {q} must be one finite number for each option")
    if target.shape != (len(options),) or not np.isfinite(target).all() or (target < 0).any() or abs(target.sum() - 1) > 1e-6:
        raise CoteachError(
            f"lesson {lesson.situation.text[:60]!r}: its target {target} is not a distribution over {len(options)} options"
        )
