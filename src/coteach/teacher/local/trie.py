"""Token tries: many prompts with a common prefix, and all their options, as the nodes of one tree; and how to divide them.

Each node is a token that is computed once. The root is the prefix that all prompts share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coteach.teacher.prompt import Prompt


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


def divided(prompts: Sequence[Prompt], budget: int) -> list[tuple[int, Prompt]]:
    """Return the prompts with their indices, the long ones as several with a share of the options."""
    parts = list[tuple[int, Prompt]]()
    for slot, prompt in enumerate(prompts):
        share, size = list[tuple[int, ...]](), len(prompt.body)
        for option in prompt.options:
            if share and size + len(option) > budget:
                parts.append((slot, replace(prompt, options=tuple(share))))
                share, size = [], len(prompt.body)
            share.append(option)
            size += len(option)
        parts.append((slot, replace(prompt, options=tuple(share))))
    return parts
