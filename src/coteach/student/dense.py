"""The student's first layer for numbers and pictures: a dense layer over the columns that `Layout` describes.

Numbers are normalised by the running mean and variance of the observations (as in Stable-Baselines3's `VecNormalize`). Flags are
used as they are. Pictures pass through convolutions (for large pictures those of Mnih et al. 2015, with strides).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coteach.config import StudentConfig
from coteach.grounding.base import Layout


@dataclass(frozen=True)
class DenseFeatures:
    """B rows of features as an array: values (B, F), uint8 or float32."""

    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, features: NDArray[Any]) -> DenseFeatures:
        """Return the rows of features (B, F)."""
        return cls(features)

    @classmethod
    def joined(cls, parts: Sequence[DenseFeatures]) -> DenseFeatures:
        """Return the rows of all parts, one after the other."""
        return cls(np.concatenate([part.values for part in parts]))

    def rows(self, at: NDArray[np.int64]) -> DenseFeatures:
        """Return the rows at these indices (M,)."""
        return DenseFeatures(self.values[at])


class DenseEncoder(nn.Module):
    """Encodes B rows with the columns of `layout` as (B, H) float32, H = `config.hidden`; without an activation function."""

    def __init__(self, layout: Layout, config: StudentConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.layout = layout
        self.scale = RunningScale(layout, config.clip_obs)
        self.views = nn.ModuleList([_view(shape, config.large_picture, generator) for shape in layout.pictures])
        seen = sum(_width(view, shape) for view, shape in zip(self.views, layout.pictures, strict=True))
        self.mix = nn.Linear(layout.numbers + layout.flags + seen, config.hidden)
        initialise(self.mix, 2**0.5, generator)

    def forward(self, features: DenseFeatures) -> Tensor:
        """Apply the layer to numbers, flags and the convolved pictures: (B, H) float32."""
        return self.apply_rows(torch.from_numpy(features.values).to(self.mix.weight.device))

    def apply_rows(self, values: Tensor) -> Tensor:
        """Apply the layer to rows (B, F) in a tensor."""
        numbers, flags = self.layout.numbers, self.layout.flags
        sizes = [numbers, flags, *map(prod, self.layout.pictures)]
        parts = torch.split(values, sizes, dim=1)
        seen = [self.scale(parts[0]), parts[1].float()]
        for view, shape, pixels in zip(self.views, self.layout.pictures, parts[2:], strict=True):
            seen.append(view(pixels.reshape(-1, *shape).float() / 255.0))
        mixed: Tensor = self.mix(torch.cat(seen, dim=1))
        return mixed

    def fold_constants(self, at: int, flags: Tensor) -> None:
        """Replace flags by constants: see `ActorCritic.fold_constants`."""
        columns = self.mix.weight.T
        self.mix.bias.add_(flags @ columns[at : at + len(flags)])
        self.mix.weight = nn.Parameter(without(columns, at, len(flags)).T.contiguous())
        self.layout = self.layout.widened(-len(flags))

    def adapt(self, features: NDArray[Any]) -> None:
        """Update the running mean and variance with the numbers of rows (B, F)."""
        self.scale.add(torch.from_numpy(features[:, : self.layout.numbers]).double())


class RunningScale(nn.Module):
    """Normalises numbers (B, n) by the mean and standard deviation of the numbers added so far, and clips them to +- `limit`.

    The mean and deviation that the layout expects count as one row.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, layout: Layout, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", torch.tensor(layout.centre, dtype=torch.float64))
        self.register_buffer("variance", torch.tensor(layout.spread, dtype=torch.float64) ** 2)
        self.register_buffer("count", torch.ones((), dtype=torch.float64))

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the numbers (B, n) normalised and clipped, float32."""
        scaled = (numbers.double() - self.mean) / (self.variance + 1e-8).sqrt()
        return scaled.clamp(-self.limit, self.limit).float()

    def add(self, numbers: Tensor) -> None:
        """Merge the mean and variance of numbers (B, n) into the running ones (Chan et al. 1979)."""
        if numbers.numel() == 0:
            return
        numbers = numbers.to(self.mean.device)
        count, total = len(numbers), self.count + len(numbers)
        away = numbers.mean(dim=0) - self.mean
        squares = self.variance * self.count + numbers.var(dim=0, correction=0) * count + away**2 * self.count * count / total
        self.mean += away * count / total
        self.variance.copy_(squares / total)
        self.count.copy_(total)


def initialise(layer: nn.Module, gain: float, generator: torch.Generator | None) -> None:
    """Set orthogonal weights with this gain, and a bias of 0, as implementations of PPO do."""
    nn.init.orthogonal_(layer.weight, gain, generator=generator)  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def without(rows: Tensor, at: int, count: int) -> Tensor:
    """Return `rows` (R, ...) without the `count` rows from index `at` on."""
    return torch.cat([rows[:at], rows[at + count :]])


def _view(shape: tuple[int, int, int], large: int, generator: torch.Generator | None) -> nn.Sequential:
    """Return flattened convolutions over pictures (C, H, W), with strides if both sides have at least `large` pixels."""
    channels, *sides = shape
    if min(sides) >= large:
        convolutions = [nn.Conv2d(channels, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)]
    else:
        convolutions = [nn.Conv2d(channels, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)]
    for layer in convolutions:
        initialise(layer, 2**0.5, generator)
    return nn.Sequential(*(part for layer in convolutions for part in (layer, nn.ReLU())), nn.Flatten())


@torch.no_grad()
def _width(view: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return the number of outputs of a view for one picture."""
    return int(view(torch.zeros(1, *shape)).shape[1])
