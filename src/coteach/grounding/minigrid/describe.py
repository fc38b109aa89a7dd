"""The egocentric view in words, and a grounding whose options are the named primitive actions.

`describe` names each thing in view and its place, as in BabyAI-Text (Carta et al. 2023, arXiv 2302.02662): "You see a red
ball 2 steps left and 3 steps forward." There is no belief map, and an option is one primitive action.
"""

from __future__ import annotations

import numpy as np
from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT
from numpy.typing import NDArray

from coteach.grounding.base import Grounded, Layout, Observation, Situation, Situations

ACTION_WORDS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
"""Of MiniGrid's primitive actions 0 to 5; the seventh, "done", does nothing in any built-in task."""

AGENT = (3, 6)
"""The agent's own cell (column, row) in the 7x7 view: it looks towards row 0, and what it carries is shown there."""

_SEEN = frozenset({"door", "key", "ball", "box", "goal", "lava"})
_DOOR_STATES = ("open", "closed", "locked")
_AHEAD, _LEFT, _RIGHT = (0, -1), (-1, 0), (1, 0)


def describe(view: NDArray[np.uint8]) -> str:
    """Return the view (7, 7, 3) uint8 in words: the carried thing, things from near to far, walls ahead, left and right."""
    things = sorted(
        (abs(column - AGENT[0]) + AGENT[1] - row, column, row)
        for column in range(7)
        for row in range(7)
        if (column, row) != AGENT and _kind(view, column, row) in _SEEN
    )
    carried = [f"You carry {_name(view, *AGENT)}."] if _kind(view, *AGENT) in _SEEN else []
    seen = [f"You see {_name(view, column, row)} {_place(column, row)}." for _, column, row in things]
    return " ".join([*carried, *seen, *_walls(view)]) or "You see nothing."


class ViewGrounding:
    """A grounding of N MiniGrid or BabyAI environments without memory: situation = mission and view, options = actions.

    An option's controller takes the action of that name, which completes the option. There are no features: (N, 0).
    """

    layout = Layout()

    def __init__(self, situations: Situations, num_actions: int) -> None:
        self.situations = situations
        self.action_names = ACTION_WORDS[:num_actions]
        self.max_options = len(self.action_names)
        self._numbers: dict[tuple[str, bytes], int] = {}

    def observe(self, observation: Observation, actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        """Ground one step of all environments (see `base.Grounding.observe`)."""
        rows = len(observation.mission)
        situation = [self._number(view, mission) for view, mission in zip(observation.image, observation.mission, strict=True)]
        taken = np.zeros(rows, dtype=np.int64) if actions is None else np.where(restarted, 0, 1 << actions)
        return Grounded(
            features=np.zeros((rows, 0), dtype=np.uint8),
            situation=np.array(situation, dtype=np.int64),
            actions=np.tile(np.arange(self.max_options, dtype=np.int8), (rows, 1)),
            completed=taken,
            failed=np.zeros(rows, dtype=np.int64),
        )

    def _number(self, view: NDArray[np.uint8], mission: str) -> int:
        key = (mission, view.tobytes())
        if key not in self._numbers:
            listed = ", ".join(self.action_names)
            text = f"Possible actions: {listed}.\nMission: {mission}.\n{describe(view)}"
            self._numbers[key] = self.situations.number(Situation(text, self.action_names))
        return self._numbers[key]


def _kind(view: NDArray[np.uint8], column: int, row: int) -> str:
    name: str = IDX_TO_OBJECT[int(view[column, row, 0])]
    return name


def _name(view: NDArray[np.uint8], column: int, row: int) -> str:
    """Return for example "a red ball", "an open green door", "a goal"."""
    kind, colour, state = _kind(view, column, row), IDX_TO_COLOR[int(view[column, row, 1])], int(view[column, row, 2])
    if kind in ("goal", "lava"):
        return "lava" if kind == "lava" else "a goal"
    if kind != "door":
        return f"a {colour} {kind}"
    return f"{'an' if state == 0 else 'a'} {_DOOR_STATES[state]} {colour} {kind}"


def _place(column: int, row: int) -> str:
    """Return for example "2 steps left and 3 steps forward"; an empty text for the agent's own cell."""
    aside, ahead = column - AGENT[0], AGENT[1] - row
    parts = [_steps(abs(aside), "left" if aside < 0 else "right"), _steps(ahead, "forward")]
    return " and ".join(part for part in parts if part)


def _steps(count: int, direction: str) -> str:
    return f"{count} step{'s' if count > 1 else ''} {direction}" if count else ""


def _walls(view: NDArray[np.uint8]) -> list[str]:
    """Return a sentence for the first wall ahead, left and right of the agent, if it is in view."""
    found = []
    for dx, dy in (_AHEAD, _LEFT, _RIGHT):
        column, row = AGENT[0] + dx, AGENT[1] + dy
        while 0 <= column < 7 and row >= 0 and _kind(view, column, row) != "wall":
            column, row = column + dx, row + dy
        if 0 <= column < 7 and row >= 0:
            found.append(f"You see a wall {_place(column, row)}.")
    return found
