"""The student's input: binary planes of the belief map around the agent, and binary features of the mission and the surroundings.

Planes mark the cells that the current mission part names (by colour, by kind, by both and by place), so that the student
need not read the mission. No plane shows a colour as such: the student's input does not depend on which colour it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.minigrid.belief import ACTED, HEADING, Belief, X, Y, fits, location_bits, without_effect
from coteach.grounding.minigrid.encoding import (
    A_KEY,
    ACTION_NAMES,
    ANY,
    BEHIND,
    BOX,
    COLOUR,
    COLOURS,
    DX,
    DY,
    GOAL,
    IN_FRONT,
    KEY,
    KIND,
    KIND2,
    LAVA,
    LOCKED,
    NO_VERB,
    NOTHING,
    ON_LEFT,
    ON_RIGHT,
    OPEN,
    PARTS,
    PUT_NEXT,
    SIDE,
    THING,
    UNSEEN,
    VERB,
    WALL,
    compiled,
    portable,
)  # fmt: skip
from coteach.grounding.minigrid.planner import Plan, Scratch, blocks

CROP, AHEAD, BEHIND_ROWS, ASIDE = 9, 6, 2, 4
CELLS = CROP * CROP
PLANES = (
    "unseen", "wall", "door", "open door", "locked door", "key", "ball", "box", "goal", "lava",
    "mission colour", "mission kind", "mission object", "second object", "carried colour", "locked colour", "in the way",
)  # fmt: skip
(
    _UNSEEN, _WALL, _DOOR, _OPEN, _LOCKED, _KEY, _BALL, _BOX, _GOAL, _LAVA,
    _COLOUR, _KIND, _OBJECT, _SECOND, _CARRIED, _FITTING, _BLOCKING,
) = range(17)  # fmt: skip
_KINDS = ("object", "key", "ball", "box", "door", "goal")
_PLACES = ("on the left", "on the right", "in front", "behind")
_BEARINGS = ("mission object", "second object", "key that fits", "shut door", "thing in the way", "frontier")
_SECTORS = ("ahead", "ahead right", "right", "behind right", "behind", "behind left", "left", "ahead left")
_RANGES = ("near", "middling", "far")

_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_VECTOR = (
    *(f"carried: {kind}" for kind in ("key", "ball", "box")),
    "carried: mission object", "carried: second object", "carried: fits a locked door",
    *(f"verb: {verb}" for verb in ("go to", "pick up", "open", "put next to", "reach")),
    *(f"object: {kind}" for kind in _KINDS), "object: has colour", *(f"object: {place}" for place in _PLACES),
    *(f"second: {kind}" for kind in _KINDS), "second: has colour", *(f"second: {place}" for place in _PLACES),
    *(f"part: {k}" for k in range(PARTS)), "more parts to come", "more to explore",
    *(f"turned: {turn}" for turn in ("not", "right", "back", "left")),
    *(f"{what} {where}" for what in _BEARINGS for where in (*_SECTORS, *_RANGES)),
    *(f"last action: {action}" for action in ACTION_NAMES), "last action changed nothing",
    *(f"done here {count} times: {action}" for action in ACTION_NAMES for count in _COUNTS),
)  # fmt: skip
NAMES = (*(f"{plane} at row {cell // CROP} column {cell % CROP}" for plane in PLANES for cell in range(CELLS)), *_VECTOR)
SIZE = len(NAMES)

_START = len(PLANES) * CELLS
_HELD_AT = _START
_VERB_AT = _HELD_AT + 6
_OBJECT_AT = _VERB_AT + 5
_SECOND_AT = _OBJECT_AT + 11
_PART_AT = _SECOND_AT + 11
_TURN_AT = _PART_AT + PARTS + 2
_BEARINGS_AT = _TURN_AT + 4
_LAST_AT = _BEARINGS_AT + 11 * len(_BEARINGS)
_TRIED_AT = _LAST_AT + 8


def repetition_prior(num_actions: int) -> NDArray[np.float32]:
    """Return a prior against repeating an action in vain: (F, A) float32, what each feature adds to the logits, 0 or -1.

    The logit of an action falls by 1 for each of `_COUNTS` that the times it was taken in this place have reached. The prior
    is not learned; `student.repetition_reluctance` scales it. Without it, a greedy student that errs once may turn left and
    right, or pick up and drop, until the episode is cut off.
    """
    logits = np.zeros((SIZE, num_actions), dtype=np.float32)
    for action in range(num_actions):
        logits[_TRIED_AT + action * len(_COUNTS) : _TRIED_AT + (action + 1) * len(_COUNTS), action] = -1.0
    return logits


@compiled
def second_description(parts: NDArray[np.int8], k: int) -> tuple[int, int]:
    """Return (part, column) of the second description: what to put the thing next to, else the first one of the next part."""
    if parts[k, VERB] == PUT_NEXT or k + 1 >= PARTS or parts[k + 1, VERB] == NO_VERB:
        return k, KIND2
    return k + 1, KIND


@compiled
def _write_bearing(row: NDArray[np.uint8], which: int, ahead: int, right: int) -> None:
    """Set the sector (one of eight, 45 degrees each) and range of a place so many cells ahead and to the right of the agent."""
    base = _BEARINGS_AT + which * 11
    a, r = abs(ahead), abs(right)
    # tan(22.5 degrees) is close to 2/5: steeper is straight, flatter is sideways, between is diagonal.
    if 5 * r <= 2 * a:
        sector = 0 if ahead > 0 else 4
    elif 5 * a <= 2 * r:
        sector = 2 if right > 0 else 6
    else:
        sector = (1 if right > 0 else 7) if ahead > 0 else (3 if right > 0 else 5)
    row[base + sector] = 1
    row[base + 8 + (0 if a + r <= 4 else (1 if a + r <= 9 else 2))] = 1


@compiled
def _thing_planes(row: NDArray[np.uint8], cell: int, code: int, part: NDArray[np.int8], held: int, locked: int) -> None:
    """Set the planes of a cell that holds a thing."""
    kind, colour = divmod(code - THING, COLOURS)
    if kind >= OPEN:
        row[_DOOR * CELLS + cell] = 1
        if kind == OPEN:
            row[_OPEN * CELLS + cell] = 1
        elif kind == LOCKED:
            row[_LOCKED * CELLS + cell] = 1
    else:
        row[(_KEY + kind) * CELLS + cell] = 1
    named = part[KIND]
    row[_COLOUR * CELLS + cell] = part[COLOUR] == colour
    row[_KIND * CELLS + cell] = (named == ANY and kind <= BOX) or (named > ANY and named - A_KEY == min(kind, OPEN))
    row[_CARRIED * CELLS + cell] = held != 0 and (held - THING) % COLOURS == colour
    row[_FITTING * CELLS + cell] = locked >> colour & 1


@compiled
def _locked_colours(b: Belief, n: int) -> int:
    """Return one bit for each colour in which a locked door is known."""
    colours = 0
    for y in range(b.bounds[n, 2], b.bounds[n, 3] + 1):
        for x in range(b.bounds[n, 0], b.bounds[n, 1] + 1):
            if b.cells[n, y, x] >= THING + LOCKED * COLOURS:
                colours |= 1 << (b.cells[n, y, x] - THING) % COLOURS
    return colours


@compiled
def _unlocks(held: int, locked: int) -> bool:
    """Return whether the carried thing is a key to one of the locked doors."""
    kind, colour = divmod(held - THING, COLOURS)
    return bool(held != 0 and kind == KEY and locked >> colour & 1)


@compiled
def _crop(b: Belief, n: int, parts: NDArray[np.int8], locked: int, row: NDArray[np.uint8]) -> None:
    """Set the planes: the cells around the agent, turned so that its heading is up."""
    part, (other, column) = parts[b.part[n]], second_description(parts, b.part[n])
    x, y, h = b.pose[n, X], b.pose[n, Y], b.pose[n, HEADING]
    fx, fy, rx, ry = DX[h], DY[h], DX[(h + 1) & 3], DY[(h + 1) & 3]
    for cell in range(CELLS):
        ahead, right = AHEAD - cell // CROP, cell % CROP - ASIDE
        cx, cy = x + fx * ahead + rx * right, y + fy * ahead + ry * right
        code = b.cells[n, cy, cx] if 0 <= cx < SIDE and 0 <= cy < SIDE else UNSEEN
        if code == UNSEEN:
            row[_UNSEEN * CELLS + cell] = 1
        elif code == WALL:
            row[_WALL * CELLS + cell] = 1
        elif code >= GOAL:
            if code in (GOAL, LAVA):
                row[(_GOAL if code == GOAL else _LAVA) * CELLS + cell] = 1
            else:
                _thing_planes(row, cell, code, part, b.held[n, 0], locked)
                row[_BLOCKING * CELLS + cell] = blocks(b.cells[n], cx, cy, code)
            bits = location_bits(b, n, cx, cy)
            row[_OBJECT * CELLS + cell] = fits(part, KIND, code, bits)
            row[_SECOND * CELLS + cell] = fits(parts[other], column, code, bits)


@compiled
def _write_bearings(
    b: Belief, n: int, parts: NDArray[np.int8], locked: int, best: NDArray[np.int64], row: NDArray[np.uint8]
) -> None:
    """Set the bearing (sector and range) of the thing nearest by Manhattan distance, for each of five kinds of thing.

    They are: mission object; second object; key that fits a locked door (any key while no locked door is known); door that is
    not open (only doors that the carried key fits, if it fits one); thing that stands in front of a door.
    """
    held = b.held[n, 0]
    key_colour = (held - THING) % COLOURS if _unlocks(held, locked) else -1
    part, (other, column) = parts[b.part[n]], second_description(parts, b.part[n])
    x, y, h = b.pose[n, X], b.pose[n, Y], b.pose[n, HEADING]
    best[:, 0] = 2 * SIDE
    for cy in range(b.bounds[n, 2], b.bounds[n, 3] + 1):
        for cx in range(b.bounds[n, 0], b.bounds[n, 1] + 1):
            code = b.cells[n, cy, cx]
            if code < GOAL or code == LAVA:
                continue
            far, bits = abs(cx - x) + abs(cy - y), location_bits(b, n, cx, cy)
            for which in range(5):
                if far >= best[which, 0] or far == 0:
                    continue
                if which == 0:
                    found = fits(part, KIND, code, bits)
                elif which == 1:
                    found = fits(parts[other], column, code, bits)
                elif which == 4:
                    found = portable(code) and blocks(b.cells[n], cx, cy, code)
                else:
                    kind, colour = divmod(code - THING, COLOURS)
                    fitting = kind == KEY and (locked == 0 or locked >> colour & 1 != 0)
                    shut = kind == LOCKED and colour == key_colour if key_colour >= 0 else kind > OPEN
                    found = code >= THING and (fitting if which == 2 else shut)
                if found:
                    best[which, 0], best[which, 1], best[which, 2] = far, cx, cy
    for which in range(5):
        if best[which, 0] < 2 * SIDE:
            dx, dy = best[which, 1] - x, best[which, 2] - y
            _write_bearing(row, which, dx * DX[h] + dy * DY[h], dx * DX[(h + 1) & 3] + dy * DY[(h + 1) & 3])


@compiled
def _description(row: NDArray[np.uint8], base: int, part: NDArray[np.int8], column: int) -> None:
    """Set the features of one description of a mission part: kind, whether it has a colour, place."""
    kind, colour, location = part[column], part[column + 1], part[column + 2]
    if kind == NOTHING:
        return
    row[base + kind] = 1
    row[base + 6] = colour >= 0
    for k in range(4):
        row[base + 7 + k] = location == (ON_LEFT, ON_RIGHT, IN_FRONT, BEHIND)[k]


@compiled
def write(b: Belief, n: int, parts: NDArray[np.int8], plan: Plan, s: Scratch, row: NDArray[np.uint8]) -> None:
    """Write the features of environment n, 0 or 1 each, into `row` (F,) uint8."""
    row[:] = 0
    locked = _locked_colours(b, n)
    _crop(b, n, parts, locked, row)
    _write_bearings(b, n, parts, locked, s.nearest, row)
    k = b.part[n]
    part, (other, column) = parts[k], second_description(parts, k)
    held, bits = b.held[n, 0], b.held[n, 1]
    if held != 0:
        row[_HELD_AT + (held - THING) // COLOURS] = 1
        row[_HELD_AT + 3] = fits(part, KIND, held, bits)
        row[_HELD_AT + 4] = fits(parts[other], column, held, bits)
        row[_HELD_AT + 5] = _unlocks(held, locked)
    if part[VERB] != NO_VERB:
        row[_VERB_AT + part[VERB] - 1] = 1
    _description(row, _OBJECT_AT, part, KIND)
    _description(row, _SECOND_AT, parts[other], column)
    row[_PART_AT + k] = 1
    row[_PART_AT + PARTS] = k + 1 < PARTS and parts[k + 1, VERB] != NO_VERB
    row[_PART_AT + PARTS + 1] = plan.explore[n] >= 0
    h = b.pose[n, HEADING]
    row[_TURN_AT + h] = 1
    if b.event[n, ACTED] >= 0:  # without these, a greedy student that errs once may repeat the error until the episode is cut off
        row[_LAST_AT + b.event[n, ACTED]] = 1
        row[_LAST_AT + 7] = without_effect(b.event[n])
    tried = b.tried[n, int(held != 0), b.pose[n, Y], b.pose[n, X], h]
    for action in range(7):
        for level in range(len(_COUNTS)):
            row[_TRIED_AT + action * len(_COUNTS) + level] = tried[action] >= _COUNTS[level]
    if plan.explore[n] >= 0:
        dx, dy = plan.frontier[n, X] - b.pose[n, X], plan.frontier[n, Y] - b.pose[n, Y]
        _write_bearing(row, 5, dx * DX[h] + dy * DY[h], dx * DX[(h + 1) & 3] + dy * DY[(h + 1) & 3])
