"""The optimiser steps of an update: compiled ones where there are any, else the plain ones. Which is nobody else's business."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from coteach.config import StudentConfig
from coteach.student.batch import Rows
from coteach.student.kernels.step import CompiledStep, one_blas_thread
from coteach.student.network import ActorCritic, SetFeatures
from coteach.student.optimizer_step import PlainStep, Step


@contextmanager
def optimizer_steps(network: ActorCritic, optimizer: torch.optim.Adam, config: StudentConfig, rows: Rows) -> Iterator[Step]:
    """Yield what takes the steps of one update on `rows`. Compiled are the steps on flags, on a processor."""
    if isinstance(rows.features, SetFeatures) and rows.actions.device.type == "cpu":
        with one_blas_thread():
            yield CompiledStep(network, optimizer, config, rows)
    else:
        yield PlainStep(network, optimizer, config, rows)
