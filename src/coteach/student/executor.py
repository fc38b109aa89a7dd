"""Learned controllers: the student learns to carry out options without a controller, from their names and completing events.

Every step trains all options that were available, whoever chose the action and for what purpose: the step completed the option,
or led to a state in which the option has a value (all-goals Q-learning: Kaelbling 1993; hindsight relabelling: Andrychowicz et
al. 2017, arXiv 1707.01495). `LearnedControllers` puts the learned controllers in the place of the missing ones.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from coteach.config import Config, ExecutorConfig
from coteach.grounding.base import Grounded, Grounding, Layout, Situations
from coteach.runs import tensors
from coteach.student.network import ActorCritic, read

FILE = "executor.safetensors"


class Executor:
    """Learns Q(x, words of the option, a) in [0, 1], the discounted chance to complete the option; chooses actions by it.

    It also carries out the options whose names begin as `student.learned_options` says, although the grounding has controllers
    for them. One executor serves all environments of a student.

    met: (S, K) bool, the options that it had to carry out so far. steps: the replay buffer, None before the first step.
    """

    def __init__(self, layout: Layout, num_actions: int, config: Config, seed: int, situations: Situations) -> None:
        self.settings, self.seen, self.layout = config.executor, layout, layout.widened(config.executor.words)
        self.situations, self.prefixes = situations, tuple(config.student.learned_options)
        self._generator, self.rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        self.network = ActorCritic(self.layout, num_actions, config.student, self._generator)
        self.target: nn.Module = copy.deepcopy(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.settings.learning_rate, fused=True)
        self.steps: StepBuffer | None = None
        self.met = np.zeros((0, 0), dtype=np.bool_)
        self._flags: dict[str, NDArray[np.int64]] = {}
        self._named: dict[int, list[int]] = {}

    def missing(self, situation: NDArray[np.int64], without: NDArray[np.bool_] | None, slots: int) -> NDArray[np.bool_]:
        """Return a mask (N, K) of the options that it has to carry out in situations (N,).

        without: (N, K) bool, the options without a controller; None: all have one. slots: K.
        """
        mask = np.zeros((len(situation), slots), dtype=np.bool_) if without is None else without.copy()
        for row, number in enumerate(situation.tolist() if self.prefixes else ()):
            mask[row, self._slots(number)] = True
        return mask

    def _slots(self, number: int) -> list[int]:
        """Return the slots of a situation whose options it carries out because of their names."""
        if number not in self._named:
            options = self.situations[number].options
            self._named[number] = [slot for slot, name in enumerate(options) if name.startswith(self.prefixes)]
        return self._named[number]

    def act(self, features: NDArray[Any], names: Sequence[str]) -> NDArray[np.int64]:
        """Return actions (B,) int64 that carry out the B options called `names`, given features (B, F)."""
        value = self._values(self.network, self._with_words(features, names)).numpy()
        value = value + self.rng.gumbel(size=value.shape) * self.settings.indifference
        chosen: NDArray[np.int64] = value.argmax(axis=1)
        return chosen

    def remember(self, before: Grounded, missing: NDArray[np.bool_], actions: NDArray[np.int64], now: Grounded) -> None:
        """Add one step of N environments to the replay buffer.

        before, now: the step's observations, grounded; actions: (N,). missing: (N, K) bool, the options that it had to carry out;
        rows without such an option are left out.
        """
        if self.steps is None:
            self.steps = StepBuffer(self.settings, before.features)
        if len(self.met) < len(self.situations):
            grown = np.zeros((len(self.situations), missing.shape[1]), dtype=np.bool_)
            grown[: self.met.shape[0], : self.met.shape[1]] = self.met
            self.met = grown
        np.logical_or.at(self.met, before.situation, missing)
        self.steps.add(before, missing, actions, now, self.situations)

    def learn(self) -> dict[str, float]:
        """Take the optimiser steps of a round; return the mean loss and the share of rows that completed an option."""
        if self.steps is None or not self.steps.filled:
            return {}
        losses, completed = [], []
        for _ in range(self.settings.steps):
            loss, share = self._step(*self.steps.sample(self.settings.batch, self.rng))
            losses.append(loss)
            completed.append(share)
        return {"executor_loss": float(np.mean(losses)), "executor_completed": float(np.mean(completed))}

    def save(self, folder: Path) -> None:
        """Write the networks into `folder`, without the replay buffer."""
        state = tensors.add_prefix("network.", self.network.state_dict())
        tensors.write(folder / FILE, state | tensors.add_prefix("target.", self.target.state_dict()))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        state = tensors.read(folder / FILE)
        for prefix, network in (("network.", self.network), ("target.", self.target)):
            network.load_state_dict(tensors.select_prefix(prefix, state))

    def _step(self, at: NDArray[np.int64], names: Sequence[str]) -> tuple[float, float]:
        """Take one optimiser step of double Q-learning on the rows `at` (B,), each for the option of its name.

        Returns the loss and the share of rows that completed their option.
        """
        steps = self.steps
        assert steps is not None
        done = np.array([name in steps.completed[row] for row, name in zip(at.tolist(), names, strict=True)])
        later = np.array([n in self.situations[int(c)].options for n, c in zip(names, steps.following[at], strict=True)])
        after = self._with_words(steps.after[at], names)
        best = self._values(self.network, after).argmax(dim=1, keepdim=True)
        onward = self.settings.discount * self._values(self.target, after).gather(1, best)[:, 0].numpy() * later
        wanted = torch.from_numpy(np.where(done, 1.0, onward).astype(np.float32))
        logits = self.network(read(self.layout, self._with_words(steps.before[at], names)))[0]
        loss = F.binary_cross_entropy_with_logits(logits.gather(1, torch.from_numpy(steps.action[at])[:, None])[:, 0], wanted)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, self.settings.follow)
        return float(loss.detach()), float(done.mean())

    @torch.no_grad()
    def _values(self, network: nn.Module, asked: NDArray[Any]) -> Tensor:
        """Return Q (B, A) in [0, 1] for rows that already have the words of an option."""
        value: Tensor = network(read(self.layout, asked))[0].sigmoid()
        return value

    def _with_words(self, features: NDArray[Any], names: Sequence[str]) -> NDArray[Any]:
        """Add the hashed words of one option to each row of features (B, F): rows (B, F + words)."""
        words = np.zeros((len(features), self.settings.words), dtype=np.bool_)
        for row, name in enumerate(names):
            words[row, self._hashed(name)] = True
        return self.seen.inserted(features, words)

    def _hashed(self, name: str) -> NDArray[np.int64]:
        """Return the columns of an option's name and of each of its words."""
        if name not in self._flags:
            columns = self.settings.words
            self._flags[name] = np.array([zlib.crc32(text.encode()) % columns for text in (name, *name.split())])
        return self._flags[name]


