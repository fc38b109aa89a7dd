"""Hints (teacher -> student): the action of the advised option's controller is an additional input of the student.

A hint has one flag for each primitive action and one for "no hint". The student gets hints in some of its episodes only, so it
also learns to act without them. Evaluations give no hints.
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

ImitationPolicy = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""Situations (N,) -> probabilities of the options under the imitation policy, (N, K)."""


class HintedGrounding:
    """A grounding whose flags end with a hint: one for each of the A actions, and one for "no hint".

    imitation_policy: the advice; None: no hints.
    share:            share of the episodes with hints, in [0, 1], drawn with `rng`.
    """

    def __init__(
        self,
        grounding: Grounding,
        imitation_policy: ImitationPolicy | None = None,
        share: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.grounding, self.imitation_policy, self.share, self.rng = grounding, imitation_policy, share, rng
        self.situations, self.max_options = grounding.situations, grounding.max_options
        self.action_names = grounding.action_names
        self.layout = grounding.layout.widened(hint_size(len(self.action_names)))
        self._hinted: NDArray[np.bool_] | None = None

    def observe(self, observation: Any, actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        """Process one step of all environments (see `base.Grounding.observe`)."""
        now = self.grounding.observe(observation, actions, restarted)
        if self._hinted is None:
            self._hinted, restarted = np.zeros(len(restarted), dtype=np.bool_), np.ones_like(restarted)
        if self.rng is not None:
            self._hinted = np.where(restarted, self.rng.random(len(restarted)) < self.share, self._hinted)
        flags = self._flags(now, self._hinted)
        return replace(now, features=self.grounding.layout.inserted(now.features, flags))

    def _flags(self, now: Grounded, hinted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the hints (N, A + 1): the most probable action under the advice in `hinted` (N,) rows."""
        count = len(self.action_names)
        flags = np.zeros((len(hinted), count + 1), dtype=np.bool_)
        if self.imitation_policy is not None and hinted.any():
            q, there = action_targets(self.imitation_policy(now.situation), now.actions, count)
            rows = np.flatnonzero(hinted & there)
            flags[rows, q[rows].argmax(axis=1)] = True
        flags[:, count] = ~flags[:, :count].any(axis=1)
        return flags


def remove_hints(network: ActorCritic, layout: Layout) -> None:
    """Remove the hint columns from a network: it then takes rows of `layout` and acts as it did with "no hint"."""
    size = hint_size(network.policy.out_features)
    network.fold_constants(layout.numbers + layout.flags, torch.eye(size)[-1])


def hint_size(actions: int) -> int:
    """Return the number of columns of a hint for so many primitive actions."""
    return actions + 1
