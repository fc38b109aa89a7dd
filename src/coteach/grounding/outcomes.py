"""The outcome of an option in a situation: the unit of evidence."""

from __future__ import annotations

from dataclasses import dataclass

TERMINAL = -1
"""Stands for the next situation where the episode ended or the option could not be carried out."""

TYPICAL_DURATION = 8.0
"""Steps assumed for an option that no controller ever followed to its end."""


@dataclass(frozen=True)
class Outcome:
    """What happened after an option was chosen, or was completed by other actions.

    situation, slot: the option.
    following:       number of the situation that came next, or `TERMINAL`.
    reward:          sum of the rewards while the option was followed.
    duration:        in steps; None where the option was not being followed: the steps were then taken for another purpose.
    failed:          whether the option could not be carried out.
    """

    situation: int
    slot: int
    following: int
    reward: float = 0.0
    duration: int | None = None
    failed: bool = False
