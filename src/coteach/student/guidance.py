"""Guidance (teacher -> student): turns advice over options into target probabilities over primitive actions. Pure functions.

The student imitates `q(a|x) = sum_o p^(o|c) pi_o(a|x)`, where p^ is the sharpened improved advice for the situation c, and pi_o
is the controller of option o. The imitation coefficient falls as the student catches up with the teacher-controlled episodes.
In a situation where the student's own value exceeds the advice's, it does not imitate (`Student.surpasses`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coteach.config import CollectConfig, GuidanceConfig

Array = NDArray[np.float64]


def sharpen(advice: Array, power: float) -> Array:
    """Raise the rows of `advice` (S, K) to `power` and normalise them; rows without options stay 0."""
    peak = advice.max(axis=1, keepdims=True, initial=0.0)
    raised = (advice / np.maximum(peak, 1e-12)) ** power
    raised[advice <= 0] = 0.0
    sharp: Array = raised / np.maximum(raised.sum(axis=1, keepdims=True), 1e-12)
    return sharp


def action_targets(advice: Array, actions: NDArray[np.int8], num_actions: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the target probabilities q (B, A) float32 over actions, and a mask (B,) of the rows that have a target.

    advice: (B, K) sharpened advice for the rows' situations; actions: (B, K) the controllers' actions, -1 for none. The
    probability of options whose controller has no action is shared among the other options in proportion to their own.
    """
    usable = np.where(actions >= 0, advice, 0.0)
    rows = np.repeat(np.arange(len(advice)), advice.shape[1])
    flat = rows * num_actions + np.maximum(actions, 0).ravel()
    q = np.bincount(flat, usable.ravel(), len(advice) * num_actions).reshape(len(advice), num_actions)
    total = q.sum(axis=1, keepdims=True)
    return (q / np.maximum(total, 1e-12)).astype(np.float32), total[:, 0] > 1e-6


def shape_rewards(
    rewards: NDArray[np.float32], potential: Array, terminated: NDArray[np.bool_], gamma: float
) -> NDArray[np.float32]:
    """Return shaped rewards (T, N) float32: r + gamma Phi(c') - Phi(c), where Phi is 0 after termination.

    potential: (T + 1, N) Phi, the value of the situations under the advice, which rises when an advised option completes.
    Potential-based shaping does not change the optimal policy (Ng et al. 1999, "Policy invariance under reward transformations").
    """
    gained = gamma * potential[1:] * ~terminated - potential[:-1]
    return (rewards + gained).astype(np.float32)


def imitation_coefficient(config: GuidanceConfig, student: float | None, controlled: float | None) -> float:
    """Return the imitation coefficient, in [0, 1]: how strongly the student imitates the advice.

    student, controlled: success of student-controlled and of teacher-controlled episodes in [0, 1]; None before any has ended.

    It is 1 while the student is far behind the teacher-controlled episodes or both fail, and falls as the student catches up. It
    stays at `config.least_coefficient` even where the student is better, because a greedy student may repeat itself for ever and
    controllers do not. It is 0 where the teacher-controlled episodes succeed much less often than the student's.
    """
    if student is None or controlled is None or max(student, controlled) <= config.failing:
        return 1.0
    behind = (controlled - student) / max(controlled, config.failing)
    least = config.least_coefficient if controlled >= config.useful_share * student else 0.0
    return float(np.clip(config.slope * behind, least, 1.0))


def controlled_share(config: CollectConfig, imitation_coefficient: float) -> float:
    """Return the share of environments that the teacher controls, linear in the imitation coefficient, in [0, 1]."""
    return config.led_share_min + (config.led_share_max - config.led_share_min) * imitation_coefficient
