"""One step of the student's optimiser on one minibatch: the losses, their gradient, clipping, Adam.

The loss is PPO's on the student's own rows, the critic's error on own and controlled rows, and the guidance and imitation losses
`weight * KL(q || pi)` on own and replayed rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from coteach.config import StudentConfig
from coteach.student.batch import Rows
from coteach.student.network import ActorCritic, Features
from coteach.student.ppo import divergence, mean_or_zero, ppo_loss

MEASURES = (
    "policy_loss", "value_loss", "entropy", "guidance_loss", "imitation_loss", "approx_kl", "clipfrac", "guidance_kl",
    "grad_norm",
)  # fmt: skip
"""What a step measures, in this order."""


class Minibatch(NamedTuple):
    """What belongs to the rows of one step, beside the network's answers to them.

    actions: (O,) int64, logprobs, advantages: (O,) float32, of the student's own rows, as in `batch.Batch`.
    returns: (V,) float32, of controlled and own rows. target: (O + M, A) and weight: (O + M,) float32, of own and replayed rows.
    habits:  (O + M, A) float32, what habits add to the logits of these.
    """

    actions: Tensor
    logprobs: Tensor
    advantages: Tensor
    returns: Tensor
    target: Tensor
    weight: Tensor
    habits: Tensor


def minibatch_loss(logits: Tensor, values: Tensor, rows: Minibatch, config: StudentConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss that a step descends, a scalar, and the `MEASURES` but for the norm of its gradient.

    logits: (O + M, A) of own and replayed rows; values: (V,) of controlled and own rows.
    """
    own = len(rows.actions)
    log_policy = F.log_softmax(logits[:own], dim=-1)
    taken = log_policy.gather(1, rows.actions[:, None])[:, 0]
    policy_loss, measures = ppo_loss(taken, rows.logprobs, rows.advantages, config.clip)
    entropy = mean_or_zero(-(log_policy.exp() * log_policy).sum(dim=-1))
    value_loss = mean_or_zero((values - rows.returns) ** 2)
    # Imitated without the habits: who went in circles would learn from the advice to go on against the habit.
    learned = F.log_softmax(logits - rows.habits, dim=-1)
    far = divergence(learned, rows.target)
    guidance_loss, imitation_loss = (mean_or_zero(part) for part in torch.tensor_split(rows.weight * far, [own]))
    losses = measures | {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "guidance_loss": guidance_loss,
        "imitation_loss": imitation_loss,
        "guidance_kl": mean_or_zero(far[:own][rows.weight[:own] > 0]),
    }
    advised = guidance_loss + imitation_loss
    return policy_loss + config.value_weight * value_loss - config.entropy * entropy + advised, losses


class OptimizerStep:
    """Takes the optimiser steps of one update on `rows`, whatever the student sees and whatever it runs on."""

    def __init__(self, network: ActorCritic, optimizer: torch.optim.Adam, config: StudentConfig, rows: Rows) -> None:
        self.network, self.optimizer, self.config, self.rows = network, optimizer, config, rows

    def __call__(self, controlled: Tensor, own: Tensor, replayed: Tensor) -> NDArray[np.float64]:
        """Take one step on the rows at these indices, int64, among the controlled, own and replayed ones; return the `MEASURES`.

        Where one of these, (9,) float64, is not finite the weights stay as they were.
        """
        loss, losses = self.loss(controlled, own, replayed)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
        measures = torch.stack([*(losses[name].detach() for name in MEASURES[:-1]), norm]).double().cpu().numpy()
        if np.isfinite(measures).all():
            self.optimizer.step()
        return measures

    def loss(self, controlled: Tensor, own: Tensor, replayed: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what `minibatch_loss` does, of these rows."""
        features, minibatch = self.gather(controlled, own, replayed)
        # One forward pass: controlled rows need no logits, replayed ones no values.
        acting, valued = slice(len(controlled), None), slice(len(controlled) + len(own))
        logits, values = self.network(features, acting, valued)
        return minibatch_loss(logits, values, minibatch, self.config)

    def gather(self, controlled: Tensor, own: Tensor, replayed: Tensor) -> tuple[Features, Minibatch]:
        """Return the features of these rows, in this order, and what belongs to them."""
        rows, count = self.rows, len(self.rows.actions)
        features = rows.features.rows(torch.cat([controlled, rows.controlled + own, rows.controlled + count + replayed]).numpy())
        valued, guided = torch.cat([controlled, rows.controlled + own]), torch.cat([own, count + replayed])
        valued, guided, own = (at.to(rows.actions.device) for at in (valued, guided, own))
        of_own = (rows.actions[own], rows.logprobs[own], rows.advantages[own])
        habits = self.network.habitual(features)[len(controlled) :]
        return features, Minibatch(*of_own, rows.returns[valued], rows.target[guided], rows.weight[guided], habits)
