"""The run folder: all files of a run, written so that a crash at any moment loses little.

`Run` owns one folder: the resolved configuration, the machine, metrics (JSON Lines and TensorBoard), checkpoints that
are complete or absent, and small JSON files. Files are replaced atomically. If the disk fails, the run ends with a
`RunFailed` that names the path. environment.json has the format of the folder; a folder of another format is refused, and the
message names the version that reads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from coteach import config as configuration
from coteach.config import Config
from coteach.errors import CoteachError
from coteach.runs import jsonl
from coteach.runs.checkpoints import Checkpoints
from coteach.runs.files import ESCAPE, disk, replace_text, sync, user_path
from coteach.runs.lock import held
from coteach.runs.machine import environment
from coteach.version import __version__

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FORMAT = 4
"""The format of run folders. It is increased when files of earlier versions can no longer be read."""

_LOCK = ".lock"


class Run:
    """One run folder. Make it with `Run.create` or `Run.open`, and use it as a context manager, or `close` it."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config
        self._board: SummaryWriter | None = None
        self._held = False
        self._checkpoints = Checkpoints(folder / "checkpoints")

    @classmethod
    def create(cls, folder: Path | str, config: Config) -> Self:
        """Begin a run in `folder`, which must be new or empty; write config.toml and environment.json.

        Raises CoteachError if the folder is not empty or cannot be made.
        """
        folder = user_path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CoteachError(f"{folder} exists and is not empty: choose another --out, or go on with --resume {folder}")
        try:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CoteachError(f"cannot make {folder}: {error.strerror or error}; choose another --out") from error
        run = cls(folder, config)
        run.write_json("environment.json", {"format": FORMAT, "coteach": __version__} | environment(config))
        run.write_text("config.toml", configuration.dump(config))
        return run

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open an existing run, to resume it or to read it.

        Raises CoteachError if `folder` is not a run, or has another format than this version writes.
        """
        folder = user_path(folder)
        path = folder / "config.toml"
        if not path.is_file():
            raise CoteachError(f"{folder} is not a run: there is no config.toml in it; `coteach train --out {folder}` begins one")
        made = _made(folder)
        _require_format(folder, made)
        try:
            return cls(folder, configuration.load(path))
        except CoteachError as error:
            if _version_of(made) == __version__:
                raise
            raise CoteachError(f"{error} (the run was made by coteach {_version_of(made)}: use that version)") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what TensorBoard still has in its buffer."""
        if self._board is not None:
            with disk(self.folder):
                self._board.close()
            self._board = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run's lock for training. CoteachError if another process holds it. Reading a run needs no lock."""
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
        """Append one round to metrics.jsonl, and its numbers to TensorBoard, in a group per rung over `steps`.

        metrics: has at least `rung` and `steps`. Numbers that are not finite are written as null.
        """
        path = self.folder / "metrics.jsonl"
        with disk(path), path.open("a", encoding="utf-8", errors=ESCAPE) as file:
            file.write(_json(metrics) + "\n")
        with disk(self.folder):
            self._to_board(metrics)

    def log_calls(self, rung: int, round: int, calls: Iterable[Mapping[str, Any]]) -> None:
        """Append calls of the LLM to calls.jsonl. Calls of rounds that a crash undid are kept: they were paid for.

        rung: the current rung; of rungs trained together, which share the teacher, the first that is not over.
        """
        rows = [_json({"rung": rung, "round": round, **call}) + "\n" for call in calls]
        path = self.folder / "calls.jsonl"
        if rows:
            with disk(path), path.open("a", encoding="utf-8") as file:
                file.writelines(rows)

    def metrics(self) -> list[dict[str, Any]]:
        """Return every round logged so far; an incomplete last line is left out."""
        return list(jsonl.read(self.folder / "metrics.jsonl"))

    def rewind(self, rounds: Mapping[int, int]) -> None:
        """Delete the rounds logged after a checkpoint: a run that is resumed from it does them again.

        Also repairs a last line that a crash left incomplete: the next round would be appended to it.

        rounds: number of rounds in the checkpoint, for each rung that has begun and is not over. Earlier rungs are over.
        """
        if (self.folder / "metrics.jsonl").exists():
            first, rows = min(rounds, default=0), self.metrics()
            kept = [row for row in rows if row["rung"] < first or row["round"] <= rounds.get(row["rung"], 0)]
            self.write_jsonl("metrics.jsonl", kept)
            if len(kept) < len(rows):
                self._renew_board(kept)

    def _renew_board(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write TensorBoard's file anew with these rounds. (Its `purge_step` would take rounds of earlier rungs too.)"""
        self.close()
        with disk(self.folder):
            for old in self.folder.glob("events.out.tfevents*"):
                old.unlink()
            for row in rows:
                self._to_board(row)

    def _to_board(self, metrics: Mapping[str, Any]) -> None:
        board = self._open_board()
        for name, value in metrics.items():
            if name not in ("rung", "steps") and _is_number(value):
                board.add_scalar(f"rung{metrics['rung']}/{name}", value, metrics["steps"])

    def _open_board(self) -> SummaryWriter:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter  # slow, and only training needs it

            self._board = SummaryWriter(str(self.folder))
        return self._board

    # Whole files

    def write_text(self, name: str, text: str) -> Path:
        """Write the file `name` of this run atomically; return its path. RunFailed if the disk fails."""
        path = self.folder / name
        with disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, text)
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Write one JSON value as `write_text` does, indented."""
        return self.write_text(name, _json(value, indent=2) + "\n")

    def write_jsonl(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write one JSON object per line as `write_text` does."""
        return self.write_text(name, "".join(_json(row) + "\n" for row in rows))

    # Checkpoints

    def save_checkpoint(self, step: int, write: Callable[[Path], None], best: bool = False) -> Path:
        """Save a checkpoint with the files that `write` writes into the folder it is given; return the checkpoint's folder.

        See `Checkpoints.save`.
        """
        metrics = self.folder / "metrics.jsonl"
        if metrics.exists():  # a checkpoint's rounds must not be lost when the machine fails right after it
            with disk(metrics):
                sync(metrics)
        return self._checkpoints.save(step, write, best)

    @property
    def begun(self) -> bool:
        """Return whether there is any checkpoint, complete or damaged."""
        return bool(self._checkpoints.all())

    def latest_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint; None if there is no checkpoint. CoteachError if all are damaged."""
        return self._checkpoints.latest()

    def best_checkpoint(self) -> Path | None:
        """Return the checkpoint last saved as the best; if it is missing or damaged, the latest one."""
        return self._checkpoints.best()


def _require_format(folder: Path, made: Mapping[str, Any]) -> None:
    """Raise CoteachError for a run that this version cannot read. made: its environment.json."""
    reads = f"this is coteach {__version__} and reads format {FORMAT}"
    version = _version_of(made)
    if version is None:
        raise CoteachError(
            f"{folder}: its environment.json is missing or damaged, and nothing else says which version made this run; "
            f"{reads}: begin anew with another --out"
        )
    # Up to version 0.1.0 only checkpoints had a format; the last one was 3.
    if made.get("format") != FORMAT:
        revision = f" (revision {made['revision']})" if made.get("revision") else ""
        raise CoteachError(
            f"{folder}: made by coteach {version}{revision}, in format {made.get('format', '3 or older')}; "
            f"{reads}: use coteach {version}, which made it"
        )


def _made(folder: Path) -> dict[str, Any]:
    """Return the run's environment.json; empty if it is missing or damaged."""
    try:
        made = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return made if isinstance(made, dict) else {}


def _version_of(made: Mapping[str, Any]) -> str | None:
    """Return the version of coteach that made a run, or None. Up to 0.1.0 it was listed with the packages."""
    packages = made.get("packages")
    version = made.get("coteach") or (packages.get("coteach") if isinstance(packages, dict) else None)
    return version if isinstance(version, str) else None


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and math.isfinite(float(value))


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return `value` as JSON types: arrays as lists, NumPy's numbers as Python's, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
