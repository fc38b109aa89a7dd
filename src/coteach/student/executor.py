"""Options without a controller: the student itself learns to carry them out, from their words and the events that complete them.

All options that were on offer learn from every step, whoever took it and whatever for: it completed them, or led to where they
are worth something (all-goals Q-learning: Kaelbling 1993; hindsight relabelling: Andrychowicz et al. 2017, arXiv 1707.01495).
`LearnedControllers` puts what was learned in the place of the missing controllers, so that nothing else needs to know.
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
    """What an action brings an option closer to its event by: Q(x, option's words, a) in [0, 1]. One for all environments.

    Options whose names begin as `student.learned_options` says are carried out by it even where the grounding has controllers.
    """

    def __init__(self, layout: Layout, num_actions: int, config: Config, seed: int, situations: Situations) -> None:
        self.settings, self.seen, self.layout = config.executor, layout, layout.widened(config.executor.words)
        self.situations, self.beginnings = situations, tuple(config.student.learned_options)
        self._generator, self.rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        self.network = ActorCritic(self.layout, num_actions, config.student, self._generator)
        self.target: nn.Module = copy.deepcopy(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.settings.learning_rate, fused=True)
        self.steps: Steps | None = None
        self.met = np.zeros((0, 0), dtype=np.bool_)
        """(S, K) the options that it had to carry out so far."""
        self._flags: dict[str, NDArray[np.int64]] = {}
        self._named: dict[int, list[int]] = {}

    def missing(self, situation: NDArray[np.int64], without: NDArray[np.bool_] | None, slots: int) -> NDArray[np.bool_]:
        """(N, K) the options it has to carry out in these situations (N,); without: (N, K) those without a controller."""
        mask = np.zeros((len(situation), slots), dtype=np.bool_) if without is None else without.copy()
        for row, number in enumerate(situation.tolist() if self.beginnings else ()):
            mask[row, self._slots(number)] = True
        return mask

    def _slots(self, number: int) -> list[int]:
        """The slots of a situation whose options it carries out by name."""
        if number not in self._named:
            options = self.situations[number].options
            self._named[number] = [slot for slot, name in enumerate(options) if name.startswith(self.beginnings)]
        return self._named[number]

    def act(self, features: NDArray[Any], names: Sequence[str]) -> NDArray[np.int64]:
        """(B,) actions that carry on the options called `names` where features (B, F) are seen."""
        value = self._values(self.network, self._asked(features, names)).numpy()
        value = value + self.rng.gumbel(size=value.shape) * self.settings.indifference
        chosen: NDArray[np.int64] = value.argmax(axis=1)
        return chosen

    def remember(self, before: Grounded, missing: NDArray[np.bool_], actions: NDArray[np.int64], now: Grounded) -> None:
        """Keep one step of N environments; rows of `missing` (N, K) without an option are not learned from."""
        if self.steps is None:
            self.steps = Steps(self.settings, before.features)
        if len(self.met) < len(self.situations):
            grown = np.zeros((len(self.situations), missing.shape[1]), dtype=np.bool_)
            grown[: self.met.shape[0], : self.met.shape[1]] = self.met
            self.met = grown
        np.logical_or.at(self.met, before.situation, missing)
        self.steps.add(before, missing, actions, now, self.situations)

    def learn(self) -> dict[str, float]:
        """The optimiser steps of a round; the loss and the share of its rows that completed an option."""
        if self.steps is None or not self.steps.filled:
            return {}
        losses, completed = [], []
        for _ in range(self.settings.steps):
            loss, share = self._step(*self.steps.sample(self.settings.batch, self.rng))
            losses.append(loss)
            completed.append(share)
        return {"executor_loss": float(np.mean(losses)), "executor_completed": float(np.mean(completed))}

    def save(self, folder: Path) -> None:
        """Write the networks into `folder`; the steps remembered are not kept."""
        state = tensors.add_prefix("network.", self.network.state_dict())
        tensors.write(folder / FILE, state | tensors.add_prefix("target.", self.target.state_dict()))

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        state = tensors.read(folder / FILE)
        for prefix, network in (("network.", self.network), ("target.", self.target)):
            network.load_state_dict(tensors.select_prefix(prefix, state))

    def _step(self, at: NDArray[np.int64], names: Sequence[str]) -> tuple[float, float]:
        """An optimiser step on the rows `at` (B,), each for an option on offer there; its loss, the share that completed it."""
        steps = self.steps
        assert steps is not None
        done = np.array([name in steps.completed[row] for row, name in zip(at.tolist(), names, strict=True)])
        later = np.array([n in self.situations[int(c)].options for n, c in zip(names, steps.following[at], strict=True)])
        after = self._asked(steps.after[at], names)
        best = self._values(self.network, after).argmax(dim=1, keepdim=True)
        onward = self.settings.discount * self._values(self.target, after).gather(1, best)[:, 0].numpy() * later
        wanted = torch.from_numpy(np.where(done, 1.0, onward).astype(np.float32))
        logits = self.network(read(self.layout, self._asked(steps.before[at], names)))[0]
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
        """(B, A) in [0, 1]."""
        value: Tensor = network(read(self.layout, asked))[0].sigmoid()
        return value

    def _asked(self, features: NDArray[Any], names: Sequence[str]) -> NDArray[Any]:
        """Rows (B, F) with the words of an option each, (B, F + words)."""
        words = np.zeros((len(features), self.settings.words), dtype=np.bool_)
        for row, name in enumerate(names):
            words[row, self._hashed(name)] = True
        return self.seen.inserted(features, words)

    def _hashed(self, name: str) -> NDArray[np.int64]:
        if name not in self._flags:
            columns = self.settings.words
            self._flags[name] = np.array([zlib.crc32(text.encode()) % columns for text in (name, *name.split())])
        return self._flags[name]


class Steps:
    """A ring of R steps in which an option had to be carried out: before, after (R, F); which options, which it completed."""

    def __init__(self, settings: ExecutorConfig, features: NDArray[Any]) -> None:
        self.settings, rows = settings, settings.rows
        self.rows, self.filled, self._next = rows, 0, 0
        self.before = np.zeros((rows, features.shape[1]), dtype=features.dtype)
        self.after = np.zeros_like(self.before)
        self.following, self.action = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
        self.missing: list[tuple[str, ...]] = [()] * rows
        self.completed: list[tuple[str, ...]] = [()] * rows
        self._events: dict[str, set[int]] = {}
        """Rows by the option that they completed."""
        self._env = np.zeros(rows, dtype=np.int64)

    def add(
        self,
        before: Grounded,
        missing: NDArray[np.bool_],
        actions: NDArray[np.int64],
        now: Grounded,
        situations: Situations,
    ) -> None:
        """Keep a step of the environments in which an option of `missing` (N, K) was on offer, the oldest making room."""
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
        """`count` rows, and an option on offer in each: a share of them from the run-up to events, all options alike."""
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
        """A row of the same environment, up to `run_up` of its steps before the event."""
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
    """A grounding whose missing controllers are what the executor has learned; it learns from what is seen where `learn`."""

    def __init__(self, grounding: Grounding, executor: Executor, learn: bool) -> None:
        self.grounding, self.executor, self.learn = grounding, executor, learn
        self.situations, self.max_options = grounding.situations, grounding.max_options
        self.layout, self.action_names = grounding.layout, grounding.action_names
        self._before: tuple[Grounded, NDArray[np.bool_]] | None = None

    def observe(self, observation: Any, actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        """Take in one step of all environments (see `base.Grounding.observe`)."""
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
