"""The game of teacher and student as a PettingZoo parallel environment, so that any multi-agent library can train both.

Agents `teacher` and `student` get one reward, the task's, and act at the same time: the teacher names an option of the
situation it sees, the student takes a primitive action. **Advice given on one step is heard on the next**: as what the
option's controller does there, while it is still one of the situation's options; else, and on an episode's first step, the
student hears nothing. Observations are plain vectors that any network can read; the words are in the teacher's info.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from coteach.envs import tasks
from coteach.envs.engines import GymnasiumTask
from coteach.errors import CoteachError, unknown
from coteach.grounding.base import Grounded, Grounding, Layout, Situation, Situations

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise CoteachError("coteach.envs.game: the package pettingzoo is not installed; pip install 'coteach[game]'") from error

TEACHER, STUDENT = "teacher", "student"
RENDER_MODES = ("rgb_array",)

Everyone = dict[str, Any]
"""One entry for each agent that plays."""


def parallel_env(task: str = "MiniGrid-UnlockPickup-v0", render_mode: str | None = None) -> Game:
    """The game on `task`, played on the reference engine.

    render_mode: "rgb_array" for pictures from `render`. Raises CoteachError for a task that cannot be played.
    """
    return Game(task, render_mode)


class Game(ParallelEnv):  # type: ignore[misc]
    """A common-payoff game: K option slots, A primitive actions, F features.

    teacher observes {"observation": (F + K * A,) uint8, "action_mask": (K,) int8}: the student's features and, one slot
    after the other, what the option's controller does now (one of A; none where it cannot go on or there is no such
    option); the mask has the options that can be followed. Acts: Discrete(K). A slot without an option says nothing.
    Info: {"situation": Situation}, which any `coteach.teacher.Teacher` can be asked about.

    student observes (F + A,) uint8: its features and the action that it was advised (one of A, or none).
    Acts: Discrete(A). Info: {"advice": text of the option that it hears of, or None}.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "coteach_v0",
        "render_modes": list(RENDER_MODES),
        "render_fps": 8,
        "is_parallelizable": True,
    }

    def __init__(self, task: str, render_mode: str | None) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise unknown("render_mode", render_mode, RENDER_MODES)
        self.render_mode = render_mode
        self.possible_agents = [TEACHER, STUDENT]
        self.agents: list[str] = []
        self._rng, self._level = np.random.default_rng(), 0
        self._environment, self._grounding = _ground(task, self._levels(), render_mode is not None)
        options, actions, layout = self._grounding.max_options, self._environment.num_actions, self._grounding.layout
        self.action_spaces = {TEACHER: spaces.Discrete(options), STUDENT: spaces.Discrete(actions)}
        self.observation_spaces = {
            TEACHER: spaces.Dict(
                {"observation": _seen(layout, options * actions), "action_mask": spaces.Box(0, 1, (options,), np.int8)}
            ),
            STUDENT: _seen(layout, actions),
        }

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """What `agent` observes; always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """What `agent` may do; always the same object."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Everyone, Everyone]:
        """Begin an episode; returns observations and infos.

        seed: of this episode's level (the one of the same seed in an evaluation), and of all that follow without one.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._level = int(self._rng.integers(2**31)) if seed is None else seed
        self.agents = list(self.possible_agents)
        self._now = self._grounding.observe(self._environment.reset(), None, np.ones(1, dtype=np.bool_))
        return self._show(None)

    def step(self, actions: dict[str, int]) -> tuple[Everyone, Everyone, Everyone, Everyone, Everyone]:
        """Both act; returns observations, rewards, terminations, truncations and infos. Nothing where the episode is over."""
        if not self.agents:
            return {}, {}, {}, {}, {}
        options, slot = self._situation.options, int(actions[TEACHER])
        said = options[slot] if slot < len(options) else None
        acted = np.array([actions[STUDENT]], dtype=np.int64)
        step = self._environment.step(acted)
        self._now = self._grounding.observe(step.observation, acted, step.restarted)
        observations, infos = self._show(said)
        outcome = float(step.reward[0]), bool(step.terminated[0]), bool(step.truncated[0])
        rewards, terminations, truncations = (dict.fromkeys(self.agents, value) for value in outcome)
        if outcome[1] or outcome[2]:
            self.agents = []
        return observations, rewards, terminations, truncations, infos

    def render(self) -> NDArray[np.uint8] | None:
        """The picture of the level, (H, W, 3) uint8; None without a render_mode."""
        return None if self.render_mode is None else self._environment.frame(0)

    def close(self) -> None:
        """Let go of the environment."""
        self._environment.close()

    @property
    def _situation(self) -> Situation:
        return self._grounding.situations[int(self._now.situation[0])]

    def _show(self, said: str | None) -> tuple[Everyone, Everyone]:
        """Observations and infos where the teacher has just said the option `said`."""
        situation, now, count = self._situation, self._now, self._environment.num_actions
        controls = _one_hot(now.actions[0], count)
        heard = said if said in situation.options else None
        advised = controls[situation.options.index(heard)] if heard else np.zeros(count, dtype=np.uint8)
        observations = {
            TEACHER: {
                "observation": np.concatenate([now.features[0], controls.ravel()]),
                "action_mask": _mask(now, len(situation.options)),
            },
            STUDENT: np.concatenate([now.features[0], advised]),
        }
        return observations, {TEACHER: {"situation": situation}, STUDENT: {"advice": heard}}

    def _levels(self) -> Iterator[int]:
        """The seed of the episode that begins."""
        while True:
            yield self._level


def _ground(task: str, levels: Iterator[int], render: bool) -> tuple[GymnasiumTask, Grounding]:
    """One environment of `task`, whose episodes have the seeds `levels`, and a grounding for it."""
    environment = GymnasiumTask(task, [levels], render)
    return environment, tasks.family(task).ground(1, Situations(), environment.num_actions)


def _seen(layout: Layout, more: int) -> spaces.Box:
    """The student's features, and so many flags after them."""
    pixels = layout.size - layout.numbers - layout.flags
    parts = [(np.inf, layout.numbers), (1.0, layout.flags), (255.0, pixels), (1.0, more)]
    high = np.concatenate([np.full(size, most) for most, size in parts])
    return spaces.Box(np.where(np.isinf(high), -np.inf, 0.0).astype(layout.dtype), high.astype(layout.dtype), dtype=layout.dtype)


def _one_hot(actions: NDArray[np.int8], count: int) -> NDArray[np.uint8]:
    """(K,) actions -> (K, count), a row of zeros for -1."""
    rows: NDArray[np.uint8] = (actions[:, None] == np.arange(count)).astype(np.uint8)
    return rows


def _mask(now: Grounded, options: int) -> NDArray[np.int8]:
    """(K,) the options that can be followed now; where none can, all there are, for something must be said."""
    can = now.actions[0] >= 0
    return (can if can.any() else np.arange(len(can)) < options).astype(np.int8)
