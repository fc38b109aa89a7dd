"""Collecting: N environments for T steps, some led by the student, some by the teacher.

Student-led rows are on-policy and feed PPO; teacher-led rows feed evidence, the value function and
distillation. Besides the rows a `Rollout` carries the outcomes of options (followed to their end by the
teacher, or completed on the way by whoever acted) and the episodes that ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coteach.config import CollectConfig
from coteach.envs.engines import Step, VectorTask
from coteach.errors import require_finite
from coteach.grounding.base import Grounded, Grounding, Layout
from coteach.grounding.follower import Ending, OptionFollower
from coteach.grounding.outcomes import TERMINAL, Outcome

Advise = Callable[[NDArray[np.int64], NDArray[np.bool_]], NDArray[np.float64]]


class Actor(Protocol):
    """What collecting needs of the student."""

    def act(self, features: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Sampled actions (N,), their log-probabilities (N,) and the values (N,) of features (N, F)."""
        ...


@dataclass(frozen=True)
class Episode:
    """A finished episode; `reward` is its undiscounted return. `bold`: led by what may turn out best (see `Collector`)."""

    controlled: bool
    reward: float
    length: int
    optimistic: bool = False
    solved_at: float = 0.0

    @property
    def success(self) -> bool:
        """Whether it counts as solved: its return was above the task's threshold."""
        return self.reward > self.solved_at


@dataclass
class Rollout:
    """T steps of N environments. Row (t, n) is the transition from observation t to t + 1.

    features (T+1, N, F); situation (T+1, N) int64; controls (T+1, N, K) int8; values (T+1, N) float32: the
    last row is the observation after the last transition. actions (T, N) int64; logprobs, rewards (T, N) float32 (as the
    student learns from them: see `tasks.Scoring`);
    terminated, truncated, led (T, N) bool; valid (T, N) bool: False where the step only began a new episode.
    """

    features: NDArray[Any]
    situation: NDArray[np.int64]
    controls: NDArray[np.int8]
    values: NDArray[np.float32]
    actions: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    controlled: NDArray[np.bool_]
    outcomes: list[Outcome] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)

    @classmethod
    def empty(cls, steps: int, envs: int, layout: Layout, slots: int) -> Rollout:
        """Room for `steps` steps of `envs` environments with K = `slots`."""

        def room(rows: int, kind: type[np.generic]) -> Any:
            return np.zeros((rows, envs), dtype=kind)

        return cls(
            features=np.zeros((steps + 1, envs, layout.size), dtype=layout.dtype),
            situation=room(steps + 1, np.int64),
            controls=np.full((steps + 1, envs, slots), -1, dtype=np.int8),
            values=room(steps + 1, np.float32),
            actions=room(steps, np.int64),
            logprobs=room(steps, np.float32),
            rewards=room(steps, np.float32),
            terminated=room(steps, np.bool_),
            truncated=room(steps, np.bool_),
            valid=room(steps, np.bool_),
            controlled=room(steps, np.bool_),
        )


_UNDER_WAY = ("controlled", "optimistic", "_done", "_terminal", "_reward", "_length", "_option_reward")
"""What a collector knows of each environment's episode, (N,) each."""


