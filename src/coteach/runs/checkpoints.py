"""The checkpoints of a run: the last few and the best one, each a folder that is complete or absent.

A checkpoint is written under a temporary name, gets a manifest with the SHA-256 sums of its files, and is then renamed
atomically. A checkpoint whose files differ from its manifest is skipped. Its content is up to the caller.
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
"""How many checkpoints are kept, not counting the best one."""

_MANIFEST, _BEST = "manifest.json", "best.json"


class Checkpoints:
    """The checkpoints in `folder`, named by the step at which they were saved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, write: Callable[[Path], None], best: bool = False) -> Path:
        """Save a checkpoint; return its folder.

        `write` is given an empty folder and writes the files. The folder gets its name only when all files and the manifest
        are on the disk. The last `KEEP` checkpoints are kept, and the last one saved with `best`. RunFailed if the disk fails.
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
        """Return every checkpoint, complete or damaged, the oldest first."""
        return sorted(self.folder.glob("step-*"))

    def latest(self) -> Path | None:
        """Return the newest checkpoint whose files agree with its manifest; None if there is no checkpoint.

        A damaged one is skipped with a `Note` that names it. CoteachError if all are damaged.
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
        """Return the checkpoint last saved as the best; if it is missing or damaged, the latest one."""
        best = self._best()
        return best if best is not None and intact(best) else self.latest()

    def _best(self) -> Path | None:
        """Return the folder of the checkpoint last saved as the best, complete or damaged; None if there is none."""
        try:
            name = json.loads((self.folder / _BEST).read_text(encoding="utf-8"))["checkpoint"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return self.folder / Path(str(name)).name

    def _prune(self) -> None:
        """Delete old checkpoints, and those that a crash left half written."""
        best = self._best()
        for path in self.folder.glob(".partial-*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.all()[:-KEEP]:
            if path != best:
                with disk(path):
                    _discard(path)


def intact(checkpoint: Path) -> bool:
    """Return whether a checkpoint's files are exactly those of its manifest, byte for byte."""
    try:
        manifest = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest["files"] == _sums(checkpoint))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


@contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """Turn errors while an intact checkpoint is read into a CoteachError: another version wrote it."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join((str(error) or type(error).__name__).split())
        raise CoteachError(f"{checkpoint}: cannot be understood ({reason}); was it made by another version?") from error


def seal(folder: Path) -> None:
    """Write the manifest, and wait until everything in `folder` is on the disk."""
    replace_text(folder / _MANIFEST, json.dumps({"files": _sums(folder)}, indent=2) + "\n")
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def _discard(checkpoint: Path) -> None:
    """Rename a checkpoint, then delete it: a crash does not leave half of it under its name."""
    doomed = checkpoint.with_name(f".partial-{uuid.uuid4().hex}")
    os.replace(checkpoint, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _sums(folder: Path) -> dict[str, str]:
    """Return path within `folder` -> SHA-256 of the file, without the manifest itself."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / _MANIFEST)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
