"""The student that learns: network, optimiser and generator, and one update of them on the rows of a round."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from coteach.config import StudentConfig
from coteach.errors import CoteachError, NotFinite
from coteach.grounding.base import Layout
from coteach.runs import tensors
from coteach.runs.machine import one_thread, torch_device
from coteach.student.batch import Batch, Imitation, Rows
from coteach.student.network import ActorCritic, read
from coteach.student.optimizer_step import MEASURES, OptimizerStep
from coteach.student.ppo import explained_variance

WEIGHTS_FILE = "student.safetensors"
SIZES_FILE = "student.json"
FORWARD_ROWS = 4096
"""Rows per forward pass where no gradient is needed: bounds the memory."""


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
        self.network = ActorCritic(layout, num_actions, config, self._generator, habits).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, eps=config.adam_epsilon, fused=True)

    @one_thread()
    def act(self, features: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Sampled actions (N,) int64, their log-probabilities (N,) and the values (N,) float32 of features (N, F)."""
        logits, values = self._forward(features)
        logprobs = F.log_softmax(logits, dim=-1)
        threshold = torch.rand(len(logits), 1, generator=self._generator)
        # The sum may round to less than the threshold: the last action then.
        actions = (logprobs.exp().cumsum(dim=-1) < threshold).sum(dim=-1).clamp_(max=logits.shape[1] - 1)
        chosen = logprobs.gather(1, actions[:, None])[:, 0]
        return actions.numpy(), chosen.numpy(), values.numpy()

    @one_thread()
    def greedy(self, features: NDArray[Any]) -> NDArray[np.int64]:
        """The most probable action (N,) int64 of features (N, F)."""
        actions: NDArray[np.int64] = self._forward(features)[0].argmax(dim=-1).numpy()
        return actions

    @one_thread()
    def probabilities(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """The policy (N, A) float32 on features (N, F)."""
        policy: NDArray[np.float32] = self._forward(features)[0].softmax(dim=-1).numpy()
        return policy

    @one_thread()
    def values(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """The critic's values (N,) float32 of features (N, F)."""
        values: NDArray[np.float32] = self._forward(features)[1].numpy()
        return values

    @one_thread()
    def update(self, batch: Batch, replay: Callable[[int], Imitation] | None = None) -> dict[str, float]:
        """Learn from one round: `epochs` passes of PPO with guidance, replayed rows distilled beside them in each step.

        `replay` gives the replayed rows that belong beside so many rows of PPO; it is asked once, for all passes. Returns
        the means over the optimiser steps of policy_loss, value_loss, entropy, approx_kl, clipfrac, guidance_loss,
        guidance_kl (KL(q || pi) over the guided rows), imitation_loss and grad_norm, and explained_variance before the update.
        Raises NotFinite, with the weights as they were before the step, where a loss or the gradient is not finite.
        """
        imitation = replay(self.config.epochs * len(batch.actions)) if replay else None
        rows = Rows(batch, imitation, self.layout, self.device)
        step = OptimizerStep(self.network, self.optimizer, self.config, rows)
        seen = [_finite(step(*minibatch)) for minibatch in self._minibatches(rows)]
        self.network.adapt(batch.features)  # only now: the ratio is to the policy that took the actions
        means = dict(zip(MEASURES, np.mean(seen, axis=0).tolist(), strict=True))
        return {**means, "explained_variance": explained_variance(batch.values, batch.returns)}

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, optimiser and generator as named tensors; none of them is shared with the learner."""
        state = tensors.add_prefix("network.", self.network.state_dict())
        state |= tensors.add_prefix("optimizer.", tensors.moments(self.optimizer))
        state["generator"] = self._generator.get_state()
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up what `state_dict` gave: the learner then goes on as that one would have."""
        self.network.load_state_dict(tensors.select_prefix("network.", state))
        tensors.restore_moments(self.optimizer, tensors.select_prefix("optimizer.", state))
        self._generator.set_state(state["generator"])

    def save(self, folder: Path) -> None:
        """Write the state into `folder` as safetensors, and the sizes as JSON."""
        tensors.write(folder / WEIGHTS_FILE, self.state_dict())
        (folder / SIZES_FILE).write_text(json.dumps(self.sizes) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote; CoteachError where there is no student of these sizes."""
        try:
            sizes = json.loads((folder / SIZES_FILE).read_text(encoding="utf-8"))
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

    def _minibatches(self, rows: Rows) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Indices of the controlled, own and replayed rows of each step: passes in random order, in shares as equal as can be."""
        parts = max(1, round(len(rows.actions) / self.config.minibatch))
        replayed = iter(torch.arange(rows.replayed).tensor_split(self.config.epochs * parts))
        for _ in range(self.config.epochs):
            own = torch.randperm(len(rows.actions), generator=self._generator).tensor_split(parts)
            controlled = torch.randperm(rows.controlled, generator=self._generator).tensor_split(parts)
            yield from zip(controlled, own, replayed, strict=False)  # the last goes on into the next pass


def _finite(measures: NDArray[np.float64]) -> NDArray[np.float64]:
    """The `MEASURES` of a step; NotFinite where one of them is not, which then was not taken."""
    if not np.isfinite(measures).all():
        broken = [
            name for name, value in zip(MEASURES, measures, strict=True) if name.endswith("_loss") and not np.isfinite(value)
        ]
        raise NotFinite(f"student: {', '.join(broken) or 'the gradient'} is not finite; the weights are as before this step")
    return measures
