"""The belief maps of N environments, computed from egocentric images and the agent's own actions only.

Frame: the start cell is the middle of the map, and the heading at the start is up. The pose is dead-reckoned: a step
forward succeeds if and only if the map's cell in front can be stepped on. The view shows what the agent carries at the
agent's own cell. The events of a step (`Belief.event`) follow from the map before and after it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.minigrid.encoding import (
    A_DOOR,
    A_GOAL,
    A_KEY,
    ANY,
    BALL,
    BEHIND,
    BOX,
    CLOSED,
    CODE_OF,
    COLOURS,
    DX,
    DY,
    EMPTY,
    FORWARD,
    GO_TO,
    GOAL,
    IN_FRONT,
    KIND,
    KIND2,
    LEFT,
    LOCATION,
    LOCATION2,
    NO_VERB,
    NOTHING,
    ON_LEFT,
    ON_RIGHT,
    OPEN,
    OPEN_IT,
    ORIGIN,
    PARTS,
    PICK_UP,
    PUT_NEXT,
    RIGHT,
    SIDE,
    STAGE,
    THING,
    TOGGLE,
    UNSEEN,
    VERB,
    WALL,
    compiled,
    is_door,
    passable,
)  # fmt: skip

# Columns of Belief.pose and Belief.event. Codes are cell codes; masks are location bits.
X, Y, HEADING = range(3)
ACTED, FRONT_BEFORE, MASK_BEFORE, FRONT, MASK, HELD_BEFORE, HELD, BESIDE = range(8)
EVENTS = BESIDE + 8

MOST_TRIES = 32
"""Counts in `Belief.tried` stop here."""


class Belief(NamedTuple):
    """Arrays over N environments, changed in place by `update`.

    cells:  (N, 64, 64) uint8 [row, column], cell codes.
    moved:  (N, 64, 64) uint8, 16 | location bits of a thing that was put down there.
    pose:   (N, 3) int64, column, row, heading.
    bounds: (N, 4) int64, smallest and largest known column, smallest and largest known row.
    held:   (N, 2) int64, code of the carried thing (0: nothing) and its location bits.
    room:   (N, 4) int64, the start room's left, right, top, bottom wall, as far as known.
    done:   (N,) int64, bit k: part k of the mission is done.
    seen:   (N,) int64, bit kind * 6 + colour: such a thing has been known in this episode.
    part:   (N,) int64, the current mission part; `part_before`: the current part one step earlier.
    tried:  (N, 2, 64, 64, 4, 7) uint8 [hands full, row, column, heading, action]: how often the action was taken in this
            place, up to `MOST_TRIES`, since the agent last learned something new or opened a door.
    event:  (N, 16) int64: the last action (-1: none); code and location bits of the cell in front, before and after it;
            code of the carried thing before and after it; and, if something was put down, codes and location bits of
            the four cells next to it.
    """

    cells: NDArray[np.uint8]
    moved: NDArray[np.uint8]
    pose: NDArray[np.int64]
    bounds: NDArray[np.int64]
    held: NDArray[np.int64]
    room: NDArray[np.int64]
    done: NDArray[np.int64]
    seen: NDArray[np.int64]
    part: NDArray[np.int64]
    part_before: NDArray[np.int64]
    tried: NDArray[np.uint8]
    event: NDArray[np.int64]


def _zeros(*shape: int) -> NDArray[np.int64]:
    return np.zeros(shape, dtype=np.int64)


def empty_belief(num_envs: int) -> Belief:
    """Return arrays for N environments. The first `update` of each environment must have `restarted` set."""
    grid = (num_envs, SIDE, SIDE)
    cells, moved = np.zeros(grid, dtype=np.uint8), np.zeros(grid, dtype=np.uint8)
    pose, bounds, held, room = _zeros(num_envs, 3), _zeros(num_envs, 4), _zeros(num_envs, 2), _zeros(num_envs, 4)
    done, seen, part, part_before = (_zeros(num_envs) for _ in range(4))
    tried = np.zeros((num_envs, 2, SIDE, SIDE, 4, 7), dtype=np.uint8)
    return Belief(cells, moved, pose, bounds, held, room, done, seen, part, part_before, tried, _zeros(num_envs, EVENTS))


@compiled
def location_bits(b: Belief, n: int, x: int, y: int) -> int:
    """Return where the thing at (x, y) was at the start, seen from the start pose, as bits; 0 outside the start room."""
    moved = b.moved[n, y, x]
    if moved != 0:
        return int(moved & 15)
    if x < b.room[n, 0] or x > b.room[n, 1] or y < b.room[n, 2] or y > b.room[n, 3]:
        return 0
    bits = ON_LEFT if x < ORIGIN else (ON_RIGHT if x > ORIGIN else 0)
    return bits | (IN_FRONT if y < ORIGIN else (BEHIND if y > ORIGIN else 0))


@compiled
def fits(part: NDArray[np.int8], first: int, code: int, bits: int) -> bool:
    """Return whether a thing (code, location bits) satisfies the description that begins at column `first` of a mission part."""
    kind, colour, location = part[first], part[first + 1], part[first + 2]
    if kind == NOTHING or code < GOAL:
        return False
    if kind == A_GOAL or code < THING:
        return bool(kind == A_GOAL and code == GOAL)
    its_class = (code - THING) // COLOURS
    if kind == A_DOOR:
        if its_class < OPEN:
            return False
    elif its_class > BOX or (kind != ANY and its_class != kind - A_KEY):
        return False
    return bool((colour < 0 or (code - THING) % COLOURS == colour) and (location == 0 or bits & location != 0))


@compiled
def _reset(b: Belief, n: int) -> None:
    b.cells[n] = UNSEEN
    b.moved[n] = 0
    b.pose[n, X] = b.pose[n, Y] = ORIGIN
    b.pose[n, HEADING] = 0
    b.cells[n, ORIGIN, ORIGIN] = EMPTY
    b.bounds[n] = ORIGIN
    b.held[n] = 0
    b.room[n, 0] = b.room[n, 2] = 0
    b.room[n, 1] = b.room[n, 3] = SIDE
    b.done[n] = b.seen[n] = b.part[n] = b.part_before[n] = 0
    b.tried[n] = 0
    b.event[n] = 0
    b.event[n, ACTED] = -1


@compiled
def clear_tried(b: Belief, n: int) -> None:
    """Set the counts of tried actions to 0: after a change, earlier tries say little."""
    b.tried[n, :, b.bounds[n, 2] : b.bounds[n, 3] + 1, b.bounds[n, 0] : b.bounds[n, 1] + 1] = 0


@compiled
def _mismatch(b: Belief, n: int, image: NDArray[np.uint8], x: int, y: int) -> int:
    """Count the walls and goals of the image that contradict the map if the agent is at (x, y)."""
    h = b.pose[n, HEADING]
    fx, fy, rx, ry = DX[h], DY[h], DX[(h + 1) & 3], DY[(h + 1) & 3]
    wrong = 0
    for i in range(7):
        for j in range(7):
            code = CODE_OF[image[i, j, 0], image[i, j, 1], image[i, j, 2]]
            believed = b.cells[n, y + fy * (6 - j) + ry * (i - 3), x + fx * (6 - j) + rx * (i - 3)]
            fixed = code in (WALL, GOAL) or believed in (WALL, GOAL)
            wrong += fixed and code != believed and code != UNSEEN and believed != UNSEEN
    return wrong


@compiled
def _step_forward(b: Belief, n: int, image: NDArray[np.uint8], moving_obstacles: bool) -> None:
    h = b.pose[n, HEADING]
    x, y = b.pose[n, X] + DX[h], b.pose[n, Y] + DY[h]
    if not passable(b.cells[n, y, x]):
        return
    if moving_obstacles:  # an obstacle may have blocked the step: take the place that agrees better with the walls in view
        stay, go = _mismatch(b, n, image, b.pose[n, X], b.pose[n, Y]), _mismatch(b, n, image, x, y)
        if stay < go or (stay == go and image[3, 5, 0] == 6):
            return
    b.pose[n, X], b.pose[n, Y] = x, y


@compiled
def _move(b: Belief, n: int, action: int, image: NDArray[np.uint8], moving_obstacles: bool) -> None:
    if action == LEFT:
        b.pose[n, HEADING] = (b.pose[n, HEADING] + 3) & 3
    elif action == RIGHT:
        b.pose[n, HEADING] = (b.pose[n, HEADING] + 1) & 3
    elif action == FORWARD:
        _step_forward(b, n, image, moving_obstacles)


@compiled
def _paint(b: Belief, n: int, image: NDArray[np.uint8]) -> None:
    """Copy the view onto the map, except for the agent's own cell: that one shows the carried thing."""
    x, y, h = b.pose[n, X], b.pose[n, Y], b.pose[n, HEADING]
    fx, fy, rx, ry = DX[h], DY[h], DX[(h + 1) & 3], DY[(h + 1) & 3]
    for i in range(7):
        for j in range(7):
            code = CODE_OF[image[i, j, 0], image[i, j, 1], image[i, j, 2]]
            if code == UNSEEN or (i == 3 and j == 6):
                continue
            cx = x + fx * (6 - j) + rx * (i - 3)
            cy = y + fy * (6 - j) + ry * (i - 3)
            if cx < 1 or cx >= SIDE - 1 or cy < 1 or cy >= SIDE - 1:
                continue
            b.cells[n, cy, cx] = code
            b.bounds[n, 0], b.bounds[n, 1] = min(b.bounds[n, 0], cx), max(b.bounds[n, 1], cx)
            b.bounds[n, 2], b.bounds[n, 3] = min(b.bounds[n, 2], cy), max(b.bounds[n, 3], cy)


