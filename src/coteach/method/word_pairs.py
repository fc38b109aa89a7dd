"""Options in their situations as bags of hashed text pairs, which similar options share whatever their names.

Each option is paired with every clause of the situation's text: once as it is, and once with the shared words blanked out. So
the pair of "go to the red ball" and "Mission: go to the red ball" equals the pair of "pick up the blue key" and "Mission: pick
up the blue key". The first clause is the task, by convention. The pair with the task also has a shape, which says only where
the shared words are: "pick up the red ball" and "Mission: pick up a ball" have the same shape for every colour.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coteach.grounding.base import Situations

ARTICLES = frozenset({"a", "an", "the"})

Bags = tuple[Tensor, Tensor]
"""Rows of the table (L,) int64, one bag after another, and the size of each bag (B,) int64."""


class Pairs:
    """Hashes situations into bags of text pairs.

    rows: size of the table into which pairs are hashed. Rows are renumbered in the order of first use, so those in use come
    first.
    """

    def __init__(self, situations: Situations, rows: int) -> None:
        self.situations, self.rows = situations, rows
        self._relations: list[list[tuple[int, int]]] = []
        self._options: list[list[NDArray[np.int64]]] = []
        self._known: dict[tuple[str, str], tuple[int, int, int]] = {}
        """The three rows of each pair: of its words, of its words with the shared ones blanked out, and of its shape."""
        self._rows: dict[int, int] = {}

    @property
    def used(self) -> int:
        """The number of rows in use; they are the first ones."""
        return len(self._rows)

    def of(self, number: int) -> list[NDArray[np.int64]]:
        """Return the bag of each option of a situation: distinct rows of the table."""
        self._read(number)
        return self._options[number]

    def relations(self, number: int) -> list[tuple[int, int]]:
        """Return the rows of each option's pair with the task: of the blanked words, and of the shape."""
        self._read(number)
        return self._relations[number]

    def options_of(self, chosen: NDArray[np.int64]) -> tuple[Bags, NDArray[np.int64], NDArray[np.int64]]:
        """Return the bags of all B options of situations `chosen` (N,), and the index in `chosen` (B,) and slot (B,) of each."""
        options = [self.of(int(number)) for number in chosen]
        lengths = [len(bags) for bags in options]
        place = np.repeat(np.arange(len(chosen)), lengths)
        slot = np.concatenate([np.arange(length) for length in lengths])
        return bags_of([bag for bags in options for bag in bags]), place, slot

    def _read(self, number: int) -> None:
        """Hash all situations up to this number that were not hashed yet."""
        while len(self._options) <= number:
            situation = self.situations[len(self._options)]
            clauses = [clause for clause in re.split(r"[.,]\s*", situation.text) if clause]
            task = clauses[0] if clauses else ""
            self._relations.append([self._pair(option, task)[1:] for option in situation.options])
            self._options.append([self._bag(option, task, ["", *clauses]) for option in situation.options])

    def _bag(self, option: str, task: str, clauses: Sequence[str]) -> NDArray[np.int64]:
        """Return the bag of an option: the shape of its pair with the task, and its pairs with all clauses."""
        shape = self._pair(option, task)[2]
        bag = dict.fromkeys([shape, *(row for clause in clauses for row in self._pair(option, clause)[:2])])
        return np.fromiter(bag, dtype=np.int64, count=len(bag))

    def _pair(self, option: str, clause: str) -> tuple[int, int, int]:
        """Return the rows of a pair: of its words, of its blanked words, of its shape."""
        key = (option, clause)
        if key not in self._known:
            blanked = blank(option, clause)
            shape = (" ".join("*" if word == "*" else "?" for word in text.split()) for text in blanked)
            self._known[key] = (self._row(option, clause), self._row(*blanked), self._row(*shape))
        return self._known[key]

    def _row(self, option: str, clause: str) -> int:
        """Return the row of the table for two texts."""
        hashed = zlib.crc32(f"{option}|{clause}".encode()) % self.rows
        return self._rows.setdefault(hashed, len(self._rows))


def blank(option: str, clause: str) -> tuple[str, str]:
    """Return both texts in lower case, with their shared words replaced by "*" and without articles."""
    one, other = ([word for word in text.lower().split() if word not in ARTICLES] for text in (option, clause))
    shared = set(one) & set(other)
    blanked = [" ".join("*" if word in shared else word for word in words) for words in (one, other)]
    return blanked[0], blanked[1]


def bags_of(bags: Sequence[NDArray[np.int64]]) -> Bags:
    """Concatenate B bags."""
    counts = np.fromiter(map(len, bags), dtype=np.int64, count=len(bags))
    return torch.from_numpy(np.concatenate(bags)), torch.from_numpy(counts)
