"""Write and read named arrays as safetensors files, the only binary format of coteach. Such a file cannot contain code.

Weights, optimisers' moments, replayed rows and advice are all written and read here. A file that cannot be written raises
OSError; one that is no safetensors file raises CoteachError.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from coteach.errors import CoteachError


def write(path: Path, tensors: Mapping[str, Tensor | NDArray[Any]]) -> None:
    """Write tensors (on any device) and arrays under their names; make the folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: _tensor(value).detach().cpu().contiguous() for name, value in tensors.items()}
    # Not `save_file`, which does not raise OSError if the disk is full.
    path.write_bytes(safetensors.torch.save(plain))


def read(path: Path) -> dict[str, Tensor]:
    """Read what `write` wrote. CoteachError if the file is missing or no safetensors file."""
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError) as error:
        raise CoteachError(f"{path}: cannot be read ({error}); expected a safetensors file of a checkpoint") from error


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's moments of each parameter, named `<parameter's index>.<moment>`; none before its first step."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, kept in state.items() for name, value in kept.items()}


def restore_moments(optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> None:
    """Load what `moments` returned into an optimiser."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in named.items():
        index, _, moment = name.partition(".")
        state.setdefault(int(index), {})[moment] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the same tensors with `prefix` before their names."""
    return {prefix + name: value for name, value in tensors.items()}


def select_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose name begins with `prefix`, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _tensor(value: Tensor | NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
