"""The environment's own observation as the student's input: the input of plain PPO without coteach (the arm `ppo`).

The encoding is that of the minigrid package's wrappers, which users of Stable-Baselines3 take: the 7x7 view one-hot
(`OneHotPartialObsWrapper`), the direction, and each word of the mission one-hot at its place (`DictObservationSpaceWrapper`,
whose vocabulary lacks BabyAI's words). There is no belief map, no memory and no controller. All observations are in one
situation, with one option.
"""

from __future__ import annotations

import hashlib

import numpy as np
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
from numpy.typing import NDArray

from coteach.grounding.base import Grounded, Layout, Observation, Situation, Situations
from coteach.grounding.minigrid.encoding import ACTION_NAMES

WORDS = (
    ",", "a", "after", "and", "at", "avoid", "ball", "behind", "blue", "box", "door", "end", "fetch", "find", "from", "front",
    "get", "go", "goal", "green", "grey", "hallway", "in", "key", "lava", "left", "matching", "must", "near", "next", "object",
    "of", "on", "open", "opening", "pick", "purple", "put", "reach", "red", "right", "room", "rooms", "square", "the", "then",
    "to", "traverse", "unlock", "up", "use", "yellow", "you", "your",
)  # fmt: skip
"""The words in the missions of all built-in tasks. Any other word is encoded as one more, "another"."""

PLACES = 40
"""Words of a mission that are encoded; the longest mission of the built-in tasks has 37."""

CELLS, DIRECTIONS = 7 * 7, 4
TILE = len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)
"""Flags of a cell: objects, colours and states; one of each is set."""

NAMES = (
    *(
        f"{what} at column {cell // 7} row {cell % 7}"
        for cell in range(CELLS)
        for names in (OBJECT_TO_IDX, COLOR_TO_IDX, STATE_TO_IDX)
        for what in names
    ),
    *(f"direction {direction}" for direction in range(DIRECTIONS)),
    *(f"word {place}: {word}" for place in range(PLACES) for word in (*WORDS, "another")),
)
SIZE = len(NAMES)

_IMAGE = CELLS * sum(TILE)
_MISSION = _IMAGE + DIRECTIONS
_FIRST = np.arange(CELLS)[:, None] * sum(TILE) + np.array([0, TILE[0], TILE[0] + TILE[1]])
"""(49, 3) the first feature of each cell's objects, colours and states."""

_NUMBERS = {word: number for number, word in enumerate(WORDS)}

_NO_CHOICE = Situation("The student acts by itself.", ("act",))


class RawGrounding:
    """A grounding of N MiniGrid or BabyAI environments whose features are the raw observation (see `base.Grounding`)."""

    max_options = 1
    layout = Layout(flags=SIZE)

    def __init__(self, num_envs: int, situations: Situations, num_actions: int = 7) -> None:
        self.situations = situations
        self.action_names = ACTION_NAMES[:num_actions]
        self._number = situations.number(_NO_CHOICE)
        self._rows = np.zeros((num_envs, SIZE), dtype=np.uint8)
        self._begun = False

    @staticmethod
    def feature_layout() -> str:
        """Return a hash of the feature names, as `MiniGridGrounding.feature_layout` does."""
        return hashlib.sha256("\n".join(NAMES).encode()).hexdigest()[:16]

    def observe(self, observation: Observation, actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        """Ground one step of all environments (see `base.Grounding.observe`); no option ever completes or fails."""
        assert observation.direction is not None
        rows, count = self._rows, len(self._rows)
        rows[:, :_MISSION] = 0
        at = np.arange(count)
        rows[at[:, None, None], _FIRST + observation.image.reshape(count, CELLS, 3)] = 1
        rows[at, _IMAGE + observation.direction] = 1
        for env in np.flatnonzero(restarted) if self._begun else at:
            rows[env, _MISSION:] = encode_mission(observation.mission[env])
        self._begun = True
        none = np.zeros(count, dtype=np.int64)
        controls = np.full((count, self.max_options), -1, dtype=np.int8)
        return Grounded(rows.copy(), np.full(count, self._number), controls, none, none.copy())


def encode_mission(mission: str) -> NDArray[np.uint8]:
    """Return a mission one-hot, (PLACES * (W + 1),) uint8: at each place, which of the W `WORDS` it is, or another one."""
    flags = np.zeros((PLACES, len(WORDS) + 1), dtype=np.uint8)
    for place, word in enumerate(mission.lower().replace(",", " , ").split()[:PLACES]):
        flags[place, _NUMBERS.get(word, len(WORDS))] = 1
    return flags.reshape(-1)
