"""Encodes observations of Gymnasium spaces as rows of the student's input.

Discrete parts become flags (one-hot), boxes become numbers, and three-dimensional uint8 boxes become pictures. The parts of
`Dict` and `Tuple` are concatenated. A space whose observations have no fixed length is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from coteach.errors import CoteachError, RunFailed
from coteach.grounding.base import Layout

Path = tuple[Any, ...]
"""The keys and indices of one part of an observation, from the outside in."""

UNBOUNDED = 1e6
"""The bounds of a box wider than this are ignored: they do not say where its numbers lie."""


class Encoder:
    """Encodes observations of one space as rows (F,) of `layout`. Raises CoteachError, which names `task`, for other spaces."""

    def __init__(self, space: spaces.Space[Any], task: str) -> None:
        self.task = task
        parts = list(_parts(space, (), task))
        numbers = [(path, part) for path, part in parts if isinstance(part, spaces.Box) and not _is_picture(part)]
        flags = [(path, part) for path, part in parts if not isinstance(part, spaces.Box)]
        pictures = [(path, part) for path, part in parts if _is_picture(part)]
        bounds = [_bounds(part) for _, part in numbers]
        self.layout = Layout(
            flags=sum(spaces.flatdim(part) for _, part in flags),
            numbers=sum(spaces.flatdim(part) for _, part in numbers),
            pictures=tuple(_channels_first(np.empty(part.shape or ())).shape for _, part in pictures),
            centre=tuple(centre for box in bounds for centre in box[0]),
            spread=tuple(spread for box in bounds for spread in box[1]),
        )
        self._places: list[tuple[Path, spaces.Space[Any], slice]] = []
        start = 0
        for path, part in [*numbers, *flags, *pictures]:
            end = start + (prod(part.shape or ()) if _is_picture(part) else spaces.flatdim(part))
            self._places.append((path, part, slice(start, end)))
            start = end

    def encode(self, observation: Any) -> NDArray[Any]:
        """Return one observation as a row (F,) of dtype `layout.dtype`. RunFailed if it has not the form of its space."""
        row = np.empty(self.layout.size, dtype=self.layout.dtype)
        for path, part, place in self._places:
            value = _at(observation, path)
            if not _has_form(part, value):
                raise RunFailed(f"task {self.task!r}: {self.breach(observation)}: mend the observation or its space")
            row[place] = (
                _channels_first(np.asarray(value)).ravel() if _is_picture(part) else np.asarray(spaces.flatten(part, value))
            )
        return row

    def breach(self, observation: Any) -> str:
        """Say which part of an observation is not in its space, in one line; empty if all are."""
        for path, part, _ in self._places:
            value = _at(observation, path)
            if not _has_form(part, value) or not (
                part.contains(value if isinstance(part, spaces.Discrete) else np.asarray(value, dtype=part.dtype))
            ):
                where = f" at {'/'.join(map(str, path))}" if path else ""
                return f"the observation {_short(value)}{where} is not in its space {_short(part)}"
        return ""


def _parts(space: spaces.Space[Any], path: Path, task: str) -> Iterator[tuple[Path, spaces.Space[Any]]]:
    """Yield the simple spaces of which this one consists, each with its path; CoteachError for an unsupported space."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in inner:
            yield from _parts(part, (*path, key), task)
    elif isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        yield path, space
    else:
        where = f" at {'/'.join(map(str, path))}" if path else ""
        raise CoteachError(
            f"task {task!r}: observation space {type(space).__name__}{where}: expected Box, Discrete, MultiDiscrete, MultiBinary "
            "or a Dict or Tuple of these; give `make` an environment wrapped so that it shows one"
        )


def _at(observation: Any, path: Path) -> Any:
    """Return the part of an observation at `path`; None if it has no such part."""
    try:
        for key in path:
            observation = observation[key]
    except (LookupError, TypeError, ValueError):
        return None
    return observation


def _has_form(part: spaces.Space[Any], value: Any) -> bool:
    """Return whether a value has the shape of a simple space and a type that its own can hold; bounds do not count."""
    if isinstance(part, spaces.Discrete):
        return bool(part.contains(value))  # a number out of range would be another one's flag
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return False
    if array.shape != part.shape:
        return False
    if isinstance(part, spaces.MultiDiscrete | spaces.MultiBinary):  # as with Discrete
        return array.dtype.kind in "biu" and bool(part.contains(array.astype(part.dtype)))
    if array.dtype == part.dtype:
        return True
    if np.dtype(part.dtype).kind == "f":
        return array.dtype.kind in "biuf"
    return array.dtype.kind in "biu" and np.array_equal(array.astype(part.dtype), array)


def _short(value: Any) -> str:
    """Return a value as one short line."""
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"of shape {value.shape} and type {value.dtype} in [{value.min()}..{value.max()}]"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_picture(space: spaces.Space[Any]) -> bool:
    """Return whether observations of the space are uint8 arrays (H, W, C) or (C, H, W)."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8


def _channels_first(picture: NDArray[Any]) -> NDArray[Any]:
    """Return a picture (H, W, C) or (C, H, W) as (C, H, W); there are fewer channels than rows or columns."""
    return picture if picture.shape[0] < picture.shape[2] else np.moveaxis(picture, 2, 0)


def _bounds(box: spaces.Space[Any]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each number if it is uniform within its bounds; 0 and 1 without bounds."""
    assert isinstance(box, spaces.Box)
    low, high = (np.clip(np.ravel(bound).astype(np.float64), -UNBOUNDED, UNBOUNDED) for bound in (box.low, box.high))
    bounded = (low < high) & (high - low < UNBOUNDED)
    centre = np.where(bounded, (low + high) / 2, 0.0)
    spread = np.where(bounded, (high - low) / np.sqrt(12), 1.0)
    return centre.tolist(), spread.tolist()
