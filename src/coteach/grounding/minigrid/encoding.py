"""The integer codes of cells, things and missions that the compiled functions share, and the compiler.

A cell has one code: unseen, empty, wall, floor, goal, lava, or a *thing* of one of six classes (key, ball,
box, open, closed or locked door) and one of six colours. Images have the numbers of objects, colours and door states
that `minigrid.core.constants` defines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numba import config, njit
from numpy.typing import NDArray

SIDE = 64
"""Side of the belief map; the start cell is its middle. The largest grid is 25 x 25."""
ORIGIN = SIDE // 2

UNSEEN, EMPTY, WALL, FLOOR, GOAL, LAVA, THING = range(7)
KEY, BALL, BOX, OPEN, CLOSED, LOCKED = range(6)
COLOURS = 6
CODES = THING + 6 * COLOURS

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)
FACING = 7
"""In a plan, in place of an action: the agent already faces the target."""

COLOUR_NAMES = ("red", "green", "blue", "purple", "yellow", "grey")
ACTION_NAMES = ("left", "right", "forward", "pickup", "drop", "toggle", "done")

# Tags: how a thing differs from others of its class and colour. It satisfies the location that the first or the
# second description of the current mission part asks for, or it is a thing that blocks a door, or a blocked door.
PLAIN, AT_FIRST, AT_SECOND, BLOCK = range(4)
TAGS = 4
SORTS = 6 * COLOURS * TAGS
"""A *sort* of thing is (class, colour, tag), numbered (class * 6 + colour) * 4 + tag."""

# What a description in a mission may ask for (`ANY`: "object"), and the bits of locations seen from the start.
NOTHING, ANY, A_KEY, A_BALL, A_BOX, A_DOOR, A_GOAL = range(-1, 6)
ON_LEFT, ON_RIGHT, IN_FRONT, BEHIND = 1, 2, 4, 8

# Columns of one part of a mission, and its verbs. A description is (kind, colour or -1, location bit or 0).
VERB, KIND, COLOUR, LOCATION, KIND2, COLOUR2, LOCATION2, STAGE = range(8)
NO_VERB, GO_TO, PICK_UP, OPEN_IT, PUT_NEXT, REACH = range(6)
PARTS = 4

DX = np.array([0, 1, 0, -1], dtype=np.int64)
DY = np.array([-1, 0, 1, 0], dtype=np.int64)
"""Steps for the headings 0 up (the heading at the start), 1 right, 2 down, 3 left."""


F = TypeVar("F", bound=Callable[..., Any])


def _table() -> NDArray[np.uint8]:
    """Return the cell code for each (object, colour, state) of an image: (11, 8, 4) uint8."""
    table = np.full((11, 8, 4), EMPTY, dtype=np.uint8)
    for image_object, code in ((0, UNSEEN), (2, WALL), (3, FLOOR), (8, GOAL), (9, LAVA)):
        table[image_object] = code
    for colour in range(COLOURS):
        for kind, image_object in ((KEY, 5), (BALL, 6), (BOX, 7)):
            table[image_object, colour] = THING + kind * COLOURS + colour
        for state in range(3):
            table[4, colour, state] = THING + (OPEN + state) * COLOURS + colour
    return table


CODE_OF = _table()


def sources_hash(folder: Path) -> str:
    """Return a hash of all Python files in a folder: 16 hexadecimal digits."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()[:16]


_CACHE = Path(config.CACHE_DIR or Path(__file__).parent / "__pycache__") / sources_hash(Path(__file__).parent)


def compiled(function: F) -> F:
    """Compile a function with numba and cache the code on disk.

    Reference counting is off, because it took nine tenths of the time. Compiled functions must therefore not allocate
    arrays: they work on arrays that Python owns.

    The cache is named by the hash of all sources of this package. Numba itself checks only the function's own file: after an
    update of another file that the function calls into, it would run the old code.
    """
    before, config.CACHE_DIR = config.CACHE_DIR, str(_CACHE)
    try:
        return cast(F, njit(cache=True, _nrt=False)(function))
    finally:
        config.CACHE_DIR = before


@compiled
def passable(code: int) -> bool:
    """Return whether the agent can step onto such a cell. Lava and the goal count, though they end the episode."""
    return code in (EMPTY, FLOOR, GOAL, LAVA) or THING + OPEN * COLOURS <= code < THING + CLOSED * COLOURS


@compiled
def is_door(code: int) -> bool:
    """Return whether the code is a door in any state."""
    return code >= THING + OPEN * COLOURS


@compiled
def portable(code: int) -> bool:
    """Return whether the code is a key, ball or box."""
    return THING <= code < THING + OPEN * COLOURS
