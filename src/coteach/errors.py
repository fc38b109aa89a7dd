"""Errors a user can mend, one class, so that the command line prints them as one line and exits with 2.

A message names the thing, its value, what was expected and the way out. Anything that is not a
`CoteachError` is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


class CoteachError(Exception):
    """Wrong use: the message is one line for the user; `coteach` exits with code 2."""


class RunFailed(CoteachError):
    """Right use, but the run could not go on (disk full, a loss that is not finite); exit code 1."""


class Note(UserWarning):
    """Something the user should know and that stops nothing; the command line prints it as one line."""


def note(text: str) -> None:
    """Tell the user."""
    warnings.warn(text, Note, stacklevel=3)


def printable(text: str) -> str:
    """Words of a task, a model or a file, on one line and with nothing in them that moves a cursor: the rest is escaped."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def unknown(what: str, value: str, known: Iterable[str], way_out: str = "") -> CoteachError:
    """The error for a name that does not exist, with the nearest one that does.

    >>> str(unknown("arm", "mutaul", ["mutual", "one-way"]))
    "unknown arm 'mutaul': did you mean 'mutual'? (one of: mutual, one-way)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f": did you mean '{near[0]}'?" if near else ""
    listing = way_out or (f"one of: {', '.join(names)}" if len(names) <= 20 else "")
    return CoteachError(f"unknown {what} {value!r}{hint}" + (f" ({listing})" if listing else ""))


class NotFinite(RunFailed):
    """Numbers that are not finite; nothing was learned from them."""


def require_finite(**arrays: NDArray[Any]) -> None:
    """Raise `NotFinite` naming the arrays that have entries which are not finite, and how many; integers always are."""
    import numpy as np  # the command line starts without it

    broken = {name: int(array.size - np.isfinite(array).sum()) for name, array in arrays.items() if array.dtype.kind == "f"}
    found = [f"{name} ({count} of {arrays[name].size})" for name, count in broken.items() if count]
    if found:
        raise NotFinite(f"not finite: {', '.join(found)}")
