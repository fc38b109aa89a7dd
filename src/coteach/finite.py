"""Not-a-number is caught where it enters, before an optimiser's step or a count could carry it into what is kept.

`require` is called on what a round has collected and on what the student is about to learn from; losses and gradients are
looked at by the learners themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.errors import RunFailed


class NotFinite(RunFailed):
    """Numbers that are not finite; nothing was learned from them."""


def require(**arrays: NDArray[Any]) -> None:
    """Raise `NotFinite` naming the arrays that have entries which are not finite, and how many; integers always are."""
    broken = {name: int(array.size - np.isfinite(array).sum()) for name, array in arrays.items() if array.dtype.kind == "f"}
    found = [f"{name} ({count} of {arrays[name].size})" for name, count in broken.items() if count]
    if found:
        raise NotFinite(f"not finite: {', '.join(found)}")
