"""Limits the tokens that a model computes at once: a constant on a CPU, as many as the free memory holds on a GPU.

The bytes of a token follow from the model's sizes, estimated high rather than low. If memory runs out all the same, the budget
is halved and the work goes on. The CUDA part has not been run on a GPU. (accelerate's `find_executable_batch_size` is not used:
it collects garbage before every call, 0.6 s when measured, and tries a prompt that does not fit by itself again and again.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from coteach.errors import RunFailed, note
from coteach.teacher.local.precision import is_quantised

READ, TUNED = 1024, 768
"""Tokens of one pass on a CPU, without and with gradients. More at once are not faster there, and need more memory."""

READ_LOGITS = 2**26
"""Most logits of one pass on a CPU."""

FEWEST, MOST = 64, 8192
"""Limits of the tokens of one pass: fewer are mostly overhead; the mask of more is larger than what it masks."""

SHARE = 0.7
"""Share of the free memory that is used: the rest is for the student, fragmentation and errors of the estimate."""


@dataclass
class Budget:
    """The most tokens that are computed at once. Tokens that prompts share count once."""

    tokens: int

    def shrink(self, alone: bool) -> None:
        """Halve the budget, after memory ran out. Raises RunFailed if it ran out on a single prompt (`alone`)."""
        torch.cuda.empty_cache()
        if alone:
            raise RunFailed(
                "the GPU's memory is too small for the teacher's work on one situation; choose a smaller model, "
                "teacher.precision=4bit, a smaller teacher.feedback_tokens, or teacher.device=cpu"
            )
        self.tokens = max(1, self.tokens // 2)
        note(f"the GPU's memory is full: the teacher goes on with {self.tokens} tokens at once")


def to_read(model: Any) -> Budget:
    """Return the budget for scoring with `model`."""
    if model.device.type == "cpu":
        return Budget(min(READ, max(FEWEST, READ_LOGITS // int(model.config.get_text_config().vocab_size))))
    return _fitting(model, bytes_read(model.config.get_text_config(), width(model)))


def to_tune(model: Any, trained: float) -> Budget:
    """Return the budget for passes with gradients. trained: share of the layers that have LoRA."""
    if model.device.type == "cpu":
        return Budget(TUNED)
    return _fitting(model, bytes_tuned(model.config.get_text_config(), width(model), trained))


def bytes_read(config: Any, wide: int) -> int:
    """Estimate the bytes that scoring takes for each token, from a text model's configuration. wide: bytes of an activation.

    They are: keys and values in every layer, one layer's activations, a row of logits with its float32 copy, a row of the mask.
    """
    heads, layers = int(config.num_attention_heads), int(config.num_hidden_layers)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    kept = 2 * layers * int(getattr(config, "num_key_value_heads", None) or heads) * size
    return int(wide * (kept + 8 * config.hidden_size + 3 * _inner(config) + MOST) + (wide + 4) * config.vocab_size)


def bytes_tuned(config: Any, wide: int, share: float) -> int:
    """Estimate the bytes that a pass with gradients takes for each token. share: share of the layers that have LoRA.

    They are: `bytes_read`; in the layers with LoRA the activations, and float32 copies of the inputs of seven projections; the
    log-softmax of the logits and two gradients.
    """
    trained = max(1, round(int(config.num_hidden_layers) * share))
    saved = wide * (12 * config.hidden_size + 5 * _inner(config)) + 4 * (6 * config.hidden_size + _inner(config))
    return int(bytes_read(config, wide) + trained * saved + 12 * config.vocab_size)


def width(model: Any) -> int:
    """Return the bytes of an activation; in a quantised model those between the layers are float32."""
    return 4 if is_quantised(model) else int(model.dtype.itemsize)


def free(device: torch.device) -> int:
    """Return the free bytes of the GPU's memory, with those that PyTorch has reserved but does not use."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def _fitting(model: Any, size: int) -> Budget:
    """Return a budget of as many tokens of `size` bytes as fit into the memory of the model's device."""
    return Budget(min(MOST, max(FEWEST, int(SHARE * free(model.device)) // size)))


def _inner(config: Any) -> int:
    """Return the width of the MLP."""
    return int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
