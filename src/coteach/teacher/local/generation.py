"""Advice written token by token, held to what makes sense: every token leads on along the trie of the situation's options.

The probability of a next token is the share of the advice that lies behind it: the sum over the options that go on with
it, by the sum over those that begin as written so far. An option's raw score is the sum of its tokens' log-probabilities,
so without calibration and at temperature 1 that is the model's own next-token probability, weighted by where the token
leads and renormalised over the admissible ones; calibration, temperature and evidence are said of whole options and
reach the tokens through the same sums. Writing and scoring therefore give the same distribution over options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """One token's choice: after `written`, the admissible `tokens` with their `probability` (len(tokens),); `taken` is a slot."""

    written: Tokens
    tokens: Tokens
    probability: Array
    taken: int


@dataclass(frozen=True)
class Token:
    """One token that was written, and what it was chosen from: the admissible `words`, `taken` being the slot of the one.

    own: the model's probability of each among all its tokens; before, after: by the advice, and by the improved advice.
    """

    words: tuple[str, ...]
    taken: int
    own: Array
    before: Array
    after: Array


def next_tokens(options: Sequence[Tokens], advice: Array, written: Tokens) -> tuple[Tokens, Array]:
    """The tokens that may follow `written`, and how probable each is under `advice` (options,), all > 0.

    options: token ids, each with the end of the answer as its last token, so that none begins another.
    """
    begun = [slot for slot, tokens in enumerate(options) if tokens[: len(written)] == written and len(tokens) > len(written)]
    share: dict[int, float] = {}
    for slot in begun:
        token = options[slot][len(written)]
        share[token] = share.get(token, 0.0) + float(advice[slot])
    return tuple(share), np.array(list(share.values())) / float(advice[begun].sum())


def write(options: Sequence[Tokens], advice: Array, rng: np.random.Generator | None = None) -> list[Choice]:
    """The choices by which one option is written to its end: drawn by `rng`, or the most probable token every time."""
    written: Tokens = ()
    choices = list[Choice]()
    while written not in options:
        tokens, probability = next_tokens(options, advice, written)
        taken = int(probability.argmax() if rng is None else rng.choice(len(tokens), p=probability))
        choices.append(Choice(written, tokens, probability, taken))
        written += (tokens[taken],)
    return choices
