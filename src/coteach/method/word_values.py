"""What options are worth in situations never seen before: a small evaluator over words, trained on the evidence and on the LLM.

A table of outcomes knows nothing about a new situation; the words of a situation and an option say how it resembles others.
Every clause of the text is compared with the option: once as it is, and once with the words they share blanked out, so that
"go to the red ball" beside "Mission: go to the red ball" is the same pair as "pick up the key" beside "Mission: pick up the key".
Beside the task, the text's first sentence, its shape counts too, which of their words the two share: "pick up the red ball"
beside "Mission: pick up a ball" shares all but one, whatever the colour. Several small networks are trained on these
pairs; where they disagree the evaluator does not know (deep ensembles: Lakshminarayanan et al. 2017, arXiv 1612.01474), nor
where an option's relation to the task is new, as far as options of the same shape turned out differently. One more network
echoes the LLM's answers, until it can be asked.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from coteach.errors import NotFinite
from coteach.grounding.base import Situations
from coteach.runs import tensors
from coteach.runs.machine import one_thread

Array = NDArray[np.float64]

MEMBERS = 4
"""Networks that judge; the one after them echoes the LLM."""
WIDTH = 16
TABLE = 2**14
"""Rows of the table of pairs, into which they are hashed; numbered as they are met, so that those in use come first."""
ARTICLES = frozenset({"a", "an", "the"})
LEARNING_RATE = 3e-3
FAINT = 0.3
"""Standard deviation of the table before it is trained: enough to tell the members apart, little enough to be outweighed soon."""
SEEN = 0.7
"""Share of the rows that a member sees."""
ROWS = 256
"""Pairs of situation and option in one optimiser step."""
FILE = "evaluator.safetensors"
NEW = 0.5
"""Doubt about an option whose relation to the task is new in words and in shape."""
OPINIONS = ("mean", "doubt", "echo", "related", "unsure")
"""Arrays that a checkpoint keeps beside the networks: opinions are renewed for what is met, not for all at once."""

Bags = tuple[Tensor, Tensor]
"""Rows of the table (L,) int64, one bag after another, and how many each bag has (B,) int64."""


class Pairs:
    """Situations as hashed pairs of words."""

    def __init__(self, situations: Situations) -> None:
        self.situations = situations
        self._relations: list[list[tuple[int, int]]] = []
        self._options: list[list[NDArray[np.int64]]] = []
        self._known: dict[tuple[str, str], tuple[int, int, int]] = {}
        """Rows of a pair: its words, with those that both share blanked out, and its shape."""
        self._rows: dict[int, int] = {}

    @property
    def used(self) -> int:
        """Rows of the table in use: all below."""
        return len(self._rows)

    def of(self, number: int) -> list[NDArray[np.int64]]:
        """The pairs of each option of a situation: rows of the table, without repetition."""
        self._read(number)
        return self._options[number]

    def relations(self, number: int) -> list[tuple[int, int]]:
        """How each option of a situation relates to the task: its row in words, and that of its shape."""
        self._read(number)
        return self._relations[number]

    def _read(self, number: int) -> None:
        while len(self._options) <= number:
            situation = self.situations[len(self._options)]
            clauses = [clause for clause in re.split(r"[.,]\s*", situation.text) if clause]
            task = clauses[0] if clauses else ""  # by convention
            self._relations.append([self._pair(option, task)[1:] for option in situation.options])
            self._options.append([self._bag(option, task, ["", *clauses]) for option in situation.options])

    def _bag(self, option: str, task: str, clauses: Sequence[str]) -> NDArray[np.int64]:
        shape = self._pair(option, task)[2]
        bag = dict.fromkeys([shape, *(row for clause in clauses for row in self._pair(option, clause)[:2])])
        return np.fromiter(bag, dtype=np.int64, count=len(bag))

    def _pair(self, option: str, clause: str) -> tuple[int, int, int]:
        key = (option, clause)
        if key not in self._known:
            blanked = blank(option, clause)
            shape = (" ".join("*" if word == "*" else "?" for word in text.split()) for text in blanked)
            self._known[key] = (self._row(option, clause), self._row(*blanked), self._row(*shape))
        return self._known[key]

    def _row(self, option: str, clause: str) -> int:
        hashed = zlib.crc32(f"{option}|{clause}".encode()) % TABLE
        return self._rows.setdefault(hashed, len(self._rows))


def blank(option: str, clause: str) -> tuple[str, str]:
    """Both texts with the words they share blanked out, articles left out."""
    one, other = ([word for word in text.lower().split() if word not in ARTICLES] for text in (option, clause))
    shared = set(one) & set(other)
    blanked = [" ".join("*" if word in shared else word for word in words) for words in (one, other)]
    return blanked[0], blanked[1]


class Networks(nn.Module):
    """Bags of pairs -> `MEMBERS + 1` logits: hidden = relu(sum of the pairs' rows / sqrt(their number)), one linear unit each."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        count = MEMBERS + 1
        self.table = nn.Parameter(FAINT * torch.randn(TABLE, count * WIDTH, generator=generator))
        self.hidden = nn.Parameter(torch.zeros(count * WIDTH))
        self.out = nn.Parameter(torch.randn(count, WIDTH, generator=generator) * (2.0 / WIDTH) ** 0.5)

    def forward(self, ids: Tensor, counts: Tensor, table: Tensor | None = None) -> Tensor:
        """ids (L,) int64, counts (B,) int64 with sum L -> logits (B, MEMBERS + 1). table: its rows in use."""
        starts = counts.cumsum(0) - counts
        bag = F.embedding_bag(ids, self.table if table is None else table, starts, mode="sum") / counts.sqrt()[:, None]
        hidden = torch.relu(bag + self.hidden).view(len(counts), -1, WIDTH)
        return (hidden * self.out).sum(-1)


class Evaluator:
    """Opinions for every situation met, as arrays to look up; K columns.

    mean, doubt: (S, K) what the members expect an option to be worth, and how far they disagree (standard deviation).
    """

    def __init__(self, situations: Situations, max_options: int, seed: int) -> None:
        self.situations, self.max_options = situations, max_options
        self.pairs = Pairs(situations)
        self._generator = torch.Generator().manual_seed(seed)
        self._rng = np.random.default_rng(seed)
        self.networks = Networks(self._generator)
        self.moments = {name: _no_moments(parameter) for name, parameter in self.networks.named_parameters()}
        """Adam's, of each parameter."""
        self.mean, self.doubt = np.zeros((0, max_options)), np.zeros((0, max_options))
        self.related = np.zeros(TABLE)
        """Outcomes of every relation between an option and the task, by row of the table."""
        self.unsure = np.full(TABLE, NEW)
        """Standard deviation of what options were worth whose relations have the same shape, by row of the table; the fewer there
        are, the more is added."""
        self.echo = np.zeros((0, max_options))
        """(S, K) what the LLM would say, rows sum to 1; meaningless before `learn` has seen answers."""

    def grow(self, situations: int) -> None:
        """Make room for situations numbered below `situations`: nothing is known about new ones until `refresh`."""
        missing = situations - len(self.mean)
        if missing > 0:
            blank_rows = np.full((missing, self.max_options), 0.5)
            self.mean, self.doubt = np.vstack([self.mean, blank_rows]), np.vstack([self.doubt, blank_rows])
            self.echo = np.vstack([self.echo, np.zeros((missing, self.max_options))])

    def witness(self, number: int, slot: int) -> None:
        """An option had an outcome: its relation to the task is no longer so new."""
        self.related[self.pairs.relations(number)[slot][0]] += 1.0

    @one_thread()
    def learn(self, worth: Array, tries: Array, visits: Array, prior: Array, answered: NDArray[np.bool_], steps: int) -> None:
        """A few optimiser steps: members towards `worth` (S, K) in [0, 1] where `tries` (S, K) > 0, the echo towards `prior`.

        visits: (S,) how much each situation is met at present: half of the rows are drawn from those, or what is new would be
        one row among many. answered: (S,) where `prior` (S, K) is the LLM's.
        """
        cells = np.argwhere(tries > 0)
        asked = np.flatnonzero(answered)
        if not len(cells):
            return
        chance = np.sqrt(np.minimum(tries[cells[:, 0], cells[:, 1]], 25.0))
        lately = chance * (visits[cells[:, 0]] >= 1.0)
        chance = chance / chance.sum() + lately / max(lately.sum(), 1e-9)
        self.pairs.of(len(worth) - 1)
        self._compare(cells, tries[cells[:, 0], cells[:, 1]], worth[cells[:, 0], cells[:, 1]])
        table, optimizer = self._in_use()
        for _ in range(steps):
            chosen = cells[self._rng.choice(len(cells), min(ROWS, len(cells)), p=chance / chance.sum())]
            loss = self._judge_loss(chosen, worth[chosen[:, 0], chosen[:, 1]], table)
            if len(asked):
                loss = loss + self._echo_loss(self._rng.choice(asked, min(ROWS // 8, len(asked)), replace=False), prior, table)
            if not torch.isfinite(loss):
                raise NotFinite("evaluator: its loss is not finite; the weights are as before this step")
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

    def _compare(self, cells: NDArray[np.int64], tries: Array, worth: Array) -> None:
        """How much options of one shape differ in what they were worth."""
        shape = np.array([self.pairs.relations(situation)[slot][1] for situation, slot in cells.tolist()])
        count, total, squares = (np.bincount(shape, weight, TABLE) for weight in (tries, tries * worth, tries * worth**2))
        often = np.maximum(count, 1e-9)
        spread = np.sqrt(np.maximum(squares / often - (total / often) ** 2, 0.0))
        self.unsure = spread + NEW / np.sqrt(1.0 + count)

    def _in_use(self) -> tuple[Tensor, torch.optim.Adam]:
        """The rows of the table in use, and Adam over these and the other parameters, all on the memory of the whole ones.

        The others have neither gradient nor moments, and are most of the table: Adam would spend nearly all of its time on them.
        """
        leaves: dict[str, Tensor] = dict(self.networks.named_parameters())
        leaves["table"] = self.networks.table.detach()[: self.pairs.used].requires_grad_()
        optimizer = torch.optim.Adam(leaves.values(), lr=LEARNING_RATE, fused=True)
        for name, leaf in leaves.items():
            kept = self.moments[name]
            optimizer.state[leaf] = {moment: value[: len(leaf)] if value.ndim else value for moment, value in kept.items()}
        return leaves["table"], optimizer

    @one_thread()
    @torch.no_grad()
    def refresh(self, chosen: NDArray[np.int64]) -> None:
        """Renew the opinions about the situations `chosen`."""
        if not len(chosen):
            return
        bags, place, slot = self._all_options(chosen)
        logits = self.networks(*bags).double()
        value = logits[:, :MEMBERS].sigmoid().numpy()
        owner = chosen[place]
        relation, shape = np.array([rows for number in chosen for rows in self.pairs.relations(number)]).reshape(-1, 2).T
        new = np.minimum(NEW / np.sqrt(1.0 + self.related[relation]), self.unsure[shape])
        self.mean[owner, slot], self.doubt[owner, slot] = value.mean(axis=1), np.maximum(value.std(axis=1), new)
        self.echo[chosen] = _spread(logits[:, MEMBERS], place, slot, self.echo[chosen].shape).softmax(dim=1).numpy()

    def save(self, folder: Path) -> None:
        """Write networks, optimiser and generators into `folder`."""
        state = tensors.prefixed("network.", self.networks.state_dict())
        for name, moments in self.moments.items():
            state |= tensors.prefixed(f"{name}.", moments)
        state["generator"] = self._generator.get_state()
        tensors.write(folder / FILE, state | {name: getattr(self, name) for name in OPINIONS})
        (folder / "generator.json").write_text(json.dumps(self._rng.bit_generator.state), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        state = tensors.read(folder / FILE)
        self.networks.load_state_dict(tensors.under("network.", state))
        self.moments = {name: {m: state[f"{name}.{m}"].clone() for m in kept} for name, kept in self.moments.items()}
        self._generator.set_state(state["generator"])
        for name in OPINIONS:
            setattr(self, name, state[name].numpy().copy())
        self._rng.bit_generator.state = json.loads((folder / "generator.json").read_text(encoding="utf-8"))

    def _judge_loss(self, chosen: NDArray[np.int64], worth: Array, table: Tensor) -> Tensor:
        """Cross-entropy of the members; each sees its own part of the rows, which keeps their opinions apart."""
        logits = self.networks(*_bags([self.pairs.of(int(c))[int(o)] for c, o in chosen]), table)[:, :MEMBERS]
        target = torch.from_numpy(worth.astype(np.float32))[:, None].expand_as(logits)
        seen = (torch.rand(logits.shape, generator=self._generator) < SEEN).float()
        return F.binary_cross_entropy_with_logits(logits, target, weight=seen, reduction="sum") / len(chosen)

    def _echo_loss(self, chosen: NDArray[np.int64], prior: Array, table: Tensor) -> Tensor:
        bags, place, slot = self._all_options(chosen)
        logits = _spread(self.networks(*bags, table)[:, MEMBERS], place, slot, (len(chosen), self.max_options))
        return F.cross_entropy(logits, torch.from_numpy(prior[chosen].astype(np.float32)))

    def _all_options(self, chosen: NDArray[np.int64]) -> tuple[Bags, NDArray[np.int64], NDArray[np.int64]]:
        """Bags (B) of every option of the situations; place (B,) in `chosen` and slot (B,) of each."""
        options = [self.pairs.of(int(number)) for number in chosen]
        lengths = [len(bags) for bags in options]
        place = np.repeat(np.arange(len(chosen)), lengths)
        slot = np.concatenate([np.arange(length) for length in lengths])
        return _bags([bag for bags in options for bag in bags]), place, slot


def _no_moments(parameter: Tensor) -> dict[str, Tensor]:
    """Adam's state of a parameter before its first step."""
    return {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}


def _bags(bags: Sequence[NDArray[np.int64]]) -> Bags:
    counts = np.fromiter(map(len, bags), dtype=np.int64, count=len(bags))
    return torch.from_numpy(np.concatenate(bags)), torch.from_numpy(counts)


def _spread(values: Tensor, place: NDArray[np.int64], slot: NDArray[np.int64], shape: tuple[int, ...]) -> Tensor:
    """Values of options at their (place, slot); next to minus infinity where there is no option."""
    spread = torch.full(shape, -1e9, dtype=values.dtype)
    spread[torch.from_numpy(place), torch.from_numpy(slot)] = values
    return spread
