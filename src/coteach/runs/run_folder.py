"""The run directory: everything that a run leaves behind, written so that a crash at any moment costs little.

`Run` owns one folder: the resolved configuration, the machine it ran on, metrics (JSON lines and
TensorBoard), checkpoints that are complete or absent, and small JSON files. Whole files are replaced
atomically; a disk that fails ends the run with a `RunFailed` that names the path. A folder says in its
environment.json in which format it is; one of another format is refused, with the version that reads it.
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
from coteach.runs.files import ESCAPE, disk, replace_text, sync
from coteach.runs.lock import held
from coteach.runs.machine import environment
from coteach.version import __version__

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FORMAT = 4
"""Of run folders: raised when a version no longer reads what an earlier one wrote (checkpoints, metrics, configuration)."""

_LOCK = ".lock"


class Run:
    """One run directory. Make it with `Run.create` or `Run.open`; use it as a context, or `close` it."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config
        self._board: SummaryWriter | None = None
        self._held = False
        self._checkpoints = Checkpoints(folder / "checkpoints")

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
        run.write_json("environment.json", {"format": FORMAT, "coteach": __version__} | environment(config))
        run.write_text("config.toml", configuration.dump(config))
        return run

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Take up a run that exists, to resume it or to look at it.

        Raises `CoteachError` where `folder` is no run, or one of another format than this version writes.
        """
        folder = Path(folder)
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

        It is there whole or not at all. The last three are kept, and the one last saved with `best`.
        """
        metrics = self.folder / "metrics.jsonl"
        if metrics.exists():  # a checkpoint's rounds must not be lost when the machine fails right after it
            with disk(metrics):
                sync(metrics)
        return self._checkpoints.save(step, write, best)

    @property
    def begun(self) -> bool:
        """Whether there is any checkpoint, whole or not."""
        return bool(self._checkpoints.all())

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole; None where there never was any, CoteachError where all are damaged."""
        return self._checkpoints.latest()

    def best_checkpoint(self) -> Path | None:
        """The checkpoint last saved as the best, or else the latest."""
        return self._checkpoints.best()


def _require_format(folder: Path, made: Mapping[str, Any]) -> None:
    """Refuse a run that this version cannot go on with or look at. made: what its environment.json says."""
    reads = f"this is coteach {__version__} and reads format {FORMAT}"
    version = _version_of(made)
    if version is None:
        raise CoteachError(
            f"{folder}: its environment.json is missing or damaged, and nothing else says which version made this run; "
            f"{reads}: begin anew with another --out"
        )
    # Up to 0.1.0 only checkpoints had a format, 3 being their last.
    if made.get("format") != FORMAT:
        revision = f" (revision {made['revision']})" if made.get("revision") else ""
        raise CoteachError(
            f"{folder}: made by coteach {version}{revision}, in format {made.get('format', '3 or older')}; "
            f"{reads}: use coteach {version}, which made it"
        )


def _made(folder: Path) -> dict[str, Any]:
    """The run's environment.json; empty where there is none, or it is damaged."""
    try:
        made = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return made if isinstance(made, dict) else {}


def _version_of(made: Mapping[str, Any]) -> str | None:
    """The version of coteach that made a run; up to 0.1.0 it stood among the packages."""
    packages = made.get("packages")
    version = made.get("coteach") or (packages.get("coteach") if isinstance(packages, dict) else None)
    return version if isinstance(version, str) else None


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
