"""The run directory: everything that a run leaves behind, written so that a crash at any moment costs little.

`Run` owns one folder: the resolved configuration, the machine it ran on, metrics (JSON lines and
TensorBoard), checkpoints that are complete or absent, and small JSON files. Whole files are replaced
atomically; a disk that fails ends the run with a `RunFailed` that names the path.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from coteach import config as configuration
from coteach.config import Config
from coteach.errors import CoteachError, note
from coteach.runs import jsonl
from coteach.runs.files import ESCAPE, disk, replace_text, sync
from coteach.runs.lock import held
from coteach.runs.machine import environment
from coteach.version import __version__

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


KEEP = 3
"""Checkpoints kept, besides the best one."""

FORMAT = 3
"""Of checkpoints. One of another format is refused, with the version that reads it."""

_MANIFEST, _BEST, _LOCK = "manifest.json", "checkpoints/best.json", ".lock"


class Run:
    """One run directory. Make it with `Run.create` or `Run.open`; use it as a context, or `close` it."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config
        self._board: SummaryWriter | None = None
        self._held = False

    @classmethod
    def create(cls, folder: Path | str, config: Config) -> Self:
        """Begin a run in `folder`, which must not exist or be empty; writes config.toml and environment.json."""
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CoteachError(f"{folder} exists and is not empty: choose another --out, or go on with --resume {folder}")
        try:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CoteachError(f"cannot make {folder}: {error.strerror or error}; choose another --out") from error
        run = cls(folder, config)
        run.write_json("environment.json", environment(config))
        run.write_text("config.toml", configuration.dump(config))
        return run

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Take up a run that exists, to resume it or to look at it."""
        folder = Path(folder)
        path = folder / "config.toml"
        if not path.is_file():
            raise CoteachError(f"{folder} is not a run: there is no config.toml in it; `coteach train --out {folder}` begins one")
        try:
            return cls(folder, configuration.load(path))
        except CoteachError as error:
            version = _made_by(folder)
            if version is None or version.startswith(__version__):
                raise
            raise CoteachError(f"{error} (the run was made by coteach {version}: use that version)") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write out what TensorBoard still holds back."""
        if self._board is not None:
            with disk(self.folder):
                self._board.close()
            self._board = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Train here and nobody else: CoteachError where another process does. To look at a run needs no leave."""
        if self._held:
            yield
            return
        way_out = "wait until it has ended, or `kill` that process (it saves first), and try again"
        with ExitStack() as stack:
            with disk(self.folder / _LOCK):
                stack.enter_context(
                    held(self.folder / _LOCK, lambda holder: f"{self.folder}: {holder} is training this run; {way_out}")
                )
            self._held = True
            try:
                yield
            finally:
                self._held = False

    # Metrics

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one round to metrics.jsonl and, its numbers, to TensorBoard, a group per rung over `steps`.

        `metrics` has at least `rung` and `steps`. What is not finite is written as null.
        """
        path = self.folder / "metrics.jsonl"
        with disk(path), path.open("a", encoding="utf-8", errors=ESCAPE) as file:
            file.write(_json(metrics) + "\n")
        with disk(self.folder):
            board = self._open_board()
            for name, value in metrics.items():
                if name not in ("rung", "steps") and _is_number(value):
                    board.add_scalar(f"rung{metrics['rung']}/{name}", value, metrics["steps"])

    def log_calls(self, rung: int, round: int, calls: Iterable[Mapping[str, Any]]) -> None:
        """Append calls of the LLM to calls.jsonl. Those of rounds that a crash undid stay there: they were paid for.

        rung: of rungs climbed side by side, which have one teacher, the first that had not ended.
        """
        rows = [_json({"rung": rung, "round": round, **call}) + "\n" for call in calls]
        path = self.folder / "calls.jsonl"
        if rows:
            with disk(path), path.open("a", encoding="utf-8") as file:
                file.writelines(rows)

    def metrics(self) -> list[dict[str, Any]]:
        """Every round logged so far; a last line torn by a crash is left out."""
        return list(jsonl.read(self.folder / "metrics.jsonl"))

    def rewind(self, rounds: Mapping[int, int]) -> None:
        """Drop the rounds logged after a checkpoint's: a run that is resumed from it does them again.

        rounds: so many rounds the checkpoint has of each rung under way; those before them were over, others had not begun.
        """
        if (self.folder / "metrics.jsonl").exists():
            first = min(rounds, default=0)
            kept = [row for row in self.metrics() if row["rung"] < first or row["round"] <= rounds.get(row["rung"], 0)]
            self.write_jsonl("metrics.jsonl", kept)

    def _open_board(self) -> SummaryWriter:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter  # slow, and only training needs it

            self._board = SummaryWriter(str(self.folder))
        return self._board

    # Whole files

    def write_text(self, name: str, text: str) -> Path:
        """Write the file `name` of this run so that it is there whole or not at all."""
        path = self.folder / name
        with disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, text)
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """`write_text` for one JSON value, indented for people."""
        return self.write_text(name, _json(value, indent=2) + "\n")

    def write_jsonl(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """`write_text` for one JSON object a line."""
        return self.write_text(name, "".join(_json(row) + "\n" for row in rows))

    # Checkpoints

    def save_checkpoint(self, step: int, write: Callable[[Path], None], best: bool = False) -> Path:
        """Keep what `write` puts into the folder it is given, under `step`; returns the checkpoint's folder.

        The folder appears under its name only when everything in it, with a manifest of SHA-256 sums, is
        on the disk. The last three are kept, and the one last saved with `best`.
        """
        target = self.folder / "checkpoints" / f"step-{step:012d}"
        partial = target.with_name(f".partial-{uuid.uuid4().hex}")
        with disk(target):
            try:
                partial.mkdir(parents=True)
                write(partial)
                _seal(partial)
                self._sync_metrics()
                if target.exists():
                    _discard(target)
                os.replace(partial, target)
                sync(target.parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        if best:
            self.write_json(_BEST, {"checkpoint": target.name})
        self._prune()
        return target

    @property
    def begun(self) -> bool:
        """Whether there is any checkpoint, whole or not."""
        return bool(self._checkpoints())

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint whose files are what its manifest says; None where there never was any.

        Damaged ones are passed over, with a line that names them. CoteachError where all are damaged, or where the newest
        whole one is of another format.
        """
        checkpoints = list(reversed(self._checkpoints()))
        for path in checkpoints:
            if intact(path):
                self._require_format(path)
                return path
            note(f"checkpoint {path} is damaged: it is passed over")
        if checkpoints:
            raise CoteachError(f"{self.folder} has no whole checkpoint left: begin anew with another --out")
        return None

    def best_checkpoint(self) -> Path | None:
        """The checkpoint last saved as the best, or else the latest."""
        best = self._best()
        if best is None or not intact(best):
            return self.latest_checkpoint()
        self._require_format(best)
        return best

    def _best(self) -> Path | None:
        """Where the checkpoint last saved as the best is, whole or not."""
        try:
            name = json.loads((self.folder / _BEST).read_text(encoding="utf-8"))["checkpoint"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return self.folder / "checkpoints" / Path(str(name)).name

    def _require_format(self, checkpoint: Path) -> None:
        made = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
        if made["format"] != FORMAT:
            raise CoteachError(
                f"{checkpoint}: its format is {made['format']}, this is coteach {__version__} and reads format {FORMAT}; "
                f"use coteach {made.get('coteach') or _made_by(self.folder)}, which made it"
            )

    def _sync_metrics(self) -> None:
        """A checkpoint's rounds must not be lost when the machine fails right after it."""
        if (self.folder / "metrics.jsonl").exists():
            sync(self.folder / "metrics.jsonl")

    def _checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("step-*"))

    def _prune(self) -> None:
        """Delete what is no longer kept, and what a crash left half written."""
        best = self._best()
        for path in (self.folder / "checkpoints").glob(".partial-*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self._checkpoints()[:-KEEP]:
            if path != best:
                with disk(path):
                    _discard(path)


def intact(checkpoint: Path) -> bool:
    """True where a checkpoint's files are exactly those of its manifest, byte for byte."""
    try:
        manifest = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest["files"] == _sums(checkpoint) and isinstance(manifest["format"], int))
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


def _seal(folder: Path) -> None:
    """Write the manifest and force everything in `folder` to the disk."""
    manifest = {"format": FORMAT, "coteach": __version__, "files": _sums(folder)}
    replace_text(folder / _MANIFEST, _json(manifest, indent=2) + "\n")
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def _made_by(folder: Path) -> str | None:
    """The version of coteach that began the run, with its revision where it was a checkout; None where that is not known."""
    try:
        made = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        version, revision = made["packages"]["coteach"], made.get("revision")
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return f"{version} (revision {revision})" if revision and version else version


def _discard(checkpoint: Path) -> None:
    """Delete a checkpoint so that a crash meanwhile does not leave half of it under its name."""
    doomed = checkpoint.with_name(f".partial-{uuid.uuid4().hex}")
    os.replace(checkpoint, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _sums(folder: Path) -> dict[str, str]:
    """Path within `folder` -> SHA-256 of the file, the manifest itself left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / _MANIFEST)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and math.isfinite(float(value))


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """`value` as JSON knows it: arrays as lists, NumPy's numbers as Python's, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
