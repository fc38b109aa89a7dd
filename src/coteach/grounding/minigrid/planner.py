"""One breadth-first search per environment and step, which gives the next action of every controller.

States are (cell, heading), and every action costs one step. Paths lead over known cells. They lead through closed doors
(toggle first) only after all open space has been searched: targets that need no opened door come first. Paths never cross
lava or the goal. The search stops as soon as it has found every known thing and a frontier.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.minigrid.belief import HEADING, Belief, X, Y, fits, location_bits
from coteach.grounding.minigrid.encoding import (
    AT_FIRST,
    AT_SECOND,
    BLOCK,
    CLOSED,
    CODES,
    COLOURS,
    DROP,
    DX,
    DY,
    EMPTY,
    FACING,
    FLOOR,
    FORWARD,
    GOAL,
    KIND,
    KIND2,
    LOCATION,
    LOCATION2,
    LOCKED,
    OPEN,
    PLAIN,
    PUT_NEXT,
    SIDE,
    SORTS,
    TAGS,
    THING,
    TOGGLE,
    UNSEEN,
    VERB,
    compiled,
    is_door,
    portable,
)  # fmt: skip

_STATES = SIDE * SIDE * 4
_STRIDE = DX + SIDE * DY
_NEVER, FREELY, BY_TOGGLE = range(3)


def _entry() -> NDArray[np.int8]:
    """Return how a path may enter a cell, by code, (42,): never (walls, things, lava, goal), freely, or by opening a door."""
    entry = np.zeros(CODES, dtype=np.int8)
    entry[[EMPTY, FLOOR, *range(THING + OPEN * COLOURS, THING + CLOSED * COLOURS)]] = FREELY
    entry[THING + CLOSED * COLOURS : THING + LOCKED * COLOURS] = BY_TOGGLE
    return entry


def _interest() -> NDArray[np.bool_]:
    """Return whether a cell can be a target, by hands (0 empty, 1 full) and code: (2, 42) bool."""
    interest = np.zeros((2, CODES), dtype=np.bool_)
    interest[:, [UNSEEN, GOAL, *range(THING, CODES)]] = True
    interest[1, EMPTY] = True
    return interest


_ENTRY, _INTEREST = _entry(), _interest()


class Plan(NamedTuple):
    """The plans of N environments: the first action towards each target (-1: no way), written in place by `search`.

    near:      (N, 144) int8, to face the nearest thing of a sort; `FACING` if the agent already does.
    rank:      (N, 144) int64, order in which the sorts were found (smaller is nearer).
    beside:    (N, 144) int8, to put down what is carried next to a thing of a sort.
    explore:   (N,) int8, to face the nearest unknown cell.
    drop:      (N,) int8, to put down what is carried where it is not in the way.
    goal:      (N,) int8, to enter the goal.
    frontier:  (N, 2) int64, column and row of the unknown cell that `explore` leads to.
    present:   (N, 144) int64, 1 for the sorts that are known to exist.
    goal_seen: (N,) int64, 1 if the goal is known.
    """

    near: NDArray[np.int8]
    rank: NDArray[np.int64]
    beside: NDArray[np.int8]
    explore: NDArray[np.int8]
    drop: NDArray[np.int8]
    goal: NDArray[np.int8]
    frontier: NDArray[np.int64]
    present: NDArray[np.int64]
    goal_seen: NDArray[np.int64]


class Scratch(NamedTuple):
    """Working memory, one for all environments (compiled functions must not allocate).

    For `search`: visit stamps, first actions, two queues, the sort of the thing in each cell, counters (`tally`).
    For `key.write`: an integer per colour (`words`). For `features.write`: distance, column and row of the nearest things.
    """

    stamp: NDArray[np.int32]
    first: NDArray[np.int8]
    queue: NDArray[np.int32]
    later: NDArray[np.int32]
    sort_at: NDArray[np.int16]
    tally: NDArray[np.int64]
    words: NDArray[np.int64]
    nearest: NDArray[np.int64]


NOW, WANTED, FOUND, QUALITY = range(4)  # columns of Scratch.tally


def empty_plan(num_envs: int) -> Plan:
    """Return arrays for the plans of N environments."""
    near, beside = (np.full((num_envs, SORTS), -1, dtype=np.int8) for _ in range(2))
    rank, present = (np.zeros((num_envs, SORTS), dtype=np.int64) for _ in range(2))
    explore, drop, goal = (np.full(num_envs, -1, dtype=np.int8) for _ in range(3))
    frontier, goal_seen = np.zeros((num_envs, 2), dtype=np.int64), np.zeros(num_envs, dtype=np.int64)
    return Plan(near, rank, beside, explore, drop, goal, frontier, present, goal_seen)


def scratch() -> Scratch:
    """Return the working memory that all environments of a grounding share."""
    return Scratch(
        np.zeros(_STATES, dtype=np.int32), np.zeros(_STATES, dtype=np.int8), np.zeros(_STATES, dtype=np.int32),
        np.zeros(_STATES, dtype=np.int32), np.zeros((SIDE, SIDE), dtype=np.int16), np.zeros(4, dtype=np.int64),
        np.zeros(COLOURS, dtype=np.int64), np.zeros((5, 3), dtype=np.int64),
    )  # fmt: skip


@compiled
def blocks(cells: NDArray[np.uint8], x: int, y: int, code: int) -> bool:
    """Return whether this is a key, ball or box next to a door, or a door next to such a thing."""
    for k in range(4):
        beside = cells[y + DY[k], x + DX[k]]
        if (is_door(code) and portable(beside)) or (portable(code) and is_door(beside)):
            return True
    return False


@compiled
def tag_of(part: NDArray[np.int8], code: int, bits: int) -> int:
    """Return the tag of a thing (code, location bits) under the current mission part; never `BLOCK`."""
    if part[LOCATION] != 0 and fits(part, KIND, code, bits):
        return AT_FIRST
    if part[LOCATION2] != 0 and fits(part, KIND2, code, bits):
        return AT_SECOND
    return PLAIN


@compiled
def _borders_unseen(cells: NDArray[np.uint8], x: int, y: int) -> bool:
    for k in range(4):  # noqa: SIM110 (numba knows no generators)
        if cells[y + DY[k], x + DX[k]] == UNSEEN:
            return True
    return False


@compiled
def _scan(b: Belief, n: int, part: NDArray[np.int8], plan: Plan, s: Scratch) -> int:
    """Write the sorts of the known things; return the number of different targets, in which all frontiers count as one."""
    plan.present[n] = 0
    plan.goal_seen[n] = 0
    located = part[LOCATION] != 0 or part[LOCATION2] != 0
    targets, open_ended = 0, False
    for y in range(b.bounds[n, 2], b.bounds[n, 3] + 1):
        for x in range(b.bounds[n, 0], b.bounds[n, 1] + 1):
            code = b.cells[n, y, x]
            open_ended = open_ended or (_ENTRY[code] == FREELY and _borders_unseen(b.cells[n], x, y))
            if code < THING:
                if code == GOAL and plan.goal_seen[n] == 0:
                    plan.goal_seen[n] = 1
                    targets += 1
                continue
            tag = tag_of(part, code, location_bits(b, n, x, y)) if located else PLAIN
            if tag == PLAIN and blocks(b.cells[n], x, y, code):
                tag = BLOCK
            sort = (code - THING) * TAGS + tag
            s.sort_at[y, x] = sort
            targets += plan.present[n, sort] == 0
            plan.present[n, sort] = 1
    return targets + open_ended


@compiled
def _walkable(code: int) -> bool:
    return code in (EMPTY, FLOOR, UNSEEN) or is_door(code)


@compiled
def _drop_quality(cells: NDArray[np.uint8], x: int, y: int) -> int:
    """Return how good a place is for a thing: 2: not in the way, 1: it may block a passage, 0: next to a door."""
    for k in range(4):
        if is_door(cells[y + DY[k], x + DX[k]]):
            return 0
    # Go round the eight neighbours: if they have more than one walkable stretch, this cell connects them.
    stretches = 0
    before = _walkable(cells[y - 1, x - 1])
    for k in range(8):
        dx = (0, 1, 1, 1, 0, -1, -1, -1)[k]
        dy = (-1, -1, 0, 1, 1, 1, 0, -1)[k]
        now = _walkable(cells[y + dy, x + dx])
        stretches += now and not before
        before = now
    return 2 if stretches <= 1 else 1


@compiled
def _note_beside(b: Belief, n: int, plan: Plan, s: Scratch, x: int, y: int, action: int) -> None:
    """Record the things next to the empty cell (x, y), where the agent can put down what it carries."""
    for k in range(4):
        if b.cells[n, y + DY[k], x + DX[k]] >= THING:
            sort = s.sort_at[y + DY[k], x + DX[k]]
            if plan.beside[n, sort] < 0:
                plan.beside[n, sort] = action


@compiled
def _note(b: Belief, n: int, plan: Plan, s: Scratch, cell: int, action: int, open_space: bool) -> bool:
    """Record a cell that the agent can come to face, as the target that it is; return whether all targets are found.

    action: the first action on the way; -1 if the agent already faces the cell. open_space: no door needs to be opened.
    """
    x, y, front = cell & (SIDE - 1), cell // SIDE, b.cells[n, cell // SIDE, cell & (SIDE - 1)]
    ahead, carrying = (FORWARD if action < 0 else action), b.held[n, 0] != 0
    if front >= THING:
        sort = s.sort_at[y, x]
        if plan.near[n, sort] < 0:
            plan.near[n, sort] = FACING if action < 0 else action
            s.tally[FOUND] += 1
            plan.rank[n, sort] = s.tally[FOUND]
    elif front == UNSEEN and open_space and plan.explore[n] < 0:
        plan.explore[n] = ahead
        s.tally[FOUND] += 1
        plan.frontier[n, X], plan.frontier[n, Y] = x, y
    elif front == GOAL and plan.goal[n] < 0:
        plan.goal[n] = ahead
        s.tally[FOUND] += 1
    elif front == EMPTY and carrying:
        _note_empty(b, n, plan, s, x, y, DROP if action < 0 else action)
    return bool(s.tally[FOUND] == s.tally[WANTED] and (not carrying or s.tally[QUALITY] == 2))


@compiled
def _note_empty(b: Belief, n: int, plan: Plan, s: Scratch, x: int, y: int, action: int) -> None:
    """Record an empty cell (x, y) where the agent can put down what it carries."""
    _note_beside(b, n, plan, s, x, y, action)
    if s.tally[QUALITY] < 2:
        quality = _drop_quality(b.cells[n], x, y)
        if quality > s.tally[QUALITY]:
            s.tally[QUALITY] = quality
            plan.drop[n] = action


@compiled
def _begin(b: Belief, n: int, part: NDArray[np.int8], plan: Plan, s: Scratch) -> None:
    """Clear the last plan, count the targets, and put the agent's own state into the queue."""
    plan.near[n] = -1
    plan.beside[n] = -1
    plan.explore[n] = plan.drop[n] = plan.goal[n] = -1
    plan.frontier[n] = -1
    s.tally[NOW] += 1
    s.tally[FOUND] = 0
    s.tally[WANTED] = _scan(b, n, part, plan, s)
    s.tally[QUALITY] = -1
    if part[VERB] == PUT_NEXT and b.held[n, 0] != 0:
        s.tally[WANTED] += 1  # never found: so that the search looks at every cell next to a thing
    root = ((b.pose[n, Y] * SIDE + b.pose[n, X]) << 2) | b.pose[n, HEADING]
    s.stamp[root] = s.tally[NOW]
    s.first[root] = -1
    s.queue[0] = root


