"""The replay buffer for distillation: features, situations, and the controllers' actions.

It does not store the advice. The advice is looked up when a row is sampled, so old rows teach the present advice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.base import Layout
from coteach.runs import tensors
from coteach.student.rollout import Rollout


class Replay:
    """A ring buffer of R rows.

    numbers: (R, numbers) float32 and the others (R, F - numbers) uint8, the columns of the features.
    situation: (R,) int64; controls: (R, K) int8, the controllers' actions, -1 for none.
    filled:  number of rows in use, the first ones.
    """

    def __init__(self, rows: int, layout: Layout, slots: int) -> None:
        self.rows, self.layout, self.filled, self._next = rows, layout, 0, 0
        self.numbers = np.zeros((rows, layout.numbers), dtype=np.float32)
        self.others = np.zeros((rows, layout.size - layout.numbers), dtype=np.uint8)
        self.situation = np.zeros(rows, dtype=np.int64)
        self.controls = np.full((rows, slots), -1, dtype=np.int8)

    def add(self, rollout: Rollout) -> None:
        """Add the rollout's rows in which some option can be followed; they replace the oldest rows."""
        kept = np.argwhere(rollout.valid & (rollout.controls[:-1] >= 0).any(axis=2))
        kept = kept[max(len(kept) - self.rows, 0) :]
        t, n = kept[:, 0], kept[:, 1]
        at = (self._next + np.arange(len(kept))) % max(self.rows, 1)
        features, numbers = rollout.features[t, n], self.layout.numbers
        self.numbers[at], self.others[at] = features[:, :numbers], features[:, numbers:]
        self.situation[at], self.controls[at] = rollout.situation[t, n], rollout.controls[t, n]
        self._next = int(self._next + len(kept)) % max(self.rows, 1)
        self.filled = min(self.rows, self.filled + len(kept))

    def save(self, path: Path) -> None:
        """Write the rows to `path`; columns without numbers take one bit each if they are all 0 or 1, else a byte."""
        kept = slice(0, self.filled)
        others = self.others[kept]
        flags = others.max(initial=0) <= 1
        packed = {"bits": np.packbits(others.astype(np.bool_), axis=1)} if flags else {"features": others}
        place = {"next": np.array(self._next), "numbers": self.numbers[kept]}
        tensors.write(path, packed | place | {"situation": self.situation[kept], "controls": self.controls[kept]})

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        state = {name: value.numpy() for name, value in tensors.read(path).items()}
        bits = state.get("bits")
        others = state["features"] if bits is None else np.unpackbits(bits, axis=1, count=self.others.shape[1])
        self.filled, self._next = len(others), int(state["next"].item())
        self.numbers[: self.filled], self.others[: self.filled] = state["numbers"], others
        self.situation[: self.filled], self.controls[: self.filled] = state["situation"], state["controls"]

    def features(self, at: NDArray[np.int64]) -> NDArray[Any]:
        """Return the features (len(at), F) of rows, in the layout's dtype."""
        if not self.layout.numbers:
            return self.others[at]
        return np.concatenate([self.numbers[at], self.others[at]], axis=1, dtype=np.float32)

    @property
    def size(self) -> int:
        """The bytes of all rows."""
        return sum(part.nbytes for part in (self.numbers, self.others, self.situation, self.controls))

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the indices of `count` rows, drawn uniformly with replacement."""
        return rng.integers(0, self.filled, count)
