"""The arms of a comparison: switches of the one loop, never other code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Arm:
    """Which of the loop's channels are open.

    prior:   whose advice it is: the LLM's, uniform over the options, or a scripted expert's.
    lead:    the teacher leads some environments.
    reweigh: student -> teacher at once: the evidence overrules the prior.
    tune:    student -> teacher's weights: LoRA towards the improved advice.
    guide:   teacher -> student: guidance in the student's loss.
    learn:   the student learns at all (off where advice alone drives the controllers).
    """

    prior: Literal["llm", "uniform", "oracle"]
    lead: bool = True
    reweigh: bool = True
    tune: bool = False
    guide: bool = True
    learn: bool = True


ARMS: dict[str, Arm] = {
    "mutual": Arm(prior="llm", tune=True),
    "one-way": Arm(prior="llm", reweigh=False),
    "no-llm": Arm(prior="uniform"),
    "uniform": Arm(prior="uniform", reweigh=False),
    "student-only": Arm(prior="uniform", lead=False, reweigh=False, guide=False),
    "llm-only": Arm(prior="llm", reweigh=False, guide=False, learn=False),
    "oracle": Arm(prior="oracle", reweigh=False),
}
