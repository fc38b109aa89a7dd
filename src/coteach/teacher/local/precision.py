"""The number format of a model's weights, from `teacher.precision` and the device.

Half precision is for bigger models on a GPU, 4 bits (NF4, Dettmers et al. 2023, arXiv 2305.14314) for models that do not fit
otherwise. On a CPU float32 is fastest. LoRA weights are always float32, as PEFT makes them. The CUDA part follows the
documentation of transformers and has not been run on a GPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from coteach.errors import CoteachError

LARGE = 1_000_000_000
"""Parameters from which `auto` takes half precision on a GPU; fewer fit into 4 GB as float32, which is more exact."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def chosen(wanted: str, device: torch.device, parameters: Callable[[], int]) -> str:
    """Resolve `wanted` (one of `config.PRECISIONS`) for a device and a model; never returns `auto`.

    parameters: counts the model's parameters; called only where it matters.
    Raises CoteachError for 4bit without a GPU or without bitsandbytes.
    """
    if wanted == "4bit":
        require_4bit(device)
    if wanted != "auto":
        return wanted
    return half() if device.type == "cuda" and parameters() >= LARGE else "float32"


def half() -> str:
    """Return bfloat16 if the GPU supports it natively, else float16."""
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def has_4bit() -> bool:
    """Whether bitsandbytes is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def require_4bit(device: torch.device) -> None:
    """Raise CoteachError if weights in 4 bits are not possible here."""
    if device.type != "cuda":
        raise CoteachError(f"teacher.precision=4bit: expected a CUDA device, found {device.type}; use float32, the default there")
    if not has_4bit():
        raise CoteachError("teacher.precision=4bit: bitsandbytes is not installed; pip install 'coteach[bigger]'")


def loading(precision: str, device: torch.device) -> dict[str, Any]:
    """Return the arguments of `from_pretrained`; weights for a GPU are loaded there directly.

    With 4bit, norms, embeddings and head stay float32, as with PEFT's `prepare_model_for_kbit_training`.
    """
    placed = {"device_map": {"": device}} if device.type == "cuda" or precision == "4bit" else {}
    if precision != "4bit":
        return {"dtype": DTYPES[precision], **placed}
    from transformers import BitsAndBytesConfig

    compute = torch.bfloat16 if device.type == "cpu" else DTYPES[half()]
    quantised = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    return {"dtype": torch.float32, "quantization_config": quantised, **placed}


def is_exact(model: Any) -> bool:
    """Whether the model computes in float32 throughout: then the order of the questions does not change the answers."""
    return model.dtype in (torch.float32, torch.float64) and not is_quantised(model)


def is_quantised(model: Any) -> bool:
    """Whether the weights are stored in fewer bits than they are multiplied in."""
    return getattr(model, "quantization_method", None) is not None
