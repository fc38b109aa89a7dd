"""Scores options: log p(option's tokens, end of answer | prompt), for many situations in few forward passes.

All prompts of a pass and all their options form one trie of tokens. Each node is computed once, attends to its ancestors only
(by a mask), and its position is its depth. The prefix that all situations share is the root of the trie: its keys and values
are kept between passes, or computed again if gradients are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from coteach.teacher.local import attention, token_budget
from coteach.teacher.local.precision import is_exact
from coteach.teacher.prompt import Prompt

Result = TypeVar("Result")

ROWS_AT_ONCE = 16
"""Rows of logits that are normalised at once: few enough to stay in the CPU's cache."""

NEAR, NEAR_IN_HALF = 1e-2, 1.0
"""Most nats between the scores of a trie and of single passes if a model reads tries (0.4 seen in bfloat16); else several."""


@dataclass(frozen=True)
class Trie:
    """The token trie of a pass. Node n holds `token[n]` at depth `position[n]`, below node `parent[n]` < n (-1: a root).

    edges: (E, 4) the answers' tokens to look up: (prompt's index, option's index, node that predicts, token). The last token of
    an answer (end of answer) is only predicted, so it is not a node.
    """

    token: NDArray[np.int64]
    parent: NDArray[np.int64]
    position: NDArray[np.int64]
    edges: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.token)


class _TrieBuilder:
    """Inserts prompts into a trie below a prefix."""

    def __init__(self, prefix: Sequence[int] = ()) -> None:
        self.nodes: list[tuple[int, int, int]] = []
        self._children: dict[tuple[int, int], int] = {}
        self._root = self.walk(-1, prefix)

    def walk(self, node: int, tokens: Sequence[int]) -> int:
        """Return the node that `tokens` lead to from `node` (-1: above the root); add the nodes that are missing."""
        for token in tokens:
            child = self._children.get((node, token))
            if child is None:
                child = len(self.nodes)
                self._children[node, token] = child
                self.nodes.append((token, node, self.nodes[node][2] + 1 if node >= 0 else 0))
            node = child
        return node

    def add(self, prompt: Prompt) -> list[tuple[int, int, int]]:
        """Insert `prompt`; return its edges: (option's index, node that predicts, token)."""
        edges: list[tuple[int, int, int]] = []
        last = self.walk(self._root, prompt.body)
        for option, tokens in enumerate(prompt.options):
            node = last
            for token in tokens[:-1]:
                edges.append((option, node, token))
                node = self.walk(node, (token,))
            edges.append((option, node, tokens[-1]))
        return edges


def build_trie(prefix: Sequence[int], prompts: Sequence[Prompt]) -> Trie:
    """Return the trie of `prompts` below `prefix`; the prefix is its first nodes."""
    builder = _TrieBuilder(prefix)
    edges = [(slot, *edge) for slot, prompt in enumerate(prompts) for edge in builder.add(prompt)]
    nodes = np.array(builder.nodes, np.int64).reshape(-1, 3)
    return Trie(nodes[:, 0], nodes[:, 1], nodes[:, 2], np.array(edges, np.int64).reshape(-1, 4))