@compiled
def _find_room(b: Belief, n: int) -> None:
    """Set the start room's walls: the first wall or door in each direction from the start cell."""
    for side in range(4):
        h = (3, 1, 0, 2)[side]
        x, y = ORIGIN, ORIGIN
        while b.cells[n, y, x] != UNSEEN and 0 < x < SIDE - 1 and 0 < y < SIDE - 1:
            if b.cells[n, y, x] == WALL or is_door(b.cells[n, y, x]):
                b.room[n, side] = x if side < 2 else y
                break
            x, y = x + DX[h], y + DY[h]


@compiled
def _forget_obstacles(b: Belief, n: int) -> None:
    for y in range(b.bounds[n, 2], b.bounds[n, 3] + 1):
        for x in range(b.bounds[n, 0], b.bounds[n, 1] + 1):
            if (b.cells[n, y, x] - THING) // COLOURS == BALL:
                b.cells[n, y, x] = EMPTY


@compiled
def _look_ahead(b: Belief, n: int, column: int) -> None:
    h = b.pose[n, HEADING]
    x, y = b.pose[n, X] + DX[h], b.pose[n, Y] + DY[h]
    b.event[n, column] = b.cells[n, y, x]
    b.event[n, column + 1] = location_bits(b, n, x, y)


@compiled
def _take_or_put(b: Belief, n: int, image: NDArray[np.uint8]) -> None:
    """Update the carried thing. A thing keeps the location bits that it had at the start of the episode."""
    h = b.pose[n, HEADING]
    x, y = b.pose[n, X] + DX[h], b.pose[n, Y] + DY[h]
    code = CODE_OF[image[3, 6, 0], image[3, 6, 1], image[3, 6, 2]]
    held = code if code >= THING else 0
    before = b.held[n, 0]
    if held != 0 and before == 0:
        b.held[n, 1] = b.event[n, MASK_BEFORE]
        b.moved[n, y, x] = 0
    elif held == 0 and before != 0:
        b.moved[n, y, x] = 16 | b.held[n, 1]
        for k in range(4):
            b.event[n, BESIDE + 2 * k] = b.cells[n, y + DY[k], x + DX[k]]
            b.event[n, BESIDE + 2 * k + 1] = location_bits(b, n, x + DX[k], y + DY[k])
    b.held[n, 0] = held


