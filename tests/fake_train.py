"""Stands in for `coteach train` where only what is around runs is tested: understands its words, learns nothing.

FAKE_TRAIN says what becomes of some runs, as "ARM-SEED=fail|wait,...": `fail` ends with an error, `wait` on a signal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from comparisons import learner, summary
from coteach.commands import cli
from coteach.commands.train import resolve
from coteach.runs.run_folder import Run


def main() -> int:
    args = cli._parse(sys.argv[1:])
    config = resolve(args)
    run = Run.open(args.resume) if args.resume else Run.create(args.out, config)
    with (run.folder / "began.txt").open("a", encoding="utf-8") as file:
        file.write("resumed\n" if args.resume else "anew\n")
    run.write_jsonl("metrics.jsonl", [{"rung": 0, "steps": 2048, "success_student": 0.25, "steps_per_second": 1000.0}])
    fates = dict(entry.split("=") for entry in os.environ.get("FAKE_TRAIN", "").split(",") if entry)
    fate = fates.get(f"{config.arm}-{config.seed}")
    if fate == "fail":
        print("rung 1/1: training\ncoteach: error: the disk is full\ngo on with: ...", file=sys.stderr)
        return 1
    if fate == "wait":
        wait(run.folder)
    about = {"arm": config.arm, "seed": config.seed, "budget": config.steps}
    rungs = [summary(task, learner(1.0 + config.seed), **about) for task in config.tasks]
    run.write_json("summary.json", rungs[-1] | {"rungs": rungs})
    return 0


def wait(folder: Path) -> None:
    """Save when a signal comes, and say which; a second one would leave its trace."""

    def saved(number: int, frame: FrameType | None) -> None:
        with (folder / "signals.txt").open("a", encoding="utf-8") as file:
            file.write(json.dumps(number) + "\n")
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, saved)
    (folder / "waiting").write_text(str(os.getpid()))
    while True:
        signal.pause()


if __name__ == "__main__":
    raise SystemExit(main())
