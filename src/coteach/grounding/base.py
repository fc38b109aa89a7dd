"""Grounding: the interface between a task's observations and words, and between options and actions.

A grounding turns each observation into a **situation** (a short text with the **options** that make sense there) and into the
student's input. For every option it returns the primitive action that the option's **controller** takes now. It knows only what
the agent observed and did. Implement `Grounding` for an environment of your own; `grounding/minigrid/` is the built-in one.
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
"""The first sentence of the LLM's prompt for MiniGrid and BabyAI, and the default; other tasks have their own (`Family`)."""


@dataclass(frozen=True)
class Situation:
    """What the teacher is asked about: a text, and the options from which it chooses.

    Two observations are in the same situation if and only if text and options are equal. Slot `k` of a situation is the option
    `options[k]`; a slot has a meaning only within its situation.
    """

    text: str
    options: tuple[str, ...]
    expert: int | None = None
    """The slot that a scripted expert chooses (for the arms `oracle` and `liar`), or None where there is no expert."""


class Situations:
    """All situations met so far, numbered from 0 in the order in which they were first met; none is ever removed."""

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
        """Return the number of `situation`; a new situation gets the next number."""
        key = (situation.text, situation.options)
        if key not in self._index:
            self._index[key] = len(self._all)
            self._all.append(situation)
        return self._index[key]


@dataclass(frozen=True)
class Layout:
    """The columns of the student's input: first the numbers, then flags in {0, 1}, then the pixels of pictures.

    numbers, flags: how many there are.
    pictures:       shape (C, H, W) of each picture; it is flattened.
    centre, spread: (numbers,) expected mean and standard deviation of each number before any was observed (the student keeps a
                    running mean and variance).

    Rows are float32 if there are numbers, else uint8.
    """

    flags: int = 0
    numbers: int = 0
    pictures: tuple[tuple[int, int, int], ...] = ()
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """The number of columns, F."""
        return self.numbers + self.flags + sum(map(prod, self.pictures))

    @property
    def binary(self) -> bool:
        """Whether there are only flags. Usually few of them are 1, so the student reads such rows as sets."""
        return not self.numbers and not self.pictures

    def widened(self, flags: int) -> Layout:
        """Return a layout with `flags` further flags behind the present ones (fewer flags if negative)."""
        return replace(self, flags=self.flags + flags)

    def inserted(self, features: NDArray[Any], flags: NDArray[Any]) -> NDArray[Any]:
        """Insert `flags` (B, n) into rows (B, F) of this layout; return rows (B, F + n) of `widened(n)`."""
        at = self.numbers + self.flags
        return np.concatenate([features[:, :at], flags.astype(features.dtype), features[:, at:]], axis=1)

    @property
    def dtype(self) -> type[np.uint8] | type[np.float32]:
        """The dtype of a row."""
        return np.float32 if self.numbers else np.uint8


@dataclass
class Observation:
    """The observations of N MiniGrid environments after a step, before grounding (made by `engines.VectorTask`).

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
    """One step of N environments after grounding; K = `Grounding.max_options`.

    features:   (N, F) the student's input; `Grounding.layout` describes the columns and the dtype.
    situation:  (N,) int64, number of the situation in `Grounding.situations`.
    actions:    (N, K) int8, the primitive action that the controller of slot k takes now; -1 where the situation has no slot k
                or the controller has no action.
    completed:  (N,) int64, bit k is set if the last step completed slot k of the *previous* situation, whoever chose the action.
                0 on the first row of an episode.
    failed:     (N,) int64, bit k is set if the last step showed that slot k of the previous situation cannot be done now (for
                example, the agent toggled the door and it stayed locked). 0 on the first row of an episode.
    unscripted: (N, K) bool, True where slot k is an option without a controller, which the student learns to carry out. None:
                every option has a controller.
    """

    features: NDArray[Any]
    situation: NDArray[np.int64]
    actions: NDArray[np.int8]
    completed: NDArray[np.int64]
    failed: NDArray[np.int64]
    unscripted: NDArray[np.bool_] | None = None


class Grounding(Protocol):
    """Turns observations of N environments into situations and features, and options into primitive actions.

    situations:   numbers the situations; several groundings may share it.
    max_options:  K, the largest number of options of a situation.
    layout:       columns and dtype of the features.
    action_names: names of the primitive actions, in their order.
    """

    situations: Situations
    max_options: int
    layout: Layout
    action_names: tuple[str, ...]

    def observe(self, observation: Any, actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        """Process one step of all environments and return it as situations, features and actions.

        observation: an `Observation` for MiniGrid, else a list of N observations.
        actions:     (N,) the primitive actions of the last step; None with the very first observation.
        restarted:   (N,) True where this is the first observation of an episode. The action of that row was ignored, and the
                     grounding forgets what it knew about the previous episode.
        """
        ...


Ground = Callable[[int, Situations, int], Grounding]
"""(number of environments, situations met so far, number of primitive actions) -> a new grounding."""


@dataclass(frozen=True, eq=False)
class Family:
    """What tasks have in common that share a student and a teacher.

    name:             shown in messages.
    layout:           columns and dtype of the student's input.
    action_names:     names of the primitive actions, in their order; the student's output has one column for each.
    max_options:      K, the largest number of options of a situation.
    instruction:      the first sentence of the LLM's prompt.
    ground:           makes a grounding.
    features:         identifies the meaning of the columns: a student can only read the features that it was trained on.
    habits:           (F, A) float32, what each feature adds to the student's logits, or None. It is fixed: a prior against
                      repeating in vain, which makes an action less likely that was taken in the same place before.
    unscripted:       whether there may be options without a controller.
    typical_duration: steps assumed for an option that was never followed to its end.
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
