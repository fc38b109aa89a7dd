"""What a run leaves behind when a rung is over: its summary, the advice with the evidence behind it, plots, GIFs."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from coteach.config import Config
from coteach.errors import CoteachError
from coteach.evaluation.episodes import write_gif
from coteach.method.players import Players
from coteach.runs.files import disk, file_name
from coteach.runs.progress import Progress
from coteach.runs.run_folder import Run
from coteach.teacher.costs import Usage

if TYPE_CHECKING:
    from coteach.method.rung import Rung


def round_metrics(rung: Rung, players: Players, seconds: float) -> dict[str, Any]:
    """What a line of metrics.jsonl says beside the round's own metrics; the LLM's costs are the whole run's so far."""
    usage = players.teacher.usage
    return {
        "rung": rung.index,
        "task": rung.task,
        "round": rung.rounds,
        "steps": rung.steps,
        "success_student": rung.curve.student,
        "success_teacher": rung.curve.led,
        "situations": len(players.situations),
        "llm_queries": usage.queries,
        "llm_tokens": usage.tokens,
        "llm_money": usage.money,
        "llm_failures": usage.failures,
        "wall_seconds": seconds,
        "steps_per_second": rung.rate,
    }


def progress(rungs: Sequence[Rung], config: Config, usage: Usage, phase: str, seconds: float, detail: str = "") -> Progress:
    """Where the run stands: the first of the rungs being climbed, with the others beside it."""
    first, *beside = (
        Progress(
            rung.index,
            len(config.tasks),
            rung.task,
            rung.steps,
            config.steps,
            phase,
            rung.curve.student,
            rung.curve.led,
            usage.queries,
            seconds,
            rung.rate,
            usage.tokens,
            usage.money,
            usage.failures,
            detail=detail,
            over=rung.over,
        )
        for rung in rungs
    )
    return replace(first, beside=tuple(beside))


def rung_summaries(rungs: Sequence[Rung], config: Config, players: Players) -> list[dict[str, Any]]:
    """The summaries of rungs climbed side by side, all players evaluated alone now.

    The LLM's costs are those while training; of several rungs each has an equal part of these and of the time, as they had one
    teacher. `llm_total` has everything since the run began, evaluations included.
    """
    usage, alone = players.teacher.usage, []
    spent = usage.since(rungs[0].usage or Usage())
    for rung in rungs:
        rung.environments.close()
        teacher = players.alone("teacher", rung.task)
        alone.append((players.alone("student", rung.task) if players.arm.learn else teacher, teacher))
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
    """What became of a rung; student, teacher: success and return of each alone (empty where there is no teacher)."""
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
    """Largest resident size of this process so far, in MiB."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib // (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes


def advice_rows(players: Players) -> Iterator[dict[str, Any]]:
    """One row per situation with evidence or an answer: what the LLM says, what the evidence made of it, and why."""
    advice, model = players.advice, players.model
    advice.grow()  # evaluations meet situations too
    for i in np.flatnonzero(advice.answered | (model.tries.sum(axis=1) > 0)):
        situation = players.situations[int(i)]
        count = len(situation.options)
        yield {
            "situation": situation.text,
            "options": list(situation.options),
            "asked": bool(advice.answered[i]),
            "p": np.round(advice.prior[i, :count], 4).tolist(),
            "improved": np.round(advice.proven[i, :count], 4).tolist(),
            "q": np.round(advice.q[i, :count], 4).tolist(),
            "tries": model.tries[i, :count].tolist(),
            "failures": model.failures[i, :count].tolist(),
            "successes": model.successes[i, :count].tolist(),
        }


def write_artifacts(run: Run, players: Players, summaries: list[dict[str, Any]]) -> None:
    """Everything that the run folder shows of the rungs so far. The newest rung's fields stand at the summary's top."""
    run.write_json("summary.json", summaries[-1] | {"rungs": summaries})
    run.write_jsonl("advice.jsonl", advice_rows(players))
    with disk(run.folder / "teacher"):
        players.teacher.save(run.folder / "teacher")


def write_video(run: Run, players: Players, rung: Rung) -> None:
    """One episode of the rung's trained player: the first of the evaluation's. Not every task can be filmed."""
    try:
        frames = players.record("student" if players.arm.learn else "teacher", rung.task)
    except CoteachError:
        return
    write_gif(run.folder / "videos" / f"{rung.index + 1}-{file_name(rung.task)}.gif", frames)
