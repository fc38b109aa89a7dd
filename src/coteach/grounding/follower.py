"""Leading: which option the teacher follows in each environment, and when that option has ended.

Shared by the loop's teacher-led collection and by evaluation. In comes one grounded step and the advice for it; out
come the actions of the followed options' controllers, and the options that ended on this step (the evidence counts them).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.base import Grounded


class Ending(IntEnum):
    """How a followed option ended; where several hold on one step, the first of them counts."""

    COMPLETED = 0
    """The event that completes it came about."""
    FAILED = 1
    """The last step showed that it cannot be done now."""
    EPISODE_END = 2
    """The episode ended, and the option was neither completed nor failed by that step."""
    CHANGED = 3
    """The situation became another one."""
    STUCK = 4
    """Its controller has no way to go on."""
    TIMEOUT = 5
    """It was followed for `patience` steps."""


@dataclass(frozen=True)
class Ended:
    """The M options that ended on one step, in the order of their environments; every array is (M,) int64.

    env:            environment that followed it.
    situation:      number of the situation in which it was chosen (and stayed until now).
    slot:           its slot in that situation.
    duration:       steps it was followed, at least 1.
    outcome:        an `Ending`.
    next_situation: number of the situation now (that of the terminal observation where the episode ended).
    """

    env: NDArray[np.int64]
    situation: NDArray[np.int64]
    slot: NDArray[np.int64]
    duration: NDArray[np.int64]
    outcome: NDArray[np.int64]
    next_situation: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.env)


class OptionFollower:
    """Follows one option per led environment to its end, then chooses the next one by the advice.

    Call `choose` once for every step, also for those on which nobody is led: an option can only be seen to end
    on the step right after its action.

    slot:      (N,) int64, the slot that is followed after the last `choose`; -1 where none is.
    situation: (N,) int64, the situation in which it was chosen.
    age:       (N,) int64, its actions so far, the one just chosen included.
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
        """The actions of the led environments on this step; afterwards `ended` holds the options that ended on it.

        grounded:      the step as `Grounding.observe` gave it.
        probabilities: (N, K) advice for the slots of each row's situation. Read only where an option is chosen, and
                       renormalised over the options whose controller has an action; uniform over those if it gives
                       them nothing.
        led:           (N,) True where the teacher leads. Where it no longer does, its option is dropped without a
                       record: it did not end, it was taken away.
        done:          (N,) True where this row is the last observation of an episode (terminated or truncated).
        rng:           draws the options; None takes the most probable one.

        Returns (N,) int64 primitive actions; -1 where nobody is led, no option has an action, or the episode is over.
        """
        self.slot[~controlled] = -1
        self.ended = self._settle(grounded, done)
        self.slot[self.ended.env] = -1
        self._begin(grounded, probabilities, controlled & ~done & (self.slot < 0), rng)
        following = self.slot >= 0
        self.age += following
        return np.where(following, grounded.actions[self._rows, self.slot], -1).astype(np.int64, copy=False)

    def state(self) -> dict[str, list[int]]:
        """The options being followed, as plain JSON."""
        return {name: getattr(self, name).tolist() for name in ("slot", "situation", "age")}

    def restore(self, state: dict[str, list[int]]) -> None:
        """Take up what `state` gave."""
        for name, values in state.items():
            setattr(self, name, np.array(values, dtype=np.int64))

    def _settle(self, grounded: Grounded, done: NDArray[np.bool_]) -> Ended:
        """The followed options that have ended by now."""
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
        return Ended(
            env, self.situation[env], slot[over], self.age[env], reasons[:, over].argmax(axis=0).astype(np.int64), now[over]
        )

    def _begin(
        self,
        grounded: Grounded,
        probabilities: NDArray[np.floating],
        free: NDArray[np.bool_],
        rng: np.random.Generator | None,
    ) -> None:
        """Choose an option for every row of the mask `free` in which one has an action."""
        env = np.flatnonzero(free)
        if len(env) == 0:
            return
        available = grounded.actions[env] >= 0
        slot = draw(probabilities[env], available, rng)
        self.slot[env] = np.where(available.any(axis=1), slot, -1)
        self.situation[env] = grounded.situation[env]
        self.age[env] = 0


def draw(probabilities: NDArray[np.floating], available: NDArray[np.bool_], rng: np.random.Generator | None) -> NDArray[np.int64]:
    """One slot per row: drawn from `probabilities` (M, K) within `available` (M, K), or the most probable for rng None.

    Rows to whose available slots the advice gives nothing choose uniformly among them; what comes back for a row
    without an available slot means nothing.
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


def _no_options_ended() -> Ended:
    nothing = np.zeros(0, dtype=np.int64)
    return Ended(nothing, nothing, nothing, nothing, nothing, nothing)
