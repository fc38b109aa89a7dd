"""The student's learning: PPO (Schulman et al. 2017, arXiv 1707.06347) with the teacher's guidance in the same loss.

Pure functions for the mathematics: advantages (GAE, Schulman et al. 2016, arXiv 1506.02438), the PPO loss, the guidance
loss `weight * KL(q || pi)`. `Learner` owns what changes: network, optimiser, generator. Left out because nothing here
needs it: value clipping, learning-rate schedules, early stopping on KL.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from coteach import tensors
from coteach.config import StudentConfig
from coteach.errors import CoteachError
from coteach.finite import NotFinite
from coteach.grounding.base import Layout
from coteach.machine import torch_device
from coteach.student.network import ActorCritic, read

WEIGHTS_FILE = "student.safetensors"
SIZES_FILE = "student.json"
FORWARD_ROWS = 4096
"""Rows per forward pass where no gradient is needed: bounds the memory."""


@dataclass
class Batch:
    """The rows of one round, flattened.

    features:   (R, F), laid out as the student's `Layout` says, of student-led rows, as is all that follows.
    actions:    (R,) int64.
    logprobs:   (R,) float32, of `actions` under the policy that took them.
    values:     (R,) float32, the critic's opinion then.
    advantages: (R,) float32, not normalised.
    returns:    (R,) float32, what the critic is regressed to.
    target:     (R, A) float32, the guidance q; rows sum to 1.
    weight:     (R,) float32, lambda of each row; 0 where nothing guides.
    value_features, value_returns: (V, F) and (V,) float32, further (teacher-led) rows for the critic only.
    """

    features: NDArray[Any]
    actions: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    values: NDArray[np.float32]
    advantages: NDArray[np.float32]
    returns: NDArray[np.float32]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]
    value_features: NDArray[Any] | None = None
    value_returns: NDArray[np.float32] | None = None


@dataclass
class Imitation:
    """Replayed rows to distil: features (M, F), target (M, A) float32, weight (M,) float32."""

    features: NDArray[Any]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]


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
    loss, slope, measures = surrogate(logprobs.detach(), old_logprobs, advantages, clip)
    return loss + (slope * (logprobs - logprobs.detach())).sum(), measures


def surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """`ppo_loss` without autograd: the loss, its derivative by each of `logprobs` (B,), and the measures."""
    if len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = logprobs - old_logprobs
    ratio = log_ratio.exp()
    free, held = advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)
    slope = free * (free <= held) / -max(len(free), 1)
    clipped = ((ratio - 1).abs() > clip).float()
    return -_mean(torch.min(free, held)), slope, {"approx_kl": _mean(ratio - 1 - log_ratio), "clipfrac": _mean(clipped)}


def divergence(log_policy: Tensor, target: Tensor) -> Tensor:
    """KL(target || pi) of each row in nats, (B,): log_policy and target are (B, A).

    Its derivative by the logits is pi - target, where the target's rows sum to 1.
    """
    return (torch.xlogy(target, target) - target * log_policy).sum(dim=-1)


def explained_variance(values: NDArray[np.float32], returns: NDArray[np.float32]) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant; 0 where returns are constant."""
    variance = float(returns.var()) if len(returns) else 0.0
    return 1.0 - float((returns - values).var()) / variance if variance > 0 else 0.0


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """So few rows gain little from more, and where cores are shared with others threads wait up to 50 ms for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Learner:
    """The student: acts, and learns from batches. Everything random in it comes from `seed`."""

    def __init__(
        self, config: StudentConfig, layout: Layout, num_actions: int, seed: int, habits: NDArray[np.float32] | None = None
    ) -> None:
        self.config, self.layout = config, layout
        self.sizes: dict[str, Any] = {"feature_size": layout.size, "num_actions": num_actions, "hidden": config.hidden}
        if not layout.binary:
            self.sizes |= {"numbers": layout.numbers, "pictures": [list(shape) for shape in layout.pictures]}
        self.device = torch_device(config.device)
        self._generator = torch.Generator().manual_seed(seed)
        self.network = ActorCritic(layout, num_actions, config.hidden, self._generator, habits).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)

    @_one_thread()
    def act(self, features: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Sampled actions (N,) int64, their log-probabilities (N,) and the values (N,) float32 of features (N, F)."""
        logits, values = self._forward(features)
        logprobs = F.log_softmax(logits, dim=-1)
        threshold = torch.rand(len(logits), 1, generator=self._generator)
        # The sum may round to less than the threshold: the last action then.
        actions = (logprobs.exp().cumsum(dim=-1) < threshold).sum(dim=-1).clamp_(max=logits.shape[1] - 1)
        chosen = logprobs.gather(1, actions[:, None])[:, 0]
        return actions.numpy(), chosen.numpy(), values.numpy()

    @_one_thread()
    def greedy(self, features: NDArray[Any]) -> NDArray[np.int64]:
        """The most probable action (N,) int64 of features (N, F)."""
        actions: NDArray[np.int64] = self._forward(features)[0].argmax(dim=-1).numpy()
        return actions

    @_one_thread()
    def probabilities(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """The policy (N, A) float32 on features (N, F)."""
        policy: NDArray[np.float32] = self._forward(features)[0].softmax(dim=-1).numpy()
        return policy

    @_one_thread()
    def values(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """The critic's values (N,) float32 of features (N, F)."""
        values: NDArray[np.float32] = self._forward(features)[1].numpy()
        return values

    @_one_thread()
    def update(self, batch: Batch, replay: Callable[[int], Imitation] | None = None) -> dict[str, float]:
        """Learn from one round: `epochs` passes of PPO with guidance, replayed rows distilled beside them in each step.

        `replay` gives the replayed rows that belong beside so many rows of PPO; it is asked once, for all passes. Returns
        the means over the optimiser steps of policy_loss, value_loss, entropy, approx_kl, clipfrac, guidance_loss,
        guidance_kl (KL(q || pi) over the guided rows), imitation_loss and grad_norm, and explained_variance before the update.
        Raises NotFinite, with the weights as they were before the step, where a loss or the gradient is not finite.
        """
        imitation = replay(self.config.epochs * len(batch.actions)) if replay else None
        rows = _Rows(batch, imitation, self.layout, self.device)
        seen: list[dict[str, Tensor]] = []
        for led, own, replayed in self._minibatches(rows):
            seen.append(self._step(rows, led, own, replayed))
        self.network.adapt(batch.features)  # only now: the ratio is to the policy that took the actions
        means = {name: float(torch.stack([step[name] for step in seen]).mean()) for name in seen[0]}
        return {**means, "explained_variance": explained_variance(batch.values, batch.returns)}

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, optimiser and generator as named tensors; none of them is shared with the learner."""
        state = tensors.prefixed("network.", self.network.state_dict())
        state |= tensors.prefixed("optimizer.", tensors.moments(self.optimizer))
        state["generator"] = self._generator.get_state()
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up what `state_dict` gave: the learner then goes on as that one would have."""
        self.network.load_state_dict(tensors.under("network.", state))
        tensors.restore_moments(self.optimizer, tensors.under("optimizer.", state))
        self._generator.set_state(state["generator"])

    def save(self, folder: Path) -> None:
        """Write the state into `folder` as safetensors, and the sizes as JSON."""
        tensors.write(folder / WEIGHTS_FILE, self.state_dict())
        (folder / SIZES_FILE).write_text(json.dumps(self.sizes) + "\n")

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote; CoteachError where there is no student of these sizes."""
        try:
            sizes = json.loads((folder / SIZES_FILE).read_text())
        except (OSError, ValueError) as error:
            raise CoteachError(f"student in {folder}: cannot be read ({error}); expected a checkpoint's student") from error
        if sizes != self.sizes:
            raise CoteachError(f"student in {folder}: has {sizes}, expected {self.sizes}; use the run's own configuration")
        self.load_state_dict(tensors.read(folder / WEIGHTS_FILE))

    @torch.inference_mode()
    def _forward(self, features: NDArray[Any]) -> tuple[Tensor, Tensor]:
        """Logits (N, A) and values (N,) on the processor."""
        if len(features) <= FORWARD_ROWS:
            logits, values = self.network(read(self.layout, features))
            return logits.cpu(), values.cpu()
        parts = [self._forward(features[i : i + FORWARD_ROWS]) for i in range(0, len(features), FORWARD_ROWS)]
        return torch.cat([logits for logits, _ in parts]), torch.cat([values for _, values in parts])

    def _minibatches(self, rows: _Rows) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Indices of the led, own and replayed rows of each step: passes in random order, in shares as equal as can be."""
        parts = max(1, round(len(rows.actions) / self.config.minibatch))
        replayed = iter(torch.arange(rows.replayed).tensor_split(self.config.epochs * parts))
        for _ in range(self.config.epochs):
            own = torch.randperm(len(rows.actions), generator=self._generator).tensor_split(parts)
            led = torch.randperm(rows.led, generator=self._generator).tensor_split(parts)
            yield from zip(led, own, replayed, strict=False)  # the last goes on into the next pass

    def _step(self, rows: _Rows, led: Tensor, own: Tensor, replayed: Tensor) -> dict[str, Tensor]:
        """One optimiser step on these rows; what is logged of it."""
        valued, guided = torch.cat([led, rows.led + own]), torch.cat([own, len(rows.actions) + replayed])
        at = torch.cat([valued, rows.led + guided[len(own) :]]).numpy()
        # One forward pass: led rows need no logits, replayed ones no values.
        features = rows.features.rows(at)
        logits, values = self.network(features, acting=slice(len(led), None), valued=slice(len(valued)))
        with torch.no_grad():
            learned = logits - self.network.habitual(features)[len(led) :]
            policy_losses, by_logits, measures = self._policy_losses(
                rows, own.to(self.device), guided.to(self.device), logits[: len(own)], learned
            )
            error = values - rows.returns[valued.to(self.device)]
            losses = policy_losses | {"value_loss": _mean(error**2)}
        self.optimizer.zero_grad()
        # The gradient by logits and values is written out: autograd through losses of so few rows took a third of the time.
        torch.autograd.backward([logits, values], [by_logits, error * (2 * self.config.value_weight / max(len(error), 1))])
        return {**losses, **measures, "grad_norm": self._descend(losses)}

    def _policy_losses(
        self, rows: _Rows, own: Tensor, guided: Tensor, acted: Tensor, learned: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """Losses of the actor, the derivative of their weighted sum by its logits (own rows, then replayed ones), measures.

        acted: logits of the own rows, habits included, from which actions were drawn: PPO's. learned: logits of own and replayed
        rows without habits: advice is imitated by these, or who went in circles would learn from it to go on against the habit.
        """
        count, replayed = len(own), len(guided) - len(own)
        log_learned = F.log_softmax(learned, dim=-1)
        target, weight = rows.target[guided], rows.weight[guided]
        far = divergence(log_learned, target)
        weight[:count] /= max(count, 1)
        weight[count:] /= max(replayed, 1)
        pull, slopes = weight * far, weight[:, None] * (log_learned.exp() - target)

        log_own, actions = F.log_softmax(acted, dim=-1), rows.actions[own, None]
        own_policy = log_own.exp()
        loss, slope, measures = surrogate(
            log_own.gather(1, actions)[:, 0], rows.logprobs[own], rows.advantages[own], self.config.clip
        )
        entropy = -(own_policy * log_own).sum(dim=-1, keepdim=True)
        uncertain = self.config.entropy / max(count, 1) * (log_own + entropy)
        slopes[:count] += own_policy * (uncertain - slope[:, None])
        slopes[:count].scatter_add_(1, actions, slope[:, None])
        losses = {"policy_loss": loss, "entropy": _mean(entropy)}
        losses |= {"guidance_loss": pull[:count].sum(), "imitation_loss": pull[count:].sum()}
        return losses, slopes, measures | {"guidance_kl": _mean(far[:count][rows.weight[own] > 0])}

    def _descend(self, losses: dict[str, Tensor]) -> Tensor:
        """The optimiser's step down the gradient, the norm of which before clipping is returned."""
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
        if not torch.isfinite(torch.stack([*losses.values(), norm]).sum()):
            broken = [name for name, value in losses.items() if not torch.isfinite(value)] or ["the gradient"]
            raise NotFinite(f"student: {', '.join(broken)} is not finite; the weights are as before this step")
        self.optimizer.step()
        return norm


class _Rows:
    """The rows of one update, the led ones first, then the student's own, then the replayed ones.

    features: of all of them. returns: of led and own rows. target, weight: of own and replayed rows. actions, logprobs,
    advantages: of own rows. led, replayed: how many there are. Tensors are on the learner's device.
    """

    def __init__(self, batch: Batch, imitation: Imitation | None, layout: Layout, device: torch.device) -> None:
        features, returns, target, weight = [batch.features], [batch.returns], [batch.target], [batch.weight]
        self.led = self.replayed = 0
        if batch.value_features is not None and batch.value_returns is not None:
            self.led = len(batch.value_returns)
            features, returns = [batch.value_features, *features], [batch.value_returns, *returns]
        if imitation is not None:
            self.replayed = len(imitation.weight)
            features, target, weight = [*features, imitation.features], [*target, imitation.target], [*weight, imitation.weight]
        self.features = read(layout, *features)
        self.actions, self.logprobs, self.advantages = _tensors(device, batch.actions, batch.logprobs, batch.advantages)
        self.returns, self.target, self.weight = _tensors(device, *(np.concatenate(x) for x in (returns, target, weight)))


def _mean(x: Tensor) -> Tensor:
    """The mean, 0 over no rows: a round may have none that the student led."""
    return x.sum() / max(x.numel(), 1)


def _tensors(device: torch.device, *arrays: NDArray[np.generic]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array).to(device) for array in arrays)
