"""`coteach eval`: evaluate a run's student, or its teacher's advice, in fixed-seed episodes of the reference environments.

The teacher is evaluated as it was before any tuning and as it is now, on any tasks; the output marks those that it was tuned on.
On demand, its options are drawn, or renamed by synonyms, or the command measures what the LLM has forgotten.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from coteach.commands.common import (
    add_run,
    check_playable,
    check_taught,
    default_tasks,
    episodes_of,
    load_players,
    print_json,
    seed_of,
)
from coteach.errors import CoteachError, unknown
from coteach.runs.progress import percent, print_table
from coteach.runs.run_folder import Run

if TYPE_CHECKING:
    from coteach.evaluation.episodes import Advise, Evaluation
    from coteach.method.players import Players

HELP = "play fixed-seed episodes of a run's student or teacher, on any tasks"

WHO = ("student", "teacher")

EXAMPLE = """\
examples:
  coteach eval runs/demo
  coteach eval runs/together --task MiniGrid-Unlock-v0               (of several students, the one of this task)
  coteach eval runs/demo --who teacher --task MiniGrid-UnlockPickup-v0 --task MiniGrid-BlockedUnlockPickup-v0
  coteach eval runs/demo --who teacher --synonyms --forgetting
  coteach eval runs/demo --who teacher --sample                      (options drawn, as in the episodes it controls)
"""

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach eval`."""
    add_run(parser)
    parser.add_argument("--who", default="student", help="student (greedy), or teacher (advice alone drives the controllers)")
    parser.add_argument(
        "--task", metavar="ID", action="append", help="repeat it for several; default: the run's last rung, or all together"
    )
    parser.add_argument("--episodes", metavar="N", help="how many on each task (default: 200)")
    parser.add_argument(
        "--sample",
        action="store_true",
        help="draw the teacher's options, as in training, instead of taking the most probable",
    )
    parser.add_argument("--synonyms", action="store_true", help="the teacher's options renamed too: verbs, then verbs and nouns")
    parser.add_argument(
        "--forgetting", action="store_true", help="perplexity on neutral prose and general questions, before and after tuning"
    )
    parser.epilog = EXAMPLE


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    _check_flags(args)
    episodes = episodes_of(args, 200)
    with Run.open(args.run_folder) as folder:
        check_taught(folder, args.who)
        names = list(dict.fromkeys(args.task or default_tasks(folder)))
        check_playable(folder, *names)
        from coteach.envs import tasks
        from coteach.evaluation import episodes as evaluate
        from coteach.method.examiner import Examiner

        for name in names:
            tasks.check(name)
        seed = seed_of(args, evaluate.SEED)
        players = load_players(folder)
        tuned_on = _tuned_on(folder)
    forgetting = _forgetting(players) if args.forgetting else None
    if args.who == "student":
        examiner = Examiner(players)
        rows = [{"task": name} | _figures(examiner.evaluate("student", name, episodes, seed)) for name in names]
    else:
        alone = Episodes(players, episodes, seed, args.sample)
        rows = [row for name in names for row in _taught(alone, name, name in tuned_on, args.synonyms)]
    if args.json:
        head = {"run": str(args.run_folder), "who": args.who, "seed": seed, "episodes": episodes, "sample": args.sample}
        _print_json(rows, forgetting, head)
    elif args.who == "student":
        _show_student(rows, episodes)
    else:
        _show_teacher(rows, alone)
        _show_forgetting(forgetting)
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    if args.who not in WHO:
        raise unknown("--who", args.who, WHO)
    for flag in ("sample", "synonyms", "forgetting"):
        if getattr(args, flag) and args.who != "teacher":
            raise CoteachError(f"--{flag} looks at the teacher: expected --who teacher, not --who {args.who}")


def _tuned_on(run: Run) -> set[str]:
    """The rungs on which the LLM as it is was tuned, at least once: in a round, or when the rung was over."""
    path = run.folder / "summary.json"
    over = json.loads(path.read_text(encoding="utf-8"))["rungs"] if path.is_file() else []
    rounds = list(run.metrics())
    rungs = {row["rung"] for row in rounds if row.get("tune_lessons")} | {
        rung["rung"] for rung in over if rung["tune_seconds"] > 0
    }
    if run.config.fresh == "teacher":
        rungs &= {rounds[-1]["rung"]} if rounds else set()
    return {run.config.tasks[rung] for rung in rungs}


def _figures(result: Evaluation) -> Row:
    return {"success": result.success, "return": result.mean_return, "length": result.mean_length}


@dataclass(frozen=True)
class Episodes:
    """What a teacher alone plays: so many, from this seed on; sample: its options drawn (`evaluate_teacher`)."""

    players: Players
    count: int
    seed: int
    sample: bool

    def grade(self, advise: Advise, task: str) -> Row:
        """What `advise` alone comes to."""
        from coteach.evaluation.episodes import evaluate_teacher

        patience, ground = self.players.config.collect.option_patience, partial(self.players.ground, task)
        return _figures(evaluate_teacher(advise, task, ground, patience, self.count, self.seed, self.sample))

    def chance(self, task: str) -> float | None:
        """Success of options drawn without any advice, where they are drawn: what can be undone, chance does in the end."""
        return float(self.grade(lambda situations: [None] * len(situations), task)["success"]) if self.sample else None


