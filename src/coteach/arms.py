"""The arms of a comparison: switches of the one loop, never other code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Arm:
    """Which of the loop's channels are open; `description` says it in a line, for help and tables.

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
    raw:     the student sees the environment's own observation: of MiniGrid and BabyAI without belief map, options and prior
             against repetition; registered environments show their own in every arm.
    """

    description: str
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
    raw: bool = False

    @property
    def has_teacher(self) -> bool:
        """Whether there is a teacher at all."""
        return self.controls or self.guide


NO_TEACHER = Arm(
    "no teacher: PPO with coteach's belief-map features and its prior against repetition (MiniGrid, BabyAI)",
    prior="uniform",
    controls=False,
    reweigh=False,
    guide=False,
)

MUTUAL = Arm(
    "the LLM advises, the student's experience improves the advice and tunes the LLM", prior="llm", tune=True, feedback=True
)

ARMS: dict[str, Arm] = {
    "mutual": MUTUAL,
    "one-way": Arm("the LLM's advice as it is: no evidence, no tuning", prior="llm", reweigh=False),
    "no-llm": Arm("no LLM: a uniform prior over the options, improved by the evidence", prior="uniform"),
    "uniform": Arm("no LLM and no evidence: options drawn uniformly", prior="uniform", reweigh=False),
    "student-only": NO_TEACHER,
    "ppo": replace(
        NO_TEACHER,
        description="PPO on the environment's own observation: no belief map, no prior against repetition, no teacher",
        generalise=False,
        optimism=False,
        replay=False,
        raw=True,
    ),
    "llm-only": Arm("the LLM's advice drives the controllers, no student", prior="llm", reweigh=False, guide=False, learn=False),
    "oracle": Arm("a scripted expert in place of the LLM, its advice as it is", prior="oracle", reweigh=False),
    "liar": Arm("an adversarial teacher, overruled by the evidence", prior="liar"),
    "no-reweigh": replace(MUTUAL, description="mutual without evidence overruling the LLM at once", reweigh=False),
    "no-tune": replace(MUTUAL, description="mutual without tuning the LLM", tune=False),
    "no-share": replace(
        MUTUAL, description="mutual without word values: nothing carries over between situations", generalise=False
    ),
    "no-hope": replace(MUTUAL, description="mutual without optimism about options never tried", optimism=False),
    "no-lead": replace(MUTUAL, description="mutual without teacher-controlled episodes", controls=False),
    "no-replay": replace(MUTUAL, description="mutual without distilling replayed rows", replay=False),
    "shuffled": replace(
        MUTUAL, description="mutual with evidence counted for the wrong situations: a control, which must not help", shuffle=True
    ),
}
"""Two arms without a teacher, seven with one, and `mutual` without one of its parts each (`shuffled`: with wrong feedback)."""


def describe_arms(names: Iterable[str]) -> str:
    """Return a line for each of these arms: its id and what it is."""
    width = max(map(len, ARMS))
    return "\n".join(f"  {name:<{width}}  {ARMS[name].description}" for name in names)
