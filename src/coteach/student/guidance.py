"""Teacher -> student: from advice over options to target probabilities over primitive actions.

The student imitates `q(a|x) = sum_o p^(o|c) pi_o(a|x)`: the improved advice made sharp, carried out by the
controllers. How much it heeds them falls as it catches up, and ends in a situation where its own
value beats the advice's. Pure functions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coteach.config import CollectConfig, GuidanceConfig

Array = NDArray[np.float64]


def sharpen(advice: Array, power: float) -> Array:
    """Rows of `advice` (S, K) raised to `power` and normalised; rows without options stay 0."""
    peak = advice.max(axis=1, keepdims=True, initial=0.0)
    raised = (advice / np.maximum(peak, 1e-12)) ** power
    raised[advice <= 0] = 0.0
    sharp: Array = raised / np.maximum(raised.sum(axis=1, keepdims=True), 1e-12)
    return sharp


def action_targets(advice: Array, actions: NDArray[np.int8], num_actions: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """q (B, A) float32 and whether a row has one at all.

    advice: (B, K) sharp advice for the rows' situations; actions: (B, K) the controllers' actions, -1 for none.
    Advice on options that cannot be followed now is shared among those that can.
    """
    usable = np.where(actions >= 0, advice, 0.0)
    rows = np.repeat(np.arange(len(advice)), advice.shape[1])
    flat = rows * num_actions + np.maximum(actions, 0).ravel()
    q = np.bincount(flat, usable.ravel(), len(advice) * num_actions).reshape(len(advice), num_actions)
    total = q.sum(axis=1, keepdims=True)
    return (q / np.maximum(total, 1e-12)).astype(np.float32), total[:, 0] > 1e-6


def shaped(rewards: NDArray[np.float32], potential: Array, terminated: NDArray[np.bool_], gamma: float) -> NDArray[np.float32]:
    """Rewards (T, N) with what is gained in potential: r + gamma Phi(c') - Phi(c), Phi = 0 once it has terminated.

    potential: (T + 1, N) what the situations are worth under the advice: it rises where an advised option completes. The
    optimal policy stays what it was (Ng et al. 1999, "Policy invariance under reward transformations").
    """
    gained = gamma * potential[1:] * ~terminated - potential[:-1]
    return (rewards + gained).astype(np.float32)


def imitation_coefficient(config: GuidanceConfig, student: float | None, controlled: float | None) -> float:
    """How far the student still follows, in [0, 1]: 1 while far below the led ones or both fail, 0 once it has outgrown them.

    In between `least_coefficient` stays, also where the student is better: what the controllers do never runs in circles, and a
    greedy student may. Where the advice is wrong, the situation itself says so (`StudentSide.surpasses`).
    student, led: success of the student's own and of teacher-controlled episodes in [0, 1], None while no episode has ended.
    """
    if student is None or controlled is None or max(student, controlled) <= config.failing:
        return 1.0
    behind = (controlled - student) / max(controlled, config.failing)
    least = config.least_coefficient if controlled >= config.useful_share * student else 0.0
    return float(np.clip(config.slope * behind, least, 1.0))


def led_share(config: CollectConfig, imitation_coefficient: float) -> float:
    """Share of the environments that the teacher leads: shrinks from its maximum to its minimum with `heed`."""
    return config.led_share_min + (config.led_share_max - config.led_share_min) * imitation_coefficient