def _taught(alone: Episodes, task: str, tuned_on: bool, synonyms: bool) -> list[Row]:
    """The teacher on one task, before and after tuning; with synonyms, a row for each set of words that is renamed."""
    from coteach.evaluation.synonyms import WORDINGS, advise_renamed

    chance, rows = alone.chance(task), list[Row]()
    teacher = alone.players.teacher
    for name, words in [(None, {}), *(WORDINGS.items() if synonyms else ())]:
        read = _synonym_map(alone.players, words) if words else {}
        for mapping in ({}, read) if read else ({},):
            # Whoever fails plays every episode to its last step: this can take minutes, so say where it stands.
            told = ", told all names" if mapping else ""
            print(f"{task}, {name or 'nothing'} renamed{told}: 2 x {alone.count} episodes", file=sys.stderr, flush=True)
            untuned, tuned = (
                advise_renamed(words, advise_renamed(mapping, ask)) for ask in (teacher.advise_untuned, teacher.advise)
            )
            head = {"task": task, "tuned_on": tuned_on, "renamed": name and name + told, "synonym_map": mapping, "chance": chance}
            before = {f"{key}_before": value for key, value in alone.grade(untuned, task).items()}
            rows.append(head | before | alone.grade(tuned, task))
    whole = rows[0]["success"]
    for row in rows:
        row["lost"] = 1.0 - row["success"] / whole if row["renamed"] and whole else None
    return rows


def _synonym_map(players: Players, words: Mapping[str, str]) -> Mapping[str, str]:
    """Return the LLM's own mapping of new words to known ones, given all options of the run; empty for other teachers."""
    from coteach.evaluation.synonym_map import synonym_map
    from coteach.evaluation.synonyms import rename_options
    from coteach.grounding.base import Situation
    from coteach.teacher.local.teacher import LocalTeacher
    from coteach.teacher.recorded import Recorder

    teacher = players.teacher.teacher if isinstance(players.teacher, Recorder) else players.teacher
    if not isinstance(teacher, LocalTeacher):
        return {}
    known = sorted({option for situation in players.situations for option in situation.options})
    return synonym_map(known, rename_options(Situation("", tuple(known)), words).options, teacher.lm.meaning)


def _forgetting(players: Players) -> Row:
    """Return what the LLM knew before tuning, and what it knows now; CoteachError if the teacher is no LLM on this machine."""
    from coteach.evaluation.forgetting import measure_forgetting, question_count
    from coteach.teacher.local.teacher import LocalTeacher

    if not isinstance(players.teacher, LocalTeacher):
        raise CoteachError(
            f"--forgetting: teacher {players.teacher.name!r} is no language model on this machine: leave --forgetting out"
        )
    before, now = measure_forgetting(players.teacher)
    figures = {"perplexity_before": before.perplexity, "perplexity": now.perplexity}
    return figures | {"right_before": before.right, "right": now.right, "questions": question_count()}


def _print_json(rows: Sequence[Row], forgetting: Row | None, head: Row) -> None:
    """Of a single task the first row's figures stand at the top as well."""
    single = rows[0] if len({row["task"] for row in rows}) == 1 else {}
    print_json(head | single | {"rows": rows} | ({"forgetting": forgetting} if forgetting else {}))


def _show_student(rows: Sequence[Row], episodes: int) -> None:
    cells = [
        (row["task"], "student", percent(row["success"]), f"{row['return']:.3f}", f"{row['length']:.1f}", str(episodes))
        for row in rows
    ]
    print_table(("task", "who", "success", "return", "length", "episodes"), cells, left=2)


TEACHER_COLUMNS = ("task", "tuned on", "renamed", "by chance", "before", "after", "return before", "return after", "lost")


def _show_teacher(rows: Sequence[Row], alone: Episodes) -> None:
    """Success before and after tuning, and returns; columns about what was not asked for are left out."""
    empty = set() if alone.sample else {"by chance"}
    if not any(row["renamed"] for row in rows):
        empty |= {"renamed", "lost"}
    kept = [name for name in TEACHER_COLUMNS if name not in empty]
    cells = [dict(zip(TEACHER_COLUMNS, _teacher_cells(row), strict=True)) for row in rows]
    words = sum(name in ("task", "tuned on", "renamed") for name in kept)
    print_table(kept, [[cell[name] for name in kept] for cell in cells], left=words)
    drawn = ", options drawn from its advice (by chance: without any)" if alone.sample else ""
    print(f"\nthe teacher alone{drawn}, success in {alone.count} episodes; before: untuned; after: as it is now")


def _teacher_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    tuned_on = "yes" if row["tuned_on"] else "no"
    success = (percent(row["success_before"]), percent(row["success"]))
    returns = (f"{row['return_before']:.3f}", f"{row['return']:.3f}")
    chance = percent(row["chance"])
    return (row["task"], tuned_on, row["renamed"] or "nothing", chance, *success, *returns, percent(row["lost"]))


def _show_forgetting(forgetting: Row | None) -> None:
    if forgetting is None:
        return
    print()
    rows = [
        ("perplexity of neutral prose", f"{forgetting['perplexity_before']:.1f}", f"{forgetting['perplexity']:.1f}"),
        (
            f"of {forgetting['questions']} general questions right",
            percent(forgetting["right_before"]),
            percent(forgetting["right"]),
        ),
    ]
    print_table(("what the LLM knew before", "before", "after"), rows)
