"""Answer cache: what the model said about a situation is kept in SQLite, so that no run asks the same thing twice.

Keys are hashes of everything an answer depends on; values are raw option scores. It is a cache: several processes may
share it, whatever goes wrong with its file costs time, never a run, and when it is full the oldest answers make room.
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
"""Answers kept: about 250 MB."""

_PATIENCE = 30.0  # seconds to wait for another process
_AT_ONCE = 500  # keys in one query; SQLite admits at least 999


@dataclass(frozen=True)
class Contents:
    """What a memory holds: answers, their bytes, and when (seconds since 1970) the oldest and newest were given."""

    answers: int
    size: int
    oldest: float | None
    newest: float | None


def cache_key(model: str, adapter: str, prefix: Sequence[int], situation: Situation) -> str:
    """Sha256 of all that an answer depends on: fingerprints of weights and adapter, prompt prefix, situation, options."""
    parts = [model, adapter, list(prefix), situation.text, list(situation.options)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class AnswerCache:
    """Key -> option scores (float64), at most `limit` of them. `path` None keeps it within this process."""

    def __init__(self, path: Path | None, limit: int = LIMIT) -> None:
        self.path, self.limit = path, limit
        self._database: sqlite3.Connection | None = None
        self._answers = 0
        """How many there are, those left out that other processes have added since this one last counted."""
        try:
            self._database = self._open()
            self._answers = self.contents().answers
        except sqlite3.Error as error:
            self._mend(error)
        except OSError as error:
            self._give_up(error)

    @classmethod
    def default(cls) -> AnswerCache:
        """The memory in the user's cache folder."""
        return cls(cache_folder() / FILE)

    def get_many(self, keys: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """What is remembered of `keys`; unknown keys are absent."""
        found: dict[str, NDArray[np.float64]] = {}
        for first in range(0, len(keys), _AT_ONCE):
            some = list(keys[first : first + _AT_ONCE])
            marks = ",".join("?" * len(some))
            for key, blob in self._execute(f"SELECT key, scores FROM answers WHERE key IN ({marks})", [some]):
                if isinstance(key, str) and isinstance(blob, bytes) and len(blob) % 8 == 0:
                    found[key] = np.frombuffer(blob, np.float64).copy()
        return found

    def recall(self, wanted: Mapping[str, Situation]) -> dict[str, NDArray[np.float64]]:
        """What is remembered of these situations by their keys: a score for every option, or the key is absent."""
        found = self.get_many(list(wanted))
        return {key: score for key, score in found.items() if score.size == len(wanted[key].options)}

    def put_many(self, scores: Mapping[str, NDArray[np.float64]]) -> None:
        """Remember `scores`; where there are too many answers, the oldest quarter of them is forgotten."""
        now = time.time()
        rows = [(key, np.asarray(values, np.float64).tobytes(), now) for key, values in scores.items()]
        if not rows:
            return
        self._execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)
        self._answers += len(rows)
        if self._answers > self.limit:
            self._forget_oldest()

    def contents(self) -> Contents:
        """What it holds now, the answers of other processes included."""
        found = self._execute("SELECT count(*), sum(length(key) + length(scores)), min(given), max(given) FROM answers", [[]])
        count, size, oldest, newest = found[0] if found else (0, 0, None, None)
        return Contents(count, size or 0, oldest, newest)

    def clear(self) -> None:
        """Forget everything, and give the space back as far as no other process is using it."""
        self._execute("DELETE FROM answers", [[]])
        if self._database is not None:
            with contextlib.suppress(sqlite3.OperationalError):  # busy
                self._database.execute("VACUUM")

    def close(self) -> None:
        """Close the file; afterwards nothing is remembered."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> sqlite3.Connection:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path or ":memory:", timeout=_PATIENCE, isolation_level=None)
        try:
            _write_ahead(database)
            database.execute("PRAGMA synchronous=NORMAL")
            columns = "key TEXT PRIMARY KEY, scores BLOB NOT NULL, given REAL NOT NULL"
            database.execute(f"CREATE TABLE IF NOT EXISTS answers ({columns}) WITHOUT ROWID")
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _forget_oldest(self) -> None:
        self._answers = self.contents().answers
        if self._answers > self.limit:
            surplus = self._answers - self.limit * 3 // 4
            oldest = "SELECT key FROM answers ORDER BY given LIMIT ?"
            self._execute(f"DELETE FROM answers WHERE key IN ({oldest})", [[surplus]])
            self._answers -= surplus

    def _execute(self, statement: str, rows: Sequence[Sequence[object]]) -> list[tuple[Any, ...]]:
        """All answers to `statement` for each of `rows`, in one transaction; none where the file fails."""
        if self._database is None:
            return []
        try:
            self._database.execute("BEGIN IMMEDIATE" if statement.startswith(("INSERT", "DELETE")) else "BEGIN")
            answers = [answer for row in rows for answer in self._database.execute(statement, row)]
            self._database.execute("COMMIT")
            return answers
        except sqlite3.Error as error:
            self._mend(error)
            return []

    def _mend(self, error: sqlite3.Error) -> None:
        """Begin a damaged file anew; where the fault is not in the content (locked, disk full), do without a memory."""
        self.close()
        if isinstance(error, sqlite3.OperationalError) or self.path is None:
            self._give_up(error)
            return
        aside = f"{self.path}.damaged-{int(time.time())}"
        note(f"answer cache {self.path} is damaged ({error}): moved to {aside}, begun anew")
        try:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
            self._database = self._open()
        except (OSError, sqlite3.Error) as again:
            self._give_up(again)

    def _give_up(self, error: Exception) -> None:
        self.close()
        note(f"answer cache {self.path}: {error}; going on without it (answers are asked for again)")


def _write_ahead(database: sqlite3.Connection) -> None:
    """Let readers and a writer in at once. While another process does the same to a new file, SQLite does not wait by itself."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
