"""Evaluates the student alone or the teacher's advice alone, in fixed-seed episodes of the reference (Gymnasium) environments.

Episode i of every evaluation of a task begins from the same seed, whichever player acts, so two evaluations can be compared
episode by episode. An episode is a success if its return is above the task's threshold. `film_student` and `film_teacher` return
the frames of one episode.
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
"""The largest number of environments that are played at once."""

MakeGrounding = Callable[[int, int], Grounding]
"""(number of environments, number of primitive actions) -> a new grounding."""
Advise = Callable[[list[Situation]], Sequence[NDArray[np.floating] | None]]
"""Situations -> a probability distribution over the options of each, or None where there is no answer."""


@dataclass(frozen=True)
class Evaluation:
    """The results of E episodes, in the order of their seeds.

    returns:   (E,) float64, undiscounted.
    lengths:   (E,) int64, in environment steps.
    solved_at: an episode is a success if its return is above this.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    solved_at: float = 0.0

    @property
    def episodes(self) -> int:
        """The number of episodes, E."""
        return len(self.returns)

    @property
    def success(self) -> float:
        """The share of episodes with a return above `solved_at`, in [0, 1]."""
        return float((self.returns > self.solved_at).mean())

    @property
    def mean_return(self) -> float:
        """The mean undiscounted return."""
        return float(self.returns.mean())

    @property
    def mean_length(self) -> float:
        """The mean length of an episode, in environment steps."""
        return float(self.lengths.mean())


class GreedyPolicy(Protocol):
    """The part of the student that evaluation needs."""

    def greedy(self, features: NDArray[Any]) -> NDArray[np.int64]:
        """Return the most probable actions (N,) int64 for features (N, F)."""
        ...


