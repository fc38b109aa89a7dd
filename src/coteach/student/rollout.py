"""Collects rollouts: T steps of N environments, some controlled by the student, the others by the teacher.

Student-controlled rows are on-policy and are used by PPO. Teacher-controlled rows are used by the evidence, the value function
and distillation. A `Rollout` also has the episodes that ended and the outcomes of options: of those that the teacher followed
to their end, and of those that were completed or failed by other actions.
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

OptionPolicy = Callable[[NDArray[np.int64], NDArray[np.bool_]], NDArray[np.float64]]
"""(situations (M,), whether the episode is optimistic (M,)) -> probabilities of the options (M, K)."""


class Actor(Protocol):
    """The part of the student that collecting needs."""

    def act(self, features: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Return sampled actions (N,), their log-probabilities (N,) and the values (N,) for features (N, F)."""
        ...


@dataclass(frozen=True)
class Episode:
    """An episode that has ended.

    controlled: whether the teacher controlled it.
    reward:     its undiscounted return.
    length:     in environment steps.
    optimistic: whether the teacher followed the exploration policy (see `Collector`).
    solved_at:  the episode is a success if its return is above this.
    """

    controlled: bool
    reward: float
    length: int
    optimistic: bool = False
    solved_at: float = 0.0

    @property
    def success(self) -> bool:
        """Whether its return is above the task's threshold."""
        return self.reward > self.solved_at


@dataclass
class Rollout:
    """T steps of N environments. Row (t, n) is the transition from observation t to t + 1.

    features:   (T + 1, N, F) the student's input; the last row is the observation after the last transition, here and below.
    situation:  (T + 1, N) int64, number of the situation.
    controls:   (T + 1, N, K) int8, the actions of the options' controllers; -1 for none.
    values:     (T + 1, N) float32, the student's.
    actions:    (T, N) int64, the primitive actions taken.
    logprobs:   (T, N) float32, of the student's sampled actions (the teacher may have replaced them).
    rewards:    (T, N) float32, divided by the task's scale (see `tasks.Scoring`).
    terminated, truncated: (T, N) bool.
    valid:      (T, N) bool, False where the step only began a new episode.
    controlled: (T, N) bool, whether the teacher controlled the environment.
    outcomes:   of options. episodes: those that ended.
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
        """Return a rollout of zeros for `steps` steps of `envs` environments with K = `slots`, and no controllers' actions."""

        def zeros(rows: int, kind: type[np.generic]) -> Any:
            return np.zeros((rows, envs), dtype=kind)

        return cls(
            features=np.zeros((steps + 1, envs, layout.size), dtype=layout.dtype),
            situation=zeros(steps + 1, np.int64),
            controls=np.full((steps + 1, envs, slots), -1, dtype=np.int8),
            values=zeros(steps + 1, np.float32),
            actions=zeros(steps, np.int64),
            logprobs=zeros(steps, np.float32),
            rewards=zeros(steps, np.float32),
            terminated=zeros(steps, np.bool_),
            truncated=zeros(steps, np.bool_),
            valid=zeros(steps, np.bool_),
            controlled=zeros(steps, np.bool_),
        )


_UNDER_WAY = (
    "controlled",
    "optimistic",
    "_done",
    "_terminal",
    "_reward",
    "_length",
    "_option_reward",
    "_owed",
    "_owed_optimistic",
)
"""The attributes of a collector that describe the episode of each environment, (N,) each, and what is owed, () each."""


def _is_due(now: NDArray[np.bool_], wanted: float, owed: NDArray[np.float64]) -> bool:
    """Return whether one more environment should be of a kind, of which `now` are.

    wanted: how many should be, in the mean over time; owed: steps by which they are behind. They alternate between the whole
    numbers around `wanted`.
    """
    return bool(now.sum() < np.floor(wanted) or (now.sum() < wanted and owed >= 0))


