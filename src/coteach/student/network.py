"""The student's network: features in, action logits and a value out.

On MiniGrid the first layer sees one-hot cells of a 9x9 crop, of which about one in ten is set: it is a sum of columns, and on a
processor it is computed as one, about three times faster than the dense product and six times faster than a
convolution over the same planes. Actor and critic share that layer (it has most of the weights); their second layers
are their own, so that the value's large gradients stay out of the policy's. Numbers and pictures have a first layer of their
own (`dense.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from coteach.config import StudentConfig
from coteach.grounding.base import Layout
from coteach.student.dense import DenseEncoder, DenseFeatures, initialise, without

ALL = slice(None)


@dataclass(frozen=True)
class SetFeatures:
    """Rows of F = `size` features in {0, 1} as lists: those set in row i are ones[starts[i] : starts[i + 1]].

    ones: (n,) int32; starts: (B + 1,) int32, from 0 to n.
    """

    ones: NDArray[np.int32]
    starts: NDArray[np.int32]
    size: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of(cls, features: NDArray[np.uint8]) -> SetFeatures:
        """The lists of features (B, F)."""
        ones, starts = _listed(features, np.count_nonzero(features.view(np.bool_)))
        return cls(ones, starts, features.shape[1])

    @classmethod
    def joined(cls, parts: Sequence[SetFeatures]) -> SetFeatures:
        """The rows of all parts, one after the other."""
        ends = np.cumsum([0] + [len(part.ones) for part in parts], dtype=np.int32)
        starts = [part.starts[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)]
        return cls(np.concatenate([part.ones for part in parts]), np.concatenate([*starts, ends[-1:]]), parts[0].size)

    def rows(self, at: NDArray[np.int64]) -> SetFeatures:
        """The rows at (M,) indices."""
        ones, starts = _picked(self.ones, self.starts, at)
        return SetFeatures(ones, starts, self.size)

    def transposed(self) -> SetFeatures:
        """By feature: the rows in which it is set."""
        rows, starts = _rows_by_feature(self.ones, self.starts, self.size)
        return SetFeatures(rows, starts, len(self))


Features = SetFeatures | DenseFeatures


def read(layout: Layout, *parts: NDArray[Any]) -> Features:
    """The rows of all parts, (B, F) each and laid out as `layout` says, as the network wants them."""
    if layout.binary:
        sets = [SetFeatures.of(part) for part in parts]
        return sets[0] if len(sets) == 1 else SetFeatures.joined(sets)
    return DenseFeatures.joined([DenseFeatures.of(part) for part in parts])


class ActorCritic(nn.Module):
    """Features of B rows -> logits (B, A) float32 and values (B,) float32.

    Beside the towers each flag adds to the logits what `habits` (F, A) says, which is not learned (default: nothing).

    Of binary features a row with n of them set costs 2 * (n H + 2 H^2 + H (A + 1)) operations forwards and as many again
    backwards for the weights, and 4 H^2 more for what flows back to the first layer; the H^2 half as often without logits or
    a value.
    """

    habits: Tensor | None

    def __init__(
        self,
        layout: Layout,
        num_actions: int,
        config: StudentConfig,
        generator: torch.Generator | None = None,
        habits: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__()
        hidden = config.hidden
        self.shared: ColumnSum | DenseEncoder = (
            ColumnSum(layout.size, hidden, generator) if layout.binary else DenseEncoder(layout, config, generator)
        )
        self.actor = nn.Linear(hidden, hidden)
        self.critic = nn.Linear(hidden, hidden)
        self.policy = nn.Linear(hidden, num_actions)
        self.value = nn.Linear(hidden, 1)
        for layer in (self.actor, self.critic):
            initialise(layer, 2**0.5, generator)
        initialise(self.policy, 0.01, generator)  # begins close to uniform
        initialise(self.value, 1.0, generator)
        self.register_buffer("habits", None if habits is None else torch.from_numpy(habits))

    def forward(self, features: Features, acting: slice = ALL, valued: slice = ALL) -> tuple[Tensor, Tensor]:
        """Logits of the rows `acting` and values of the rows `valued`."""
        cells = torch.relu(self.shared(features))
        logits: Tensor = self.policy(torch.relu(self.actor(cells[acting])))
        if self.habits is not None:
            logits = logits + self.habitual(features)[acting]
        values: Tensor = self.value(torch.relu(self.critic(cells[valued])))
        return logits, values.squeeze(-1)

    def habitual(self, features: Features) -> Tensor:
        """What habits add to the logits of B rows: (B, A), zeros where there are none."""
        if self.habits is None or not isinstance(features, SetFeatures):
            return torch.zeros(len(features), self.policy.out_features, device=self.policy.bias.device)
        return sum_rows(self.habits, features)

    def policy_of(self, rows: Tensor) -> Tensor:
        """Logits (B, A) of rows (B, F) in a tensor, in plain products: for export."""
        logits: Tensor = self.policy(torch.relu(self.actor(torch.relu(self.shared.apply_rows(rows)))))
        return logits if self.habits is None else logits + rows.float() @ self.habits

    @torch.no_grad()
    def fold_constants(self, at: int, flags: Tensor) -> None:
        """Fix the n flags from column `at` on at `flags` (n,): they are no inputs any more, but part of the biases."""
        self.shared.fold_constants(at, flags)
        if self.habits is not None:
            self.policy.bias.add_(flags @ self.habits[at : at + len(flags)])
            self.habits = without(self.habits, at, len(flags))

    def adapt(self, features: NDArray[Any]) -> None:
        """Get used to the range of the numbers in features (B, F); changes nothing where there are none."""
        if isinstance(self.shared, DenseEncoder):
            self.shared.adapt(features)


class ColumnSum(nn.Module):
    """A linear layer over features in {0, 1}: SetFeatures of B rows -> (B, H) float32, weight (F, H)."""

    def __init__(self, feature_size: int, hidden: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(feature_size, hidden))
        self.bias = nn.Parameter(torch.empty(hidden))
        initialise(self, 2**0.5, generator)

    def forward(self, features: SetFeatures) -> Tensor:
        """The bias and, of every row, the weights of the features that are set."""
        total: Tensor = _SparseProduct.apply(features, self.weight)  # type: ignore[no-untyped-call]
        return total + self.bias

    def apply_rows(self, values: Tensor) -> Tensor:
        """The same for rows (B, F) of 0 and 1 in a tensor, as a plain product."""
        return values.float() @ self.weight + self.bias

    def fold_constants(self, at: int, flags: Tensor) -> None:
        """As `ActorCritic.fold_constants`."""
        self.bias.add_(flags @ self.weight[at : at + len(flags)])
        self.weight = nn.Parameter(without(self.weight, at, len(flags)))


class _SparseProduct(torch.autograd.Function):
    """Rows of features @ weight (F, H), touching only what is set; both directions are sums over lists of rows."""

    @staticmethod
    def forward(ctx: Any, features: SetFeatures, weight: Tensor) -> Tensor:
        ctx.features = features
        return sum_rows(weight, features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, sum_rows(gradient.contiguous(), ctx.features.transposed())


def sum_rows(table: Tensor, lists: SetFeatures) -> Tensor:
    """Sums of rows of `table` (R, H): row i of the answer is that of the rows in list i."""
    index, starts = (torch.from_numpy(array).to(table.device) for array in (lists.ones, lists.starts))
    return F.embedding_bag(index, table, starts, mode="sum", include_last_offset=True)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _listed(features: NDArray[np.uint8], count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The `count` features set in (B, F), row by row, and where each row's begin (B + 1)."""
    ones = np.empty(count + 1, dtype=np.int32)  # one more: every feature is written, and overwritten if not set
    starts = np.zeros(features.shape[0] + 1, dtype=np.int32)
    size, n = features.shape[1], 0
    for row in range(features.shape[0]):
        of_row = features[row]
        eights = of_row[: size // 8 * 8].view(np.uint64)
        for eight in range(len(eights)):
            if eights[eight]:  # few are set: most of eight at a time are not
                for feature in range(8 * eight, 8 * eight + 8):
                    ones[n] = feature
                    n += of_row[feature]
        for feature in range(8 * len(eights), size):
            ones[n] = feature
            n += of_row[feature]
        starts[row + 1] = n
    return ones[:count], starts


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _picked(
    ones: NDArray[np.int32], starts: NDArray[np.int32], at: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The lists at the indices `at`, and where each begins."""
    begins = np.zeros(len(at) + 1, dtype=np.int32)
    for i in range(len(at)):
        begins[i + 1] = begins[i] + starts[at[i] + 1] - starts[at[i]]
    picked = np.empty(begins[-1], dtype=np.int32)
    for i in range(len(at)):
        picked[begins[i] : begins[i + 1]] = ones[starts[at[i]] : starts[at[i] + 1]]
    return picked, begins


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _rows_by_feature(
    ones: NDArray[np.int32], starts: NDArray[np.int32], feature_size: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The rows in which each feature is set, feature by feature, and where each feature's begin (F + 1)."""
    begins = np.zeros(feature_size + 1, dtype=np.int32)
    for feature in ones:
        begins[feature + 1] += 1
    begins = begins.cumsum().astype(np.int32)
    rows = np.empty(len(ones), dtype=np.int32)
    following = begins[:-1].copy()
    for row in range(len(starts) - 1):
        for i in range(starts[row], starts[row + 1]):
            rows[following[ones[i]]] = row
            following[ones[i]] += 1
    return rows, begins
