"""Word values: estimates an option's value and its uncertainty in situations never met, from their words.

The abstract model knows nothing about a new situation, but the words of the situation show how it resembles others
(`word_pairs`). Several small networks are trained on the evidence. Their disagreement is the uncertainty (deep ensembles:
Lakshminarayanan et al. 2017, arXiv 1612.01474). A value is also uncertain where an option's relation to the task is new, unless
options with a relation of the same shape had similar values. One more network is the distilled prior: it predicts the LLM's
answer until the LLM is queried.
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
"""Arrays that a checkpoint stores too, because they are updated for the visited situations only."""


class Opinions(NamedTuple):
    """The estimated values of the options of N situations, (N, K) each, in [0, 1].

    mean: expected value; best, worst: its upper and lower bound; known: certainty, 1 for no uncertainty.
    """

    mean: Array
    best: Array
    worst: Array
    known: Array


class Networks(nn.Module):
    """`members + 1` networks from a bag to a logit: relu(sum of the rows / sqrt(their number) + bias), then a linear unit."""

    def __init__(self, settings: WordsConfig, generator: torch.Generator) -> None:
        super().__init__()
        count, self.width = settings.members + 1, settings.width
        deviation = settings.initial_deviation
        self.table = nn.Parameter(deviation * torch.randn(settings.table, count * self.width, generator=generator))
        self.hidden = nn.Parameter(torch.zeros(count * self.width))
        self.out = nn.Parameter(torch.randn(count, self.width, generator=generator) * (2.0 / self.width) ** 0.5)

    def forward(self, ids: Tensor, counts: Tensor, table: Tensor | None = None) -> Tensor:
        """Return logits (B, members + 1) for ids (L,) int64 and counts (B,) int64 with sum L. table: instead of its own."""
        starts = counts.cumsum(0) - counts
        bag = F.embedding_bag(ids, self.table if table is None else table, starts, mode="sum") / counts.sqrt()[:, None]
        hidden = torch.relu(bag + self.hidden).view(len(counts), -1, self.width)
        return (hidden * self.out).sum(-1)


class WordValues:
    """The word values of all situations met, as arrays; K columns.

    mean:        (S, K) mean of the members' estimates, in [0, 1].
    uncertainty: (S, K) their standard deviation, or more where an option's relation to the task is new.
    distilled:   (S, K) the distilled prior, rows sum to 1; meaningless before `learn` has seen answers.
    related:     (rows of the table,) number of outcomes for each relation between an option and the task.
    shape_uncertainty: (rows of the table,) standard deviation of the values of options whose relations have the same shape.
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
        """Make room for situations numbered below `situations`; `refresh` sets the values of new ones."""
        missing = situations - len(self.mean)
        if missing > 0:
            unknown = np.full((missing, self.max_options), 0.5)
            self.mean, self.uncertainty = np.vstack([self.mean, unknown]), np.vstack([self.uncertainty, unknown])
            self.distilled = np.vstack([self.distilled, np.zeros_like(unknown)])

    def add_outcome(self, outcome: Outcome) -> None:
        """Count an outcome for its option's relation to the task, which becomes less new."""
        self.related[self.pairs.relations(outcome.situation)[outcome.slot][0]] += 1.0

    def opinions(self, numbers: NDArray[np.int64]) -> Opinions:
        """Return the estimated values of the options of situations (N,)."""
        mean, uncertainty = self.mean[numbers], self.uncertainty[numbers]
        spread = self.evidence.bound_deviations * uncertainty
        known = np.clip(1.0 - uncertainty / self.evidence.uncertain_at, 0.0, 1.0)
        return Opinions(mean, np.minimum(mean + spread, 1.0), np.maximum(mean - spread, 0.0), known)

    @one_thread()
    def learn(self, returns: Array, tries: Array, visits: Array, prior: Array, answered: NDArray[np.bool_]) -> None:
        """Take some optimiser steps: fit the members to `returns` where options were tried, the distilled prior to `prior`.

        returns: (S, K) in [0, 1]; tries: (S, K); prior: (S, K), the LLM's answer where `answered` (S,). visits: (S,) of recent
        rounds; `recent_share` of the rows are drawn from recently visited situations, so that new ones are learned soon. Raises
        NotFinite.
        """
        settings, cells, asked = self.settings, np.argwhere(tries > 0), np.flatnonzero(answered)
        if not len(cells):
            return
        at = cells[:, 0], cells[:, 1]
        chance = np.sqrt(np.minimum(tries[at], settings.most_tries))
        lately = chance * (visits[cells[:, 0]] >= self.evidence.recent_visits)
        share = settings.recent_share
        chance = (1.0 - share) * chance / chance.sum() + share * lately / max(lately.sum(), 1e-9)
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
        """Estimate the standard deviation of values within each shape, plus a term that shrinks with the number of outcomes."""
        shape = np.array([self.pairs.relations(situation)[slot][1] for situation, slot in cells.tolist()])
        sums = (np.bincount(shape, weight, self.settings.table) for weight in (tries, tries * returns, tries * returns**2))
        count, total, squares = sums
        often = np.maximum(count, 1e-9)
        spread = np.sqrt(np.maximum(squares / often - (total / often) ** 2, 0.0))
        self.shape_uncertainty = spread + self.settings.new_uncertainty / np.sqrt(1.0 + count)

    def _in_use(self) -> tuple[Tensor, torch.optim.Adam]:
        """Return a view of the rows of the table in use, and Adam over this view and the other parameters, with the kept moments.

        Most rows of the table are unused. They have no gradient, and Adam would spend most of its time on them.
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
        """Update the values, uncertainties and the distilled prior of the situations `chosen` (N,)."""
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
        """Load what `save` wrote."""
        state = tensors.read(folder / FILE)
        self.networks.load_state_dict(tensors.select_prefix("network.", state))
        self._moments = {name: {m: state[f"{name}.{m}"].clone() for m in kept} for name, kept in self._moments.items()}
        self._generator.set_state(state["generator"])
        for name in KEPT:
            setattr(self, name, state[name].numpy().copy())
        self._rng.bit_generator.state = json.loads((folder / "generator.json").read_text(encoding="utf-8"))

    def _value_loss(self, chosen: NDArray[np.int64], returns: Array, table: Tensor) -> Tensor:
        """Return the cross-entropy of the members; each is trained on its own random part of the rows, so that they differ."""
        bags = bags_of([self.pairs.of(int(c))[int(o)] for c, o in chosen])
        logits = self.networks(*bags, table)[:, : self.settings.members]
        target = torch.from_numpy(returns.astype(np.float32))[:, None].expand_as(logits)
        seen = (torch.rand(logits.shape, generator=self._generator) < self.settings.seen_share).float()
        return F.binary_cross_entropy_with_logits(logits, target, weight=seen, reduction="sum") / len(chosen)

    def _distilled_loss(self, chosen: NDArray[np.int64], prior: Array, table: Tensor) -> Tensor:
        """Return the cross-entropy of the distilled prior with the LLM's answers."""
        bags, place, slot = self.pairs.options_of(chosen)
        logits = self.networks(*bags, table)[:, self.settings.members]
        return F.cross_entropy(
            _by_slot(logits, place, slot, (len(chosen), self.max_options)), torch.from_numpy(prior[chosen].astype(np.float32))
        )


class NoWordValues:
    """Replaces `WordValues` in an arm without them: the value of an untried option is in [0, 1], with no certainty."""

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
    """Return a tensor with `values` (B,) at their (place, slot), and -1e9 where there is no option."""
    spread = torch.full(shape, -1e9, dtype=values.dtype)
    spread[torch.from_numpy(place), torch.from_numpy(slot)] = values
    return spread
