"""Check that a change of the source did not change what is learned: the same short runs with two revisions, compared bit by bit.

    python benchmarks/same_behaviour.py BASE [NEW] [--quick] [--fresh] [--jobs 2]

BASE and NEW are git revisions; NEW left out is the working tree. Each run is trained in a process of its own with the sources of
one revision. Compared are, from the last checkpoint, all tensors by type, shape and bytes, whatever file and name they have; and
the lines of metrics.jsonl, advice.jsonl and summary.json without times. Names that changed stand in `RENAMED`. What a revision
left is kept in the user's cache under its hash and is not made again, but for `--fresh`. Ends with 1 where something differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import safetensors.numpy

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path.home() / ".cache" / "coteach-same-behaviour"

RENAMED = {
    "prior_trust": "credit",
    "success_greedy": "success_alone",
    "success_controlled": "success_teacher",
    "llm_cache_hits": "llm_memory_hits",
    "cache_hits": "memory_hits",
    "teacher.feedback": "teacher.tell",
}
"""Names of metrics and settings: new -> old. An older revision is given the old ones, and its lines keep them."""

TINY = ("threads=1", "collect.envs=8", "collect.horizon=24", "episodes=2", "student.minibatch=64", "stop_at=1.01", "steps=800")
TUNED = ("arm=mutual", "teacher.tune_every=2", "teacher.tune_steps=2", "teacher.tune_situations=2", "teacher.lora_rank=4")
ONCE, NEVER = "teacher.schooling=1", "teacher.schooling=0"
DOOR_KEY, UNLOCK, LOCAL = "tasks=MiniGrid-DoorKey-5x5-v0", "tasks=MiniGrid-Unlock-v0", "tasks=BabyAI-GoToLocal-v0"
BOTH = "tasks=MiniGrid-DoorKey-5x5-v0,MiniGrid-DoorKey-6x6-v0"

RUNS: dict[str, tuple[str, ...]] = {
    "mutual, tuned": (DOOR_KEY, "engine=minigrid", *TUNED, ONCE),
    "mutual, in-context feedback": (UNLOCK, "engine=minigrid", *TUNED, NEVER, "teacher.feedback=both"),
    "mutual, own environment": ("tasks=TidyUp-v0", *TUNED, NEVER),
    "no-llm, resumed": (UNLOCK, "engine=minigrid", "arm=no-llm", "steps=1200"),
    "no-llm, levels that never recur": (LOCAL, "engine=minigrid", "arm=no-llm"),
    "no-llm, vectors": ("tasks=Cart-v0", "arm=no-llm", "steps=1600"),
    "no-llm, EnvPool": (DOOR_KEY, "engine=envpool", "arm=no-llm", "steps=1600"),
    "no-llm, together": (BOTH, "engine=minigrid", "arm=no-llm", "together=true"),
    "no-llm, two rungs": (BOTH, "engine=minigrid", "arm=no-llm", "fresh=teacher"),
    "no-llm, hints and learned options": (
        UNLOCK, "engine=minigrid", "arm=no-llm", "guidance.hint=0.5", 'student.learned_options=["pick up"]',
    ),
    "one-way": ("tasks=TidyUp-v0", "arm=one-way"),
    "student-only": (DOOR_KEY, "engine=minigrid", "arm=student-only"),
    "liar": (UNLOCK, "engine=minigrid", "arm=liar"),
    "shuffled": ("tasks=TidyUp-v0", "arm=shuffled", "teacher.tune_every=100", NEVER),
}  # fmt: skip
QUICK = ("mutual, tuned", "no-llm, resumed", "no-llm, vectors", "liar")
RESUMED = "no-llm, resumed"

DRIVER = """
import importlib, json, sys
import coteach
name, folder, overrides, renamed = json.loads(sys.argv[1])
try:
    importlib.import_module("coteach.players").EXAM_LEVELS = 4  # before it was a setting
except ImportError:
    overrides = [*overrides, "evaluation.levels=4"]
else:
    for new, old in renamed.items():
        overrides = [override.replace(new + "=", old + "=") for override in overrides]
try:
    sys.modules["coteach.envs.tidy_up"] = importlib.import_module("coteach.tidy_up")  # where TidyUp was
except ImportError:
    pass
import gymnasium
coteach.register(
    "Cart-v0", make=lambda **given: gymnasium.make("CartPole-v1", max_episode_steps=40, **given), actions=("left", "right"),
    describe=lambda seen: f"Balance the pole. It leans {'left' if seen[2] < 0 else 'right'}.", solved_at=39,
)
class Stop:
    def __init__(self): self.rounds = 0
    def __call__(self, progress):
        self.rounds += progress.phase == "collect"
        if self.rounds == 3: raise KeyboardInterrupt
config = coteach.load(overrides=overrides)
with coteach.Run.create(folder, config) as run:
    try:
        coteach.train(config, run, Stop() if "resumed" in name else None)
    except KeyboardInterrupt:
        pass
