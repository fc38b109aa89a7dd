"""`coteach ask`: what the teacher says in a situation, and, with a run, what evidence made of it.

Without a run the LLM is asked as it is. With one, the situations of its advice.jsonl can be listed and asked about,
and the answer stands beside that of the tuned LLM and the improved advice.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coteach.arms import ARMS
from coteach.commands.common import print_json
from coteach.config import Config, load
from coteach.errors import CoteachError, RunFailed, printable
from coteach.runs import jsonl
from coteach.runs.files import user_path
from coteach.runs.progress import percent, print_table
from coteach.runs.run_folder import Run

if TYPE_CHECKING:
    from coteach.grounding.base import Situation
    from coteach.teacher.base import Teacher

HELP = "ask the teacher about a situation; of a run, show the evidence too"

EXAMPLE = """\
examples:
  coteach ask --situation "Mission: open the door. You carry nothing. You see a red key, a locked red door." \\
              --option "pick up the red key" --option "open the red door"
  coteach ask runs/demo                  list the run's situations
  coteach ask runs/demo --situation 3    the third of them: before and after tuning, and the evidence
  coteach ask runs/demo --situation 3 --generate    the answer written token by token, before and after the evidence
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach ask`."""
    parser.add_argument("run_folder", metavar="RUN", nargs="?", type=user_path, help="a run: its tuned teacher and evidence")
    parser.add_argument("--situation", metavar="TEXT", help="the situation in words, or its number in the run's list")
    parser.add_argument(
        "--option", metavar="TEXT", action="append", help="an option (repeat it); of a run's own situation not needed"
    )
    parser.add_argument("--teacher", metavar="SPEC", help="without a run: which teacher (default: smollm2)")
    parser.add_argument(
        "--generate", action="store_true", help="write the answer token by token: how probable each next token is, and why"
    )
    parser.epilog = EXAMPLE


def run(args: argparse.Namespace) -> int:
    """Answer, or list a run's situations."""
    if args.run_folder is None:
        config = load(None, [f"teacher.spec={args.teacher}"] if args.teacher else [])
        row = _row(args, [])
    else:
        config, rows = _open(args)
        if args.situation is None:
            _list(rows, args.json)
            return 0
        row = _row(args, rows)
    answer = _ask(config, args.run_folder, row, args.generate)
    if args.json:
        print_json(answer)
    else:
        _show(answer)
    return 0


def _open(args: argparse.Namespace) -> tuple[Config, list[dict[str, Any]]]:
    if args.teacher:
        raise CoteachError(
            f"--teacher {args.teacher}: {args.run_folder} has a teacher of its own; leave out the one or the other"
        )
    config = Run.open(args.run_folder).config
    rows = sorted(jsonl.read(args.run_folder / "advice.jsonl"), key=lambda row: -sum(row["tries"]))
    return config, rows


def _list(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """The run's situations, most tried first."""
    if as_json:
        print_json(rows)
        return
    cells = [(str(number), f"{sum(row['tries']):,.0f}", row["situation"]) for number, row in enumerate(rows, start=1)]
    print_table(("number", "tries", "situation"), cells, left=3)


def _row(args: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The situation asked about: one of the run's, or one given in words with its options."""
    text = args.situation
    if text is None:
        raise CoteachError(
            "--situation is missing: say in words what the teacher should know; `coteach ask --help` has an example"
        )
    if text.isdecimal():
        if not 1 <= int(text) <= len(rows):
            raise CoteachError(f"--situation {text}: expected the number of one of the run's {len(rows)} situations, or words")
        return rows[int(text) - 1]
    options = args.option or []
    for row in rows:
        if row["situation"] == text and (not options or row["options"] == options):
            return row
    if len(options) < 2:
        raise CoteachError(f"--option was given {len(options)} times: expected at least two options to choose from")
    if len(set(options)) < len(options):
        raise CoteachError(f"--option {max(options, key=options.count)!r} was given twice: options must differ")
    return {"situation": text, "options": options}


def _ask(config: Config, folder: Path | None, row: Mapping[str, Any], generate: bool) -> dict[str, Any]:
    """The teacher's answer without what it learned in the run, with it, and what the run knows of the situation."""
    from coteach.envs.tasks import common_family
    from coteach.grounding.base import Situation
    from coteach.teacher.make import make_teacher

    prior = ARMS[config.arm].prior
    instruction = common_family(config.tasks).instruction
    teacher = make_teacher(config.teacher.spec if prior == "llm" else prior, config.teacher, instruction=instruction)
    situation = Situation(row["situation"], tuple(row["options"]))
    answer: dict[str, Any] = {"teacher": teacher.name, "prompt": _prompt(teacher, situation), **row}
    answer["untuned"] = _advice(teacher, situation)
    if folder is not None and (folder / "teacher").is_dir():
        teacher.load(folder / "teacher")
        answer["tuned"] = _advice(teacher, situation)
        answer["prompt"] = _prompt(teacher, situation)
    if generate:
        answer["generated"] = _generate(teacher, situation, row["improved"] if any(row.get("improved", ())) else None)
    return answer


def _advice(teacher: Teacher, situation: Situation) -> list[float]:
    advice = teacher.advise([situation])[0]
    if advice is None:
        raise RunFailed(f"teacher {teacher.name!r} does not answer now; ask again later")
    return [float(share) for share in advice]


def _generate(teacher: Any, situation: Situation, improved: Sequence[float] | None) -> list[dict[str, Any]]:
    """The tokens of an answer, each with those that could have stood there; without a run nothing is improved."""
    import numpy as np

    if not hasattr(teacher, "write"):
        raise CoteachError(f"--generate: the teacher {teacher.name!r} writes no tokens; ask smollm2, hf:... or gguf:...")
    advice = np.array(improved) if improved else teacher.advise([situation])[0]
    return [
        {"token": token.words[token.taken], "words": list(token.words)}
        | {kind: getattr(token, kind).tolist() for kind in (GENERATED if improved else ("own", "before"))}
        for token in teacher.write(situation, advice)
    ]


def _prompt(teacher: Any, situation: Situation) -> str | None:
    """The words an LLM is given; a scripted teacher needs none."""
    return teacher.explain(situation).prompt if hasattr(teacher, "explain") else None


COLUMNS = {"untuned": "untuned", "tuned": "tuned", "improved": "improved", "q": "Q", "tries": "tried", "failures": "failed"}
"""Key of the answer -> heading, in the order of the loop: the LLM's word, then what experience makes of it, and why."""


GENERATED = {"own": "LLM alone", "before": "advice", "after": "improved"}
"""Key of a token -> heading: its probability among all of the LLM's tokens, by the LLM's advice, by the improved advice."""


def _show(answer: Mapping[str, Any]) -> None:
    text = answer["prompt"] or answer["situation"]
    print("\n".join(printable(line) for line in text.splitlines()) + "\n")
    print(f"teacher: {answer['teacher']}")
    present = [key for key in COLUMNS if key in answer]
    rows = [(option, *(_cell(key, answer[key][slot]) for key in present)) for slot, option in enumerate(answer["options"])]
    print_table(("option", *(COLUMNS[key] for key in present)), rows)
    if "generated" in answer:
        print("\nwritten token by token (> marks what was taken):")
        headings = [heading for kind, heading in GENERATED.items() if kind in answer["generated"][0]]
        print_table(("written", "next", *headings), list(_tokens(answer["generated"])), left=2)


def _tokens(generated: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A row for each token that could have been next, the one taken first."""
    written = ""
    for step in generated:
        words = step["words"]
        for rank, slot in enumerate(sorted(range(len(words)), key=lambda slot: words[slot] != step["token"])):
            shown = (percent(step[kind][slot]) for kind in GENERATED if kind in step)
            yield ("" if rank else written, f"{' ' if rank else '>'} {words[slot]}", *shown)
        written += step["token"]


def _cell(key: str, value: float) -> str:
    if key == "q":
        return f"{value:.2f}"
    return f"{value:,.0f}" if key in ("tries", "failures") else percent(value)
