"""Options in other words: does a teacher know what "pick up" means, or only that these two words were right?

Only the options change, the situation's text keeps its words: what was learned must be found again by meaning. GLAM
(arXiv 2302.02662) reports that its tuned LLM loses most of its success when actions are renamed like this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.base import Situation

Advise = Callable[[list[Situation]], Sequence[NDArray[np.floating] | None]]

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
"""Harder: these words stand in the situation's text too, so that an option no longer shares its thing's name with it."""

WORDINGS: dict[str, Mapping[str, str]] = {"verbs": VERBS, "verbs and nouns": {**VERBS, **NOUNS}}
"""What is renamed, by the name under which results are shown; easier first."""


def renamed(situation: Situation, words: Mapping[str, str]) -> Situation:
    """`situation` with every whole word (or phrase) of its options that `words` knows replaced; text, order, expert stay.

    Options that differ stay different, as long as none of the new words occurs in them before.
    """
    if not words:
        return situation
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(words, key=len, reverse=True))) + r")\b")
    options = tuple(pattern.sub(lambda found: words[found.group()], option) for option in situation.options)
    return replace(situation, options=options)


def asked_in(words: Mapping[str, str], advise: Advise) -> Advise:
    """`advise`, but asked about renamed options; answers are in the order of the options as they were."""

    def ask(situations: list[Situation]) -> Sequence[NDArray[np.floating] | None]:
        return advise([renamed(situation, words) for situation in situations])

    return ask
