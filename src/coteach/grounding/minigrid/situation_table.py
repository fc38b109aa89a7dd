"""A table of missions and situations by integer key, shared by all groundings (training, evaluation, rungs) of `Situations`.

Text, options and the expert's choice are computed once per situation, in plain Python. After that, a situation costs
one dictionary look-up, and the compiled controllers read its option slots from a row of an array.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.base import Situation, Situations
from coteach.grounding.minigrid import expert, key, mission, words

_TABLES: WeakKeyDictionary[Situations, SituationTable] = WeakKeyDictionary()


class SituationTable:
    """Missions and situations met so far, in arrays that double when they are full.

    M mission texts, one row each:
    parts:     (M, 4, 8) int8, the mission's parts (columns of `encoding`).
    mention:   (M, 6) int8, its colours in order of mention, -1 beyond.
    canonical: (M,) int64, number of the mission text with its colours renamed.

    S situations, one row each ("entry"):
    slots:     (S, 24, 4) int8, what each option slot does, and the class, colour and tag of its thing.
    numbers:   (S,) int64, the situation's number in `situations`.
    """

    def __init__(self, situations: Situations) -> None:
        self._number = situations.number
        self._missions: dict[str, int] = {}
        self._texts: dict[str, int] = {}
        self._read: list[mission.Mission] = []
        self._entries: dict[bytes, int] = {}
        self.parts = np.zeros((64, 4, 8), dtype=np.int8)
        self.mention = np.zeros((64, 6), dtype=np.int8)
        self.canonical = np.zeros(64, dtype=np.int64)
        self.slots = np.zeros((256, words.MAX_OPTIONS, 4), dtype=np.int8)
        self.numbers = np.zeros(256, dtype=np.int64)

    def mission(self, text: str) -> int:
        """Return the row of a mission text; a new text gets the next free row."""
        row = self._missions.get(text)
        return self._new_mission(text) if row is None else row

    def _new_mission(self, text: str) -> int:
        row = self._missions[text] = len(self._missions)
        if row == len(self.parts):
            self.parts, self.mention, self.canonical = _doubled(self.parts), _doubled(self.mention), _doubled(self.canonical)
        read = mission.read(text)
        self.parts[row], self.mention[row] = read.parts, read.mention
        if read.text not in self._texts:
            self._texts[read.text] = len(self._read)
            self._read.append(read)
        self.canonical[row] = self._texts[read.text]
        return row

    def entries(self, keys: NDArray[np.int64]) -> list[int]:
        """Return the N entries of the keys (N, 8) int64, as `key.write` made them; a new key gets the next free entry."""
        raw, size, known = keys.tobytes(), keys.itemsize * keys.shape[1], self._entries
        found = []
        for n in range(len(keys)):
            entry = known.get(raw[n * size : (n + 1) * size])
            found.append(self._new_entry(keys[n]) if entry is None else entry)
        return found

    def _new_entry(self, row: NDArray[np.int64]) -> int:
        entry = self._entries[row.tobytes()] = len(self._entries)
        if entry == len(self.numbers):
            self.slots, self.numbers = _doubled(self.slots), _doubled(self.numbers)
        facts = key.read(row, self._read[int(row[0])])
        options = words.options(facts)
        situation = Situation(words.describe(facts), tuple(o.text for o in options), expert.choose(facts, options))
        self.numbers[entry] = self._number(situation)
        for k, option in enumerate(options):
            thing = option.thing or words.Thing(0, 0, 0)
            self.slots[entry, k] = (option.act, thing.kind, thing.colour, thing.tag)
        return entry


def _doubled(array: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([array, np.zeros_like(array)])


def table_of(situations: Situations) -> SituationTable:
    """Return the table of these situations, made on the first call. All groundings with the same `situations` share it."""
    if situations not in _TABLES:
        _TABLES[situations] = SituationTable(situations)
    return _TABLES[situations]
