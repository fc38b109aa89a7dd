"""The answer cache: an LLM's option scores for each situation in an SQLite file, so that no run asks the same question twice.

A key is the hash of everything that an answer depends on; a value holds the raw option scores. Several processes may share
the file. A fault in it costs time, never a run. When the cache is full, it deletes the oldest answers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.errors import note
from coteach.grounding.base import Situation
from coteach.runs.machine import cache_folder

FILE = "answers.sqlite3"
LIMIT = 1_000_000
"""Most answers that are kept: about 250 MB."""

_TIMEOUT = 30.0  # seconds to wait for another process
_KEYS_PER_QUERY = 500  # SQLite allows at least 999


@dataclass(frozen=True)
class Contents:
    """What a cache holds: number of answers, their bytes, and when (seconds since 1970) the oldest and newest were stored."""

    answers: int
    size: int
    oldest: float | None
    newest: float | None


def cache_key(*parts: object) -> str:
    """Return the sha256 of everything that an answer depends on: the model, its adapter, and all that it reads (as JSON)."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class AnswerCache:
    """A mapping from keys to option scores (float64) with at most `limit` entries; with `path` None it is not written to disk."""

    def __init__(self, path: Path | None, limit: int = LIMIT) -> None:
        self.path, self.limit = path, limit
        self._database: sqlite3.Connection | None = None
        self._count = 0
        """Number of answers, without those that other processes have added since this one last counted."""
        try:
            self._database = self._open()
            self._count = self.contents().answers
        except sqlite3.Error as error:
            self._recover(error)
        except OSError as error:
            self._go_without(error)

    @classmethod
    def default(cls) -> AnswerCache:
        """Open the cache in the user's cache folder, which all runs share."""
        return cls(cache_folder() / FILE)

    def get_many(self, keys: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return the scores stored under `keys`; unknown keys are absent."""
        found: dict[str, NDArray[np.float64]] = {}
        for first in range(0, len(keys), _KEYS_PER_QUERY):
            some = list(keys[first : first + _KEYS_PER_QUERY])
            marks = ",".join("?" * len(some))
            for key, blob in self._execute(f"SELECT key, scores FROM answers WHERE key IN ({marks})", [some]):
                if isinstance(key, str) and isinstance(blob, bytes) and len(blob) % 8 == 0:
                    found[key] = np.frombuffer(blob, np.float64).copy()
        return found

    def look_up(self, wanted: Mapping[str, Situation]) -> dict[str, NDArray[np.float64]]:
        """Return the scores of the situations in `wanted` (by key) of which one score per option is stored."""
        found = self.get_many(list(wanted))
        return {key: score for key, score in found.items() if score.size == len(wanted[key].options)}

    def put_many(self, scores: Mapping[str, NDArray[np.float64]]) -> None:
        """Store `scores`. If there are then more than `limit` answers, delete the oldest quarter."""
        now = time.time()
        rows = [(key, np.asarray(values, np.float64).tobytes(), now) for key, values in scores.items()]
        if not rows:
            return
        self._execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)
        self._count += len(rows)
        if self._count > self.limit:
            self._delete_oldest()

    def contents(self) -> Contents:
        """Count what the cache holds now, including the answers of other processes."""
        found = self._execute("SELECT count(*), sum(length(key) + length(scores)), min(given), max(given) FROM answers", [[]])
        count, size, oldest, newest = found[0] if found else (0, 0, None, None)
        return Contents(count, size or 0, oldest, newest)

    def clear(self) -> None:
        """Delete all answers, and free the disk space unless another process is using the file."""
        self._execute("DELETE FROM answers", [[]])
        if self._database is not None:
            with contextlib.suppress(sqlite3.OperationalError):  # busy
                self._database.execute("VACUUM")

    def close(self) -> None:
        """Close the file; after that the cache stays empty."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> sqlite3.Connection:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path or ":memory:", timeout=_TIMEOUT, isolation_level=None)
        try:
            _write_ahead(database)
            database.execute("PRAGMA synchronous=NORMAL")
            columns = "key TEXT PRIMARY KEY, scores BLOB NOT NULL, given REAL NOT NULL"
            database.execute(f"CREATE TABLE IF NOT EXISTS answers ({columns}) WITHOUT ROWID")
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _delete_oldest(self) -> None:
        self._count = self.contents().answers
        if self._count > self.limit:
            surplus = self._count - self.limit * 3 // 4
            oldest = "SELECT key FROM answers ORDER BY given LIMIT ?"
            self._execute(f"DELETE FROM answers WHERE key IN ({oldest})", [[surplus]])
            self._count -= surplus

    def _execute(self, statement: str, rows: Sequence[Sequence[object]]) -> list[tuple[Any, ...]]:
        """Execute `statement` once per row of parameters, in one transaction; return all results, none if the file fails."""
        if self._database is None:
            return []
        try:
            self._database.execute("BEGIN IMMEDIATE" if statement.startswith(("INSERT", "DELETE")) else "BEGIN")
            answers = [answer for row in rows for answer in self._database.execute(statement, row)]
            self._database.execute("COMMIT")
            return answers
        except sqlite3.Error as error:
            self._recover(error)
            return []

    def _recover(self, error: sqlite3.Error) -> None:
        """Replace a damaged file by an empty one; go without a cache if the content is not at fault (file locked, disk full)."""
        self.close()
        if isinstance(error, sqlite3.OperationalError) or self.path is None:
            self._go_without(error)
            return
        aside = f"{self.path}.damaged-{int(time.time())}"
        note(f"answer cache {self.path} is damaged ({error}): moved to {aside}, a new one begun")
        try:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
            self._database = self._open()
        except (OSError, sqlite3.Error) as again:
            self._go_without(again)

    def _go_without(self, error: Exception) -> None:
        self.close()
        note(f"answer cache {self.path}: {error}; going on without it (answers are asked for again)")


def _write_ahead(database: sqlite3.Connection) -> None:
    """Switch to write-ahead logging: readers need not wait for a writer.

    While another process does the same to a new file, SQLite reports an error instead of waiting; this waits.
    """
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
