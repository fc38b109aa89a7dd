"""Writes advice token by token, constrained to the situation's options: every token continues at least one of them.

The probability of a next token is the advice on the options that continue with it, divided by the advice on all options that
begin with what is written so far. So writing gives each option exactly its probability under the advice, and calibration,
temperature and evidence, which apply to whole options, reach the single tokens too. (Without calibration and at temperature 1,
the advice on an option is the product of the model's own token probabilities, renormalised over the options.)
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
    """One step: after `written`, the possible next `tokens` with their `probability` (len(tokens),); `taken` indexes them."""

    written: Tokens
    tokens: Tokens
    probability: Array
    taken: int


@dataclass(frozen=True)
class Token:
    """A written token: the possible next tokens as text (`words`), and the index `taken` of the chosen one.

    own:    (words,) the model's own probability of each token, among all tokens.
    before: (words,) its probability by the advice.
    after:  (words,) its probability by the improved advice.
    """

    words: tuple[str, ...]
    taken: int
    own: Array
    before: Array
    after: Array


def next_tokens(options: Sequence[Tokens], advice: Array, written: Tokens) -> tuple[Tokens, Array]:
    """Return the tokens that may follow `written`, and the probability of each.

    options: token ids of each option, with the end-of-answer token, so that no option begins another.
    advice:  (options,) distribution, all > 0.
    """
    open_slots = [slot for slot, tokens in enumerate(options) if tokens[: len(written)] == written and len(tokens) > len(written)]
    share: dict[int, float] = {}
    for slot in open_slots:
        token = options[slot][len(written)]
        share[token] = share.get(token, 0.0) + float(advice[slot])
    return tuple(share), np.array(list(share.values())) / float(advice[open_slots].sum())


def write(options: Sequence[Tokens], advice: Array, rng: np.random.Generator | None = None) -> list[Choice]:
    """Write one option and return its steps: tokens drawn with `rng`, or without it the most probable ones."""
    written: Tokens = ()
    choices = list[Choice]()
    while written not in options:
        tokens, probability = next_tokens(options, advice, written)
        taken = int(probability.argmax() if rng is None else rng.choice(len(tokens), p=probability))
        choices.append(Choice(written, tokens, probability, taken))
        written += (tokens[taken],)
    return choices
