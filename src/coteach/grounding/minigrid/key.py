"""A situation as eight integers (its key), and the facts that a key stands for.

Two keys are equal if and only if the situations are. A key has the canonical mission, flags, and one integer for each colour
in canonical order: which sorts of things of that colour are known and in reach, and whether one is carried. In the canonical
order, colours that the mission mentions come first, as it mentions them, then the others, sorted by these integers. Colours
with equal integers do not differ in any way, so the key does not depend on their order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.minigrid.belief import Belief
from coteach.grounding.minigrid.encoding import COLOUR, COLOUR2, COLOURS, PARTS, TAGS, THING, compiled
from coteach.grounding.minigrid.mission import Mission
from coteach.grounding.minigrid.planner import Plan, Scratch, tag_of
from coteach.grounding.minigrid.words import Facts, Thing

WIDTH = 2 + COLOURS
_PER_COLOUR = 6 * TAGS
_HELD = 2 * _PER_COLOUR
_MORE, _GOAL, _MOVES_ONLY, _DONE, _PART = 0, 1, 3, 4, 8


@compiled
def _word(n: int, plan: Plan, colour: int) -> int:
    """Return the integer of one colour: a bit for each known class and tag, and another if one of them is in reach."""
    word = 0
    for kind in range(6):
        for tag in range(TAGS):
            sort = (kind * COLOURS + colour) * TAGS + tag
            bit = kind * TAGS + tag
            word |= plan.present[n, sort] << bit
            if plan.near[n, sort] >= 0:
                word |= 1 << (bit + _PER_COLOUR)
    return word


@compiled
def write(
    b: Belief, n: int, plan: Plan, s: Scratch, parts: NDArray[np.int8], mention: NDArray[np.int8], mission: int, moves_only: bool,
    key: NDArray[np.int64], real: NDArray[np.int64],
) -> None:  # fmt: skip
    """Write row n of `key` (N, 8) int64, and of `real` (N, 6) int64, the real colour of each canonical one.

    parts: (4, 8) and mention: (6,), the mission's (see `mission.Mission`); mission: its canonical number.
    """
    goal = plan.goal_seen[n] + (plan.goal[n] >= 0)
    more = plan.explore[n] >= 0
    key[n, 0] = mission
    key[n, 1] = more << _MORE | goal << _GOAL | moves_only << _MOVES_ONLY | b.done[n] << _DONE | b.part[n] << _PART
    words = s.words
    for colour in range(COLOURS):
        words[colour] = _word(n, plan, colour)
    if b.held[n, 0] != 0:
        kind, colour = divmod(b.held[n, 0] - THING, COLOURS)
        words[colour] |= (kind + 1) << _HELD | tag_of(parts[b.part[n]], b.held[n, 0], b.held[n, 1]) << (_HELD + 2)
    left = 0
    used = 0
    while left < COLOURS and mention[left] >= 0:
        real[n, left] = mention[left]
        used |= 1 << mention[left]
        left += 1
    for place in range(left, COLOURS):
        best = -1
        for colour in range(COLOURS):
            if not used >> colour & 1 and (best < 0 or words[colour] > words[best]):
                best = colour
        real[n, place] = best
        used |= 1 << best
    for place in range(COLOURS):
        key[n, 2 + place] = words[real[n, place]]


def read(row: NDArray[np.int64], mission: Mission) -> Facts:
    """Return the facts that a key (8,) int64 stands for. mission: the one that the key names."""
    flags = int(row[1])
    canonical = {int(real): place for place, real in enumerate(mission.mention) if real >= 0}
    part = [int(value) for value in mission.parts[flags >> _PART & 3]]
    for column in (COLOUR, COLOUR2):
        part[column] = canonical.get(part[column], -1)
    things, held = [], None
    for colour in range(COLOURS):
        word = int(row[2 + colour])
        for bit in range(_PER_COLOUR):
            if word >> bit & 1:
                things.append(Thing(colour, bit // TAGS, bit % TAGS, bool(word >> (bit + _PER_COLOUR) & 1)))
        if word >> _HELD & 3:
            held = Thing(colour, (word >> _HELD & 3) - 1, word >> (_HELD + 2) & 3)
    done = tuple(bool(flags >> (_DONE + k) & 1) for k in range(PARTS))
    return Facts(
        mission,
        tuple(part),
        done,
        held,
        tuple(sorted(things)),
        bool(flags & 1),
        flags >> _GOAL & 3,
        bool(flags >> _MOVES_ONLY & 1),
    )
