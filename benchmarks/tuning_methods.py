"""The ways to tune, compared: the same 24 lessons from one run's evidence, four tunings of a fresh teacher with each method.

    coteach train --task MiniGrid-UnlockPickup-v0 --arm no-llm --steps 40000 --out RUN
    python benchmarks/tuning_methods.py RUN [SEED]

Prints a JSON line after each tuning: how often the teacher's first choice is the improved one, over the situations with
evidence (each counted as often as options were tried there) and over the lessons; at the end how it fares alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from feedback import first_choices, players_of

from coteach.config import TUNE_METHODS
from coteach.method.examiner import Examiner
from coteach.method.lessons import make_experiences, make_lessons
from coteach.runs.run_folder import Run

LESSONS, TUNINGS, EPISODES = 24, 4, 100


def measure(run: Run, method: str, seed: int) -> None:
    """Tune with one method and print what came of it."""
    players = players_of(run, f"teacher.tune_method={method}")
    task, teacher, advice = run.config.tasks[0], players.teacher, players.advice
    lessons = make_lessons(advice, LESSONS, np.random.default_rng(seed))
    known = [experience for experience in make_experiences(advice) if experience.tries.sum() >= 10]
    tries = [float(experience.tries.sum()) for experience in known]
    taught, best = [lesson.situation for lesson in lessons], [int(lesson.target.argmax()) for lesson in lessons]
    for tuning in range(TUNINGS + 1):
        report = teacher.tune(lessons, seed=1000 * seed + tuning) if tuning else None
        right = first_choices(teacher, [e.situation for e in known]) == [e.best for e in known]
        learned = first_choices(teacher, taught) == best
        row = {"right": np.average(right, weights=tries), "lessons": np.average(learned, weights=[one.weight for one in lessons])}
        drift = report and round(report.drift, 3)
        print(json.dumps({"method": method, "seed": seed, "tuning": tuning, "drift": drift} | _rounded(row)), flush=True)
    alone = Examiner(players).evaluate("teacher", task, EPISODES)
    print(
        json.dumps({"method": method, "seed": seed} | _rounded({"alone": alone.success, "return": alone.mean_return})), flush=True
    )


def _rounded(row: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), 3) for name, value in row.items()}


if __name__ == "__main__":
    for name in TUNE_METHODS:
        measure(Run.open(Path(sys.argv[1])), name, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
