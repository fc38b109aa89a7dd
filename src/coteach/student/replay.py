"""The replay buffer for distillation: features, situations, and the controllers' actions.

It does not store the advice. The advice is looked up when a row is sampled, so old rows teach the present advice.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.base import Layout
from coteach.runs import tensors
from coteach.student.rollout import Rollout


class Replay:
    """A ring buffer of R rows.

    features: (R, F); situation: (R,) int64; controls: (R, K) int8, the controllers' actions, -1 for none.
    filled:   number of rows in use, the first ones.
    """

    def __init__(self, rows: int, layout: Layout, slots: int) -> None:
        self.rows, self.filled, self._next = rows, 0, 0
        self.features = np.zeros((rows, layout.size), dtype=layout.dtype)
        self.situation = np.zeros(rows, dtype=np.int64)
        self.controls = np.full((rows, slots), -1, dtype=np.int8)

    def add(self, rollout: Rollout) -> None:
        """Add the rollout's rows in which some option can be followed; they replace the oldest rows."""
        kept = np.argwhere(rollout.valid & (rollout.controls[:-1] >= 0).any(axis=2))
        kept = kept[max(len(kept) - self.rows, 0) :]
        t, n = kept[:, 0], kept[:, 1]
        at = (self._next + np.arange(len(kept))) % max(self.rows, 1)
        self.features[at], self.situation[at], self.controls[at] = (
            rollout.features[t, n],
            rollout.situation[t, n],
            rollout.controls[t, n],
        )
        self._next = int(self._next + len(kept)) % max(self.rows, 1)
        self.filled = min(self.rows, self.filled + len(kept))

    def save(self, path: Path) -> None:
        """Write the rows to `path`; features that are all 0 or 1 take one bit each."""
        kept = slice(0, self.filled)
        features = self.features[kept]
        flags = features.dtype == np.uint8 and features.max(initial=0) <= 1
        packed = {"bits": np.packbits(features.astype(np.bool_), axis=1)} if flags else {"features": features}
        place = {"next": np.array(self._next)}
        tensors.write(path, packed | place | {"situation": self.situation[kept], "controls": self.controls[kept]})

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        state = {name: value.numpy() for name, value in tensors.read(path).items()}
        bits = state.get("bits")
        features = state["features"] if bits is None else np.unpackbits(bits, axis=1, count=self.features.shape[1])
        self.filled, self._next = len(features), int(state["next"].item())
        self.features[: self.filled], self.situation[: self.filled] = features, state["situation"]
        self.controls[: self.filled] = state["controls"]

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the indices of `count` rows, drawn uniformly with replacement."""
        return rng.integers(0, self.filled, count)
