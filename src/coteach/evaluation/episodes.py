"""Evaluation: fixed-seed episodes of the student alone or of advice alone, always on the reference (Gymnasium) environments.

Episode i of every evaluation of a task begins from the same seed, whoever acts, so that two evaluations can be compared
episode by episode. An episode is a success where its return is above the task's threshold. `record` films one episode.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coteach.envs.engines import GymnasiumTask, Step, VectorTask
from coteach.envs.tasks import check
from coteach.errors import CoteachError, RunFailed
from coteach.grounding.base import Grounded, Grounding, Situation
from coteach.grounding.follower import OptionFollower

SEED = 1_000_000
"""Seed of the first evaluation episode; the next ones follow it."""
ENVIRONMENTS = 50
"""Environments played at once, at most."""

Ground = Callable[[int, int], Grounding]
"""Makes a grounding for (environments, primitive actions)."""
Advise = Callable[[list[Situation]], Sequence[NDArray[np.floating] | None]]
"""Answers situations with one distribution over the options of each; None where there is no answer."""


@dataclass(frozen=True)
class Evaluation:
    """What the episodes came to; `returns` (E,) float64 and `lengths` (E,) int64 are in the order of their seeds."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    solved_at: float = 0.0

    @property
    def episodes(self) -> int:
        """How many episodes were played."""
        return len(self.returns)

    @property
    def success(self) -> float:
        """Share of episodes with a return above `solved_at`."""
        return float((self.returns > self.solved_at).mean())

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return."""
        return float(self.returns.mean())

    @property
    def mean_length(self) -> float:
        """Mean steps of an episode."""
        return float(self.lengths.mean())


class Student(Protocol):
    """What evaluation needs of the student."""

    def greedy(self, features: NDArray[Any]) -> NDArray[np.int64]:
        """The most probable action (N,) of features (N, F)."""
        ...


class Controller(Protocol):
    """Who acts."""

    def act(self, now: Grounded, idle: NDArray[np.bool_], done: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Actions (N,); those of `idle` (no episode left) and `done` rows (terminal observation) are ignored."""
        ...


