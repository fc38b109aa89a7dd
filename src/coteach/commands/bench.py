"""`coteach bench`: speed on this machine, against Stable-Baselines3's PPO and against scoring options one by one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coteach.commands.common import print_json
from coteach.config import Config
from coteach.errors import CoteachError
from coteach.runs.files import replace_text, user_path
from coteach.runs.machine import environment
from coteach.runs.progress import print_table

HELP = "measure this machine's speed: training, the LLM, grounding"

SITUATION = "Mission: pick up the red box. You carry nothing. You see a green key, a locked green door. There is more to explore."

OPTIONS = ("explore", "go to the green key", "pick up the green key", "open the green door")

MANY_OPTIONS = (
    *OPTIONS, "drop the red ball", "go to the red box", "pick up the red box", "go to the blue ball", "pick up the blue ball",
    "go to the grey key", "pick up the grey key", "go to the purple box", "pick up the purple box", "open the yellow door",
    "put the red ball next to the blue ball",
)  # fmt: skip
"""Fifteen, as `BabyAI-GoToLocal-v0` with its eight objects may offer."""

LABELS = {
    "steps_per_second": "environment steps per second",
    "ours": "coteach, per second",
    "theirs": "the peer, per second",
    "ratio": "ratio",
    "options": "options per situation",
    "difference": "largest difference in nats",
}
"""Key of a part's figures -> what it says in the table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach bench`."""
    parser.add_argument("--out", metavar="FILE", type=user_path, default=Path("runs/bench.json"), help="where figures are kept")
    parser.epilog = "example:\n  coteach bench --json > speed.json"


def run(args: argparse.Namespace) -> int:
    """Measure one thing after the other; what cannot be measured here says why and leaves the others be."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "grounding": _grounding,
        "training": _training,
        "scoring": lambda: _scoring(OPTIONS),
        "scoring_15": lambda: _scoring(MANY_OPTIONS),
    }
    results: dict[str, dict[str, Any]] = {}
    for name, measure in parts.items():
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            results[name] = measure()
        except CoteachError as error:
            print(f"{name}: {error}", file=sys.stderr)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(args.out, json.dumps(figures(results), indent=2) + "\n")
    if args.json:
        print_json(figures(results))
    else:
        cells = [(f"{part}: {LABELS.get(key, key)}", _text(value)) for part in results for key, value in results[part].items()]
        print_table(("what", "figure"), cells)
        print(f"kept in {args.out}")
    return int(len(results) < len(parts))


def figures(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`training_ratio`, `scoring_ratio`, `scoring_15_ratio` and `grounding_steps_per_second`, then all parts in full."""
    ratios = {f"{part}_ratio": measured["ratio"] for part, measured in results.items() if "ratio" in measured}
    if "grounding" in results:
        ratios["grounding_steps_per_second"] = results["grounding"]["steps_per_second"]
    return ratios | {"parts": dict(results), "machine": environment(Config())}


def _grounding() -> dict[str, Any]:
    from coteach.experiments import bench
    from coteach.grounding.minigrid import MiniGridGrounding

    return bench.grounding_rate(lambda envs, actions: MiniGridGrounding(envs, num_actions=actions))


def _training() -> dict[str, Any]:
    from coteach.experiments import bench

    return bench.training_ratio(bench.coteach_training())


def _scoring(options: Sequence[str]) -> dict[str, Any]:
    from coteach.experiments import bench
    from coteach.grounding.base import Situation
    from coteach.teacher import prompt
    from coteach.teacher.local.models import load_model

    loaded = load_model("smollm2", "cpu")
    frame = prompt.frame(loaded.tokenizer)
    situations = [  # sixteen, as many as a round asks about
        Situation(
            SITUATION.replace("green", colour).replace("box", mission).replace("nothing", hands),
            tuple(option.replace("green", colour) for option in options),
        )
        for mission in ("box", "ball")
        for hands in ("nothing", "a grey ball")
        for colour in ("green", "blue", "purple", "yellow")
    ]
    prompts = [prompt.build(loaded.tokenizer, frame, situation) for situation in situations]
    return bench.scoring_ratio(loaded.model, prompt.prefix_ids(loaded.tokenizer, frame), prompts)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