class Collector:
    """Collects rollouts from the environments of one task; episodes continue from one rollout to the next.

    A share of the teacher-controlled episodes is optimistic: the teacher follows the exploration policy. In the others it follows
    the imitation policy, so that their success measures what the student imitates.

    controlled: (N,) bool, whether the teacher controls the environment's episode; optimistic: (N,) whether that is optimistic.
    """

    def __init__(
        self,
        task: VectorTask,
        grounding: Grounding,
        config: CollectConfig,
        rng: np.random.Generator,
        state: dict[str, Any] | None = None,
    ) -> None:
        """state: what `state` returned for a collector on the same task, whose episodes are continued."""
        self.task, self.grounding, self.config, self.rng = task, grounding, config, rng
        n = task.num_envs
        self.follower = OptionFollower(n, grounding.max_options, config.option_patience)
        self.controlled, self.optimistic = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
        self.steps = 0
        """Environment steps over all environments, without restarts."""
        self._done, self._terminal = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
        self._reward, self._length = np.zeros(n), np.zeros(n, dtype=np.int64)
        self._option_reward = np.zeros(n)
        self._owed, self._owed_optimistic = np.zeros(()), np.zeros(())
        """Environment steps by which teacher-controlled and optimistic episodes are behind their shares."""
        self.resumed = state is not None and self._resume(state)
        """Whether the episodes of `state` are continued; False also if replaying their actions led to other situations."""
        if not self.resumed:
            self._now = grounding.observe(task.reset(), None, np.ones(n, dtype=np.bool_))

    def collect(self, steps: int, student: Actor, option_policy: OptionPolicy, controlled_share: float) -> Rollout:
        """Take `steps` steps in every environment and return them.

        option_policy:    the policy that the teacher follows.
        controlled_share: share of the environments that the teacher should control, in [0, 1]; only new episodes change hands.

        NotFinite if an observation, a reward, or a value or log-probability of the student is not finite.
        """
        rollout = Rollout.empty(steps, self.task.num_envs, self.grounding.layout, self.grounding.max_options)
        for t in range(steps):
            self._record_observation(rollout, t, self._now)
            actions, rollout.logprobs[t], rollout.values[t] = student.act(self._now.features)
            teacher_actions = self._control(rollout, option_policy)
            rollout.controlled[t] = self.controlled
            rollout.actions[t] = actions = np.where(teacher_actions >= 0, teacher_actions, actions)
            step = self.task.step(actions)
            self._assign(step.restarted, controlled_share)
            before, self._now = self._now, self.grounding.observe(step.observation, actions, step.restarted)
            self._record_step(rollout, t, step, before)
        self._record_observation(rollout, steps, self._now)
        rollout.values[steps] = student.act(self._now.features)[2]
        require_finite(
            observations=rollout.features, rewards=rollout.rewards, values=rollout.values, log_probabilities=rollout.logprobs
        )
        return rollout

    @property
    def under_way(self) -> NDArray[np.int64]:
        """(M,) lengths so far of the student-controlled episodes that have not ended."""
        return self._length[~self.controlled & ~self._done]

    def go_on(self, steps: int) -> None:
        """Count the steps of a run that was interrupted."""
        self.steps = steps

    def assign_all(self, controlled_share: float) -> None:
        """Decide who controls all present episodes; call it before the first step."""
        self._assign(np.ones(self.task.num_envs, dtype=np.bool_), controlled_share)

    def state(self) -> dict[str, Any] | None:
        """Return the episodes under way and who controls them, as plain JSON; None if the engine cannot restore episodes."""
        episodes = self.task.state()
        if episodes is None:
            return None
        mine = {name: getattr(self, name).tolist() for name in _UNDER_WAY}
        now = self._now.situation.tolist()
        return {"episodes": episodes, "follower": self.follower.state(), "mine": mine, "situation": now}

    def _resume(self, state: dict[str, Any]) -> bool:
        """Restore what `state` returned by replaying the episodes, with the grounding; return whether that succeeded."""
        for observation, actions, restarted in self.task.replay(state["episodes"]):
            self._now = self.grounding.observe(observation, actions, restarted)
        if self._now.situation.tolist() != state["situation"]:
            return False
        self.follower.restore(state["follower"])
        for name, values in state["mine"].items():
            setattr(self, name, np.array(values, dtype=getattr(self, name).dtype))
        return True

    def _record_observation(self, rollout: Rollout, t: int, now: Grounded) -> None:
        """Store observation t."""
        rollout.features[t], rollout.situation[t], rollout.controls[t] = now.features, now.situation, now.actions

    def _control(self, rollout: Rollout, option_policy: OptionPolicy) -> NDArray[np.int64]:
        """Return the controllers' actions (N,), -1 where the student controls; add the outcomes of the options that ended."""
        probabilities = np.zeros((self.task.num_envs, self.grounding.max_options))
        if self.controlled.any():
            probabilities[self.controlled] = option_policy(self._now.situation[self.controlled], self.optimistic[self.controlled])
        actions = self.follower.choose(self._now, probabilities, self.controlled, self._done, self.rng)
        ended = self.follower.ended
        for i in range(len(ended)):
            env, end = int(ended.env[i]), Ending(int(ended.ending[i]))
            if end is Ending.EPISODE_END and not self._terminal[env]:
                continue  # the time limit says nothing about the option
            following = TERMINAL if self._terminal[env] else int(ended.next_situation[i])
            option, duration = (int(ended.situation[i]), int(ended.slot[i])), int(ended.duration[i])
            failed = end in (Ending.FAILED, Ending.STUCK, Ending.TIMEOUT)
            rollout.outcomes.append(Outcome(*option, following, float(self._option_reward[env]), duration, failed))
        began = (self.follower.slot >= 0) & (self.follower.age == 1)
        self._option_reward[began] = 0.0
        return actions

    def _assign(self, restarted: NDArray[np.bool_], controlled_share: float) -> None:
        """Decide who controls the episodes that begin now, so that the shares are kept over time, also in few environments."""
        wanted = controlled_share * self.task.num_envs
        self._owed += wanted - self.controlled.sum()
        self._owed_optimistic += self.config.optimistic_share * self.controlled.sum() - self.optimistic.sum()
        for env in np.flatnonzero(restarted):
            self.controlled[env] = self.optimistic[env] = False
            self.controlled[env] = _is_due(self.controlled, wanted, self._owed)
            optimistic = self.config.optimistic_share * self.controlled.sum()
            self.optimistic[env] = self.controlled[env] and _is_due(self.optimistic, optimistic, self._owed_optimistic)

    def _record_step(self, rollout: Rollout, t: int, step: Step, before: Grounded) -> None:
        """Store the transition t, its outcomes and the episodes that it ended. before: observation t, grounded."""
        scoring = self.task.scoring
        rollout.rewards[t] = step.reward / scoring.scale
        rollout.terminated[t], rollout.truncated[t] = step.terminated, step.truncated
        rollout.valid[t] = valid = ~step.restarted
        self.steps += int(valid.sum())
        self._reward += np.where(valid, step.reward, 0.0)
        counted = scoring.count(step.reward, step.terminated)
        self._option_reward += np.where(valid, counted, 0.0)
        self._length += valid
        self._done = (step.terminated | step.truncated) & valid
        self._terminal = step.terminated & valid
        self._record_events(rollout, counted, before)
        for env in np.flatnonzero(self._done):
            controlled, optimistic = bool(rollout.controlled[t, env]), bool(self.optimistic[env])
            rollout.episodes.append(
                Episode(controlled, float(self._reward[env]), int(self._length[env]), optimistic, scoring.solved_at)
            )
            self._reward[env], self._length[env] = 0.0, 0

    def _record_events(self, rollout: Rollout, counted: NDArray[np.float32], before: Grounded) -> None:
        """Add the outcomes of options that were not being followed, but were completed or failed by the last step."""
        for failed, bits in ((False, self._now.completed), (True, self._now.failed)):
            for env in np.flatnonzero(bits):
                following = TERMINAL if self._terminal[env] else int(self._now.situation[env])
                for slot in range(int(bits[env]).bit_length()):
                    if not bits[env] >> slot & 1 or slot == self.follower.slot[env]:
                        continue
                    reward = float(counted[env])
                    rollout.outcomes.append(Outcome(int(before.situation[env]), slot, following, reward, None, failed))
