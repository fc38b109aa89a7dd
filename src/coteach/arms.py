"""The arms of a comparison: switches of the one loop, never other code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Arm:
    """Which of the loop's channels are open.

    prior:   whose advice it is: the LLM's, uniform over the options, a scripted expert's, or an adversary's.
    controls: the teacher controls some episodes.
    reweigh: student -> teacher at once: the evidence overrules the prior.
    tune:    student -> teacher's weights: LoRA towards the improved advice.
    feedback: student -> teacher's prompt: examples and evidence, as far as `teacher.feedback` says.
    guide:   teacher -> student: guidance in the student's loss.
    learn:   the student learns at all (off where advice alone drives the controllers).
    generalise: word values carry what was learned in one situation over to others.
    optimism: options never tried are valued optimistically.
    replay:  rows of earlier rounds are distilled with today's advice.
    shuffle: the evidence goes to the wrong situations: a control, which must not help.
    """

    prior: Literal["llm", "uniform", "oracle", "liar"]
    controls: bool = True
    reweigh: bool = True
    tune: bool = False
    feedback: bool = False
    guide: bool = True
    learn: bool = True
    generalise: bool = True
    optimism: bool = True
    replay: bool = True
    shuffle: bool = False

    @property
    def has_teacher(self) -> bool:
        """Whether there is a teacher at all."""
        return self.controls or self.guide


MUTUAL = Arm(prior="llm", tune=True, feedback=True)

ARMS: dict[str, Arm] = {
    "mutual": MUTUAL,
    "one-way": Arm(prior="llm", reweigh=False),
    "no-llm": Arm(prior="uniform"),
    "uniform": Arm(prior="uniform", reweigh=False),
    "student-only": Arm(prior="uniform", controls=False, reweigh=False, guide=False),
    "llm-only": Arm(prior="llm", reweigh=False, guide=False, learn=False),
    "oracle": Arm(prior="oracle", reweigh=False),
    "liar": Arm(prior="liar"),
    "no-reweigh": replace(MUTUAL, reweigh=False),
    "no-tune": replace(MUTUAL, tune=False),
    "no-share": replace(MUTUAL, generalise=False),
    "no-hope": replace(MUTUAL, optimism=False),
    "no-lead": replace(MUTUAL, controls=False),
    "no-replay": replace(MUTUAL, replay=False),
    "shuffled": replace(MUTUAL, shuffle=True),
}
"""The seven arms, a teacher that lies, and `mutual` without one of its parts each (`shuffled`: with feedback that is wrong)."""
