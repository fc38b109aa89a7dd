"""Grounding: what ties a task's observations to words, and words back to actions.

A grounding turns each observation into a **situation** (a short text and the **options** that make
sense in it), into the student's input, and says for every option which primitive action its
**controller** takes now. It sees only what the agent saw and did. Implement `Grounding` for an
environment of your own; `grounding/minigrid/` is the built-in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Situation:
    """What the teacher is asked: a text, and the options among which it chooses.

    Two observations are in the same situation if and only if text and options are equal. Option
    *slot* `k` of a situation is `options[k]`; slots have a meaning only within one situation.
    """

    text: str
    options: tuple[str, ...]
    expert: int | None = None
    """Slot that a scripted expert would choose (for the `oracle` arm), or None where it knows none."""


class Situations:
    """Every situation met so far, numbered in the order of its first appearance (append-only)."""

    def __init__(self) -> None:
        self._all: list[Situation] = []
        self._index: dict[tuple[str, tuple[str, ...]], int] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, index: int) -> Situation:
        return self._all[index]

    def __iter__(self) -> Iterator[Situation]:
        return iter(self._all)

    def number(self, situation: Situation) -> int:
        """The number of `situation`, given one if it is new."""
        key = (situation.text, situation.options)
        if key not in self._index:
            self._index[key] = len(self._all)
            self._all.append(situation)
        return self._index[key]


@dataclass
class Observation:
    """What N environments showed after a step, before grounding (made by `tasks.VectorTask`).

    image:   (N, 7, 7, 3) uint8, MiniGrid's egocentric symbolic view [column, row, (object, colour, state)].
    mission: N mission texts, constant within an episode.
    """

    image: NDArray[np.uint8]
    mission: list[str]


@dataclass
class Grounded:
    """One step of N environments as the loop sees it; K = `Grounding.max_options`.

    features:  (N, F) uint8 in {0, 1}: the student's input.
    situation: (N,) int64: number of the situation in `Grounding.situations`.
    actions:   (N, K) int8: the primitive action that the controller of option slot k takes now;
               -1 where there is no such slot or the controller has no way to go on.
    completed: (N,) int64: bit k is set if the last step brought about the event that completes slot k
               of the situation of the step *before* (whoever led). 0 on the first row of an episode.
    failed:    (N,) int64: likewise, the last step showed that slot k cannot be done now (for example
               the door was toggled and stayed locked).
    """

    features: NDArray[np.uint8]
    situation: NDArray[np.int64]
    actions: NDArray[np.int8]
    completed: NDArray[np.int64]
    failed: NDArray[np.int64]


class Grounding(Protocol):
    """Observation -> situation, options, features; option -> action. One object serves N environments."""

    situations: Situations
    max_options: int
    feature_size: int
    action_names: tuple[str, ...]

    def observe(self, observation: Observation, actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        """Take in one step of all environments.

        actions:   (N,) the primitive actions that led here; None at the very first observation.
        restarted: (N,) True where this row is the first observation of an episode (its action was
                   ignored): what was believed about the episode before is forgotten.
        """
        ...
