"""The student's learning: PPO (Schulman et al. 2017, arXiv 1707.06347) with the teacher's guidance in the same loss.

Pure functions for the mathematics: advantages (GAE, Schulman et al. 2016, arXiv 1506.02438), the PPO loss, the guidance
loss `weight * KL(q || pi)`. `Learner` owns what changes: network, optimiser, generator. Left out because nothing here
needs it: value clipping, learning-rate schedules, early stopping on KL.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def gae(
    rewards: NDArray[np.float32],
    values: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    gamma: float,
    lam: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Advantages and returns (advantage + value), both (T, N) float32.

    Row t is the transition from observation t to observation t + 1; `values` is (T + 1, N), of all T + 1 observations,
    everything else (T, N). An episode that ended with row t has its terminal observation at t + 1: worth nothing where
    it terminated, worth its value where it was only truncated. The transition out of it is a reset, not `valid`: its
    advantage is 0, and nothing passes through it.
    """
    carries_on = ~(terminated | truncated)
    delta = rewards + gamma * values[1:] * ~terminated - values[:-1]
    advantages = np.zeros_like(rewards, dtype=np.float32)
    later = np.zeros(rewards.shape[1], dtype=np.float32)
    for t in range(len(rewards) - 1, -1, -1):
        later = np.where(valid[t], delta[t] + gamma * lam * carries_on[t] * later, np.float32(0))
        advantages[t] = later
    return advantages, advantages + values[:-1]


def ppo_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate loss, a scalar, with `approx_kl` and `clipfrac`; everything given is (B,).

    Advantages are normalised within the minibatch, as in Stable-Baselines3 and CleanRL.
    """
    if len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = logprobs - old_logprobs
    ratio = log_ratio.exp()
    loss = -mean_or_zero(torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)))
    with torch.no_grad():
        clipped = ((ratio - 1).abs() > clip).float()
        return loss, {"approx_kl": mean_or_zero(ratio - 1 - log_ratio), "clipfrac": mean_or_zero(clipped)}


def divergence(log_policy: Tensor, target: Tensor) -> Tensor:
    """KL(target || pi) of each row in nats, (B,): log_policy and target are (B, A)."""
    return (torch.xlogy(target, target) - target * log_policy).sum(dim=-1)


def explained_variance(values: NDArray[np.float32], returns: NDArray[np.float32]) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant; 0 where returns are constant."""
    variance = float(returns.var()) if len(returns) else 0.0
    return 1.0 - float((returns - values).var()) / variance if variance > 0 else 0.0


def mean_or_zero(x: Tensor) -> Tensor:
    """Return the mean, a scalar; 0 over no rows: a round may have none in which the student acted."""
    return x.sum() / max(x.numel(), 1)
