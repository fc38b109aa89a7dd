"""What became of an option that was tried in a situation: the unit in which evidence is counted."""

from __future__ import annotations

from dataclasses import dataclass

TERMINAL = -1
"""In place of the next situation: the episode ended, or the option could not be carried out."""


TYPICAL_DURATION = 8.0
"""Steps assumed for an option that was never followed to its end by a controller."""


@dataclass(frozen=True)
class Outcome:
    """What became of an option.

    situation, slot: the option; following: the situation it led to, or `TERMINAL`;
    reward: collected on the way; duration: in steps, or None where nobody set out to do it
    (a student's dawdling says nothing about the option).
    """

    situation: int
    slot: int
    following: int
    reward: float = 0.0
    duration: int | None = None
    failed: bool = False
