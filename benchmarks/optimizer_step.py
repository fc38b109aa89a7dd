"""The student's optimiser steps, end to end: the same short runs with the plain step, with it through torch.compile, and with
steps compiled by hand (`coteach.student.kernels`).

    python benchmarks/optimizer_step.py [--task ID ...] [--seeds 3] [--steps 60000] [--out FILE] [FIELD=VALUE ...]

All runs are trained in this process, on one thread, the variants taking turns. Prints a JSON line a run: training steps per
second and training seconds to 95 % success (rounds alone, no evaluation) by the wall clock and by the processor's, what of these
were updates of the student, and the seconds of the whole run. At the end their medians, and how much better they are than the
plain step's. What compiling takes is measured first, by a run of two rounds from an empty cache of torch.compile's.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="optimizer-step-")

import torch
from torch import Tensor, nn

import coteach
from coteach.method import loop
from coteach.student import learner
from coteach.student.kernels import optimizer_steps
from coteach.student.optimizer_step import Minibatch, PlainStep, Step, minibatch_loss

TASKS = ("MiniGrid-DoorKey-8x8-v0", "MiniGrid-UnlockPickup-v0")
SETTINGS = ("arm=no-llm", "engine=envpool", "threads=1", "stop_at=0.95", "episodes=20")
FIGURES = (
    "steps_per_second", "cpu_steps_per_second", "seconds_to_95", "cpu_seconds_to_95", "cpu_seconds_updating", "seconds",
    "cpu_seconds",
)  # fmt: skip


class TorchCompiledStep(PlainStep):
    """The plain step, all behind the first layer's sparse sums through torch.compile."""

    def loss(self, led: Tensor, own: Tensor, replayed: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features, rows = self.gather(led, own, replayed)
        sums = self.network.shared(features)
        network = (self.network.actor, self.network.policy, self.network.critic, self.network.value)
        return behind_first_layer()(sums, *network, rows, self.config)


@cache
def behind_first_layer() -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    torch._dynamo.config.capture_dynamic_output_shape_ops = True  # guided rows are picked out by a mask
    return torch.compile(towers, dynamic=True)


def towers(
    sums: Tensor, actor: nn.Linear, policy: nn.Linear, critic: nn.Linear, value: nn.Linear, rows: Minibatch, config: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss (see `minibatch_loss`) from the first layer's sums (R, H) on."""
    cells = torch.relu(sums)
    logits = policy(torch.relu(actor(cells[-len(rows.target) :]))) + rows.habits
    values = value(torch.relu(critic(cells[: len(rows.returns)]))).squeeze(-1)
    return minibatch_loss(logits, values, rows, config)


VARIANTS: dict[str, Callable[..., AbstractContextManager[Step]]] = {
    "plain": lambda *given: nullcontext(PlainStep(*given)),
    "torch.compile": lambda *given: nullcontext(TorchCompiledStep(*given)),
    "compiled by hand": optimizer_steps,
}


@dataclass
class Clock:
    """Seconds of all rounds so far, by the wall clock and the processor's, with the steps after each round.

    updating: processor's seconds of these in which the student was updated.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    updating: float = 0.0
    rounds: list[tuple[int, float, float]] = field(default_factory=list)

    def until(self, steps: int | None) -> tuple[float, float] | None:
        """Seconds of the rounds that it took to so many steps."""
        return next(((wall, cpu) for done, wall, cpu in self.rounds if steps is not None and done >= steps), None)


@contextmanager
def timed(steps: Callable[..., AbstractContextManager[Step]]) -> Iterator[Clock]:
    """Rounds are timed, and students learn by these optimiser steps."""
    clock, play, before, update = Clock(), loop.play_round, learner.optimizer_steps, learner.Learner.update

    def play_timed(players: Any, rungs: Any, show: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        rows = play(players, rungs, show)
        clock.seconds += time.perf_counter() - wall
        clock.cpu_seconds += time.process_time() - cpu
        clock.rounds.append((rungs[0].steps, clock.seconds, clock.cpu_seconds))
        return rows

    def update_timed(*given: Any) -> Any:
        cpu = time.process_time()
        metrics = update(*given)
        clock.updating += time.process_time() - cpu
        return metrics

    loop.play_round, learner.optimizer_steps, learner.Learner.update = play_timed, steps, update_timed
    try:
        yield clock
    finally:
        loop.play_round, learner.optimizer_steps, learner.Learner.update = play, before, update


def train(variant: str, task: str, seed: int, steps: int, *more: str) -> dict[str, Any]:
    """Train once; the figures."""
    config = coteach.load(overrides=[*SETTINGS, f"tasks={task}", f"seed={seed}", f"steps={steps}", *more])
    wall, cpu = time.perf_counter(), time.process_time()
    with (
        tempfile.TemporaryDirectory() as folder,
        timed(VARIANTS[variant]) as clock,
        coteach.Run.create(Path(folder) / "run", config) as run,
    ):
        summary = coteach.train(config, run)[-1]
    to_95 = clock.until(summary["steps_to_95"]) or (None, None)
    figures = {
        "steps_per_second": summary["steps"] / clock.seconds,
        "cpu_steps_per_second": summary["steps"] / clock.cpu_seconds,
        "seconds_to_95": to_95[0],
        "cpu_seconds_to_95": to_95[1],
        "cpu_seconds_updating": clock.updating,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }
    rounded = {name: value and round(value, 2) for name, value in figures.items()}
    counted = {name: summary[name] for name in ("steps", "steps_to_95", "success")}
    return {"variant": variant, "task": task, "seed": seed} | counted | rounded


def show(rows: list[dict[str, Any]]) -> None:
    """Print medians, and how much better they are than the plain step's, by task."""
    for task in dict.fromkeys(row["task"] for row in rows):
        print(task)
        plain: dict[str, float] = {}
        for variant in dict.fromkeys(row["variant"] for row in rows):
            mine = [row for row in rows if row["task"] == task and row["variant"] == variant]
            middle = {name: median([row[name] for row in mine if row[name] is not None] or [float("nan")]) for name in FIGURES}
            plain = plain or middle
            better = {n: middle[n] / plain[n] if "per_second" in n else plain[n] / middle[n] for n in FIGURES}
            print(f"  {variant}: " + ", ".join(f"{name} {middle[name]:.4g} ({better[name]:.2f}x)" for name in FIGURES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append")
    parser.add_argument("--variant", action="append", choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--out", type=Path, help="the JSON lines go there too")
    parser.add_argument("overrides", metavar="FIELD=VALUE", nargs="*")
    args = parser.parse_intermixed_args()
    tasks, variants, rows = args.task or TASKS, args.variant or list(VARIANTS), []
    short = ("episodes=2", "evaluation.levels=4")
    train("plain", tasks[0], 0, 1, *short)  # what all variants need is imported, and compiled by numba
    for variant in variants:
        print(json.dumps({"warm_up": train(variant, tasks[0], 0, 4096, *short)["seconds"], "variant": variant}), flush=True)
    for seed in range(args.seeds):
        for task in tasks:
            for variant in variants:
                rows.append(train(variant, task, seed, args.steps, *args.overrides))
                print(line := json.dumps(rows[-1]), flush=True)
                if args.out:
                    with args.out.open("a") as file:
                        print(line, file=file)
    show(rows)


if __name__ == "__main__":
    main()
