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

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from coteach.config import StudentConfig
from coteach.errors import CoteachError, RunFailed
from coteach.machine import torch_device
from coteach.student.network import ActorCritic

WEIGHTS_FILE = "student.safetensors"
SIZES_FILE = "student.json"
FORWARD_ROWS = 4096
"""Rows per forward pass where no gradient is needed: bounds the memory."""


@dataclass
class Batch:
    """The rows of one round, flattened.

    features:   (R, F) uint8, of student-led rows, as is all that follows.
    actions:    (R,) int64.
    logprobs:   (R,) float32, of `actions` under the policy that took them.
    values:     (R,) float32, the critic's opinion then.
    advantages: (R,) float32, not normalised.
    returns:    (R,) float32, what the critic is regressed to.
    target:     (R, A) float32, the guidance q; rows sum to 1.
    weight:     (R,) float32, lambda of each row; 0 where nothing guides.
    value_features, value_returns: (V, F) uint8 and (V,) float32, further (teacher-led) rows for the critic only.
    """

    features: NDArray[np.uint8]
    actions: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    values: NDArray[np.float32]
    advantages: NDArray[np.float32]
    returns: NDArray[np.float32]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]
    value_features: NDArray[np.uint8] | None = None
    value_returns: NDArray[np.float32] | None = None


@dataclass
class Imitation:
    """Replayed rows to distil: features (M, F) uint8, target (M, A) float32, weight (M,) float32."""

    features: NDArray[np.uint8]
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
    if len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = logprobs - old_logprobs
    ratio = log_ratio.exp()
    loss = -_mean(torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)))
    with torch.no_grad():
        approx_kl = _mean((ratio - 1) - log_ratio)
        clipfrac = _mean(((ratio - 1).abs() > clip).float())
    return loss, {"approx_kl": approx_kl, "clipfrac": clipfrac}


def guidance_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over the rows of weight * KL(target || pi), in nats: logits (B, A), target (B, A), weight (B,)."""
    divergence = (torch.xlogy(target, target) - target * F.log_softmax(logits, dim=-1)).sum(dim=-1)
    return _mean(weight * divergence)


def explained_variance(values: NDArray[np.float32], returns: NDArray[np.float32]) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant; 0 where returns are constant."""
    variance = float(returns.var()) if len(returns) else 0.0
    return 1.0 - float((returns - values).var()) / variance if variance > 0 else 0.0


