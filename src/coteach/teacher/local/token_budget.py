"""How many tokens a model may compute at once: on a processor a constant, on a card as many as its free memory holds.

What a token takes follows from the model's sizes and is meant to be too much rather than too little; where memory runs out
all the same, the budget is halved and the work goes on. The CUDA side has not been run on a card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from coteach.errors import RunFailed, note
from coteach.teacher.local.precision import is_quantised

READ, TUNED = 1024, 768
"""Tokens of one pass on a processor: asked, and with gradients. More at once is no faster there, and takes memory."""

READ_LOGITS = 2**26
"""Logits of one pass on a processor, at most."""

FEWEST, MOST = 64, 8192
"""Tokens of one pass: fewer are all overhead; the mask of more is larger than what it masks."""

SHARE = 0.7
"""Of the free memory: the rest is for the student, for fragments and for what the estimate leaves out."""


@dataclass
class Budget:
    """Tokens that are computed at once; what prompts share counts once."""

    tokens: int

    def shrink(self, alone: bool) -> None:
        """Memory ran out: half as many from now on. RunFailed where it was a single prompt that ran out of it (`alone`)."""
        torch.cuda.empty_cache()
        if alone:
            raise RunFailed(
                "the card's memory does not hold the teacher's work on one situation; choose a smaller model, "
                "teacher.precision=4bit, a smaller teacher.feedback_tokens, or teacher.device=cpu"
            )
        self.tokens = max(1, self.tokens // 2)
        note(f"the card's memory is full: the teacher goes on with {self.tokens} tokens at once")


def to_read(model: Any) -> Budget:
    """For asking `model`."""
    if model.device.type == "cpu":
        return Budget(min(READ, max(FEWEST, READ_LOGITS // int(model.config.get_text_config().vocab_size))))
    return _fitting(model, bytes_read(model.config.get_text_config(), width(model)))


def to_tune(model: Any, trained: float) -> Budget:
    """For passes with gradients; trained: the share of the layers that have LoRA."""
    if model.device.type == "cpu":
        return Budget(TUNED)
    return _fitting(model, bytes_tuned(model.config.get_text_config(), width(model), trained))


def bytes_read(config: Any, wide: int) -> int:
    """Of one token that is read, by a text model's configuration; activations are `wide` bytes each.

    Its keys and values in every layer; one layer's activations; a row of logits and its float32 copy; a row of the mask.
    """
    heads, layers = int(config.num_attention_heads), int(config.num_hidden_layers)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    kept = 2 * layers * int(getattr(config, "num_key_value_heads", None) or heads) * size
    return int(wide * (kept + 8 * config.hidden_size + 3 * _inner(config) + MOST) + (wide + 4) * config.vocab_size)


def bytes_tuned(config: Any, wide: int, share: float) -> int:
    """Of one token with gradients: what a read one takes, and what the backward pass needs.

    In the layers with LoRA, this `share` of all: activations, and of the seven projections' inputs float32 copies; of the logits
    the log-softmax and two gradients.
    """
    trained = max(1, round(int(config.num_hidden_layers) * share))
    saved = wide * (12 * config.hidden_size + 5 * _inner(config)) + 4 * (6 * config.hidden_size + _inner(config))
    return int(bytes_read(config, wide) + trained * saved + 12 * config.vocab_size)


def width(model: Any) -> int:
    """Bytes of an activation: in a packed model those between the layers are float32."""
    return 4 if is_quantised(model) else int(model.dtype.itemsize)


def free(device: torch.device) -> int:
    """Bytes of the card's memory that are free, with those that PyTorch holds and does not use."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def _fitting(model: Any, size: int) -> Budget:
    """As many tokens of `size` bytes as the model's device has room for."""
    return Budget(min(MOST, max(FEWEST, int(SHARE * free(model.device)) // size)))


def _inner(config: Any) -> int:
    """Width of the MLP."""
    return int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