@compiled
def just_opened(event: NDArray[np.int64]) -> bool:
    """Return whether the last step opened the door in front."""
    now, before = event[FRONT], event[FRONT_BEFORE]
    opened = (now - THING) // COLOURS == OPEN and (before - THING) // COLOURS >= CLOSED
    return bool(opened and event[ACTED] == TOGGLE)


@compiled
def without_effect(event: NDArray[np.int64]) -> bool:
    """Return whether the last action was no turn and changed nothing."""
    action = event[ACTED]
    if action == FORWARD:
        return not passable(event[FRONT_BEFORE])
    return bool(action > FORWARD and event[FRONT] == event[FRONT_BEFORE] and event[HELD] == event[HELD_BEFORE])


@compiled
def _part_done(part: NDArray[np.int8], event: NDArray[np.int64], held_bits: int) -> bool:
    verb = part[VERB]
    if verb == GO_TO:
        return fits(part, KIND, event[FRONT], event[MASK])
    if verb == PICK_UP:
        return bool(event[HELD_BEFORE] == 0 and event[HELD] != 0) and fits(part, KIND, event[HELD], held_bits)
    if verb == OPEN_IT:
        return just_opened(event) and fits(part, KIND, event[FRONT], event[MASK])
    if verb != PUT_NEXT or event[HELD_BEFORE] == 0 or event[HELD] != 0 or not fits(part, KIND, event[HELD_BEFORE], held_bits):
        return False
    for k in range(4):  # noqa: SIM110 (numba knows no generators)
        if fits(part, KIND2, event[BESIDE + 2 * k], event[BESIDE + 2 * k + 1]):
            return True
    return False


