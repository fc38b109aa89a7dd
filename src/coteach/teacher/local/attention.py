"""Attention with a sparse mask on a CPU: blocks of queries, each with only those keys that some query of it may attend to.

In a trie a token attends to its ancestors only, and neighbours share most of them: out of 600 tokens a block of 64 attends to
about 120, where PyTorch's kernel multiplies by all keys and masks afterwards. The result is the same in a fifth of the time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAME = "coteach_blocks"
"""Name under which it is registered in transformers."""

BLOCK = 64
"""Queries in a block; between 32 and 128 the time differs little."""


def install(model: Any) -> None:
    """Make a transformers model on a CPU attend in blocks; a model that does not use PyTorch's attention is left alone."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    replaceable = model.config._attn_implementation == "sdpa" and model._can_set_attn_implementation()
    if model.device.type == "cpu" and replaceable:
        AttentionInterface.register(NAME, forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Compute attention for transformers: query (1, heads, n, d), key and value (1, heads / g, m, d) -> (1, n, heads, d).

    Works in blocks if `attention_mask` is an additive (1, 1, n, m) and nothing else is asked for, else calls PyTorch's attention.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    plain = not dropout and more.get("position_bias") is None and more.get("cache") is None
    if not plain or attention_mask is None or attention_mask.shape[:2] != (1, 1) or not attention_mask.is_floating_point():
        more |= {"dropout": dropout, "scaling": scaling}
        answer: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return answer
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return in_blocks(query[0], key[0], value[0], attention_mask[0, 0], scale).transpose(0, 1)[None], None


def in_blocks(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Return softmax(scale query key^T + mask) value, (heads, n, d).

    query: (heads, n, d); key, value: (heads / g, m, d); mask: (n, m), 0 where a query may attend. The g query heads that share
    a key head (grouped-query attention) are stacked into one product. The softmax is in float32 or finer.
    """
    (heads, n, size), groups = query.shape, len(key)
    single = torch.promote_types(query.dtype, torch.float32)
    parts = []
    for first in range(0, n, BLOCK):
        block = mask[first : first + BLOCK]
        seen = (block == 0).any(dim=0).nonzero()[:, 0]
        asked = query[:, first : first + BLOCK].reshape(groups, -1, size)
        added = block.index_select(1, seen).repeat(heads // groups, 1)
        logits = torch.baddbmm(added, asked, key.index_select(1, seen).transpose(1, 2), alpha=scale)
        weight = torch.softmax(logits, dim=-1, dtype=single).to(value.dtype)
        parts.append(torch.bmm(weight, value.index_select(1, seen)).view(heads, len(block), -1))
    return torch.cat(parts, dim=1)