class Learner:
    """The student: acts, and learns from batches. Everything random in it comes from `seed`."""

    def __init__(self, config: StudentConfig, feature_size: int, num_actions: int, seed: int) -> None:
        self.config = config
        self.sizes = {"feature_size": feature_size, "num_actions": num_actions, "hidden": config.hidden}
        self.device = torch_device(config.device)
        self._generator = torch.Generator().manual_seed(seed)
        self.network = ActorCritic(feature_size, num_actions, config.hidden, self._generator).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)

    def act(self, features: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Sampled actions (N,) int64, their log-probabilities (N,) and the values (N,) float32 of features (N, F)."""
        logits, values = self._forward(features)
        logprobs = F.log_softmax(logits, dim=-1)
        threshold = torch.rand(len(logits), 1, generator=self._generator)
        # The sum may round to less than the threshold: the last action then.
        actions = (logprobs.exp().cumsum(dim=-1) < threshold).sum(dim=-1).clamp_(max=logits.shape[1] - 1)
        chosen = logprobs.gather(1, actions[:, None])[:, 0]
        return actions.numpy(), chosen.numpy(), values.numpy()

    def greedy(self, features: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The most probable action (N,) int64 of features (N, F)."""
        actions: NDArray[np.int64] = self._forward(features)[0].argmax(dim=-1).numpy()
        return actions

    def probabilities(self, features: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The policy (N, A) float32 on features (N, F)."""
        policy: NDArray[np.float32] = self._forward(features)[0].softmax(dim=-1).numpy()
        return policy

    def values(self, features: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The critic's values (N,) float32 of features (N, F)."""
        values: NDArray[np.float32] = self._forward(features)[1].numpy()
        return values

    def update(self, batch: Batch, replay: Callable[[int], Imitation] | None = None) -> dict[str, float]:
        """Learn from one round: `epochs` passes of PPO with guidance, a replayed minibatch distilled in each step.

        `replay` gives the replayed rows for a minibatch of so many PPO rows. Returns the means over the optimiser
        steps of policy_loss, value_loss, entropy, approx_kl, clipfrac, guidance_kl (KL(q || pi) over the guided
        rows), imitation_loss and grad_norm, and explained_variance before the update. Raises RunFailed, with the
        weights as they were before the step, where a loss or the gradient is not finite.
        """
        rows = _Rows(batch, self.device)
        seen: list[dict[str, Tensor]] = []
        for _ in range(self.config.epochs):
            for chosen, extra in self._minibatches(len(batch.actions), len(rows.value_returns)):
                imitation = None if replay is None else replay(len(chosen))
                losses, measures = self._losses(rows, chosen, extra, imitation)
                seen.append({**measures, "grad_norm": self._step(losses)})
        means = {name: float(torch.stack([step[name] for step in seen]).mean()) for name in seen[0]}
        return {**means, "explained_variance": explained_variance(batch.values, batch.returns)}

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, optimiser and generator as named tensors; none of them is shared with the learner."""
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        state["generator"] = self._generator.get_state()
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up what `state_dict` gave: the learner then goes on as that one would have."""
        self.network.load_state_dict(_under("network.", state))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", state).items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = value.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self._generator.set_state(state["generator"])

    def save(self, folder: Path) -> None:
        """Write the state into `folder` as safetensors, and the sizes as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(self.state_dict(), folder / WEIGHTS_FILE)
        (folder / SIZES_FILE).write_text(json.dumps(self.sizes) + "\n")

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote; CoteachError where there is no student of these sizes."""
        try:
            sizes = json.loads((folder / SIZES_FILE).read_text())
            state = safetensors.torch.load_file(folder / WEIGHTS_FILE)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise CoteachError(f"student in {folder}: cannot be read ({error}); expected a checkpoint's student") from error
        if sizes != self.sizes:
            raise CoteachError(f"student in {folder}: has {sizes}, expected {self.sizes}; use the run's own configuration")
        self.load_state_dict(state)

    @torch.inference_mode()
    def _forward(self, features: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Logits (N, A) and values (N,) on the processor."""
        if len(features) <= FORWARD_ROWS:
            with _one_thread():
                logits, values = self.network(torch.from_numpy(features).to(self.device))
            return logits.cpu(), values.cpu()
        parts = [self._forward(features[i : i + FORWARD_ROWS]) for i in range(0, len(features), FORWARD_ROWS)]
        return torch.cat([logits for logits, _ in parts]), torch.cat([values for _, values in parts])

    def _minibatches(self, rows: int, value_rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A pass over all rows in random order, as equal shares as can be of both kinds."""
        parts = max(1, round(rows / self.config.minibatch))
        order = torch.randperm(rows, generator=self._generator).tensor_split(parts)
        extra = torch.randperm(value_rows, generator=self._generator).tensor_split(parts)
        return zip(order, extra, strict=True)

    def _losses(
        self, rows: _Rows, chosen: Tensor, extra: Tensor, imitation: Imitation | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted terms of the loss (their sum is minimised), and what is logged."""
        chosen, extra = chosen.to(self.device), extra.to(self.device)
        replayed = rows.features[:0] if imitation is None else torch.from_numpy(imitation.features).to(self.device)
        # One forward pass: the first layer is a product of matrices, and the larger the better.
        logits, values = self.network(torch.cat([rows.features[chosen], rows.value_features[extra], replayed]))
        own, critics = len(chosen), len(chosen) + len(extra)
        log_policy = F.log_softmax(logits[:own], dim=-1)
        logprobs = log_policy.gather(1, rows.actions[chosen, None])[:, 0]
        policy_loss, measures = ppo_loss(logprobs, rows.logprobs[chosen], rows.advantages[chosen], self.config.clip)
        value_loss = _mean((values[:critics] - torch.cat([rows.returns[chosen], rows.value_returns[extra]])) ** 2)
        entropy = -_mean((log_policy.exp() * log_policy).sum(dim=-1))
        target, weight = rows.target[chosen], rows.weight[chosen]
        losses = {
            "policy_loss": policy_loss,
            "value_loss": self.config.value_weight * value_loss,
            "entropy": -self.config.entropy * entropy,
            "guidance_loss": guidance_loss(logits[:own], target, weight),
        }
        if imitation is not None:
            losses["imitation_loss"] = guidance_loss(logits[critics:], *_tensors(self.device, imitation.target, imitation.weight))
        with torch.no_grad():
            guided = (weight > 0).float()
            measures["guidance_kl"] = guidance_loss(logits[:own], target, guided) / _mean(guided).clamp(min=1e-8)
        logged = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        logged["imitation_loss"] = losses.get("imitation_loss", torch.zeros(()))
        return losses, {name: value.detach() for name, value in (logged | measures).items()}

    def _step(self, losses: dict[str, Tensor]) -> Tensor:
        """One optimiser step on the sum of `losses`; the gradient's norm before it was clipped."""
        self.optimizer.zero_grad()
        total = torch.stack(list(losses.values())).sum()
        torch.autograd.backward(total)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
        if not torch.isfinite(total + norm):
            broken = [name for name, value in losses.items() if not torch.isfinite(value)] or ["the gradient"]
            raise RunFailed(
                f"student: {', '.join(broken)} is not finite; the weights are as before this step. "
                "Resume with a smaller student.learning_rate"
            )
        self.optimizer.step()
        return norm.detach()


class _Rows:
    """A `Batch` as tensors on the learner's device, with empty rows where it has none for the critic only."""

    def __init__(self, batch: Batch, device: torch.device) -> None:
        self.features, self.actions = _tensors(device, batch.features, batch.actions)
        self.logprobs, self.advantages, self.returns = _tensors(device, batch.logprobs, batch.advantages, batch.returns)
        self.target, self.weight = _tensors(device, batch.target, batch.weight)
        if batch.value_features is None or batch.value_returns is None:
            self.value_features, self.value_returns = self.features[:0], self.returns[:0]
        else:
            self.value_features, self.value_returns = _tensors(device, batch.value_features, batch.value_returns)


def _mean(x: Tensor) -> Tensor:
    """The mean, 0 over no rows: a round may have none that the student led."""
    return x.sum() / max(x.numel(), 1)


def _tensors(device: torch.device, *arrays: NDArray[np.generic]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array).to(device) for array in arrays)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """So few rows gain nothing from more, and where cores are shared with others threads wait 50 ms for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
