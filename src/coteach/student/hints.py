"""The advice as an input of the student (teacher -> student: `hint`): what the advised option's controller would do now.

One flag for each primitive action and one for "no hint": a student that is hinted in some of its episodes only can also do
without, and that is how it is examined and evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coteach.grounding.base import Grounded, Grounding, Layout
from coteach.student.guidance import action_targets
from coteach.student.network import ActorCritic

Show = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""(N, K) the sharp advice for situations (N,)."""


class Hinted:
    """A grounding whose features end with a hint: A flags for actions and one for none.

    share: of the episodes that are hinted, drawn with `rng`; none without advice.
    """

    def __init__(
        self, grounding: Grounding, show: Show | None = None, share: float = 0.0, rng: np.random.Generator | None = None
    ) -> None:
        self.grounding, self.show, self.share, self.rng = grounding, show, share, rng
        self.situations, self.max_options = grounding.situations, grounding.max_options
        self.action_names = grounding.action_names
        self.layout = grounding.layout.widened(hint_size(len(self.action_names)))
        self._hinted: NDArray[np.bool_] | None = None

    def observe(self, observation: Any, actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        """Take in one step of all environments (see `base.Grounding.observe`)."""
        now = self.grounding.observe(observation, actions, restarted)
        if self._hinted is None:
            self._hinted, restarted = np.zeros(len(restarted), dtype=np.bool_), np.ones_like(restarted)
        if self.rng is not None:
            self._hinted = np.where(restarted, self.rng.random(len(restarted)) < self.share, self._hinted)
        flags = self._flags(now, self._hinted)
        return replace(now, features=self.grounding.layout.inserted(now.features, flags))

    def _flags(self, now: Grounded, hinted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        count = len(self.action_names)
        flags = np.zeros((len(hinted), count + 1), dtype=np.bool_)
        if self.show is not None and hinted.any():
            q, there = action_targets(self.show(now.situation), now.actions, count)
            rows = np.flatnonzero(hinted & there)
            flags[rows, q[rows].argmax(axis=1)] = True
        flags[:, count] = ~flags[:, :count].any(axis=1)
        return flags


def forget_hints(network: ActorCritic, layout: Layout) -> None:
    """Make the network of a hinted student one over rows of `layout`, the grounding's own, that plays as if never hinted."""
    size = hint_size(network.policy.out_features)
    network.settle(layout.numbers + layout.flags, torch.eye(size)[-1])


def hint_size(actions: int) -> int:
    """Columns of a hint."""
    return actions + 1