def ancestors(parent: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the (n, n) bool mask that is True at (i, j) if node j is i or an ancestor of i."""
    mask = np.eye(len(parent), dtype=np.bool_)
    for node, above in enumerate(parent):
        if above >= 0:
            mask[node] |= mask[above]
    return mask


def within(mask: NDArray[np.bool_], position: NDArray[np.int64], window: int) -> NDArray[np.bool_]:
    """Return `mask` without the nodes that are `window` or more positions back (sliding-window attention)."""
    return mask & (position[:, None] - position[None, :] < window)


def passes(prompts: Sequence[Prompt], budget: int) -> Iterator[list[int]]:
    """Yield the indices of `prompts` in packs of at most `budget` tokens (more only if a single prompt has more).

    Prompts are packed in the order of their tokens, so that those with a common beginning share nodes.
    """
    pack, trie = list[int](), _TrieBuilder()
    for slot in sorted(range(len(prompts)), key=lambda slot: prompts[slot].body):
        trie.add(prompts[slot])
        if pack and len(trie.nodes) > budget:
            yield pack
            pack, trie = [], _TrieBuilder()
            trie.add(prompts[slot])
        pack.append(slot)
    if pack:
        yield pack


def in_packs(
    prompts: Sequence[Prompt], budget: token_budget.Budget, work: Callable[[list[int]], Result]
) -> Iterator[tuple[list[int], Result]]:
    """Call `work` on packs of indices of `prompts`; yield each pack with its result.

    Each pack is as large as `budget` allows. If memory runs out, the budget shrinks and the pack is divided.
    """
    left = list(range(len(prompts)))
    while left:
        pack = [left[slot] for slot in next(passes([prompts[slot] for slot in left], budget.tokens))]
        try:
            result = work(pack)
        except torch.OutOfMemoryError:
            result = None
        if result is None:  # not inside `except`: the error's traceback keeps the tensors that filled the memory
            budget.shrink(alone=len(pack) == 1)
            continue
        yield pack, result
        left = sorted(set(left) - set(pack))


class Scorer:
    """Scores options with one causal LM. Call `forget` whenever the model's weights have changed.

    model:  a transformers causal LM (with or without LoRA layers), in evaluation mode.
    prefix: token ids that precede every prompt; at least one.
    packed: False for a model that cannot read tries (see `reads_tries`): each option is then scored in a pass of its own.
    """

    def __init__(self, model: Any, prefix: Sequence[int], packed: bool = True) -> None:
        if packed:
            attention.install(model)
        self.model = model
        self.prefix = tuple(prefix)
        self.packed = packed
        self.tokens = 0
        """Tokens computed so far, in all passes."""
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] | None = None
        config = model.config.get_text_config()
        self.budget = token_budget.to_read(model)
        self._window: int | None = getattr(config, "sliding_window", None)
        self._kinds: list[str] | None = getattr(config, "layer_types", None)

    def forget(self) -> None:
        """Delete the prefix's keys and values, which belong to the former weights."""
        self._kept = None

    def score(self, prompts: Sequence[Prompt]) -> list[NDArray[np.float64]]:
        """Return for each prompt the log-probability of each whole option, in nats: (len(options),) float64."""
        answers: list[NDArray[np.float64]] = [np.empty(0)] * len(prompts)

        def read(pack: list[int]) -> list[NDArray[np.float64]]:
            cache = self._prefix_cache() if self.packed else None
            return [score.double().cpu().numpy() for score in self._run([prompts[slot] for slot in pack], cache)]

        with torch.inference_mode():
            for pack, scores in in_packs(prompts, self.budget, read):
                for slot, score in zip(pack, scores, strict=True):
                    answers[slot] = score
        return answers

    def score_with_gradient(self, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        """Like `score`, but in one pass and differentiable: the prefix is computed again."""
        return self._run(prompts, None)

    def score_and_read(self, prompts: Sequence[Prompt]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return option scores and, from the same pass, the last layer's state at each prompt's end, (len(prompts), hidden).

        Differentiable if gradients are recorded, else with the kept prefix. Only for models that read tries.
        """
        cache = None if torch.is_grad_enabled() else self._prefix_cache()
        trie = build_trie(self.prefix, prompts)
        first = 0 if cache is None else len(self.prefix)
        rows, row_of = np.unique(trie.edges[:, 2], return_inverse=True)
        out = self._forward(trie, cache, first, rows, read=True)
        hidden = _at_least_float32(out.hidden_states[-1][0])
        ends = trie.edges[np.unique(trie.edges[:, 0], return_index=True)[1], 2]  # the nodes that predict an answer's first token
        scores = _sums(_at_least_float32(out.logits[0]), trie, row_of, prompts)
        return scores, hidden[torch.as_tensor(ends - first, device=hidden.device)]

    def _prefix_cache(self) -> Any:
        """Return a new cache with the prefix's keys and values, in full for every layer whatever its window."""
        from transformers import DynamicCache

        if self._kept is None:
            cache = DynamicCache()
            self._forward(build_trie(self.prefix, ()), cache, 0, np.array([len(self.prefix) - 1]))
            self._kept = [(layer.keys, layer.values) for layer in cache.layers]
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self._kept):
            cache.update(keys, values, index)
        return cache

    def _run(self, prompts: Sequence[Prompt], cache: Any) -> list[torch.Tensor]:
        if not self.packed:
            return [self._run_alone(prompt) for prompt in prompts]
        trie = build_trie(self.prefix, prompts)
        rows, row_of = np.unique(trie.edges[:, 2], return_inverse=True)
        out = self._forward(trie, cache, 0 if cache is None else len(self.prefix), rows)
        return _sums(_at_least_float32(out.logits[0]), trie, row_of, prompts)

    def _run_alone(self, prompt: Prompt) -> torch.Tensor:
        before = len(self.prefix) + len(prompt.body)
        self.tokens += sum(before + len(option) for option in prompt.options)
        return torch.stack([_alone(self.model, [*self.prefix, *prompt.body], option) for option in prompt.options])

    def _forward(self, trie: Trie, cache: Any, first: int, rows: NDArray[np.int64], read: bool = False) -> Any:
        """Run the model: logits (1, len(rows), vocabulary) at the nodes `rows`, and with `read` also every layer's states.

        The keys and values of the nodes before `first` are in `cache`.
        """
        device = self.model.device
        self.tokens += len(trie) - first
        return self.model(
            input_ids=torch.as_tensor(trie.token[None, first:], device=device),
            position_ids=torch.as_tensor(trie.position[None, first:], device=device),
            attention_mask=self._masks(trie, first),
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=torch.as_tensor(rows - first, device=device),
            output_hidden_states=read,
        )

    def _masks(self, trie: Trie, first: int) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return the additive mask (1, 1, nodes, all nodes), or one per kind of attention if the layers differ in kind."""
        full = ancestors(trie.parent)
        near = full if self._window is None else within(full, trie.position, self._window)
        if self._kinds is not None and len(set(self._kinds)) > 1:
            return {kind: self._additive((near if "sliding" in kind else full)[first:]) for kind in set(self._kinds)}
        slides = self._kinds is None or "sliding" in self._kinds[0]
        return self._additive((near if slides else full)[first:])

    def _additive(self, mask: NDArray[np.bool_]) -> torch.Tensor:
        allowed = torch.as_tensor(mask, device=self.model.device)[None, None]
        dtype = self.model.dtype
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)


def score_one_by_one(model: Any, prefix: Sequence[int], prompt: Prompt) -> NDArray[np.float64]:
    """Score each option in a forward pass of its own, with the model's own mask and positions: the reference for `Scorer`."""
    before = [*prefix, *prompt.body]
    with torch.inference_mode():
        return np.array([_alone(model, before, option).item() for option in prompt.options], np.float64)


def reads_tries(model: Any, prefix: Sequence[int], prompt: Prompt) -> bool:
    """Return whether `model` scores `prompt` in a trie as it does option by option.

    An architecture without attention masks (state-space models) or without position ids cannot do this.
    """
    try:
        packed = Scorer(model, prefix).score([prompt])[0]
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError, NotImplementedError):
        return False
    near = NEAR if is_exact(model) else NEAR_IN_HALF
    return bool(np.allclose(packed, score_one_by_one(model, prefix, prompt), rtol=0.0, atol=near))


def _sums(logits: torch.Tensor, trie: Trie, row_of: NDArray[np.int64], prompts: Sequence[Prompt]) -> list[torch.Tensor]:
    """Return for each prompt the log-probability of each option, summed over its tokens: (len(options),)."""
    token_scores = _token_scores(logits, row_of, trie.edges[:, 3])
    sizes = [len(prompt.options) for prompt in prompts]
    flat = np.cumsum([0, *sizes[:-1]])[trie.edges[:, 0]] + trie.edges[:, 1]
    total = token_scores.new_zeros(sum(sizes)).index_add(0, torch.as_tensor(flat, device=token_scores.device), token_scores)
    return list(torch.split(total, sizes))


def _token_scores(logits: torch.Tensor, row_of: NDArray[np.int64], token: NDArray[np.int64]) -> torch.Tensor:
    """Return the log-probability of each `token` in its row of `logits`, (len(token),); works on a few rows at a time."""
    order = np.argsort(row_of, kind="stable")
    share = row_of[order] // ROWS_AT_ONCE
    parts = []
    for number, rows in enumerate(torch.split(logits, ROWS_AT_ONCE)):
        here = order[share == number]
        row, column = (torch.as_tensor(index, device=logits.device) for index in (row_of[here] % ROWS_AT_ONCE, token[here]))
        parts.append(torch.log_softmax(rows, dim=-1)[row, column])
    back = torch.as_tensor(np.argsort(order), device=logits.device)
    return torch.cat(parts)[back]


def _alone(model: Any, before: Sequence[int], option: Sequence[int]) -> torch.Tensor:
    """Return the log-probability of the tokens `option` after the tokens `before`; a scalar."""
    ids = torch.tensor([[*before, *option]], device=model.device)
    logits = _at_least_float32(model(input_ids=ids, use_cache=False).logits[0, len(before) - 1 : -1])
    return torch.log_softmax(logits, dim=-1)[range(len(option)), list(option)].sum()


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    """Convert half-precision logits to float32: sums of log-probabilities need more digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
