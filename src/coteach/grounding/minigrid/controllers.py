"""What every option's controller does next, and which options the last step completed or showed to be impossible.

Events are judged by what happened, not by who acted: a door that the student opened completes "open the door" as well.
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
"""Columns of a slot: what to do with which sort of thing (colour canonical)."""


@compiled
def _nearest_door(plan: Plan, n: int, colour: int, tag: int) -> int:
    """The sort of door (open, closed or locked) of this colour that is found first."""
    best = (OPEN * COLOURS + colour) * TAGS + tag
    for kind in range(OPEN + 1, 6):
        sort = (kind * COLOURS + colour) * TAGS + tag
        if plan.near[n, sort] >= 0 and (plan.near[n, best] < 0 or plan.rank[n, sort] < plan.rank[n, best]):
            best = sort
    return best


@compiled
def action(plan: Plan, n: int, slot: NDArray[np.int8], real: NDArray[np.int64]) -> int:
    """The next primitive action of one slot's controller, -1 where it has no way to go on."""
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
    for k in range(kind, 6 if kind >= OPEN else kind + 1):
        found = plan.beside[n, (k * COLOURS + colour) * TAGS + tag]
        if found >= 0:
            return int(found)
    return -1


@compiled
def _is(code: int, slot: NDArray[np.int8], real: NDArray[np.int64]) -> bool:
    """Whether a cell code is of the slot's kind and colour: a door in any state, but where it is to be opened or closed."""
    if code < THING:
        return False
    kind, colour = divmod(code - THING, COLOURS)
    alike = kind == slot[KIND] if slot[ACT] in (OPEN_UP, CLOSE) else min(kind, OPEN) == min(slot[KIND], OPEN)
    return bool(alike and colour == real[slot[COLOUR]])


@compiled
def _tagged(part: NDArray[np.int8], code: int, bits: int, slot: NDArray[np.int8]) -> bool:
    """Whether the thing is where the option says; what stood in the way a moment ago may do so no longer."""
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
    """Whether the last step brought about the event that completes the slot."""
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
    for k in range(4):
        code, bits = event[BESIDE + 2 * k], event[BESIDE + 2 * k + 1]
        if _is(code, slot, real) and _tagged(part, code, bits, slot):
            return True
    return False


@compiled
def failed(event: NDArray[np.int64], part: NDArray[np.int8], slot: NDArray[np.int8], real: NDArray[np.int64]) -> bool:
    """Whether the slot's deciding action was taken before its target and changed nothing."""
    act, before = slot[ACT], event[FRONT_BEFORE]
    decisive = DONE if act == GO else (PICKUP if act == TAKE else TOGGLE)
    if act not in (GO, TAKE, OPEN_UP, CLOSE) or event[ACTED] != decisive:
        return False
    if before != event[FRONT] or event[HELD] != event[HELD_BEFORE]:
        return False
    return _is(before, slot, real) and _tagged(part, before, event[MASK_BEFORE], slot)


@compiled
def knowledge(b: Belief, n: int, plan: Plan) -> int:
    """One bit for each kind and colour of things known (doors whatever their state), and one for the goal."""
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
    """Whether the agent stands on the goal."""
    return bool(b.cells[n, b.pose[n, Y], b.pose[n, X]] == GOAL)
