"""Errors that a user can fix: the command line prints them as one line, without a traceback, and exits with code 2 or 1.

A message names the thing, its value, what was expected and what to do. Any other exception is a bug of coteach and
keeps its traceback.
"""

from __future__ import annotations

import difflib
import traceback
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


class CoteachError(Exception):
    """Wrong use. The message is one line for the user; `coteach` exits with code 2."""


class RunFailed(CoteachError):
    """Right use, but the run could not continue (disk full, a loss that is not finite); `coteach` exits with code 1."""


def raised(what: str, error: Exception) -> RunFailed:
    """Return the error of one line that says what a user's code raised, and where. what: names the task and the call."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return RunFailed(f"{what} raised {type(error).__name__}: {first_line(error)} ({last.filename}, line {last.lineno})")


def first_line(error: Exception) -> str:
    """Return the first line of what an error says; its type's name if it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


class Note(UserWarning):
    """A warning for the user that stops nothing; the command line prints it as one line."""


def note(text: str) -> None:
    """Warn the user with a `Note` of one line."""
    warnings.warn(text, Note, stacklevel=3)


def printable(text: str) -> str:
    """Return text of a task, a model or a file with all characters escaped that are not printable (line ends, cursor moves)."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def unknown(what: str, value: str, known: Iterable[str], way_out: str = "") -> CoteachError:
    """Return the error for a name that does not exist. It suggests a similar one, and lists up to 20 names, or says `way_out`.

    >>> str(unknown("arm", "mutaul", ["mutual", "one-way"]))
    "unknown arm 'mutaul': did you mean 'mutual'? (one of: mutual, one-way)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f": did you mean '{near[0]}'?" if near else ""
    listing = way_out or (f"one of: {', '.join(names)}" if len(names) <= 20 else "")
    return CoteachError(f"unknown {what} {value!r}{hint}" + (f" ({listing})" if listing else ""))


class NotFinite(RunFailed):
    """Numbers that are not finite were found. Nothing was learned from them."""


def require_finite(**arrays: NDArray[Any]) -> None:
    """Raise NotFinite if a float array has entries that are not finite; the message names the arrays and counts the entries."""
    import numpy as np  # the command line starts without it

    broken = {name: int(array.size - np.isfinite(array).sum()) for name, array in arrays.items() if array.dtype.kind == "f"}
    found = [f"{name} ({count} of {arrays[name].size})" for name, count in broken.items() if count]
    if found:
        raise NotFinite(f"not finite: {', '.join(found)}")
