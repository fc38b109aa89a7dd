"""Reports a run: the metrics of each round, the LLM's calls, and at the end of a rung its summary, the advice and a GIF."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from coteach.errors import CoteachError
from coteach.evaluation.episodes import write_gif
from coteach.method.examiner import Examiner
from coteach.method.players import Players
from coteach.method.rung import Rung
from coteach.runs.files import disk, file_name
from coteach.runs.progress import Progress
from coteach.runs.run_folder import Run
from coteach.teacher.costs import Usage


class Reporter:
    """Writes a run's metrics, calls and artifacts, and shows its progress.

    display: called with a `Progress`; None: nothing is shown.
    """

    def __init__(self, run: Run, players: Players, display: Callable[[Progress], None] | None) -> None:
        self.run, self.players, self.display = run, players, display
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the run began, including those before an interruption."""
        return time.perf_counter() - self._began

    def go_on(self, seconds: float) -> None:
        """Add the seconds of the run before its interruption."""
        self._began -= seconds

    def show(self, rungs: Sequence[Rung], phase: str, detail: str = "") -> None:
        """Show the progress of the first of the present rungs, with that of the others beside it."""
        if self.display is None:
            return
        first, *others = (self._progress(rung, phase, detail) for rung in rungs)
        self.display(replace(first, others=tuple(others)))

    def _progress(self, rung: Rung, phase: str, detail: str) -> Progress:
        usage = self.players.teacher.usage
        return Progress(
            rung=rung.index,
            rungs=len(rung.config.tasks),
            task=rung.task,
            steps=rung.steps,
            total_steps=rung.config.steps,
            phase=phase,
            success_student=rung.curve.student,
            success_controlled=rung.curve.controlled,
            llm_queries=usage.queries,
            seconds_elapsed=self.seconds,
            steps_per_second=rung.rate,
            llm_tokens=usage.tokens,
            llm_money=usage.money,
            llm_failures=usage.failures,
            detail=detail,
            over=rung.over,
        )

    def log_round(self, rung: Rung, metrics: dict[str, Any]) -> None:
        """Write a line of metrics.jsonl, with the LLM's costs of the run so far, and the LLM's calls since the last line."""
        usage = self.players.teacher.usage
        self.log_calls(rung)
        self.run.log(
            {
                "rung": rung.index,
                "task": rung.task,
                "round": rung.rounds,
                "steps": rung.steps,
                "success_student": rung.curve.student,
                "success_controlled": rung.curve.controlled,
                "situations": len(self.players.situations),
                "llm_queries": usage.queries,
                "llm_tokens": usage.tokens,
                "llm_money": usage.money,
                "llm_failures": usage.failures,
                "wall_seconds": self.seconds,
                "steps_per_second": rung.rate,
            }
            | metrics
        )

    def log_calls(self, rung: Rung) -> None:
        """Write a line of calls.jsonl for each of the LLM's calls since the last time."""
        self.run.log_calls(rung.index, rung.rounds, map(asdict, self.players.teacher.usage.drain()))

    def write_artifacts(self, summaries: list[dict[str, Any]]) -> None:
        """Write summary, advice and the teacher's weights. The fields of the newest rung are at the top of the summary."""
        self.run.write_json("summary.json", summaries[-1] | {"rungs": summaries})
        self.run.write_jsonl("advice.jsonl", advice_rows(self.players))
        with disk(self.run.folder / "teacher"):
            self.players.teacher.save(self.run.folder / "teacher")

    def write_video(self, examiner: Examiner, rung: Rung) -> None:
        """Write a GIF of the rung's trained player in the first evaluation episode, if the task can be rendered."""
        try:
            frames = examiner.film("student" if self.players.arm.learn else "teacher", rung.task)
        except CoteachError:
            return
        write_gif(self.run.folder / "videos" / f"{rung.index + 1}-{file_name(rung.task)}.gif", frames)


def rung_summaries(rungs: Sequence[Rung], players: Players, examiner: Examiner) -> list[dict[str, Any]]:
    """Evaluate all players alone; return the summaries of rungs that were trained on side by side.

    The LLM's costs are those of training. Several rungs have one teacher, so each gets an equal part of the costs and of the
    time. `llm_total` contains all costs since the run began, including those of evaluations.
    """
    usage, alone, config = players.teacher.usage, [], players.config
    spent = usage.since(rungs[0].usage_before or Usage())
    for rung in rungs:
        rung.environments.close()
        teacher = examiner.success_and_return("teacher", rung.task)
        alone.append((examiner.success_and_return("student", rung.task) if players.arm.learn else teacher, teacher))
    return [
        _summary(rung, student, teacher)
        | _costs(spent.part(number, len(rungs)))
        | {
            "arm": config.arm,
            "seed": config.seed,
            "teacher": players.teacher.name,
            "budget": config.steps,
            "situations": len(players.situations),
            "llm_total": usage.totals(),
            "wall_seconds": round(rung.age / len(rungs), 3),
            "peak_memory_mib": peak_memory(),
        }
        for number, (rung, (student, teacher)) in enumerate(zip(rungs, alone, strict=True))
    ]


def _summary(rung: Rung, student: dict[str, float], teacher: dict[str, float]) -> dict[str, Any]:
    """Return the results of a rung. student, teacher: success and return of each alone; empty if there is no teacher."""
    return {
        "rung": rung.index,
        "task": rung.task,
        "engine": rung.environments.engine,
        "steps": rung.steps,
        "held": rung.held,
        "episodes": rung.curve.episodes,
        "success": student["success"],
        "return": student["return"],
        "steps_to_80": rung.curve.steps_to[0.80],
        "steps_to_95": rung.curve.steps_to[0.95],
        "curve": rung.curve.points,
        "teacher_success_before": rung.before.get("success"),
        "teacher_success_after": teacher.get("success"),
        "teacher_return_before": rung.before.get("return"),
        "teacher_return_after": teacher.get("return"),
        "train_seconds": round(rung.seconds, 3),
        "steps_per_second": round(rung.steps / max(rung.seconds, 1e-9), 1),
    }


def _costs(spent: Usage) -> dict[str, Any]:
    """Return the LLM's costs under the keys of the summary."""
    return {
        "llm_queries": spent.queries,
        "llm_cache_hits": spent.cache_hits,
        "llm_tokens": spent.tokens,
        "llm_tokens_in": spent.tokens_in,
        "llm_tokens_out": spent.tokens_out,
        "llm_seconds": round(spent.seconds, 3),
        "llm_money": spent.money,
        "tune_seconds": round(spent.tune_seconds, 3),
    }


def peak_memory() -> int:
    """Return the peak resident set size of this process, in MiB."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib // (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes


def advice_rows(players: Players) -> Iterator[dict[str, Any]]:
    """Yield a row for each situation with evidence or an answer: prior, improved advice, Q and counts of each option."""
    players.advice.grow()  # evaluations meet situations too
    table, model = players.advice.table, players.advice.evidence.model
    for i in np.flatnonzero(table.answered | (model.tries.sum(axis=1) > 0)):
        situation = players.situations[int(i)]
        count = len(situation.options)
        yield {
            "situation": situation.text,
            "options": list(situation.options),
            "asked": bool(table.answered[i]),
            "p": np.round(table.prior[i, :count], 4).tolist(),
            "improved": np.round(table.pessimistic[i, :count], 4).tolist(),
            "q": np.round(table.optimistic_q[i, :count], 4).tolist(),
            "tries": model.tries[i, :count].tolist(),
            "failures": model.failures[i, :count].tolist(),
            "successes": model.successes[i, :count].tolist(),
        }