@compiled
def _progress(b: Belief, n: int, parts: NDArray[np.int8]) -> None:
    """Mark the parts of the current stage that the last step completed, then those of the next stage if this one is complete."""
    b.part_before[n] = b.part[n]
    for _ in range(2):
        k = b.part[n]
        if parts[k, VERB] == NO_VERB:
            return
        stage = parts[k, STAGE]
        for j in range(PARTS):
            if parts[j, STAGE] == stage and b.event[n, ACTED] >= 0 and _part_done(parts[j], b.event[n], b.held[n, 1]):
                b.done[n] |= 1 << j
        while k < PARTS - 1 and b.done[n] >> k & 1 and parts[k + 1, VERB] != NO_VERB:
            k += 1
        b.part[n] = k


@compiled
def update(
    b: Belief, n: int, image: NDArray[np.uint8], action: int, restarted: bool, parts: NDArray[np.int8], moving_obstacles: bool
) -> None:
    """Update row n of the belief in place.

    image: (7, 7, 3) uint8, the view; action: the one that led here; parts: (4, 8) int8, the mission's.
    restarted: the view is the first one of an episode: the map is cleared and `action` is ignored.
    moving_obstacles: balls move by themselves (levels with three actions): steps may fail, and balls out of view are removed.
    """
    if restarted:
        _reset(b, n)
    else:
        b.event[n, ACTED] = action
        b.event[n, BESIDE:] = 0
        b.event[n, HELD_BEFORE] = b.held[n, 0]
        _look_ahead(b, n, FRONT_BEFORE)
        tried = b.tried[n, int(b.held[n, 0] != 0), b.pose[n, Y], b.pose[n, X], b.pose[n, HEADING]]
        tried[action] = min(tried[action] + 1, MOST_TRIES)
        _move(b, n, action, image, moving_obstacles)
    if moving_obstacles:
        _forget_obstacles(b, n)
    _paint(b, n, image)
    located = False
    for k in range(PARTS):
        located = located or parts[k, LOCATION] != 0 or parts[k, LOCATION2] != 0
    if located:
        _find_room(b, n)
    _take_or_put(b, n, image)
    _look_ahead(b, n, FRONT)
    b.event[n, HELD] = b.held[n, 0]
    _progress(b, n, parts)
