"""`MiniGridGrounding`: MiniGrid and BabyAI observations -> situations, options, features, and controllers' actions.

In each step, one compiled pass over the environments updates the belief maps, plans, and writes keys and features. A
dictionary look-up per environment turns keys into situations. Further passes write the events and the controllers' actions.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.base import Grounded, Layout, Observation, Situations
from coteach.grounding.minigrid import controllers as act
from coteach.grounding.minigrid import features, key
from coteach.grounding.minigrid.belief import Belief, clear_tried, empty_belief, just_opened, update
from coteach.grounding.minigrid.encoding import ACTION_NAMES, COLOURS, compiled
from coteach.grounding.minigrid.planner import Plan, Scratch, empty_plan, scratch, search
from coteach.grounding.minigrid.situation_table import table_of
from coteach.grounding.minigrid.words import MAX_OPTIONS, NO_SLOT


@compiled
def _perceive(
    b: Belief, plan: Plan, s: Scratch, image: NDArray[np.uint8], actions: NDArray[np.int64], restarted: NDArray[np.bool_],
    rows: NDArray[np.int64], parts: NDArray[np.int8], mention: NDArray[np.int8], canonical: NDArray[np.int64], moves_only: bool,
    keys: NDArray[np.int64], real: NDArray[np.int64], learned: NDArray[np.bool_], out: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Update belief and plan of every environment; write keys (N, 8), real colours (N, 6), learned (N,) and features (N, F)."""
    for n in range(len(rows)):
        of_mission = parts[rows[n]]
        more_before = plan.explore[n] >= 0
        update(b, n, image[n], actions[n], restarted[n], of_mission, moves_only)
        search(b, n, of_mission[b.part[n]], plan, s)
        known = act.knowledge(b, n, plan)
        learned[n] = known & ~b.seen[n] != 0 or (more_before and plan.explore[n] < 0)
        b.seen[n] |= known
        if learned[n] or just_opened(b.event[n]):
            clear_tried(b, n)
        key.write(b, n, plan, s, of_mission, mention[rows[n]], canonical[rows[n]], moves_only, keys, real)
        features.write(b, n, of_mission, plan, s, out[n])


@compiled
def _find_events(
    b: Belief, restarted: NDArray[np.bool_], rows: NDArray[np.int64], parts: NDArray[np.int8], slots: NDArray[np.int8],
    entries: NDArray[np.int64], real: NDArray[np.int64], learned: NDArray[np.bool_],
    completed: NDArray[np.int64], failed: NDArray[np.int64],
) -> None:  # fmt: skip
    """Write the bits of the slots that the last step completed and failed, (N,) int64 each."""
    for n in range(len(rows)):
        completed[n] = failed[n] = 0
        if restarted[n]:
            continue
        part, entered = parts[rows[n], b.part_before[n]], act.on_goal(b, n)
        for k in range(MAX_OPTIONS):
            slot = slots[entries[n], k]
            if slot[act.ACT] == NO_SLOT:
                break
            if act.completed(b.event[n], part, slot, real[n], learned[n], entered):
                completed[n] |= 1 << k
            elif act.failed(b.event[n], part, slot, real[n]):
                failed[n] |= 1 << k


@compiled
def _controller_actions(
    plan: Plan, slots: NDArray[np.int8], entries: NDArray[np.int64], real: NDArray[np.int64], out: NDArray[np.int8]
) -> None:
    """Write the next action of every slot's controller, (N, 24) int8; -1: none."""
    for n in range(len(entries)):
        out[n] = -1
        for k in range(MAX_OPTIONS):
            slot = slots[entries[n], k]
            if slot[act.ACT] == NO_SLOT:
                break
            out[n, k] = act.action(plan, n, slot, real[n])


class MiniGridGrounding:
    """The grounding of N MiniGrid or BabyAI environments (see `base.Grounding`).

    situations:  groundings that are given the same object number their situations alike.
    num_actions: 7, or 3 for the levels that have only left, right and forward; their obstacles move by themselves.
    """

    max_options = MAX_OPTIONS
    layout = Layout(flags=features.SIZE)

    def __init__(self, num_envs: int, situations: Situations | None = None, num_actions: int = 7) -> None:
        self.situations = Situations() if situations is None else situations
        self.action_names = ACTION_NAMES[:num_actions]
        self._moves_only = num_actions < 7
        self._table = table_of(self.situations)
        self._belief = empty_belief(num_envs)
        self._plan = empty_plan(num_envs)
        self._scratch = scratch()
        self._rows = np.zeros(num_envs, dtype=np.int64)
        self._entries = np.zeros(num_envs, dtype=np.int64)
        self._real = np.zeros((num_envs, COLOURS), dtype=np.int64)
        self._started = False

    @property
    def belief(self) -> Belief:
        """The belief maps of the N environments (for drawing and tests); `observe` changes them in place."""
        return self._belief

    @staticmethod
    def habits(num_actions: int) -> NDArray[np.float32]:
        """Return the prior against repeating an action in vain: (F, A) float32, what each feature adds to a student's logits."""
        return features.repetition_prior(num_actions)

    @staticmethod
    def feature_names() -> tuple[str, ...]:
        """Return the names of the F features."""
        return features.NAMES

    @staticmethod
    def feature_layout() -> str:
        """Return a hash of the feature names: a student can only read the features that it was trained on."""
        return hashlib.sha256("\n".join(features.NAMES).encode()).hexdigest()[:16]

    def observe(self, observation: Observation, actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        """Ground one step of all environments (see `base.Grounding.observe`)."""
        num_envs, table = len(self._rows), self._table
        first = actions is None or not self._started
        restarted = np.ones(num_envs, dtype=np.bool_) if first else restarted
        taken = np.full(num_envs, -1, dtype=np.int64) if actions is None else np.asarray(actions, dtype=np.int64)
        self._started = True
        for n in np.flatnonzero(restarted):
            self._rows[n] = table.mission(observation.mission[n])
        keys = np.empty((num_envs, key.WIDTH), dtype=np.int64)
        real = np.empty((num_envs, COLOURS), dtype=np.int64)
        learned = np.empty(num_envs, dtype=np.bool_)
        rows = np.empty((num_envs, features.SIZE), dtype=np.uint8)
        _perceive(
            self._belief, self._plan, self._scratch, observation.image, taken, restarted,
            self._rows, table.parts, table.mention, table.canonical, self._moves_only, keys, real, learned, rows,
        )  # fmt: skip
        entries = np.array(table.entries(keys), dtype=np.int64)
        completed, failed = np.empty(num_envs, dtype=np.int64), np.empty(num_envs, dtype=np.int64)
        _find_events(
            self._belief, restarted, self._rows, table.parts, table.slots, self._entries, self._real, learned, completed, failed
        )
        self._entries, self._real = entries, real
        out = np.empty((num_envs, MAX_OPTIONS), dtype=np.int8)
        _controller_actions(self._plan, table.slots, entries, real, out)
        return Grounded(rows, table.numbers[entries], out, completed, failed)
