"""The file of the queue: its tables in SQLite, written in transactions that outlive a power cut."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadgen.errors import RunFolderError

Connection = sqlite3.Connection  # within a transaction

BUSY_S = 10.0
FORMAT = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, name TEXT NOT NULL,
  tags TEXT NOT NULL, config TEXT NOT NULL, state TEXT NOT NULL, created_utc TEXT NOT NULL, started_utc TEXT,
  ended_utc TEXT, exit_code INTEGER, error TEXT, launch INTEGER NOT NULL DEFAULT 0,
  cancel_asked INTEGER NOT NULL DEFAULT 0, schedule_id TEXT);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, number);
CREATE INDEX IF NOT EXISTS jobs_by_end ON jobs (ended_utc);
CREATE TABLE IF NOT EXISTS schedules (
  id TEXT PRIMARY KEY, cron TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, tags TEXT NOT NULL,
  config TEXT NOT NULL, created_utc TEXT NOT NULL, next_utc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS run_tags (run TEXT PRIMARY KEY, tags TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS run_names (run TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS submissions (
  key TEXT PRIMARY KEY, body TEXT NOT NULL, made TEXT NOT NULL, created_utc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ended_sessions (session TEXT PRIMARY KEY, ends_s INTEGER NOT NULL);
"""


class Database:
    """May be used from any thread."""

    def __init__(self, path: Path) -> None:
        """Raises RunFolderError for a queue that cannot be opened, or is of another version of Headroom."""
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")  # a job that was accepted outlives a power cut
            found = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, FORMAT):
                raise RunFolderError(f"{path} has format {found}; this version of Headroom reads format {FORMAT}")
            self._connection.executescript(f"{SCHEMA}PRAGMA user_version = {FORMAT};")
        except sqlite3.Error as error:
            raise RunFolderError(f"the queue {path} cannot be opened: {error}") from None

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: all of it is kept, or where something is raised none."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()
