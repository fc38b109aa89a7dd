"""`coteach bench`: speed on this machine, against Stable-Baselines3's PPO and against scoring options one by one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from coteach.commands.common import print_json
from coteach.errors import CoteachError
from coteach.progress import print_table

HELP = "measure this machine's speed: training, the LLM, grounding"

SITUATION = "Mission: pick up the red box. You carry nothing. You see a green key, a locked green door. There is more to explore."

OPTIONS = ("explore", "go to the green key", "pick up the green key", "open the green door")

LABELS = {
    ("grounding", "steps_per_second"): "environment steps per second",
    ("training", "ours"): "coteach, environment steps per second",
    ("training", "theirs"): "Stable-Baselines3, environment steps per second",
    ("scoring", "options"): "options per situation",
    ("scoring", "difference"): "largest difference in nats",
    ("scoring", "ours"): "packed, situations per second",
    ("scoring", "theirs"): "one by one, situations per second",
}
"""(part, key) -> what it says in the table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach bench`."""
    parser.epilog = "example:\n  coteach bench --json > speed.json"


def run(args: argparse.Namespace) -> int:
    """Measure one thing after the other; what cannot be measured here says why and leaves the others be."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {"grounding": _grounding, "training": _training, "scoring": _scoring}
    results: dict[str, dict[str, Any]] = {}
    for name, measure in parts.items():
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            results[name] = measure()
        except CoteachError as error:
            print(f"{name}: {error}", file=sys.stderr)
    if args.json:
        print_json(results)
    else:
        cells = [
            (f"{part}: {LABELS.get((part, key), key)}", _text(value)) for part in results for key, value in results[part].items()
        ]
        print_table(("what", "figure"), cells)
    return int(len(results) < len(parts))


def _grounding() -> dict[str, Any]:
    from coteach import bench
    from coteach.grounding.minigrid import MiniGridGrounding

    return bench.grounding_rate(lambda envs, actions: MiniGridGrounding(envs, num_actions=actions))


def _training() -> dict[str, Any]:
    from coteach import bench

    return bench.training_ratio(bench.coteach_training())


def _scoring() -> dict[str, Any]:
    from coteach import bench
    from coteach.grounding.base import Situation
    from coteach.teacher import prompt
    from coteach.teacher.models import load_model

    loaded = load_model("smollm2", "cpu")
    frame = prompt.frame(loaded.tokenizer)
    situations = [
        Situation(SITUATION.replace("green", colour), tuple(option.replace("green", colour) for option in OPTIONS))
        for colour in ("green", "blue", "purple", "yellow")
    ]
    prompts = [prompt.build(loaded.tokenizer, frame, situation) for situation in situations]
    return bench.scoring_ratio(loaded.model, prompt.prefix_ids(loaded.tokenizer, frame), prompts)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
