"""Parse mission texts into parts that the compiled code can check, and rename colours in order of mention.

A mission has up to four parts in stages ("A and B, then C"). A part is a verb with one or two descriptions. A mission
that the grammar does not know keeps its text and has no parts: its situations have options, but no expert's choice.
The grammar is that of BabyAI (Chevalier-Boisvert et al. 2019, arXiv 1810.08272) and of MiniGrid's own missions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.minigrid import encoding as e

_COLOUR = re.compile(r"\b(" + "|".join(e.COLOUR_NAMES) + r")\b(?! goal)")
_KINDS = {"object": e.ANY, "key": e.A_KEY, "ball": e.A_BALL, "box": e.A_BOX, "door": e.A_DOOR}
_LOCATIONS = {"on your left": e.ON_LEFT, "on your right": e.ON_RIGHT, "in front of you": e.IN_FRONT, "behind you": e.BEHIND}
LOCATION_NAMES = {bit: name for name, bit in _LOCATIONS.items()}
_NOUN = (
    r"(?:the|a|an) (?:(?P<c{0}>" + "|".join(e.COLOUR_NAMES) + r") )?(?P<k{0}>object|key|ball|box|door)"
    r"(?: (?P<l{0}>on your left|on your right|in front of you|behind you))?"
)
_GRAMMAR = [
    (e.GO_TO, re.compile(r"go to " + _NOUN.format(1))),
    (e.PICK_UP, re.compile(r"(?:pick up|(?:you must |go )?(?:fetch|get)) " + _NOUN.format(1))),
    (e.OPEN_IT, re.compile(r"(?:open )?" + _NOUN.format(1))),
    (e.PUT_NEXT, re.compile(r"put " + _NOUN.format(1) + r" (?:next to|near) " + _NOUN.format(2))),
]


@dataclass(frozen=True)
class Mission:
    """A parsed mission.

    text:    the text with its colours renamed in order of mention: red, green, blue, ...
    parts:   (4, 8) int8, columns as in `encoding` (verb, descriptions, stage), with the real colours.
    clauses: the parts' texts (colours renamed); empty if the grammar does not know the mission.
    mention: (6,) int8, the real colours in order of mention, -1 beyond.
    """

    text: str
    parts: NDArray[np.int8]
    clauses: tuple[str, ...]
    mention: NDArray[np.int8]


def read(text: str) -> Mission:
    """Parse a mission text, for example "open the red door, then go to a ball behind you". Never fails."""
    mention = list(dict.fromkeys(_COLOUR.findall(text)))
    renamed = {colour: e.COLOUR_NAMES[k] for k, colour in enumerate(mention)}
    stages = _stages(text)
    rows = [_part(clause, stage) for stage, clauses in enumerate(stages) for clause in clauses]
    known = len(rows) <= e.PARTS and all(row is not None for row in rows)
    parts = np.zeros((e.PARTS, 8), dtype=np.int8)
    parts[:, [e.KIND, e.KIND2]] = e.NOTHING
    if known:
        for k, row in enumerate(rows):
            parts[k] = np.array(row, dtype=np.int8)
    order = np.full(6, -1, dtype=np.int8)
    order[: len(mention)] = [e.COLOUR_NAMES.index(colour) for colour in mention]
    clauses = tuple(_rename(clause, renamed) for stage_clauses in stages for clause in stage_clauses) if known else ()
    return Mission(_rename(text, renamed), parts, clauses, order)


def _rename(text: str, renamed: dict[str, str]) -> str:
    return _COLOUR.sub(lambda match: renamed[match.group()], text)


def _stages(text: str) -> list[list[str]]:
    """Return the clauses by stage. Stages are done in order, the clauses of one stage in any order."""
    if _is_reach(text):
        return [["go to the goal"]]
    if " after you " in text:
        later, first = text.split(" after you ", 1)
        halves = [first, later]
    else:
        halves = re.split(r",? then ", text, maxsplit=1)
    return [half.split(" and ") for half in halves]


def _is_reach(text: str) -> bool:
    # Such missions end at the goal; what else they say (use the key, avoid the lava) is how to get there.
    return re.search(r"\bgoal\b", text) is not None


def _part(clause: str, stage: int) -> list[int] | None:
    if clause == "go to the goal":
        return [e.REACH, e.A_GOAL, -1, 0, e.NOTHING, -1, 0, stage]
    for verb, pattern in _GRAMMAR:
        match = pattern.fullmatch(clause)
        if match is not None and not (verb == e.OPEN_IT and match["k1"] != "door"):
            second = _description(match, 2) if verb == e.PUT_NEXT else [e.NOTHING, -1, 0]
            return [verb, *_description(match, 1), *second, stage]
    return None


def _description(match: re.Match[str], k: int) -> list[int]:
    colour, location = match[f"c{k}"], match[f"l{k}"]
    return [_KINDS[match[f"k{k}"]], e.COLOUR_NAMES.index(colour) if colour else -1, _LOCATIONS[location] if location else 0]
