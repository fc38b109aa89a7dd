"""Scores options: log p(option's tokens, end of answer | prompt), for many situations in few forward passes.

All prompts of a pass and all their options form one trie of tokens. Each node is computed once, attends to its ancestors only
(by a mask), and its position is its depth. The prefix that all situations share is the root of the trie: its keys and values
are kept between passes, or computed again if gradients are needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from coteach.teacher.local import attention, token_budget
from coteach.teacher.local.precision import is_exact
from coteach.teacher.local.trie import Trie, ancestors, build_trie, divided, passes, within
from coteach.teacher.prompt import Prompt, length

Result = TypeVar("Result")

ROWS_AT_ONCE = 16
"""Rows of logits that are normalised at once: few enough to stay in the CPU's cache."""

KINDS_OF_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers whose attention masks `Scorer` makes."""

NEAR, NEAR_IN_HALF = 1e-2, 1.0
"""Most nats between the scores of a trie and of single passes if a model reads tries (0.4 seen in bfloat16); else several."""


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
        """Return for each prompt the log-probability of each whole option, in nats: (len(options),) float64.

        A number that is not finite, as half precision can give, is that of its prompt: it does not spoil others of its pass.
        """
        parts = divided(prompts, self.budget.tokens)
        scores: list[NDArray[np.float64]] = [np.empty(0)] * len(parts)

        def read(pack: list[int]) -> list[NDArray[np.float64]]:
            cache = self._prefix_cache() if self.packed else None
            return [score.double().cpu().numpy() for score in self._run([parts[index][1] for index in pack], cache)]

        with torch.inference_mode():
            for pack, answers in in_packs([part for _, part in parts], self.budget, read):
                if len(pack) > 1 and not all(np.isfinite(answer).all() for answer in answers):
                    answers = [read([index])[0] for index in pack]
                for index, answer in zip(pack, answers, strict=True):
                    scores[index] = answer
        slots = np.array([slot for slot, _ in parts])
        return [np.concatenate([scores[index] for index in np.flatnonzero(slots == slot)]) for slot in range(len(prompts))]

    def score_far(self, prompt: Prompt) -> NDArray[np.float64]:
        """Return what `score` does, with the prompt at the end of the largest possible pass: copies of the prefix fill it."""
        begin, trie = len(self.prefix), build_trie(self.prefix, [prompt])
        fill = max(0, self.budget.tokens - (len(trie) - begin))
        far = Trie(
            token=np.insert(trie.token, begin, np.zeros(fill, np.int64)),
            parent=np.insert(np.where(trie.parent >= begin, trie.parent + fill, trie.parent), begin, np.full(fill, -1)),
            position=np.insert(trie.position, begin, np.zeros(fill, np.int64)),
            edges=trie.edges + np.array([0, 0, fill, 0]) * (trie.edges[:, 2:3] >= begin),
        )
        with torch.inference_mode():
            cache = self._prefix_cache()
            index = torch.arange(fill, device=self.model.device) % begin
            for layer, (keys, values) in enumerate(self._kept or ()):
                cache.update(keys.index_select(2, index), values.index_select(2, index), layer)
            return self._run_trie(far, cache, begin + fill, [prompt])[0].double().cpu().numpy()

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
        if not self.packed or max(length(self.prefix, prompt) for prompt in prompts) > token_budget.MOST:
            return [self._run_alone(prompt) for prompt in prompts]
        return self._run_trie(build_trie(self.prefix, prompts), cache, 0 if cache is None else len(self.prefix), prompts)

    def _run_trie(self, trie: Trie, cache: Any, first: int, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        """Return the scores of the prompts in `trie`. The keys and values of the nodes before `first` are in `cache`."""
        rows, row_of = np.unique(trie.edges[:, 2], return_inverse=True)
        out = self._forward(trie, cache, first, rows)
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
    """Return whether `model` scores `prompt` in a trie as it does option by option, also far from its prefix.

    An architecture without attention masks (state-space models) or without position ids cannot do this, nor one that measures
    distances by the index of a token in the pass (GPT-Neo's window, ALiBi).
    """
    if set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - KINDS_OF_LAYERS:
        return False
    try:
        scorer = Scorer(model, prefix)
        packed = [scorer.score([prompt])[0], scorer.score_far(prompt)]
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError, NotImplementedError, AssertionError):
        return False
    near = NEAR if is_exact(model) else NEAR_IN_HALF
    return bool(np.allclose(packed, score_one_by_one(model, prefix, prompt), rtol=0.0, atol=near))


def is_causal(model: Any, ids: Sequence[int]) -> bool:
    """Return whether what `model` predicts after a token does not depend on the tokens that follow it."""
    first, other = list(ids), [*ids[:-1], ids[0]]
    with torch.inference_mode():
        one, two = (model(input_ids=torch.tensor([some], device=model.device)).logits[0, :-1].float() for some in (first, other))
    return bool(torch.allclose(one, two, rtol=0.0, atol=NEAR if is_exact(model) else NEAR_IN_HALF, equal_nan=True))


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
    few = {"logits_to_keep": len(option) + 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    logits = _at_least_float32(model(input_ids=ids, use_cache=False, **few).logits[0, -len(option) - 1 : -1])
    return torch.log_softmax(logits, dim=-1)[range(len(option)), list(option)].sum()


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    """Convert half-precision logits to float32: sums of log-probabilities need more digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
