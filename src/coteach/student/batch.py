"""The rows of a round, as the student learns from them: its own, those of teacher-controlled episodes, and replayed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coteach.grounding.base import Layout
from coteach.student.network import read


@dataclass
class Batch:
    """The rows of one round, flattened.

    features:   (R, F), laid out as the student's `Layout` says, of student-controlled rows, as is all that follows.
    actions:    (R,) int64.
    logprobs:   (R,) float32, of `actions` under the policy that took them.
    values:     (R,) float32, the critic's opinion then.
    advantages: (R,) float32, not normalised.
    returns:    (R,) float32, what the critic is regressed to.
    target:     (R, A) float32, the guidance q; rows sum to 1.
    weight:     (R,) float32, lambda of each row; 0 where nothing guides.
    value_features, value_returns: (V, F) and (V,) float32, further (teacher-controlled) rows for the critic only.
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


class Rows:
    """The rows of one update, the controlled ones first, then the student's own, then the replayed ones.

    features: of all of them. returns: of controlled and own rows. target, weight: of own and replayed rows. actions, logprobs,
    advantages: of own rows. controlled, replayed: how many there are. Tensors are on the learner's device.
    """

    def __init__(self, batch: Batch, imitation: Imitation | None, layout: Layout, device: torch.device) -> None:
        features, returns, target, weight = [batch.features], [batch.returns], [batch.target], [batch.weight]
        self.controlled = self.replayed = 0
        if batch.value_features is not None and batch.value_returns is not None:
            self.controlled = len(batch.value_returns)
            features, returns = [batch.value_features, *features], [batch.value_returns, *returns]
        if imitation is not None:
            self.replayed = len(imitation.weight)
            features, target, weight = [*features, imitation.features], [*target, imitation.target], [*weight, imitation.weight]
        self.features = read(layout, *features)
        self.actions, self.logprobs, self.advantages = _tensors(device, batch.actions, batch.logprobs, batch.advantages)
        self.returns, self.target, self.weight = _tensors(device, *(np.concatenate(x) for x in (returns, target, weight)))


def _tensors(device: torch.device, *arrays: NDArray[np.generic]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array).to(device) for array in arrays)
