"""Named arrays on the disk, as safetensors: the only binary format that is written or read here, and it cannot hold code.

Weights, optimisers' moments, replayed rows and advice all pass through `write` and `read`. A file that cannot be
written is an `OSError`, as from any other file; one that cannot be understood is a `CoteachError`.
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
    """Write tensors (on any device) and arrays under their names; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: _tensor(value).detach().cpu().contiguous() for name, value in tensors.items()}
    # Not `save_file`, which reports a full disk as an error of its own kind.
    path.write_bytes(safetensors.torch.save(plain))


def read(path: Path) -> dict[str, Tensor]:
    """What `write` wrote; CoteachError where the file is missing or no safetensors file."""
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError) as error:
        raise CoteachError(f"{path}: cannot be read ({error}); expected a safetensors file of a checkpoint") from error


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter, named `<parameter's index>.<moment>`; nothing before its first step."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, kept in state.items() for name, value in kept.items()}


def restore_moments(optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> None:
    """Take up what `moments` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in named.items():
        index, _, moment = name.partition(".")
        state.setdefault(int(index), {})[moment] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, their names after `prefix`."""
    return {prefix + name: value for name, value in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _tensor(value: Tensor | NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
