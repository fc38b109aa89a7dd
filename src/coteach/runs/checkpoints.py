"""The checkpoints of a run: folders that are whole or absent, the last few and the best one.

A checkpoint is written under another name, sealed with a manifest of SHA-256 sums, and then takes its name at once; one whose
files are not those of its manifest is passed over. What stands in it is the business of whoever writes and reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coteach.errors import CoteachError, note
from coteach.runs.files import disk, replace_text, sync

KEEP = 3
"""Checkpoints kept, besides the best one."""

_MANIFEST, _BEST = "manifest.json", "best.json"


class Checkpoints:
    """The checkpoints in `folder`, each under the step it was saved at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, write: Callable[[Path], None], best: bool = False) -> Path:
        """Keep what `write` puts into the folder it is given, under `step`; returns the checkpoint's folder.

        The folder appears under its name only when everything in it, with its manifest, is on the disk. The last three are
        kept, and the one last saved with `best`. A disk that fails raises `RunFailed`.
        """
        target = self.folder / f"step-{step:012d}"
        partial = target.with_name(f".partial-{uuid.uuid4().hex}")
        with disk(target):
            try:
                partial.mkdir(parents=True)
                write(partial)
                seal(partial)
                if target.exists():
                    _discard(target)
                os.replace(partial, target)
                sync(target.parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        if best:
            with disk(self.folder / _BEST):
                replace_text(self.folder / _BEST, json.dumps({"checkpoint": target.name}) + "\n")
        self._prune()
        return target

    def all(self) -> list[Path]:
        """Every checkpoint, whole or not, the oldest first."""
        return sorted(self.folder.glob("step-*"))

    def latest(self) -> Path | None:
        """The newest checkpoint whose files are what its manifest says; None where there never was any.

        Damaged ones are passed over, with a line that names them. CoteachError where all are damaged.
        """
        checkpoints = list(reversed(self.all()))
        for path in checkpoints:
            if intact(path):
                return path
            note(f"checkpoint {path} is damaged: it is passed over")
        if checkpoints:
            raise CoteachError(f"{self.folder.parent} has no whole checkpoint left: begin anew with another --out")
        return None

    def best(self) -> Path | None:
        """The checkpoint last saved as the best, or else the latest."""
        best = self._best()
        return best if best is not None and intact(best) else self.latest()

    def _best(self) -> Path | None:
        """Where the checkpoint last saved as the best is, whole or not."""
        try:
            name = json.loads((self.folder / _BEST).read_text(encoding="utf-8"))["checkpoint"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return self.folder / Path(str(name)).name

    def _prune(self) -> None:
        """Delete what is no longer kept, and what a crash left half written."""
        best = self._best()
        for path in self.folder.glob(".partial-*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.all()[:-KEEP]:
            if path != best:
                with disk(path):
                    _discard(path)


def intact(checkpoint: Path) -> bool:
    """True where a checkpoint's files are exactly those of its manifest, byte for byte."""
    try:
        manifest = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest["files"] == _sums(checkpoint))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


@contextmanager
def understood(checkpoint: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a whole checkpoint is read into one line: it is not what this version writes."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join((str(error) or type(error).__name__).split())
        raise CoteachError(f"{checkpoint}: cannot be understood ({reason}); was it made by another version?") from error


def seal(folder: Path) -> None:
    """Write the manifest and force everything in `folder` to the disk."""
    replace_text(folder / _MANIFEST, json.dumps({"files": _sums(folder)}, indent=2) + "\n")
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def _discard(checkpoint: Path) -> None:
    """Delete a checkpoint so that a crash meanwhile does not leave half of it under its name."""
    doomed = checkpoint.with_name(f".partial-{uuid.uuid4().hex}")
    os.replace(checkpoint, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _sums(folder: Path) -> dict[str, str]:
    """Path within `folder` -> SHA-256 of the file, the manifest itself left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / _MANIFEST)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