class StudentAlone:
    """The student's most probable action, and nobody to help it."""

    def __init__(self, student: Student) -> None:
        self.student = student

    def act(self, now: Grounded, idle: NDArray[np.bool_], done: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Actions (N,) of the greedy policy."""
        return self.student.greedy(now.features)


class TeacherAlone:
    """Advice drives the controllers: each option is followed to its end, then the next is chosen by the advice.

    advise: asked once for a situation, in one call for all that are new on a step.
    sample: draw options from the advice instead of taking the most probable.

    Where no option can be followed, a primitive action is drawn. `chosen` counts by situation how often an option was chosen.
    """

    def __init__(
        self, advise: Advise, grounding: Grounding, environments: VectorTask, patience: int, seed: int, sample: bool = False
    ) -> None:
        self.advise, self.situations, self.sample = advise, grounding.situations, sample
        self.num_actions = environments.num_actions
        self.follower = OptionFollower(environments.num_envs, grounding.max_options, patience)
        self.rng = np.random.default_rng(seed)
        self.chosen: Counter[int] = Counter()
        self._advice: dict[int, NDArray[np.float64]] = {}
        self._nothing = np.zeros(grounding.max_options)

    def act(self, now: Grounded, idle: NDArray[np.bool_], done: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Actions (N,) of the followed options' controllers."""
        controlled = ~idle
        self._ask(np.unique(now.situation[controlled & ~done]))
        probabilities = np.stack([self._advice.get(number, self._nothing) for number in now.situation.tolist()])
        actions = self.follower.choose(now, probabilities, controlled, done, self.rng if self.sample else None)
        self.chosen.update(now.situation[(self.follower.slot >= 0) & (self.follower.age == 1)].tolist())
        anything = self.rng.integers(0, self.num_actions, len(actions))
        return np.where(actions >= 0, actions, anything)

    def _ask(self, numbers: NDArray[np.int64]) -> None:
        """Ask about those situations that were not asked about yet."""
        new = [number for number in numbers.tolist() if number not in self._advice]
        answers = self.advise([self.situations[number] for number in new]) if new else []
        for number, answer in zip(new, answers, strict=True):
            row = self._nothing.copy()
            count = len(self.situations[number].options)
            row[:count] = 1.0 / count if answer is None else answer
            self._advice[number] = row


def evaluate_student(student: Student, task: str, ground: Ground, episodes: int = 200, seed: int = SEED) -> Evaluation:
    """The student alone, greedy, over `episodes` episodes that begin from the seeds `seed`, `seed` + 1, ..."""
    environments = _environments(task, episodes, seed)
    grounding = ground(environments.num_envs, environments.num_actions)
    return _evaluate(environments, grounding, StudentAlone(student), episodes, seed)


def evaluate_teacher(
    advise: Advise, task: str, ground: Ground, patience: int, episodes: int = 200, seed: int = SEED, sample: bool = False
) -> Evaluation:
    """Advice alone over the same episodes; an option is followed for at most `patience` steps (see `TeacherAlone`)."""
    environments = _environments(task, episodes, seed)
    grounding = ground(environments.num_envs, environments.num_actions)
    controller = TeacherAlone(advise, grounding, environments, patience, seed, sample)
    return _evaluate(environments, grounding, controller, episodes, seed)


def success_over_levels(controller: Controller, environments: VectorTask, grounding: Grounding) -> float:
    """Success of `controller` over the first episode of every environment, which are then closed."""
    count = environments.num_envs
    under_way, returns = np.ones(count, dtype=np.bool_), np.zeros(count)
    done = ~under_way
    now = grounding.observe(environments.reset(), None, under_way)
    while under_way.any():
        actions = controller.act(now, ~under_way & ~done, done)
        step = environments.step(actions)
        returns += np.where(under_way, step.reward, 0.0)
        done = under_way & (step.terminated | step.truncated)
        under_way &= ~done
        now = grounding.observe(step.observation, actions, step.restarted)
    environments.close()
    return float((returns > environments.scoring.solved_at).mean())


def record_student(student: Student, task: str, ground: Ground, seed: int = SEED) -> list[NDArray[np.uint8]]:
    """The frames, (H, W, 3) uint8 each, of one episode of the student alone."""
    environments = GymnasiumTask(task, [iter([seed])], render=True)
    return _record(environments, ground(1, environments.num_actions), StudentAlone(student))


def record_teacher(advise: Advise, task: str, ground: Ground, patience: int, seed: int = SEED) -> list[NDArray[np.uint8]]:
    """The frames, (H, W, 3) uint8 each, of one episode of advice alone."""
    environments = GymnasiumTask(task, [iter([seed])], render=True)
    grounding = ground(1, environments.num_actions)
    return _record(environments, grounding, TeacherAlone(advise, grounding, environments, patience, seed))


def write_gif(path: Path, frames: Sequence[NDArray[np.uint8]], frames_per_second: float = 8.0) -> None:
    """Write a GIF whole or not at all; its last frame stays for a second. RunFailed where it cannot be written."""
    import imageio.v3 as imageio

    durations = [1000.0 / frames_per_second] * (len(frames) - 1) + [1000.0]
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        imageio.imwrite(unfinished, np.stack(frames), extension=".gif", duration=durations, loop=0)
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise RunFailed(f"video {path}: cannot be written ({error})") from error


def _environments(task: str, episodes: int, seed: int) -> GymnasiumTask:
    """The reference environments, which take the episodes from one queue."""
    check(task)
    if episodes < 1:
        raise CoteachError(f"episodes {episodes}: expected at least 1")
    queue = iter(range(seed, seed + episodes))
    return GymnasiumTask(task, list(itertools.repeat(queue, min(episodes, ENVIRONMENTS))))


def _evaluate(environments: GymnasiumTask, grounding: Grounding, controller: Controller, episodes: int, seed: int) -> Evaluation:
    returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
    for step in _play(environments, environments.reset(), grounding, controller):
        acted = ~step.restarted
        episode = environments.episode[acted] - seed  # no two environments play the same one
        returns[episode] += step.reward[acted]
        lengths[episode] += 1
    environments.close()
    return Evaluation(returns, lengths, environments.scoring.solved_at)


def _record(environments: GymnasiumTask, grounding: Grounding, controller: Controller) -> list[NDArray[np.uint8]]:
    first = environments.reset()
    frames = [environments.frame(0)]
    for step in _play(environments, first, grounding, controller):
        if not step.restarted[0]:
            frames.append(environments.frame(0))
    environments.close()
    return frames


def _play(environments: GymnasiumTask, first: Any, grounding: Grounding, controller: Controller) -> Iterator[Step]:
    """Every step from the observation `first` on, until no environment has an episode left."""
    done = np.zeros(environments.num_envs, dtype=np.bool_)
    now = grounding.observe(first, None, ~done)
    while not environments.idle.all():
        actions = controller.act(now, environments.idle, done)
        step = environments.step(actions)
        yield step
        now = grounding.observe(step.observation, actions, step.restarted)
        done = step.terminated | step.truncated
