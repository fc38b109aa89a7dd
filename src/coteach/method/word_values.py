"""What options are worth in situations never met before: a small evaluator over words, trained on the evidence and on the LLM.

A table of outcomes knows nothing about a new situation; its words say how it resembles others (`word_pairs`). Several small
networks are trained on pairs of words; where they disagree the value is uncertain (deep ensembles: Lakshminarayanan et al. 2017,
arXiv 1612.01474), and so it is where an option's relation to the task is new, as far as options of the same shape turned out
differently. One more network is distilled from the LLM's answers; it stands in for them until the LLM can be asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from coteach.config import EvidenceConfig, WordsConfig
from coteach.errors import NotFinite
from coteach.grounding.base import Situations
from coteach.grounding.outcomes import Outcome
from coteach.method.word_pairs import Pairs, bags_of
from coteach.runs import tensors
from coteach.runs.machine import one_thread

Array = NDArray[np.float64]

FILE = "word_values.safetensors"
KEPT = ("mean", "uncertainty", "distilled", "related", "shape_uncertainty")
"""Arrays that a checkpoint keeps beside the networks: they are renewed for what is met, not for all situations at once."""


class Opinions(NamedTuple):
    """What is expected of the options of N situations, (N, K) each.

    mean: expected value in [0, 1]; best, worst: what it may be at best and at worst; known: how sure that is, in [0, 1].
    """

    mean: Array
    best: Array
    worst: Array
    known: Array


class Networks(nn.Module):
    """Bags of pairs -> `members + 1` logits: hidden = relu(sum of the pairs' rows / sqrt(their number)), one linear unit each."""

    def __init__(self, settings: WordsConfig, generator: torch.Generator) -> None:
        super().__init__()
        count, self.width = settings.members + 1, settings.width
        deviation = settings.initial_deviation
        self.table = nn.Parameter(deviation * torch.randn(settings.table, count * self.width, generator=generator))
        self.hidden = nn.Parameter(torch.zeros(count * self.width))
        self.out = nn.Parameter(torch.randn(count, self.width, generator=generator) * (2.0 / self.width) ** 0.5)

    def forward(self, ids: Tensor, counts: Tensor, table: Tensor | None = None) -> Tensor:
        """Map ids (L,) int64 and counts (B,) int64 with sum L to logits (B, members + 1). table: its rows in use."""
        starts = counts.cumsum(0) - counts
        bag = F.embedding_bag(ids, self.table if table is None else table, starts, mode="sum") / counts.sqrt()[:, None]
        hidden = torch.relu(bag + self.hidden).view(len(counts), -1, self.width)
        return (hidden * self.out).sum(-1)


class WordValues:
    """Values of the options of every situation met, as arrays to look up; K columns.

    mean, uncertainty: (S, K) what the members expect an option to be worth, and how far they disagree (standard deviation).
    distilled: (S, K) what the LLM would say, rows sum to 1; meaningless before `learn` has seen answers.
    related: (rows of the table,) outcomes of each relation between an option and the task.
    shape_uncertainty: (rows of the table,) standard deviation of what options were worth whose relations have the same shape.
    """

    def __init__(
        self, situations: Situations, max_options: int, settings: WordsConfig, evidence: EvidenceConfig, seed: int
    ) -> None:
        self.situations, self.max_options = situations, max_options
        self.settings, self.evidence = settings, evidence
        self.pairs = Pairs(situations, settings.table)
        self._generator = torch.Generator().manual_seed(seed)
        self._rng = np.random.default_rng(seed)
        self.networks = Networks(settings, self._generator)
        self._moments = {name: _no_moments(parameter) for name, parameter in self.networks.named_parameters()}
        self.mean, self.uncertainty, self.distilled = (np.zeros((0, max_options)) for _ in range(3))
        self.related = np.zeros(settings.table)
        self.shape_uncertainty = np.full(settings.table, settings.new_uncertainty)

    def grow(self, situations: int) -> None:
        """Make room for situations numbered below `situations`: nothing is known about new ones until `refresh`."""
        missing = situations - len(self.mean)
        if missing > 0:
            unknown = np.full((missing, self.max_options), 0.5)
            self.mean, self.uncertainty = np.vstack([self.mean, unknown]), np.vstack([self.uncertainty, unknown])
            self.distilled = np.vstack([self.distilled, np.zeros_like(unknown)])

    def add_outcome(self, outcome: Outcome) -> None:
        """Count an outcome: its option's relation to the task is no longer so new."""
        self.related[self.pairs.relations(outcome.situation)[outcome.slot][0]] += 1.0

    def opinions(self, numbers: NDArray[np.int64]) -> Opinions:
        """Return what is expected of the options of situations (N,)."""
        mean, uncertainty = self.mean[numbers], self.uncertainty[numbers]
        spread = self.evidence.bound_deviations * uncertainty
        known = np.clip(1.0 - uncertainty / self.evidence.uncertain_at, 0.0, 1.0)
        return Opinions(mean, np.minimum(mean + spread, 1.0), np.maximum(mean - spread, 0.0), known)

    @one_thread()
    def learn(self, returns: Array, tries: Array, visits: Array, prior: Array, answered: NDArray[np.bool_]) -> None:
        """Take a few optimiser steps: members towards `returns` (S, K) in [0, 1] where `tries` (S, K) > 0, the distilled prior
        towards `prior`.

        visits: (S,) how much each situation is met at present: half of the rows are drawn from those, or what is new would be
        one row among many. answered: (S,) where `prior` (S, K) is the LLM's. Raises NotFinite.
        """
        settings, cells, asked = self.settings, np.argwhere(tries > 0), np.flatnonzero(answered)
        if not len(cells):
            return
        at = cells[:, 0], cells[:, 1]
        chance = np.sqrt(np.minimum(tries[at], settings.most_tries))
        lately = chance * (visits[cells[:, 0]] >= self.evidence.recent_visits)
        chance = chance / chance.sum() + lately / max(lately.sum(), 1e-9)
        self.pairs.of(len(returns) - 1)
        self._compare_shapes(cells, tries[at], returns[at])
        table, optimizer = self._in_use()
        for _ in range(settings.steps):
            chosen = cells[self._rng.choice(len(cells), min(settings.batch, len(cells)), p=chance / chance.sum())]
            loss = self._value_loss(chosen, returns[chosen[:, 0], chosen[:, 1]], table)
            if len(asked):
                rows = self._rng.choice(asked, min(settings.distilled_batch, len(asked)), replace=False)
                loss = loss + self._distilled_loss(rows, prior, table)
            if not torch.isfinite(loss):
                raise NotFinite("word values: the loss is not finite; the weights are as before this step")
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

    def _compare_shapes(self, cells: NDArray[np.int64], tries: Array, returns: Array) -> None:
        """Measure how much options of one shape differ in what they were worth; the fewer there are, the more is added."""
        shape = np.array([self.pairs.relations(situation)[slot][1] for situation, slot in cells.tolist()])
        sums = (np.bincount(shape, weight, self.settings.table) for weight in (tries, tries * returns, tries * returns**2))
        count, total, squares = sums
        often = np.maximum(count, 1e-9)
        spread = np.sqrt(np.maximum(squares / often - (total / often) ** 2, 0.0))
        self.shape_uncertainty = spread + self.settings.new_uncertainty / np.sqrt(1.0 + count)

    def _in_use(self) -> tuple[Tensor, torch.optim.Adam]:
        """Return the rows of the table in use, and Adam over these and the other parameters, all on the memory of the whole ones.

        The others have neither gradient nor moments, and are most of the table: Adam would spend nearly all of its time on them.
        """
        leaves: dict[str, Tensor] = dict(self.networks.named_parameters())
        leaves["table"] = self.networks.table.detach()[: self.pairs.used].requires_grad_()
        optimizer = torch.optim.Adam(leaves.values(), lr=self.settings.learning_rate, fused=True)
        for name, leaf in leaves.items():
            kept = self._moments[name]
            optimizer.state[leaf] = {moment: value[: len(leaf)] if value.ndim else value for moment, value in kept.items()}
        return leaves["table"], optimizer

    @one_thread()
    @torch.no_grad()
    def refresh(self, chosen: NDArray[np.int64]) -> None:
        """Renew the values, uncertainties and the distilled prior of the situations `chosen`."""
        if not len(chosen):
            return
        bags, place, slot = self.pairs.options_of(chosen)
        logits, members = self.networks(*bags).double(), self.settings.members
        value = logits[:, :members].sigmoid().numpy()
        owner = chosen[place]
        relation, shape = np.array([rows for number in chosen for rows in self.pairs.relations(number)]).reshape(-1, 2).T
        new = np.minimum(self.settings.new_uncertainty / np.sqrt(1.0 + self.related[relation]), self.shape_uncertainty[shape])
        self.mean[owner, slot], self.uncertainty[owner, slot] = value.mean(axis=1), np.maximum(value.std(axis=1), new)
        spread = _by_slot(logits[:, members], place, slot, self.distilled[chosen].shape)
        self.distilled[chosen] = spread.softmax(dim=1).numpy()

    def save(self, folder: Path) -> None:
        """Write networks, optimiser and generators into `folder`."""
        state = tensors.add_prefix("network.", self.networks.state_dict())
        for name, moments in self._moments.items():
            state |= tensors.add_prefix(f"{name}.", moments)
        state["generator"] = self._generator.get_state()
        tensors.write(folder / FILE, state | {name: getattr(self, name) for name in KEPT})
        (folder / "generator.json").write_text(json.dumps(self._rng.bit_generator.state), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        state = tensors.read(folder / FILE)
        self.networks.load_state_dict(tensors.select_prefix("network.", state))
        self._moments = {name: {m: state[f"{name}.{m}"].clone() for m in kept} for name, kept in self._moments.items()}
        self._generator.set_state(state["generator"])
        for name in KEPT:
            setattr(self, name, state[name].numpy().copy())
        self._rng.bit_generator.state = json.loads((folder / "generator.json").read_text(encoding="utf-8"))

    def _value_loss(self, chosen: NDArray[np.int64], returns: Array, table: Tensor) -> Tensor:
        """Cross-entropy of the members; each sees its own part of the rows, which keeps them apart."""
        bags = bags_of([self.pairs.of(int(c))[int(o)] for c, o in chosen])
        logits = self.networks(*bags, table)[:, : self.settings.members]
        target = torch.from_numpy(returns.astype(np.float32))[:, None].expand_as(logits)
        seen = (torch.rand(logits.shape, generator=self._generator) < self.settings.seen_share).float()
        return F.binary_cross_entropy_with_logits(logits, target, weight=seen, reduction="sum") / len(chosen)

    def _distilled_loss(self, chosen: NDArray[np.int64], prior: Array, table: Tensor) -> Tensor:
        """Cross-entropy of the distilled prior against the LLM's answers."""
        bags, place, slot = self.pairs.options_of(chosen)
        logits = self.networks(*bags, table)[:, self.settings.members]
        return F.cross_entropy(
            _by_slot(logits, place, slot, (len(chosen), self.max_options)), torch.from_numpy(prior[chosen].astype(np.float32))
        )


class NoWordValues:
    """In place of `WordValues` in an arm without them: an untried option may be worth anything, and nothing is known of it."""

    def __init__(self, max_options: int) -> None:
        self.max_options = max_options
        self.distilled = np.zeros((0, max_options))

    def grow(self, situations: int) -> None:
        """Make room for situations numbered below `situations`."""
        self.distilled = np.zeros((situations, self.max_options))

    def add_outcome(self, outcome: Outcome) -> None:
        """Learn nothing."""

    def opinions(self, numbers: NDArray[np.int64]) -> Opinions:
        """Return the widest bounds for the options of situations (N,)."""
        nothing = np.zeros((len(numbers), self.max_options))
        return Opinions(nothing, np.ones_like(nothing), nothing, nothing)

    def learn(self, returns: Array, tries: Array, visits: Array, prior: Array, answered: NDArray[np.bool_]) -> None:
        """Learn nothing."""

    def refresh(self, chosen: NDArray[np.int64]) -> None:
        """Learn nothing."""

    def save(self, folder: Path) -> None:
        """Write nothing."""

    def load(self, folder: Path) -> None:
        """Read nothing."""


def _no_moments(parameter: Tensor) -> dict[str, Tensor]:
    """Return Adam's state of a parameter before its first step."""
    return {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}


def _by_slot(values: Tensor, place: NDArray[np.int64], slot: NDArray[np.int64], shape: tuple[int, ...]) -> Tensor:
    """Return values of options at their (place, slot); next to minus infinity where there is no option."""
    spread = torch.full(shape, -1e9, dtype=values.dtype)
    spread[torch.from_numpy(place), torch.from_numpy(slot)] = values
    return spread