class StepBuffer:
    """A ring buffer of R steps in which an option without a controller was available.

    before, after: (R, F) features; following: (R,) situation after the step; action: (R,).
    missing:       names of the available options without a controller, by row; completed: those that the step completed.
    """

    def __init__(self, settings: ExecutorConfig, features: NDArray[Any]) -> None:
        self.settings, rows = settings, settings.rows
        self.rows, self.filled, self._next = rows, 0, 0
        self.before = np.zeros((rows, features.shape[1]), dtype=features.dtype)
        self.after = np.zeros_like(self.before)
        self.following, self.action = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
        self.missing: list[tuple[str, ...]] = [()] * rows
        self.completed: list[tuple[str, ...]] = [()] * rows
        self._events: dict[str, set[int]] = {}
        """The rows that completed an option, by its name."""
        self._env = np.zeros(rows, dtype=np.int64)

    def add(
        self,
        before: Grounded,
        missing: NDArray[np.bool_],
        actions: NDArray[np.int64],
        now: Grounded,
        situations: Situations,
    ) -> None:
        """Add a step of the environments with an option in `missing` (N, K); it replaces the oldest steps."""
        for env in np.flatnonzero(missing.any(axis=1)).tolist():
            row = self._next
            for name in self.completed[row]:
                self._events[name].discard(row)
            options = situations[int(before.situation[env])].options
            slots = np.flatnonzero(missing[env]).tolist()
            self.missing[row] = tuple(options[slot] for slot in slots)
            self.completed[row] = tuple(options[slot] for slot in slots if int(now.completed[env]) >> slot & 1)
            for name in self.completed[row]:
                self._events.setdefault(name, set()).add(row)
            self.before[row], self.after[row] = before.features[env], now.features[env]
            self.following[row], self.action[row], self._env[row] = now.situation[env], actions[env], env
            self._next = (row + 1) % self.rows
            self.filled = min(self.rows, self.filled + 1)

    def sample(self, count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], list[str]]:
        """Draw `count` rows and an available option for each; return the rows and the options' names.

        A share of them, `event_share`, is drawn from the steps before an option was completed, with all options equally likely.
        """
        rows = rng.integers(0, self.filled, count)
        names = [self.missing[row][rng.integers(len(self.missing[row]))] for row in rows.tolist()]
        happened = [name for name, events in self._events.items() if events]
        events = {name: np.fromiter(self._events[name], dtype=np.int64) for name in happened}
        for i in range(int(count * self.settings.event_share) if happened else 0):
            name = happened[rng.integers(len(happened))]
            row = self._run_up(int(rng.choice(events[name])), rng)
            if name in self.missing[row]:
                rows[i], names[i] = row, name
        return rows, names

    def _run_up(self, event: int, rng: np.random.Generator) -> int:
        """Draw a row of the same environment that is less than `run_up` of its steps before the row `event`."""
        wanted, row = int(rng.integers(self.settings.run_up)), event
        earlier = event
        while wanted and earlier != self._next:
            earlier = (earlier - 1) % self.rows
            if earlier >= self.filled:
                break
            if self._env[earlier] == self._env[event]:
                row, wanted = earlier, wanted - 1
        return row


class LearnedControllers:
    """A grounding whose missing controllers are learned ones.

    learn: the executor also learns from the observed steps (not in evaluations).
    """

    def __init__(self, grounding: Grounding, executor: Executor, learn: bool) -> None:
        self.grounding, self.executor, self.learn = grounding, executor, learn
        self.situations, self.max_options = grounding.situations, grounding.max_options
        self.layout, self.action_names = grounding.layout, grounding.action_names
        self._before: tuple[Grounded, NDArray[np.bool_]] | None = None

    def observe(self, observation: Any, actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        """Process one step of all environments (see `base.Grounding.observe`)."""
        now = self.grounding.observe(observation, actions, restarted)
        if self.learn and self._before is not None and actions is not None:
            before, missing = self._before
            self.executor.remember(before, missing & ~restarted[:, None], actions, now)
        missing = self.executor.missing(now.situation, now.unscripted, self.max_options)
        rows, slots = np.nonzero(missing)
        if len(rows):
            names = [self.situations[int(now.situation[row])].options[slot] for row, slot in zip(rows, slots, strict=True)]
            now.actions[rows, slots] = self.executor.act(now.features[rows], names)
        self._before = now, missing
        return now
