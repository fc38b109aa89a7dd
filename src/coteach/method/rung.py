"""A rung: one task that is trained on, from its first round to its summary, across interruptions.

A rung has what belongs to the task and not to the players: the environments, the episodes under way, the learning curve, and the
time spent. `state` is the part of a checkpoint that restores it exactly. A `Turn` is its part in a round.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from coteach.config import Config
from coteach.envs import tasks
from coteach.errors import NotFinite, RunFailed, note
from coteach.evaluation.curve import Curve
from coteach.method.players import Players
from coteach.student.rollout import Collector, Rollout
from coteach.teacher.costs import Usage

MOST_SKIPPED = 3
"""The run ends after so many consecutive rounds with numbers that are not finite, from which the student cannot learn."""


class Rung:
    """One task that is trained on: its environments and its learning curve.

    rounds, steps: so far, over all environments.
    seconds:       of training, without evaluations; `age` includes them.
    held:          whether the greedy student has held the success at which the rung may end.
    schooled:      whether the LLM's fine-tuning after the rung is over.
    skipped:       number of consecutive rounds from which the student could not learn.
    before:        success and return of the teacher alone when the rung began.
    usage_before:  the teacher's costs by then; None until the rung has begun.
    """

    def __init__(self, index: int, config: Config, players: Players, state: dict[str, Any] | None = None) -> None:
        """state: what `state` returned for the rung, if it is continued."""
        self.index, self.task, self.config = index, config.tasks[index], config
        self.student = players.student_of(self.task)
        self.curve, self.rounds, self.seconds = Curve(config.evaluation), 0, 0.0
        self.held = self.schooled = False
        self.skipped = 0
        self.before: dict[str, float] = {}
        self.usage_before: Usage | None = None
        self._began = time.perf_counter()
        under_way = state and state["under_way"]
        if under_way and len(under_way["situation"]) != config.collect.envs:  # config.toml was changed by hand
            under_way = None
        self.seed = state["seed"] if state and under_way else players.draw_seed()
        self.environments = tasks.make(self.task, config.engine, config.collect.envs, self.seed)
        grounding = players.ground(self.task, config.collect.envs, self.environments.num_actions, learn=True)
        self.collector = Collector(self.environments, grounding, config.collect, players.rng, under_way)
        self.repeatable = players.repeatable
        """Whether the episodes under way can be restored."""
        if not self.collector.resumed:
            self.collector.assign_all(config.collect.led_share_max if players.arm.controls else 0.0)
        if state is not None:
            self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned, except for the episodes under way."""
        for name in ("rounds", "seconds", "held", "schooled", "before"):
            setattr(self, name, state[name])
        self.collector.go_on(state["steps"])
        self.usage_before = state["usage_before"] and Usage(**state["usage_before"])
        self.curve.restore(state["curve"])
        self._began -= state["age"]
        if not self.collector.resumed:
            why = f"engine {self.environments.engine!r}" if state["under_way"] is None else "they would go another way now"
            note(f"the episodes under way cannot be brought back ({why}): new ones begin")

    def begin(self, before: dict[str, float], usage: Usage) -> None:
        """Store success and return of the teacher alone before the first round, and the teacher's costs so far."""
        self.before, self.usage_before = before, usage.copy()

    def add_round(self, seconds: float) -> None:
        """Count a round and the seconds that it took."""
        self.rounds += 1
        self.seconds += seconds

    def add_schooling(self, seconds: float, over: bool) -> None:
        """Count the seconds of a step of the LLM's fine-tuning after the rung; over: whether it was the last one."""
        self.seconds += seconds
        self.schooled = over

    def confirm(self, success: float) -> None:
        """End the rung if the student's success on the reference environments is at least `stop_at`."""
        self.held = success >= self.config.stop_at

    def learned(self) -> None:
        """Reset the count of skipped rounds, because the student learned from a round."""
        self.skipped = 0

    def skip(self, error: NotFinite) -> None:
        """Count a round from which the student does not learn, and say so; RunFailed after too many in a row."""
        self.skipped += 1
        if self.skipped == MOST_SKIPPED:
            raise failed(error, self) from error
        note(f"{self.where}: {error}; the student does not learn from this round")

    @property
    def steps(self) -> int:
        """Environment steps on this rung, over all environments."""
        return self.collector.steps

    @property
    def where(self) -> str:
        """The present rung and round, for messages."""
        return f"rung {self.index + 1}, round {self.rounds + 1}"

    @property
    def over(self) -> bool:
        """Whether the greedy student has held the success asked for, or the budget of steps is spent."""
        return self.held or self.steps >= self.config.steps

    @property
    def age(self) -> float:
        """Seconds spent on this rung, including evaluations."""
        return time.perf_counter() - self._began

    @property
    def rate(self) -> float:
        """Environment steps per second of `age`."""
        return self.steps / max(self.age, 1e-9)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores, as plain JSON."""
        return {
            "index": self.index,
            "seed": self.seed,
            "held": self.held,
            "schooled": self.schooled,
            "before": self.before,
            "usage_before": self.usage_before and self.usage_before.totals(),
            "rounds": self.rounds,
            "steps": self.steps,
            "seconds": self.seconds,
            "age": self.age,
            "curve": self.curve.state(),
            "under_way": self.collector.state() if self.repeatable else None,
        }


@dataclass(frozen=True)
class Turn:
    """A rung's part in a round.

    rollout: the rows collected.
    weight:  lambda, the weight of the guidance.
    """

    rung: Rung
    rollout: Rollout
    weight: float

    @property
    def shares(self) -> dict[str, float]:
        """The share of teacher-controlled steps and the weight of the guidance, with their keys in metrics.jsonl."""
        share = self.rollout.controlled[self.rollout.valid].mean() if self.rollout.valid.any() else 0.0
        return {"led_share": float(share), "guidance_weight": self.weight}


def failed(error: NotFinite, *rungs: Rung) -> RunFailed:
    """Return the error that ends the run because numbers on `rungs` are not finite; the run can be resumed."""
    where = " and ".join(rung.where for rung in rungs)
    return RunFailed(f"{where}: {error}; the last checkpoint was made before: mend the cause and use --resume")


@contextmanager
def blamed(*rungs: Rung) -> Iterator[None]:
    """Turn NotFinite into RunFailed, with a message that names `rungs`."""
    try:
        yield
    except NotFinite as error:
        raise failed(error, *rungs) from error
