"""Situations as bags of word pairs: how an option resembles others, whatever they are called.

Every clause of a situation's text is compared with an option: once as it is, and once with the words they share blanked out, so
that "go to the red ball" beside "Mission: go to the red ball" is the same pair as "pick up the key" beside "Mission: pick up the
key". The task is the text's first sentence, by convention; beside it the pair's shape counts too, which of their words the two
share: "pick up the red ball" beside "Mission: pick up a ball" shares all but one, whatever the colour. Pairs are hashed.
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
"""Rows of the table (L,) int64, one bag after another, and how many each bag has (B,) int64."""


class Pairs:
    """Situations as hashed pairs of words.

    rows: rows of the table into which pairs are hashed; they are numbered as they are met, so that those in use come first.
    """

    def __init__(self, situations: Situations, rows: int) -> None:
        self.situations, self.rows = situations, rows
        self._relations: list[list[tuple[int, int]]] = []
        self._options: list[list[NDArray[np.int64]]] = []
        self._known: dict[tuple[str, str], tuple[int, int, int]] = {}
        """Rows of a pair: its words, with those that both share blanked out, and its shape."""
        self._rows: dict[int, int] = {}

    @property
    def used(self) -> int:
        """Rows of the table in use: all below."""
        return len(self._rows)

    def of(self, number: int) -> list[NDArray[np.int64]]:
        """Return the pairs of each option of a situation: rows of the table, without repetition."""
        self._read(number)
        return self._options[number]

    def relations(self, number: int) -> list[tuple[int, int]]:
        """Return how each option of a situation relates to the task: its row in words, and that of its shape."""
        self._read(number)
        return self._relations[number]

    def options_of(self, chosen: NDArray[np.int64]) -> tuple[Bags, NDArray[np.int64], NDArray[np.int64]]:
        """Return bags (B) of every option of the situations; place (B,) in `chosen` and slot (B,) of each."""
        options = [self.of(int(number)) for number in chosen]
        lengths = [len(bags) for bags in options]
        place = np.repeat(np.arange(len(chosen)), lengths)
        slot = np.concatenate([np.arange(length) for length in lengths])
        return bags_of([bag for bags in options for bag in bags]), place, slot

    def _read(self, number: int) -> None:
        while len(self._options) <= number:
            situation = self.situations[len(self._options)]
            clauses = [clause for clause in re.split(r"[.,]\s*", situation.text) if clause]
            task = clauses[0] if clauses else ""
            self._relations.append([self._pair(option, task)[1:] for option in situation.options])
            self._options.append([self._bag(option, task, ["", *clauses]) for option in situation.options])

    def _bag(self, option: str, task: str, clauses: Sequence[str]) -> NDArray[np.int64]:
        shape = self._pair(option, task)[2]
        bag = dict.fromkeys([shape, *(row for clause in clauses for row in self._pair(option, clause)[:2])])
        return np.fromiter(bag, dtype=np.int64, count=len(bag))

    def _pair(self, option: str, clause: str) -> tuple[int, int, int]:
        key = (option, clause)
        if key not in self._known:
            blanked = blank(option, clause)
            shape = (" ".join("*" if word == "*" else "?" for word in text.split()) for text in blanked)
            self._known[key] = (self._row(option, clause), self._row(*blanked), self._row(*shape))
        return self._known[key]

    def _row(self, option: str, clause: str) -> int:
        hashed = zlib.crc32(f"{option}|{clause}".encode()) % self.rows
        return self._rows.setdefault(hashed, len(self._rows))


def blank(option: str, clause: str) -> tuple[str, str]:
    """Return both texts with the words they share blanked out, articles left out."""
    one, other = ([word for word in text.lower().split() if word not in ARTICLES] for text in (option, clause))
    shared = set(one) & set(other)
    blanked = [" ".join("*" if word in shared else word for word in words) for words in (one, other)]
    return blanked[0], blanked[1]


def bags_of(bags: Sequence[NDArray[np.int64]]) -> Bags:
    """Return bags (B) one after another."""
    counts = np.fromiter(map(len, bags), dtype=np.int64, count=len(bags))
    return torch.from_numpy(np.concatenate(bags)), torch.from_numpy(counts)
