"""The mathematics of tuning a teacher: which lessons a step sees, the loss, the descent. No prompt or model is made here.

Loss of a lesson: KL(target || p) + anchor KL(untuned || p), p the teacher's calibrated distribution over the options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coteach.config import TeacherConfig
from coteach.errors import CoteachError
from coteach.teacher.base import Lesson
from coteach.teacher.prompt import Prompt
from coteach.teacher.scoring import Scorer, passes

NEAR_ENOUGH = 0.01  # nats: a step whose lessons are this close to their targets ends the tuning
MAX_GRAD_NORM = 1.0
TOKENS_PER_BACKWARD = 768

Plan = list[list[tuple[int, float]]]
"""For each step, the lessons it sees: (lesson's index, its weight in the step's mean)."""


@dataclass(frozen=True)
class Case:
    """A lesson made ready: `bias`, `target` and `untuned` are (options,) float64."""

    prompt: Prompt
    bias: NDArray[np.float64]
    target: NDArray[np.float64]
    untuned: NDArray[np.float64]
    weight: float


def draw(lessons: Sequence[Lesson], steps: int, situations: int, rng: np.random.Generator) -> Plan:
    """Lessons for each step, drawn by weight with replacement (drawn twice: twice the weight); all where they are few."""
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
    """The lessons that occur in `plan`, in order."""
    return sorted({index for step in plan for index, _ in step})


def renumbered(plan: Plan, kept: Sequence[int]) -> Plan:
    """`plan` with indices into `kept` instead of into all lessons."""
    place = {index: slot for slot, index in enumerate(kept)}
    return [[(place[index], weight) for index, weight in step] for step in plan]


def divergence(cases: Sequence[Case], advice: Sequence[NDArray[np.float64]]) -> float:
    """Weighted mean over `cases` of KL(target || advice), in nats."""
    return _mean(cases, [kl(case.target, p) for case, p in zip(cases, advice, strict=True)])


def drift(cases: Sequence[Case], advice: Sequence[NDArray[np.float64]]) -> float:
    """Weighted mean over `cases` of KL(untuned || advice), in nats."""
    return _mean(cases, [kl(case.untuned, p) for case, p in zip(cases, advice, strict=True)])


def kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """KL(p || q) in nats; q > 0 everywhere, p may have zeros."""
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))


def descend(scorer: Scorer, weights: Mapping[str, Tensor], cases: Sequence[Case], plan: Plan, config: TeacherConfig) -> int:
    """Change `weights` (the scorer's model's LoRA weights) as `plan` says; returns the number of steps taken.

    Lessons whose loss is not finite are left out of their step, a step whose gradient is not finite is not taken.
    """
    leaves = list(weights.values())
    optimiser = torch.optim.AdamW(leaves, lr=config.lora_learning_rate, weight_decay=0.0)
    steps = 0
    for number, step in enumerate(plan):
        # Towards zero: a new AdamW's first steps are large and blind, its last ones should settle.
        optimiser.param_groups[0]["lr"] = config.lora_learning_rate * (1.0 - number / len(plan))
        optimiser.zero_grad(set_to_none=True)
        distance = _accumulate(scorer, [cases[index] for index, _ in step], [weight for _, weight in step], config)
        if distance < NEAR_ENOUGH:
            break
        if bool(torch.isfinite(torch.nn.utils.clip_grad_norm_(leaves, MAX_GRAD_NORM))):
            optimiser.step()
            steps += 1
    optimiser.zero_grad(set_to_none=True)
    return steps


def assign(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write `values` into `weights`, name by name."""
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])


def _accumulate(scorer: Scorer, cases: Sequence[Case], shares: Sequence[float], config: TeacherConfig) -> float:
    """Add the gradient of the step's loss; returns the step's mean KL(target || p)."""
    distance = 0.0
    for pack in passes([case.prompt for case in cases], TOKENS_PER_BACKWARD):
        scores = scorer.score_with_gradient([cases[slot].prompt for slot in pack])
        total = torch.zeros((), dtype=scores[0].dtype, device=scores[0].device)
        for slot, score in zip(pack, scores, strict=True):
            to_target, to_untuned = _losses(score, cases[slot], config.temperature)
            loss = to_target + config.anchor * to_untuned
            if bool(torch.isfinite(loss)):
                total = total + shares[slot] * loss
                distance += shares[slot] * float(to_target.detach())
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
    return distance


def _losses(score: Tensor, case: Case, temperature: float) -> tuple[Tensor, Tensor]:
    """KL(target || p) and KL(untuned || p) of one lesson, differentiable in `score`, the options' raw scores."""
    bias, target, untuned = (
        torch.as_tensor(x, dtype=score.dtype, device=score.device) for x in (case.bias, case.target, case.untuned)
    )
    log_p = torch.log_softmax((score - bias) / temperature, dim=0)
    return _kl(target, log_p), _kl(untuned, log_p)


def _kl(p: Tensor, log_q: Tensor) -> Tensor:
    difference: Tensor = torch.special.xlogy(p, p) - p * log_q
    return difference.sum()


def _mean(cases: Sequence[Case], values: Sequence[float]) -> float:
    return float(np.average(values, weights=[case.weight for case in cases]))


def _require_distribution(lesson: Lesson) -> None:
    target, options = lesson.target, lesson.situation.options
    if target.shape != (len(options),) or not np.isfinite(target).all() or (target < 0).any() or abs(target.sum() - 1) > 1e-6:
        raise CoteachError(
            f"lesson {lesson.situation.text[:60]!r}: its target {target} is no distribution over {len(options)} options"
        )
