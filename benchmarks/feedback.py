"""Measures in-context feedback: the untuned LLM with feedback from a run without it, in several amounts and forms.

    coteach train --task BabyAI-GoToLocal-v0 --arm no-llm --steps 40000 --out RUN
    python benchmarks/feedback.py RUN [SEED]

Prints a JSON line for each form: the success rate of the advice alone, and (for BabyAI-GoToLocal-v0) how often its first choice
is the expert's in 150 situations of random play. Their missions name kinds of things that no example names, and in two thirds of
them the expert does not explore.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coteach.config import TeacherConfig, load
from coteach.envs import tasks
from coteach.grounding.base import Situation, Situations
from coteach.grounding.minigrid import MiniGridGrounding
from coteach.method.checkpoint import load_players
from coteach.method.examiner import Examiner
from coteach.method.lessons import make_experiences
from coteach.method.players import Players
from coteach.runs.run_folder import Run
from coteach.teacher import feedback
from coteach.teacher.base import Teacher
from coteach.teacher.feedback import Experience, Feedback

EPISODES, TESTED, ENVIRONMENTS, STEPS = 100, 150, 32, 160


def players_of(run: Run, *settings: str) -> Players:
    """Load the evidence of a run without an LLM, together with an LLM that has not been asked yet."""
    config = load(None, ["arm=mutual", f"tasks={run.config.tasks[0]}", "threads=1", "teacher.feedback_tokens=3000", *settings])
    players = Players(config)
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None, f"{run.folder} has no checkpoint"
    load_players(checkpoint, players)
    table = players.advice.table
    table.asked[:] = table.answered[:] = False
    return players


def first_choices(teacher: Teacher, situations: Sequence[Situation]) -> NDArray[np.int64]:
    """Return the index of each situation's most probable option; -1 if there is no answer."""
    answers = teacher.advise(situations)
    return np.array([-1 if advice is None else int(advice.argmax()) for advice in answers], dtype=np.int64)


def kind(situation: Situation) -> str:
    """Return the kind of thing that the mission names."""
    return situation.text.partition(".")[0].split()[-1]


def random_play(task: str, seed: int, kinds: set[str]) -> list[Situation]:
    """Return situations of random play about these kinds of things in which the expert knows what to do."""
    rng, environments = np.random.default_rng(seed), tasks.make(task, "auto", ENVIRONMENTS, 7000 + seed)
    grounding = MiniGridGrounding(ENVIRONMENTS, Situations(), num_actions=environments.num_actions)
    grounding.observe(environments.reset(), None, np.ones(ENVIRONMENTS, dtype=np.bool_))
    for _ in range(STEPS):
        actions = rng.integers(0, 3, ENVIRONMENTS)
        step = environments.step(actions)
        grounding.observe(step.observation, actions, step.restarted)
    known = [s for s in grounding.situations if s.expert is not None and len(s.options) > 2 and kind(s) in kinds]
    explore = [s for s in known if s.expert is not None and s.options[s.expert] == "explore"]
    other = [s for s in known if s not in explore]
    return _drawn(other, 2 * TESTED // 3, rng) + _drawn(explore, TESTED // 3, rng)


def _drawn(some: Sequence[Situation], count: int, rng: np.random.Generator) -> list[Situation]:
    return [some[i] for i in rng.permutation(len(some))[:count]]


def forms(experiences: Sequence[Experience], rng: np.random.Generator) -> dict[str, Feedback]:
    """Return the forms of feedback by name."""
    chosen, words = feedback.examples(experiences, 16), tuple(feedback.sentences(TeacherConfig(), experiences))
    verified = [experience for experience in experiences if experience.verified]
    drawn = [
        (verified[i].situation.text, verified[i].situation.options[verified[i].best]) for i in rng.permutation(len(verified))
    ]
    return (
        {"nothing": Feedback()}
        | {f"{count} examples": Feedback(tuple(chosen[:count])) for count in (2, 4, 8, 16)}
        | {f"{count} drawn at random": Feedback(tuple(drawn[:count])) for count in (4, 8)}
        | {
            "evidence": Feedback((), words),
            "the wrong way round": Feedback((), tuple(feedback.sentences(TeacherConfig(), _wrong(experiences)))),
        }
        | {"8 examples and evidence": Feedback(tuple(chosen[:8]), words)}
    )


def _wrong(experiences: Sequence[Experience]) -> list[Experience]:
    """Return the control: the same options with swapped advice, outcomes and Q."""
    return [
        replace(e, prior=e.imitation, imitation=e.prior, failures=e.tries - e.failures, pessimistic_q=-e.pessimistic_q)
        for e in experiences
        if e.prior is not None
    ]


def main(folder: Path, seed: int) -> None:
    """Give each form in turn and print the results."""
    run, rng = Run.open(folder), np.random.default_rng(seed)
    players, task = players_of(run), run.config.tasks[0]
    held_out = {"ball", "key"} if seed % 2 == 0 else {"box"}
    tested = random_play(task, seed, held_out) if task == "BabyAI-GoToLocal-v0" else []
    known = [e for e in make_experiences(players.advice) if not tested or kind(e.situation) not in held_out]
    often = sorted(known, key=lambda experience: -experience.visits)[: TeacherConfig().feedback_candidates]
    said = players.teacher.advise([experience.situation for experience in often])
    often = [replace(experience, prior=advice) for experience, advice in zip(often, said, strict=True)]
    for name, form in forms(often, rng).items():
        players.teacher.give_feedback(form)
        right = first_choices(players.teacher, tested) == [situation.expert for situation in tested]
        alone = Examiner(players).evaluate("teacher", task, EPISODES)
        shown = {"right": round(float(right.mean()), 3)} if tested else {}
        print(json.dumps({"form": name, "seed": seed, "alone": alone.success} | shown), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
