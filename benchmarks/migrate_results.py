"""Turn results/NAME/*/ARM-SEED.json, as coteach 0.1.0 kept them, into results/NAME/results.jsonl with today's names. Run once.

    python benchmarks/migrate_results.py [RESULTS]

A comparison's old files are deleted when its new file has been read back and says the same.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from coteach.experiments.results import Result, read_results, write_results

SETTINGS = {"tell": "feedback", "tell_tokens": "feedback_tokens"}
MEASURES = {"credit": "prior_trust", "success_alone": "success_greedy", "success_teacher": "success_controlled"}


def renamed(result: Result) -> Result:
    config, summary = result["config"], result["summary"]
    if isinstance(config["teacher"], dict):  # the baseline's is a name
        config |= {"teacher": {SETTINGS.get(name, name): value for name, value in config["teacher"].items()}}
    rungs = {"rungs": [measures(rung) for rung in summary["rungs"]]} if "rungs" in summary else {}
    return result | {"config": config, "summary": measures(summary) | rungs}


def measures(summary: Result) -> Result:
    return {MEASURES.get(name, name): value for name, value in summary.items()}


def migrate(folder: Path) -> int:
    old = sorted(folder.glob("*/*.json"))
    results = [renamed(json.loads(path.read_text(encoding="utf-8"))) for path in old]
    if results:
        write_results(folder, results)
        kept = read_results(folder)
        if len(kept) != len(results) or any(result not in kept for result in results):
            raise SystemExit(f"{folder}: what was written is not what was read")
        for path in old:
            path.unlink()
        for parent in {path.parent for path in old}:
            parent.rmdir()
    return len(results)


if __name__ == "__main__":
    for comparison in sorted(Path(sys.argv[1] if len(sys.argv) > 1 else "results").iterdir()):
        print(f"{comparison}: {migrate(comparison)} results")
