"""Old words for new ones: which names of options that a teacher knows mean the same as names it has never seen.

A small LLM tuned on "pick up" has learned little about "grab". Told the list of the new names, it can still be understood: the
words that are gone from the old list and those that have come in the new one are matched one for one, by how near to
each other the LLM itself holds them, and it is asked in the old words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Meaning = Callable[[Sequence[str]], NDArray[np.floating]]
"""Phrases (P) -> a vector for each (P, D): the nearer two of them, the more alike the phrases."""


def glossary(known: Iterable[str], new: Iterable[str], meaning: Meaning) -> Mapping[str, str]:
    """New phrase -> the known one that is to be read in its place; empty where no word is new or none is gone.

    known, new: all names of options, before and after they were renamed; which of them belong together is not said.
    """
    known, new = list(known), list(new)
    shared = _words(known) & _words(new)
    before, after = (sorted({phrase for name in names for phrase in _runs(name, shared)}) for names in (known, new))
    if not before or not after:
        return {}
    held = meaning([*before, *after])
    held = held - held.mean(axis=0)  # what they all have in common says nothing
    held = held / np.maximum(np.linalg.norm(held, axis=1, keepdims=True), 1e-12)
    likeness = held[len(before) :] @ held[: len(before)].T
    return {after[i]: before[j] for i, j in zip(*linear_sum_assignment(-likeness), strict=True)}


def _words(names: Iterable[str]) -> set[str]:
    return {word for name in names for word in name.split()}


def _runs(name: str, shared: set[str]) -> list[str]:
    """The longest phrases of a name without a word that is `shared`."""
    phrases: list[list[str]] = [[]]
    for word in name.split():
        if word in shared:
            phrases.append([])
        else:
            phrases[-1].append(word)
    return [" ".join(phrase) for phrase in phrases if phrase]
