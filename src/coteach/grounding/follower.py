"""Following options: which option is followed in each environment, and when and how it ended.

Teacher-controlled episodes and evaluations of the teacher use it. The input is one grounded step with the probabilities of its
options; the output is the actions of the followed options' controllers and the options that ended on this step, which the
evidence counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.base import Grounded


class Ending(IntEnum):
    """How a followed option ended; where several apply on one step, the first of them counts."""

    COMPLETED = 0
    """The event that completes it happened."""
    FAILED = 1
    """The last step showed that it cannot be done now."""
    EPISODE_END = 2
    """The episode ended, and the option was neither completed nor failed by that step."""
    CHANGED = 3
    """The situation changed."""
    STUCK = 4
    """Its controller has no action."""
    TIMEOUT = 5
    """It was followed for `patience` steps."""


@dataclass(frozen=True)
class EndedOptions:
    """The M options that ended on one step, in the order of their environments; every array is (M,) int64.

    env:            the environment in which it was followed.
    situation:      number of the situation in which it was chosen.
    slot:           its slot in that situation.
    duration:       steps for which it was followed, at least 1.
    ending:         an `Ending`.
    next_situation: number of the situation now (that of the terminal observation where the episode ended).
    """

    env: NDArray[np.int64]
    situation: NDArray[np.int64]
    slot: NDArray[np.int64]
    duration: NDArray[np.int64]
    ending: NDArray[np.int64]
    next_situation: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.env)


class OptionFollower:
    """Follows one option to its end in each teacher-controlled environment, then chooses the next one.

    Call `choose` once for every step, also where the teacher controls no environment: the end of an option can only be detected
    on the step right after its action.

    patience:    steps for which an option is followed at most.
    max_options: K, the number of slots.
    slot:        (N,) int64, the slot that is followed after the last `choose`; -1 for none.
    situation:   (N,) int64, the situation in which it was chosen.
    age:         (N,) int64, the number of its actions so far, including the one just chosen.
    ended:       the options that ended on the step of the last `choose`.
    """

    def __init__(self, num_envs: int, max_options: int, patience: int) -> None:
        self.patience = patience
        self.max_options = max_options
        self.slot = np.full(num_envs, -1, dtype=np.int64)
        self.situation = np.full(num_envs, -1, dtype=np.int64)
        self.age = np.zeros(num_envs, dtype=np.int64)
        self.ended = _no_options_ended()
        self._rows = np.arange(num_envs)

    def choose(
        self,
        grounded: Grounded,
        probabilities: NDArray[np.floating],
        controlled: NDArray[np.bool_],
        done: NDArray[np.bool_],
        rng: np.random.Generator | None,
    ) -> NDArray[np.int64]:
        """Return the actions of this step and set `ended`; choose a new option where none is being followed.

        grounded:      the step as `Grounding.observe` returned it.
        probabilities: (N, K) probability of each slot of the row's situation. They are read only where an option is chosen, and
                       renormalised over the options whose controller has an action (uniform if all of these have 0).
        controlled:    (N,) True where the teacher controls the environment. Where it no longer does, its option is dropped and
                       not recorded, because it did not end.
        done:          (N,) True where this row is the last observation of an episode (terminated or truncated).
        rng:           draws the options; None: the most probable option is chosen.

        Returns (N,) int64 primitive actions; -1 where the teacher does not control the environment, no option has an action, or
        the episode is over.
        """
        self.slot[~controlled] = -1
        self.ended = self._find_ended(grounded, done)
        self.slot[self.ended.env] = -1
        self._choose_options(grounded, probabilities, controlled & ~done & (self.slot < 0), rng)
        following = self.slot >= 0
        self.age += following
        return np.where(following, grounded.actions[self._rows, self.slot], -1).astype(np.int64, copy=False)

    def state(self) -> dict[str, list[int]]:
        """Return the options being followed, as plain JSON."""
        return {name: getattr(self, name).tolist() for name in ("slot", "situation", "age")}

    def restore(self, state: dict[str, list[int]]) -> None:
        """Restore what `state` returned."""
        for name, values in state.items():
            setattr(self, name, np.array(values, dtype=np.int64))

    def _find_ended(self, grounded: Grounded, done: NDArray[np.bool_]) -> EndedOptions:
        """Return the followed options that ended on this step."""
        env = np.flatnonzero(self.slot >= 0)
        slot = self.slot[env]
        now = grounded.situation[env]
        reasons = np.stack(  # in the order of Ending
            [
                (grounded.completed[env] >> slot) & 1 != 0,
                (grounded.failed[env] >> slot) & 1 != 0,
                done[env],
                now != self.situation[env],
                grounded.actions[env, slot] < 0,
                self.age[env] >= self.patience,
            ]
        )
        over = reasons.any(axis=0)
        env = env[over]
        return EndedOptions(
            env, self.situation[env], slot[over], self.age[env], reasons[:, over].argmax(axis=0).astype(np.int64), now[over]
        )

    def _choose_options(
        self,
        grounded: Grounded,
        probabilities: NDArray[np.floating],
        free: NDArray[np.bool_],
        rng: np.random.Generator | None,
    ) -> None:
        """Choose an option in every row of `free` (N,) in which some option has an action."""
        env = np.flatnonzero(free)
        if len(env) == 0:
            return
        available = grounded.actions[env] >= 0
        slot = choose_slots(probabilities[env], available, rng)
        self.slot[env] = np.where(available.any(axis=1), slot, -1)
        self.situation[env] = grounded.situation[env]
        self.age[env] = 0


def choose_slots(
    probabilities: NDArray[np.floating], available: NDArray[np.bool_], rng: np.random.Generator | None
) -> NDArray[np.int64]:
    """Choose one slot per row, (M,) int64: draw it from `probabilities`, or take the most probable one if rng is None.

    probabilities: (M, K); only the slots with `available` (M, K) count. If all of these have probability 0, they are equally
    likely (with rng None, the first is taken). The result is meaningless for a row without an available slot.
    """
    weight: NDArray[np.float64] = np.where(available, probabilities, 0.0)
    nothing = weight.sum(axis=1) <= 0.0
    weight[nothing] = available[nothing]
    slot: NDArray[np.int64] = weight.argmax(axis=1)
    if rng is None:
        return slot
    cumulated = weight.cumsum(axis=1)
    threshold = rng.random(len(weight)) * cumulated[:, -1]
    slot = (cumulated > threshold[:, None]).argmax(axis=1)
    return slot


def _no_options_ended() -> EndedOptions:
    """Return an empty `EndedOptions`."""
    nothing = np.zeros(0, dtype=np.int64)
    return EndedOptions(nothing, nothing, nothing, nothing, nothing, nothing)
