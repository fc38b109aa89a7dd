"""The numbers that a model's weights are kept in: a teacher's `precision` and the device it is on -> how transformers loads it.

Half precision is for bigger models on a card, 4 bits (NF4, Dettmers et al. 2023, arXiv 2305.14314) for those that do not fit
otherwise. On a processor float32 is fastest. Whatever is chosen, LoRA weights are float32, as PEFT makes them. The CUDA side
is written as transformers documents it and has not been run on a card.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from coteach.errors import CoteachError

LARGE = 1_000_000_000
"""Parameters from which on `auto` takes half precision on a card: of fewer 4 GB hold all, and scores are sums of many terms."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def chosen(wanted: str, device: torch.device, parameters: Callable[[], int]) -> str:
    """What `wanted` (`config.PRECISIONS`) means on `device`, for a model of so many `parameters`; never `auto`.

    CoteachError for 4bit where there is no card, or no bitsandbytes.
    """
    if wanted == "4bit":
        require_4bit(device)
    if wanted != "auto":
        return wanted
    return half() if device.type == "cuda" and parameters() >= LARGE else "float32"


def half() -> str:
    """bfloat16 where the card multiplies it, else float16."""
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def has_4bit() -> bool:
    """Whether bitsandbytes is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def require_4bit(device: torch.device) -> None:
    """CoteachError where weights cannot be kept in 4 bits."""
    if device.type != "cuda":
        raise CoteachError(f"teacher.precision=4bit: expected a CUDA device, found {device.type}; use float32, the default there")
    if not has_4bit():
        raise CoteachError("teacher.precision=4bit: bitsandbytes is not installed; pip install 'coteach[bigger]'")


def loading(precision: str, device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained`. On a card weights go there directly, file by file.

    In 4 bits norms, embeddings and head stay float32, as PEFT's `prepare_model_for_kbit_training` makes them.
    """
    placed = {"device_map": {"": device}} if device.type == "cuda" or precision == "4bit" else {}
    if precision != "4bit":
        return {"dtype": DTYPES[precision], **placed}
    from transformers import BitsAndBytesConfig

    compute = torch.bfloat16 if device.type == "cpu" else DTYPES[half()]
    packed = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    return {"dtype": torch.float32, "quantization_config": packed, **placed}


def is_exact(model: Any) -> bool:
    """Whether the model computes in float32 throughout, so that the same question in another order has the same answer."""
    return model.dtype in (torch.float32, torch.float64) and not is_packed(model)


def is_packed(model: Any) -> bool:
    """Whether its weights are in fewer bits than they are multiplied in (loaded so, or stored so)."""
    return getattr(model, "quantization_method", None) is not None