if "resumed" in name:
    with coteach.Run.open(folder) as run:
        coteach.train(run.config, run, resume=True)
"""


def main() -> int:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("new", nargs="?", help="default: the working tree")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--fresh", action="store_true", help="train again what is in the cache")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    names = QUICK if args.quick else tuple(RUNS)
    before, after = (left_by(revision, names, args.jobs, args.fresh) for revision in (args.base, args.new))
    differing = 0
    for name in names:
        differences = list(compared(before[name], after[name]))
        differing += bool(differences)
        print(f"{name}: {'same' if not differences else '; '.join(differences[:4])}")
    return min(differing, 1)


def left_by(revision: str | None, names: tuple[str, ...], jobs: int, fresh: bool) -> dict[str, Any]:
    """What a revision's runs leave, by name; those of a commit are kept."""
    if revision is None:
        return trained(ROOT / "src", names, jobs)
    commit = git("rev-parse", revision)
    kept = CACHE / f"{commit}-{hashlib.sha256((DRIVER + repr((TINY, RUNS, RENAMED))).encode()).hexdigest()[:12]}.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() and not fresh else {}
    missing = tuple(name for name in names if name not in found)
    if missing:
        tree = CACHE / commit
        if not tree.exists():
            git("worktree", "prune")
            git("worktree", "add", "--detach", str(tree), commit)
        found |= trained(tree / "src", missing, jobs)
        kept.write_text(json.dumps(found))
    return found


def git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout.strip()


def trained(source: Path, names: tuple[str, ...], jobs: int) -> dict[str, Any]:
    """Train the runs with the sources in `source`."""
    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(names, pool.map(lambda name: one(source, name), names), strict=True))


def one(source: Path, name: str) -> dict[str, Any]:
    """Train one run; return what it left."""
    with tempfile.TemporaryDirectory() as folder:
        cache, run = Path(folder) / "cache", Path(folder) / "run"
        cache.mkdir()
        models = Path(os.environ.get("COTEACH_CACHE", Path.home() / ".cache" / "coteach")) / "models"
        models.mkdir(parents=True, exist_ok=True)
        (cache / "models").symlink_to(models)  # the converted LLM; its answers are each run's own
        given = json.dumps([name, str(run), [*TINY, *RUNS[name]], RENAMED])
        environment = os.environ | {"PYTHONPATH": str(source), "COTEACH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", DRIVER, given], env=environment, capture_output=True, text=True)
        if done.returncode:
            return {"failed": done.stderr.strip()[-600:]}
        return left_in(run)


def left_in(run: Path) -> dict[str, Any]:
    """Digests of the last checkpoint's tensors by file and name, and the run's lines without times, under their old names."""
    checkpoint = max((run / "checkpoints").glob("step-*"))
    tensors = {
        f"{file.relative_to(checkpoint)}:{name}": hashlib.sha256(
            f"{value.dtype}{value.shape}".encode() + value.tobytes()
        ).hexdigest()[:16]
        for file in sorted(checkpoint.rglob("*.safetensors"))
        for name, value in sorted(safetensors.numpy.load_file(file).items())
    }
    lines = {
        name: [old_names(json.loads(line)) for line in (run / name).read_text().splitlines()]
        for name in ("metrics.jsonl", "advice.jsonl")
    }
    return {"tensors": tensors, "summary.json": [old_names(json.loads((run / "summary.json").read_text()))], **lines}


def old_names(value: Any) -> Any:
    """`value` under the old names, without times and memory."""
    if isinstance(value, dict):
        timed = ("second", "memory_mib")
        return {RENAMED.get(k, k): old_names(v) for k, v in value.items() if not any(word in k for word in timed)}
    return [old_names(entry) for entry in value] if isinstance(value, list) else value


def compared(before: dict[str, Any], after: dict[str, Any]) -> Any:
    """Say what differs: a tensor of the one that the other has nowhere, or a line."""
    if "failed" in before or "failed" in after:
        yield f"failed: {before.get('failed') or after.get('failed')}"
        return
    spare = Counter(after["tensors"].values())
    for name, digest in before["tensors"].items():
        spare[digest] -= 1
        if spare[digest] < 0:
            yield f"{name} is nowhere"
    for file in ("metrics.jsonl", "advice.jsonl", "summary.json"):
        for number, (old, new) in enumerate(zip(before[file], after[file], strict=False), start=1):
            keys = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
            if keys:
                yield f"{file}, line {number}: " + ", ".join(f"{key} {old.get(key)} / {new.get(key)}" for key in sorted(keys)[:3])
        if len(before[file]) != len(after[file]):
            yield f"{file}: {len(before[file])} lines, {len(after[file])} lines"


if __name__ == "__main__":
    CACHE.mkdir(parents=True, exist_ok=True)
    sys.exit(main())