class Player(Protocol):
    """Chooses the actions in an evaluation: one of the two players, without the other."""

    def act(self, now: Grounded, idle: NDArray[np.bool_], done: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return actions (N,) int64 for one grounded step.

        Those of `idle` rows (no episode left) and `done` rows (the observation is the last of its episode) are ignored.
        """
        ...


class StudentAlone:
    """Takes the student's most probable actions."""

    def __init__(self, student: GreedyPolicy) -> None:
        self.student = student

    def act(self, now: Grounded, idle: NDArray[np.bool_], done: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the actions (N,) of the greedy policy."""
        return self.student.greedy(now.features)


class TeacherAlone:
    """Follows the advised options: each to its end by its controller, then the next one that the advice chooses.

    advise:   called once for each situation, with all new situations of a step in one call.
    patience: steps for which an option is followed at most.
    sample:   draw options from the advice instead of taking the most probable one.
    chosen:   how often an option was chosen, by the number of the situation.

    Where no option can be followed, a primitive action is drawn uniformly.
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
        """Return the actions (N,) of the followed options' controllers."""
        controlled = ~idle
        self._ask(np.unique(now.situation[controlled & ~done]))
        probabilities = np.stack([self._advice.get(number, self._nothing) for number in now.situation.tolist()])
        actions = self.follower.choose(now, probabilities, controlled, done, self.rng if self.sample else None)
        self.chosen.update(now.situation[(self.follower.slot >= 0) & (self.follower.age == 1)].tolist())
        anything = self.rng.integers(0, self.num_actions, len(actions))
        return np.where(actions >= 0, actions, anything)

    def _ask(self, numbers: NDArray[np.int64]) -> None:
        """Get the advice for those of these situations that have none yet; uniform where there is no answer."""
        new = [number for number in numbers.tolist() if number not in self._advice]
        answers = self.advise([self.situations[number] for number in new]) if new else []
        for number, answer in zip(new, answers, strict=True):
            row = self._nothing.copy()
            count = len(self.situations[number].options)
            row[:count] = 1.0 / count if answer is None else answer
            self._advice[number] = row


def evaluate_student(
    student: GreedyPolicy, task: str, ground: MakeGrounding, episodes: int = 200, seed: int = SEED
) -> Evaluation:
    """Evaluate the greedy student alone over `episodes` episodes, which begin from the seeds `seed`, `seed + 1`, ...

    CoteachError for an unknown task or fewer than 1 episode.
    """
    environments = _environments(task, episodes, seed)
    grounding = ground(environments.num_envs, environments.num_actions)
    return _evaluate(environments, grounding, StudentAlone(student), episodes, seed)


def evaluate_teacher(
    advise: Advise, task: str, ground: MakeGrounding, patience: int, episodes: int = 200, seed: int = SEED, sample: bool = False
) -> Evaluation:
    """Evaluate advice alone over the same episodes as `evaluate_student`; see `TeacherAlone` for `patience` and `sample`.

    CoteachError for an unknown task or fewer than 1 episode.
    """
    environments = _environments(task, episodes, seed)
    grounding = ground(environments.num_envs, environments.num_actions)
    player = TeacherAlone(advise, grounding, environments, patience, seed, sample)
    return _evaluate(environments, grounding, player, episodes, seed)


def play_first_episodes(player: Player, environments: VectorTask, grounding: Grounding) -> float:
    """Play the first episode of every environment, close the environments, and return the success, in [0, 1]."""
    count = environments.num_envs
    under_way, returns = np.ones(count, dtype=np.bool_), np.zeros(count)
    done = ~under_way
    now = grounding.observe(environments.reset(), None, under_way)
    while under_way.any():
        actions = player.act(now, ~under_way & ~done, done)
        step = environments.step(actions)
        returns += np.where(under_way, step.reward, 0.0)
        done = under_way & (step.terminated | step.truncated)
        under_way &= ~done
        now = grounding.observe(step.observation, actions, step.restarted)
    environments.close()
    return float((returns > environments.scoring.solved_at).mean())


def film_student(student: GreedyPolicy, task: str, ground: MakeGrounding, seed: int = SEED) -> list[NDArray[np.uint8]]:
    """Play one episode of the student alone; return its frames, (H, W, 3) uint8 each."""
    environments = GymnasiumTask(task, [iter([seed])], render=True)
    return _film(environments, ground(1, environments.num_actions), StudentAlone(student))


def film_teacher(advise: Advise, task: str, ground: MakeGrounding, patience: int, seed: int = SEED) -> list[NDArray[np.uint8]]:
    """Play one episode of advice alone; return its frames, (H, W, 3) uint8 each."""
    environments = GymnasiumTask(task, [iter([seed])], render=True)
    grounding = ground(1, environments.num_actions)
    return _film(environments, grounding, TeacherAlone(advise, grounding, environments, patience, seed))


def write_gif(path: Path, frames: Sequence[NDArray[np.uint8]], frames_per_second: float = 8.0) -> None:
    """Write frames, (H, W, 3) uint8 each, as a GIF, whole or not at all. The last frame is shown for one second.

    RunFailed if the file cannot be written.
    """
    import imageio.v3 as imageio

    durations = [1000.0 / frames_per_second] * (len(frames) - 1) + [1000.0]
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    content = imageio.imwrite("<bytes>", np.stack(frames), extension=".gif", duration=durations, loop=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise RunFailed(f"video {path}: cannot be written ({error.strerror or error})") from error


def _environments(task: str, episodes: int, seed: int) -> GymnasiumTask:
    """Make the reference environments, which take their episodes from one queue of seeds."""
    check(task)
    if episodes < 1:
        raise CoteachError(f"episodes {episodes}: expected at least 1")
    queue = iter(range(seed, seed + episodes))
    return GymnasiumTask(task, list(itertools.repeat(queue, min(episodes, ENVIRONMENTS))))


def _evaluate(environments: GymnasiumTask, grounding: Grounding, player: Player, episodes: int, seed: int) -> Evaluation:
    """Play all episodes and return their results in the order of their seeds."""
    returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
    for step in _play(environments, environments.reset(), grounding, player):
        acted = ~step.restarted
        episode = environments.episode[acted] - seed  # no two environments play the same one
        returns[episode] += step.reward[acted]
        lengths[episode] += 1
    environments.close()
    return Evaluation(returns, lengths, environments.scoring.solved_at)


def _film(environments: GymnasiumTask, grounding: Grounding, player: Player) -> list[NDArray[np.uint8]]:
    """Play the episode of the only environment and return its frames."""
    first = environments.reset()
    frames = [environments.frame(0)]
    for step in _play(environments, first, grounding, player):
        if not step.restarted[0]:
            frames.append(environments.frame(0))
    environments.close()
    return frames


def _play(environments: GymnasiumTask, first: Any, grounding: Grounding, player: Player) -> Iterator[Step]:
    """Yield every step after the observation `first`, until no environment has an episode left."""
    done = np.zeros(environments.num_envs, dtype=np.bool_)
    now = grounding.observe(first, None, ~done)
    while not environments.idle.all():
        actions = player.act(now, environments.idle, done)
        step = environments.step(actions)
        yield step
        now = grounding.observe(step.observation, actions, step.restarted)
        done = step.terminated | step.truncated
