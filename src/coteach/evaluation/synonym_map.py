"""Maps new words in the names of options to the words that a teacher was tuned on.

A small LLM tuned on "pick up" has learned little about "grab". Given the list of the new names, it can still be used: the phrases
that occur only in the old list and those that occur only in the new list are matched one to one by the similarity of their
embeddings in the LLM, and the LLM is asked in the old words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Meaning = Callable[[Sequence[str]], NDArray[np.floating]]
"""P phrases -> their embeddings (P, D): the closer two vectors, the more similar the phrases."""


def synonym_map(known: Iterable[str], new: Iterable[str], meaning: Meaning) -> Mapping[str, str]:
    """Return, for each new phrase, the known phrase to replace it by; empty if no word is new or no known word is missing.

    known, new: all names of options before and after renaming, in any order. If there are more new phrases than missing known
    ones, some have no entry. The matching maximises the sum of cosine similarities (Hungarian algorithm).
    """
    known, new = list(known), list(new)
    shared = _words(known) & _words(new)
    before, after = (sorted({phrase for name in names for phrase in _phrases(name, shared)}) for names in (known, new))
    if not before or not after:
        return {}
    vectors = meaning([*before, *after])
    vectors = vectors - vectors.mean(axis=0)  # what all have in common does not distinguish them
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = vectors[len(before) :] @ vectors[: len(before)].T
    return {after[i]: before[j] for i, j in zip(*linear_sum_assignment(-similarity), strict=True)}


def _words(names: Iterable[str]) -> set[str]:
    """Return the words of all names."""
    return {word for name in names for word in name.split()}


def _phrases(name: str, shared: set[str]) -> list[str]:
    """Return the longest phrases of a name that contain no `shared` word."""
    phrases: list[list[str]] = [[]]
    for word in name.split():
        if word in shared:
            phrases.append([])
        else:
            phrases[-1].append(word)
    return [" ".join(phrase) for phrase in phrases if phrase]
