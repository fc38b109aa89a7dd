"""Renames options by synonyms, to test whether a teacher learned the meaning of "pick up" or only these words.

Only the options change; the situation's text keeps its words, so the teacher must generalise by meaning. GLAM (arXiv 2302.02662)
reports that its tuned LLM loses most of its success when actions are renamed in this way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coteach.evaluation.episodes import Advise
from coteach.grounding.base import Situation

VERBS: Mapping[str, str] = {
    "explore": "look around",
    "go to": "walk to",
    "pick up": "grab",
    "drop": "put down",
    "put": "place",
    "next to": "beside",
    "open": "unlatch",
    "close": "shut",
}
NOUNS: Mapping[str, str] = {
    "key": "passkey",
    "ball": "sphere",
    "box": "crate",
    "door": "gate",
    "goal": "target",
}
"""Harder than the verbs: these words occur in the situation's text too, so option and text no longer share the object's name."""

WORDINGS: dict[str, Mapping[str, str]] = {"verbs": VERBS, "verbs and nouns": {**VERBS, **NOUNS}}
"""The sets of renamed words, by the name under which results are shown; easier first."""


def rename_options(situation: Situation, words: Mapping[str, str]) -> Situation:
    """Return `situation` with the whole words and phrases of its options replaced as `words` maps them.

    Text, order of the options, and expert are unchanged. Options that differ still differ if no new word occurred in them before.
    """
    if not words:
        return situation
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(words, key=len, reverse=True))) + r")\b")
    options = tuple(pattern.sub(lambda found: words[found.group()], option) for option in situation.options)
    return replace(situation, options=options)


def advise_renamed(words: Mapping[str, str], advise: Advise) -> Advise:
    """Return a function that asks `advise` about the same situations with renamed options, which keep their order."""

    def ask(situations: list[Situation]) -> Sequence[NDArray[np.floating] | None]:
        return advise([rename_options(situation, words) for situation in situations])

    return ask