@compiled
def search(b: Belief, n: int, part: NDArray[np.int8], plan: Plan, s: Scratch) -> None:
    """Write row n of the plan. part: (8,) int8, the current mission part."""
    _begin(b, n, part, plan, s)
    # Plain local names and one loop: most of the grounding's time is spent here.
    cells, stamp, first, queue, later, now = b.cells[n], s.stamp, s.first, s.queue, s.later, s.tally[NOW]
    interest = _INTEREST[1 if b.held[n, 0] != 0 else 0]
    head, tail, parked, released = 0, 1, 0, 0
    while True:
        if head == tail:  # all open space is searched: go on behind the closed doors that were found, nearest first
            if released == parked:
                return
            stamp[later[released]] = now
            queue[tail] = later[released]
            released += 1
            tail += 1
        state = queue[head]
        head += 1
        action, heading = first[state], state & 3
        ahead = (state >> 2) + _STRIDE[heading]
        front = cells[ahead // SIDE, ahead & (SIDE - 1)]
        if interest[front] and _note(b, n, plan, s, ahead, action, released == 0):
            return
        for k in range(3):
            if k > 0:
                successor, taken = (state & ~3) | ((heading + 1 + 2 * k) & 3), k - 1
            else:
                successor, taken = (ahead << 2) | heading, FORWARD
                if _ENTRY[front] == BY_TOGGLE and stamp[successor] != now:
                    first[successor] = TOGGLE if action < 0 else action
                    later[parked] = successor
                    parked += 1
                if _ENTRY[front] != FREELY:
                    continue
            if stamp[successor] != now:
                stamp[successor] = now
                first[successor] = taken if action < 0 else action
                queue[tail] = successor
                tail += 1