class Collector:
    """Steps one task's environments from round to round; episodes go on across rounds.

    A share of the led episodes is `bold`: the teacher tries what may turn out best. In the others it does what it would show the
    student, so that their success says what that is worth.
    """

    def __init__(
        self,
        task: VectorTask,
        grounding: Grounding,
        config: CollectConfig,
        rng: np.random.Generator,
        state: dict[str, Any] | None = None,
    ) -> None:
        """state: what `state` gave of a collector on the same task, whose episodes go on where they were."""
        self.task, self.grounding, self.config, self.rng = task, grounding, config, rng
        n = task.num_envs
        self.follower = OptionFollower(n, grounding.max_options, config.option_patience)
        self.controlled, self.optimistic = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
        self.steps = 0
        """Environment steps taken over all environments, restarts not counted."""
        self._done, self._terminal = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
        self._reward, self._length = np.zeros(n), np.zeros(n, dtype=np.int64)
        self._option_reward = np.zeros(n)
        self.resumed = state is not None and self._resume(state)
        """The episodes of `state` go on; False also where the task, seeded alike, did not do the same again."""
        if not self.resumed:
            self._now = grounding.observe(task.reset(), None, np.ones(n, dtype=np.bool_))

    def collect(self, steps: int, student: Actor, advise: Advise, led_share: float) -> Rollout:
        """Take `steps` steps in every environment.

        advise: gives (M, K) probabilities by which the teacher leads in situations (M,), boldly or not (M,).
        led_share: share of the environments that the teacher should lead.

        Raises `NotFinite` where an observation, a reward or the student's answer is not finite.
        """
        rollout = Rollout.empty(steps, self.task.num_envs, self.grounding.layout, self.grounding.max_options)
        for t in range(steps):
            self._record(rollout, t, self._now)
            actions, rollout.logprobs[t], rollout.values[t] = student.act(self._now.features)
            teacher_actions = self._control(rollout, advise)
            rollout.controlled[t] = self.controlled
            rollout.actions[t] = actions = np.where(teacher_actions >= 0, teacher_actions, actions)
            step = self.task.step(actions)
            self._assign(step.restarted, led_share)
            before, self._now = self._now, self.grounding.observe(step.observation, actions, step.restarted)
            self._account(rollout, t, step, before)
        self._record(rollout, steps, self._now)
        rollout.values[steps] = student.act(self._now.features)[2]
        require_finite(
            observations=rollout.features, rewards=rollout.rewards, values=rollout.values, log_probabilities=rollout.logprobs
        )
        return rollout

    @property
    def under_way(self) -> NDArray[np.int64]:
        """Lengths so far of the student-led episodes that have not ended."""
        return self._length[~self.controlled & ~self._done]

    def go_on(self, steps: int) -> None:
        """Count the steps of a run that was interrupted."""
        self.steps = steps

    def assign_all(self, led_share: float) -> None:
        """Who leads the episodes under way, before the first step."""
        self._assign(np.ones(self.task.num_envs, dtype=np.bool_), led_share)

    def state(self) -> dict[str, Any] | None:
        """The episodes under way and who leads them, as plain JSON; None where the engine cannot bring them back."""
        episodes = self.task.state()
        if episodes is None:
            return None
        mine = {name: getattr(self, name).tolist() for name in _UNDER_WAY}
        now = self._now.situation.tolist()
        return {"episodes": episodes, "follower": self.follower.state(), "mine": mine, "situation": now}

    def _resume(self, state: dict[str, Any]) -> bool:
        """Take up what `state` gave; the grounding sees each episode again, and believes what it did."""
        for observation, actions, restarted in self.task.replay(state["episodes"]):
            self._now = self.grounding.observe(observation, actions, restarted)
        if self._now.situation.tolist() != state["situation"]:
            return False
        self.follower.restore(state["follower"])
        for name, values in state["mine"].items():
            setattr(self, name, np.array(values, dtype=getattr(self, name).dtype))
        return True

    def _record(self, rollout: Rollout, t: int, now: Grounded) -> None:
        rollout.features[t], rollout.situation[t], rollout.controls[t] = now.features, now.situation, now.actions

    def _control(self, rollout: Rollout, advise: Advise) -> NDArray[np.int64]:
        """The controllers' actions in teacher-led environments (-1 elsewhere); what ended on this step is counted."""
        probabilities = np.zeros((self.task.num_envs, self.grounding.max_options))
        if self.controlled.any():
            probabilities[self.controlled] = advise(self._now.situation[self.controlled], self.optimistic[self.controlled])
        actions = self.follower.choose(self._now, probabilities, self.controlled, self._done, self.rng)
        ended = self.follower.ended
        for i in range(len(ended)):
            env, end = int(ended.env[i]), Ending(int(ended.outcome[i]))
            if end is Ending.EPISODE_END and not self._terminal[env]:
                continue  # time ran out on the way: that says nothing about the option
            following = TERMINAL if self._terminal[env] else int(ended.next_situation[i])
            option, duration = (int(ended.situation[i]), int(ended.slot[i])), int(ended.duration[i])
            failed = end in (Ending.FAILED, Ending.STUCK, Ending.TIMEOUT)
            rollout.outcomes.append(Outcome(*option, following, float(self._option_reward[env]), duration, failed))
        began = (self.follower.slot >= 0) & (self.follower.age == 1)
        self._option_reward[began] = 0.0
        return actions

    def _assign(self, restarted: NDArray[np.bool_], led_share: float) -> None:
        """Decide who leads the episodes that begin now, so that the share is kept."""
        wanted = round(led_share * self.task.num_envs)
        for env in np.flatnonzero(restarted):
            self.controlled[env] = self.optimistic[env] = False
            self.controlled[env] = self.controlled.sum() < wanted
            self.optimistic[env] = (
                self.controlled[env] and self.optimistic.sum() < self.config.optimistic_share * self.controlled.sum()
            )

    def _account(self, rollout: Rollout, t: int, step: Step, before: Grounded) -> None:
        scoring = self.task.scoring
        rollout.rewards[t] = step.reward / scoring.scale
        rollout.terminated[t], rollout.truncated[t] = step.terminated, step.truncated
        rollout.valid[t] = valid = ~step.restarted
        self.steps += int(valid.sum())
        self._reward += np.where(valid, step.reward, 0.0)
        worth = scoring.worth(step.reward, step.terminated)
        self._option_reward += np.where(valid, worth, 0.0)
        self._length += valid
        self._done = (step.terminated | step.truncated) & valid
        self._terminal = step.terminated & valid
        self._hindsight(rollout, worth, before)
        for env in np.flatnonzero(self._done):
            controlled, optimistic = bool(rollout.controlled[t, env]), bool(self.optimistic[env])
            rollout.episodes.append(
                Episode(controlled, float(self._reward[env]), int(self._length[env]), optimistic, scoring.solved_at)
            )
            self._reward[env], self._length[env] = 0.0, 0

    def _hindsight(self, rollout: Rollout, worth: NDArray[np.float32], before: Grounded) -> None:
        """An option has an event: what the student (or another option) brought about is evidence too."""
        for failed, bits in ((False, self._now.completed), (True, self._now.failed)):
            for env in np.flatnonzero(bits):
                following = TERMINAL if self._terminal[env] else int(self._now.situation[env])
                for slot in range(int(bits[env]).bit_length()):
                    if not bits[env] >> slot & 1 or slot == self.follower.slot[env]:
                        continue
                    reward = float(worth[env])
                    rollout.outcomes.append(Outcome(int(before.situation[env]), slot, following, reward, None, failed))
