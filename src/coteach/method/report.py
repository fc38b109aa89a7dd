"""What a run writes and shows: metrics of each round, the LLM's calls, and at the end of a rung its summary, advice and GIF."""

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
    """Writes a run's metrics, calls and artifacts, and tells a display where the run stands.

    display: is called with a `Progress`, or None where nobody looks.
    """

    def __init__(self, run: Run, players: Players, display: Callable[[Progress], None] | None) -> None:
        self.run, self.players, self.display = run, players, display
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the run began, what came before an interruption included."""
        return time.perf_counter() - self._began

    def go_on(self, seconds: float) -> None:
        """Count the seconds of a run that was interrupted."""
        self._began -= seconds

    def show(self, rungs: Sequence[Rung], phase: str, detail: str = "") -> None:
        """Tell the display where the run stands: the first of the rungs being climbed, with the others beside it."""
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
        """Write a line of metrics.jsonl, and the LLM's calls since the last; the LLM's costs are the whole run's so far."""
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
        """Write what the run folder shows of the rungs so far. The newest rung's fields stand at the summary's top."""
        self.run.write_json("summary.json", summaries[-1] | {"rungs": summaries})
        self.run.write_jsonl("advice.jsonl", advice_rows(self.players))
        with disk(self.run.folder / "teacher"):
            self.players.teacher.save(self.run.folder / "teacher")

    def write_video(self, examiner: Examiner, rung: Rung) -> None:
        """Film one episode of the rung's trained player, the first of the evaluation's. Not every task can be filmed."""
        try:
            frames = examiner.film("student" if self.players.arm.learn else "teacher", rung.task)
        except CoteachError:
            return
        write_gif(self.run.folder / "videos" / f"{rung.index + 1}-{file_name(rung.task)}.gif", frames)


def rung_summaries(rungs: Sequence[Rung], players: Players, examiner: Examiner) -> list[dict[str, Any]]:
    """Return the summaries of rungs climbed side by side, all players evaluated alone now.

    The LLM's costs are those while training; of several rungs each has an equal part of these and of the time, as they had one
    teacher. `llm_total` has everything since the run began, evaluations included.
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
    """Say what became of a rung; student, teacher: success and return of each alone (empty where there is no teacher)."""
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
    """Return the largest resident size of this process so far, in MiB."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib // (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes


def advice_rows(players: Players) -> Iterator[dict[str, Any]]:
    """Yield one row per situation with evidence or an answer: what the LLM says, what the evidence made of it, and why."""
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
