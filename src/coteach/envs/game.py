"""The game of teacher and student as a PettingZoo parallel environment, so that any multi-agent library can train both.

The agents `teacher` and `student` get the same reward, the task's, and act at the same time: the teacher names an option of
the current situation, and the student takes a primitive action. **Advice reaches the student one step later**, as the action
that the option's controller takes then. There is no advice on the first step of an episode, and none if the new
situation does not have the option. Observations are plain vectors that any network can read; the text is in the teacher's info.
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
"""One entry for each agent that is in the game."""


def parallel_env(task: str = "MiniGrid-UnlockPickup-v0", render_mode: str | None = None) -> Game:
    """Make the game on `task`, played on the reference engine.

    render_mode: "rgb_array" to get pictures from `render`. Raises CoteachError for a task that cannot be played.
    """
    return Game(task, render_mode)


class Game(ParallelEnv):  # type: ignore[misc]
    """A common-payoff game: K option slots, A primitive actions, F features.

    The teacher observes {"observation": (F + K * A,), "action_mask": (K,) int8}: the student's features and, for each slot,
    the action that the option's controller takes now (one-hot; zeros if it has no way to go on or there is no such option).
    The mask has the options that can be followed. Its action space is Discrete(K); a slot without an option is no advice.
    Its info is {"situation": Situation}, which any `coteach.teacher.Teacher` can be asked about.

    The student observes (F + A,): its features and the advised action (one-hot; zeros: none). Its action space is Discrete(A).
    Its info is {"advice": text of the advised option, or None}. Observations have the dtype of the student's features.
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
        """Return the observation space of `agent`; always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Return the action space of `agent`; always the same object."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Everyone, Everyone]:
        """Begin an episode; return observations and infos.

        seed: sets this episode's level (the same as in an evaluation), and those of later episodes without a seed.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._level = int(self._rng.integers(2**31)) if seed is None else seed
        self.agents = list(self.possible_agents)
        self._now = self._grounding.observe(self._environment.reset(), None, np.ones(1, dtype=np.bool_))
        return self._show(None)

    def step(self, actions: dict[str, int]) -> tuple[Everyone, Everyone, Everyone, Everyone, Everyone]:
        """Take both actions; return observations, rewards, terminations, truncations and infos: all empty after the end."""
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
        """Return the picture of the level, (H, W, 3) uint8; None without a render_mode."""
        return None if self.render_mode is None else self._environment.frame(0)

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()

    @property
    def _situation(self) -> Situation:
        return self._grounding.situations[int(self._now.situation[0])]

    def _show(self, said: str | None) -> tuple[Everyone, Everyone]:
        """Return observations and infos after the teacher has named the option `said`."""
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
        """Yield the seed of the episode that begins, without end."""
        while True:
            yield self._level


def _ground(task: str, levels: Iterator[int], render: bool) -> tuple[GymnasiumTask, Grounding]:
    """Make one environment of `task`, whose episodes have the seeds `levels`, and a grounding for it."""
    environment = GymnasiumTask(task, [levels], render)
    return environment, tasks.family(task).ground(1, Situations(), environment.num_actions)


def _seen(layout: Layout, more: int) -> spaces.Box:
    """Return the space of the student's features with so many flags after them."""
    pixels = layout.size - layout.numbers - layout.flags
    parts = [(np.inf, layout.numbers), (1.0, layout.flags), (255.0, pixels), (1.0, more)]
    high = np.concatenate([np.full(size, most) for most, size in parts])
    return spaces.Box(np.where(np.isinf(high), -np.inf, 0.0).astype(layout.dtype), high.astype(layout.dtype), dtype=layout.dtype)


def _one_hot(actions: NDArray[np.int8], count: int) -> NDArray[np.uint8]:
    """Return actions (K,) as rows (K, count) uint8, a row of zeros for -1."""
    rows: NDArray[np.uint8] = (actions[:, None] == np.arange(count)).astype(np.uint8)
    return rows


def _mask(now: Grounded, options: int) -> NDArray[np.int8]:
    """Return a mask (K,) int8 of the options that can be followed now; if none can, of all options (a mask must not be empty)."""
    can = now.actions[0] >= 0
    return (can if can.any() else np.arange(len(can)) < options).astype(np.int8)
