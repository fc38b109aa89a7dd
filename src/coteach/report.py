"""What a run leaves behind when a rung is over: its summary, the advice with the evidence behind it, plots, GIFs."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from coteach.config import Config
from coteach.errors import CoteachError
from coteach.evaluate import write_gif
from coteach.players import Players
from coteach.run import Run, disk, file_name
from coteach.teacher.base import Books

if TYPE_CHECKING:
    from coteach.rung import Rung


def rung_summary(rung: Rung, config: Config, players: Players, spent: Books) -> dict[str, Any]:
    """One rung's summary, both players evaluated alone now.

    spent: the LLM's costs while training; `llm_total` has everything since the run began, evaluations included.
    """
    after = players.alone("teacher", rung.task)
    student = players.alone("student", rung.task) if players.arm.learn else after
    return {
        "rung": rung.index,
        "task": rung.task,
        "arm": config.arm,
        "seed": config.seed,
        "teacher": players.teacher.name,
        "engine": rung.environments.engine,
        "budget": config.steps,
        "steps": rung.steps,
        "held": rung.held,
        "episodes": rung.curve.episodes,
        "success": student["success"],
        "return": student["return"],
        "steps_to_80": rung.curve.steps_to[0.80],
        "steps_to_95": rung.curve.steps_to[0.95],
        "curve": rung.curve.points,
        "teacher_success_before": rung.before.get("success"),
        "teacher_success_after": after.get("success"),
        "teacher_return_before": rung.before.get("return"),
        "teacher_return_after": after.get("return"),
        "situations": len(players.situations),
        "llm_queries": spent.queries,
        "llm_memory_hits": spent.memory_hits,
        "llm_tokens": spent.tokens,
        "llm_tokens_in": spent.tokens_in,
        "llm_tokens_out": spent.tokens_out,
        "llm_seconds": round(spent.seconds, 3),
        "llm_money": spent.money,
        "llm_total": players.teacher.books.totals(),
        "tune_seconds": round(spent.tune_seconds, 3),
        "train_seconds": round(rung.seconds, 3),
        "wall_seconds": round(rung.age, 3),
        "peak_memory_mib": peak_memory(),
        "steps_per_second": round(rung.steps / max(rung.seconds, 1e-9), 1),
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
