"""Grounding: what ties a task's observations to words, and words back to actions.

A grounding turns each observation into a **situation** (a short text and the **options** that make
sense in it), into the student's input, and says for every option which primitive action its
**controller** takes now. It sees only what the agent saw and did. Implement `Grounding` for an
environment of your own; `grounding/minigrid/` is the built-in one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.outcomes import TYPICAL_DURATION

GRID_WORLD_INSTRUCTION = "You guide an agent in a grid world. Answer with the best next step for the agent's mission."
"""For MiniGrid and BabyAI; other tasks bring their own (`grounding.base.Family`)."""
"""At the head of the LLM's prompt about grid worlds, and where nothing else is asked for."""


@dataclass(frozen=True)
class Situation:
    """What the teacher is asked: a text, and the options among which it chooses.

    Two observations are in the same situation if and only if text and options are equal. Option
    *slot* `k` of a situation is `options[k]`; slots have a meaning only within one situation.
    """

    text: str
    options: tuple[str, ...]
    expert: int | None = None
    """Slot that a scripted expert would choose (for the arms `oracle` and `liar`), or None where it knows none."""


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

    def __contains__(self, situation: Situation) -> bool:
        return (situation.text, situation.options) in self._index

    def number(self, situation: Situation) -> int:
        """The number of `situation`, given one if it is new."""
        key = (situation.text, situation.options)
        if key not in self._index:
            self._index[key] = len(self._all)
            self._all.append(situation)
        return self._index[key]


@dataclass(frozen=True)
class Layout:
    """A row of the student's input: `numbers` columns, then `flags` in {0, 1}, then pictures, each (C, H, W) flattened.

    Rows are uint8 where there are no numbers, else float32. centre, spread: (numbers,) where each number is expected to lie
    and how far from there, before any was seen (the student keeps a running mean and variance).
    """

    flags: int = 0
    numbers: int = 0
    pictures: tuple[tuple[int, int, int], ...] = ()
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Columns of a row, F."""
        return self.numbers + self.flags + sum(map(prod, self.pictures))

    @property
    def binary(self) -> bool:
        """Whether a row is flags and nothing else: a few of many, mostly."""
        return not self.numbers and not self.pictures

    def widened(self, flags: int) -> Layout:
        """A layout with so many flags more, after the ones that there are."""
        return replace(self, flags=self.flags + flags)

    def inserted(self, features: NDArray[Any], flags: NDArray[Any]) -> NDArray[Any]:
        """Rows (B, F) of this layout with `flags` (B, n) added: rows of `widened(n)`."""
        at = self.numbers + self.flags
        return np.concatenate([features[:, :at], flags.astype(features.dtype), features[:, at:]], axis=1)

    @property
    def dtype(self) -> type[np.uint8] | type[np.float32]:
        """Of the rows."""
        return np.float32 if self.numbers else np.uint8


@dataclass
class Observation:
    """What N MiniGrid environments showed after a step, before grounding (made by `engines.VectorTask`).

    image:     (N, 7, 7, 3) uint8, MiniGrid's egocentric symbolic view [column, row, (object, colour, state)].
    mission:   N mission texts, constant within an episode.
    direction: (N,) integers, where the agent looks: right, down, left, up. Only the raw observation (`minigrid/raw.py`) has it;
               the belief map needs no compass.
    """

    image: NDArray[np.uint8]
    mission: list[str]
    direction: NDArray[np.integer] | None = None


@dataclass
class Grounded:
    """One step of N environments as the loop sees it; K = `Grounding.max_options`.

    features:  (N, F): the student's input, laid out as `Grounding.layout` says.
    situation: (N,) int64: number of the situation in `Grounding.situations`.
    actions:   (N, K) int8: the primitive action that the controller of option slot k takes now;
               -1 where there is no such slot or the controller has no way to go on.
    completed: (N,) int64: bit k is set if the last step brought about the event that completes slot k
               of the situation of the step *before* (whoever led). 0 on the first row of an episode.
    failed:    (N,) int64: likewise, the last step showed that slot k cannot be done now (for example
               the door was toggled and stayed locked).
    unscripted: (N, K) True where there is such a slot, but no controller for it: the student learns to carry it out.
    """

    features: NDArray[Any]
    situation: NDArray[np.int64]
    actions: NDArray[np.int8]
    completed: NDArray[np.int64]
    failed: NDArray[np.int64]
    unscripted: NDArray[np.bool_] | None = None


class Grounding(Protocol):
    """Observation -> situation, options, features; option -> action. One object serves N environments."""

    situations: Situations
    max_options: int
    layout: Layout
    action_names: tuple[str, ...]

    def observe(self, observation: Any, actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        """Take in one step of all environments.

        observation: what the N environments show: an `Observation` of MiniGrid's, else a list of N observations.
        actions:     (N,) the primitive actions that led here; None at the very first observation.
        restarted:   (N,) True where this row is the first observation of an episode (its action was
                     ignored): what was believed about the episode before is forgotten.
        """
        ...


Ground = Callable[[int, Situations, int], Grounding]
"""Makes a grounding for (environments, the situations met so far, primitive actions)."""


@dataclass(frozen=True, eq=False)
class Family:
    """Tasks that one student can play and one teacher be asked about: what they have in common.

    name:             for people.
    layout:           the student's input.
    action_names:     the primitive actions, in order: the student's output.
    max_options:      K.
    instruction:      the sentence at the head of the LLM's prompt.
    ground:           makes a grounding.
    features:         names what the layout's columns mean: a student can only read the features that it was trained on.
    habits:           (F, A) what each feature adds to the student's logits before it has learned anything, or None.
    unscripted:       whether there may be options without a controller.
    typical_duration: steps that an option takes, where it was never followed to its end.
    """

    name: str
    layout: Layout
    action_names: tuple[str, ...]
    max_options: int
    instruction: str
    ground: Ground
    features: str
    habits: NDArray[np.float32] | None = None
    unscripted: bool = False
    typical_duration: float = TYPICAL_DURATION
