"""The next action of every option's controller, and the options that the last step completed or showed to be impossible.

Events depend on what happened, not on who acted: a door that the student opened completes "open the door" as well.
In all functions, n is the environment, `slot` (4,) int8 is one row of `SituationTable.slots`, `part` (8,) int8 is a mission
part, `event` is a row of `Belief.event`, and `real` (6,) int64 gives the real colour of each canonical one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.minigrid.belief import (
    ACTED,
    BESIDE,
    FRONT,
    FRONT_BEFORE,
    HELD,
    HELD_BEFORE,
    MASK,
    MASK_BEFORE,
    Belief,
    X,
    Y,
    just_opened,
)  # fmt: skip
from coteach.grounding.minigrid.encoding import (
    BLOCK,
    COLOURS,
    DONE,
    FACING,
    GOAL,
    OPEN,
    PICKUP,
    SORTS,
    TAGS,
    THING,
    TOGGLE,
    compiled,
)  # fmt: skip
from coteach.grounding.minigrid.planner import Plan, tag_of
from coteach.grounding.minigrid.words import (
    CLOSE,
    ENTER,
    EXPLORE,
    GO,
    OPEN_UP,
    PUT_BESIDE,
    PUT_DOWN,
    TAKE,
)  # fmt: skip

ACT, KIND, COLOUR, TAG = range(4)
"""Columns of a slot: what to do, and the class, canonical colour and tag of the thing to do it with."""


@compiled
def _nearest_door(plan: Plan, n: int, colour: int, tag: int) -> int:
    """Return the sort of the nearest door of this colour and tag, in any state."""
    best = (OPEN * COLOURS + colour) * TAGS + tag
    for kind in range(OPEN + 1, 6):
        sort = (kind * COLOURS + colour) * TAGS + tag
        if plan.near[n, sort] >= 0 and (plan.near[n, best] < 0 or plan.rank[n, sort] < plan.rank[n, best]):
            best = sort
    return best


@compiled
def action(plan: Plan, n: int, slot: NDArray[np.int8], real: NDArray[np.int64]) -> int:
    """Return the next primitive action of one slot's controller; -1 if it has no way to go on."""
    act = slot[ACT]
    if act == EXPLORE:
        return int(plan.explore[n])
    if act == PUT_DOWN:
        return int(plan.drop[n])
    if act == ENTER:
        return int(plan.goal[n])
    colour = real[slot[COLOUR]]
    sort = (slot[KIND] * COLOURS + colour) * TAGS + slot[TAG]
    if act == PUT_BESIDE:
        return _beside_any_state(plan, n, slot[KIND], colour, slot[TAG])
    if act == GO and slot[KIND] >= OPEN:
        sort = _nearest_door(plan, n, colour, slot[TAG])
    near = plan.near[n, sort]
    if near != FACING:
        return int(near)
    return DONE if act == GO else (PICKUP if act == TAKE else TOGGLE)


@compiled
def _beside_any_state(plan: Plan, n: int, kind: int, colour: int, tag: int) -> int:
    """Return the next action for putting down what is carried next to such a thing (a door in any state); -1: no way."""
    for k in range(kind, 6 if kind >= OPEN else kind + 1):
        found = plan.beside[n, (k * COLOURS + colour) * TAGS + tag]
        if found >= 0:
            return int(found)
    return -1


@compiled
def _is(code: int, slot: NDArray[np.int8], real: NDArray[np.int64]) -> bool:
    """Return whether a cell code has the slot's class and colour. A door's state counts only if the slot opens or closes it."""
    if code < THING:
        return False
    kind, colour = divmod(code - THING, COLOURS)
    alike = kind == slot[KIND] if slot[ACT] in (OPEN_UP, CLOSE) else min(kind, OPEN) == min(slot[KIND], OPEN)
    return bool(alike and colour == real[slot[COLOUR]])


@compiled
def _tagged(part: NDArray[np.int8], code: int, bits: int, slot: NDArray[np.int8]) -> bool:
    """Return whether the thing has the slot's tag. `BLOCK` is not checked: the thing may have stopped blocking in this step."""
    return bool(slot[TAG] == BLOCK or tag_of(part, code, bits) == slot[TAG])


@compiled
def completed(
    event: NDArray[np.int64],
    part: NDArray[np.int8],
    slot: NDArray[np.int8],
    real: NDArray[np.int64],
    learned: bool,
    entered: bool,
) -> bool:
    """Return whether the last step completed the slot.

    learned: the step showed something new; entered: it ended on the goal.
    """
    act = slot[ACT]
    if act == EXPLORE:
        return learned
    if act == ENTER:
        return entered
    if act == PUT_DOWN:
        return bool(event[HELD_BEFORE] != 0 and event[HELD] == 0)
    before, now = event[FRONT_BEFORE], event[FRONT]
    if act == GO:
        was = _is(before, slot, real) and _tagged(part, before, event[MASK_BEFORE], slot)
        return not was and _is(now, slot, real) and _tagged(part, now, event[MASK], slot)
    if act == PUT_BESIDE:
        return bool(event[HELD_BEFORE] != 0 and event[HELD] == 0) and _put_beside(event, part, slot, real)
    if not (_is(before, slot, real) and _tagged(part, before, event[MASK_BEFORE], slot)):
        return False
    if act == TAKE:
        return bool(event[HELD_BEFORE] == 0 and event[HELD] != 0)
    if act == OPEN_UP and slot[KIND] >= OPEN:
        return just_opened(event)
    return bool(event[ACTED] == TOGGLE and now != before)


@compiled
def _put_beside(event: NDArray[np.int64], part: NDArray[np.int8], slot: NDArray[np.int8], real: NDArray[np.int64]) -> bool:
    """Return whether the thing was put down next to one that the slot names."""
    for k in range(4):
        code, bits = event[BESIDE + 2 * k], event[BESIDE + 2 * k + 1]
        if _is(code, slot, real) and _tagged(part, code, bits, slot):
            return True
    return False


@compiled
def failed(event: NDArray[np.int64], part: NDArray[np.int8], slot: NDArray[np.int8], real: NDArray[np.int64]) -> bool:
    """Return whether the last step failed the slot: its last action was taken in front of its target and changed nothing."""
    act, before = slot[ACT], event[FRONT_BEFORE]
    decisive = DONE if act == GO else (PICKUP if act == TAKE else TOGGLE)
    if act not in (GO, TAKE, OPEN_UP, CLOSE) or event[ACTED] != decisive:
        return False
    if before != event[FRONT] or event[HELD] != event[HELD_BEFORE]:
        return False
    return _is(before, slot, real) and _tagged(part, before, event[MASK_BEFORE], slot)


@compiled
def knowledge(b: Belief, n: int, plan: Plan) -> int:
    """Return what is known, as bits: one for each class and colour of things (doors in any state), and one for the goal."""
    known = plan.goal_seen[n] << 24
    for sort in range(SORTS):
        if plan.present[n, sort]:
            kind, colour = divmod(sort // TAGS, COLOURS)
            known |= 1 << (min(kind, OPEN) * COLOURS + colour)
    if b.held[n, 0] != 0:
        kind, colour = divmod(b.held[n, 0] - THING, COLOURS)
        known |= 1 << (kind * COLOURS + colour)
    return int(known)


@compiled
def on_goal(b: Belief, n: int) -> bool:
    """Return whether the agent stands on the goal."""
    return bool(b.cells[n, b.pose[n, Y], b.pose[n, X]] == GOAL)
