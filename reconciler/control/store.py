"""What the reference control plane keeps, in one SQLite file: run requests with their answers, and uploaded manifests.

Documents are kept as ASCII JSON, so that nothing a stranger sends can be text that SQLite cannot hold. Everything is
bounded: of more than `rows_max` the oldest go.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from reconciler.errors import UsageError
from reconciler.values import frozen

ROWS_MAX = 100_000
BUSY_S = 5.0
PAGE_MAX = 200
FORMAT = 1
NOT_OURS = "is no data of a control plane; name another file, or one that is not there yet"

TABLES = """
CREATE TABLE IF NOT EXISTS requests (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    outcome TEXT NOT NULL,
    received_at TEXT NOT NULL,
    document TEXT NOT NULL,
    answer TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS requests_by_id ON requests (request_id, sequence);
CREATE TABLE IF NOT EXISTS runs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    body_sha256 TEXT NOT NULL,
    run_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    status TEXT NOT NULL,
    received_at TEXT NOT NULL,
    document TEXT NOT NULL,
    answer TEXT NOT NULL,
    UNIQUE (workspace, idempotency_key)
) STRICT;
CREATE INDEX IF NOT EXISTS runs_by_id ON runs (workspace, run_id, sequence);
"""


@frozen
class KeptRequest:
    """A run request with the answer to it; both are JSON text."""

    sequence: int
    request_id: str
    digest: str
    outcome: str
    received_at: str
    document: str
    answer: str


@frozen
class KeptRun:
    """An uploaded manifest; `document` and `answer` are JSON text."""

    sequence: int
    workspace: str
    idempotency_key: str
    body_sha256: str
    run_id: str
    task_id: str
    status: str
    received_at: str
    document: str
    answer: str


REQUEST_COLUMNS = "sequence, request_id, digest, outcome, received_at, document, answer"
RUN_COLUMNS = (
    "sequence, workspace, idempotency_key, body_sha256, run_id, task_id, status, received_at, document, answer"
)


class Store:
    """One SQLite file, used by one thread at a time. Raise sqlite3.Error if the file cannot be used now."""

    def __init__(self, path: Path | None, rows_max: int = ROWS_MAX) -> None:
        """Open the file, or a store in memory. Raise UsageError if it cannot be one."""
        self.rows_max = rows_max
        self._lock = threading.Lock()
        self._connection = _open(path)

    def close(self) -> None:
        """Close the file; what was answered is on disk already, whether that succeeds or not."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._connection.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Give a transaction that is on disk when it is over."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def _rows(self, query: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    # -------------------------------------------------------------------------------------------- requests

    def keep_request(self, kept: KeptRequest) -> None:
        """Keep a run request; one with the same content takes the place of the earlier one."""
        names = "request_id, digest, outcome, received_at, document, answer"
        values = (kept.request_id, kept.digest, kept.outcome, kept.received_at, kept.document, kept.answer)
        with self._writing() as connection:
            connection.execute("DELETE FROM requests WHERE digest = ?", (kept.digest,))
            connection.execute(f"INSERT INTO requests ({names}) VALUES (?, ?, ?, ?, ?, ?)", values)  # noqa: S608
            self._prune(connection, "requests")

    def request(self, request_id: str) -> KeptRequest | None:
        """Return the newest run request of this id."""
        query = f"SELECT {REQUEST_COLUMNS} FROM requests WHERE request_id = ? ORDER BY sequence DESC LIMIT 1"  # noqa: S608
        rows = self._rows(query, (request_id,))
        return _request(rows[0]) if rows else None

    def requests(self, before: int, limit: int) -> list[KeptRequest]:
        """Return requests older than a sequence number, the newest first."""
        query = f"SELECT {REQUEST_COLUMNS} FROM requests WHERE sequence < ? ORDER BY sequence DESC LIMIT ?"  # noqa: S608
        return [_request(each) for each in self._rows(query, (before, min(limit, PAGE_MAX)))]

    # -------------------------------------------------------------------------------------------- runs

    def keep_run(self, kept: KeptRun) -> KeptRun:
        """Keep a manifest unless its key is there already; return what is there under it."""
        names = RUN_COLUMNS.removeprefix("sequence, ")
        with self._writing() as connection:
            query = f"SELECT {RUN_COLUMNS} FROM runs WHERE workspace = ? AND idempotency_key = ?"  # noqa: S608
            there = connection.execute(query, (kept.workspace, kept.idempotency_key)).fetchone()
            if there is not None:
                return _run(there)
            connection.execute(
                f"INSERT INTO runs ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                (
                    *(kept.workspace, kept.idempotency_key, kept.body_sha256, kept.run_id, kept.task_id),
                    *(kept.status, kept.received_at, kept.document, kept.answer),
                ),
            )
            self._prune(connection, "runs")
        return kept

    def run(self, workspace: str, run_id: str) -> KeptRun | None:
        """Return the manifest of a run that was uploaded last."""
        query = f"SELECT {RUN_COLUMNS} FROM runs WHERE workspace = ? AND run_id = ? ORDER BY sequence DESC LIMIT 1"  # noqa: S608
        rows = self._rows(query, (workspace, run_id))
        return _run(rows[0]) if rows else None

    def runs(self, workspace: str, task_id: str | None, before: int, limit: int) -> list[KeptRun]:
        """Return manifests older than a sequence number, the newest first, of one task or of all."""
        query = (
            f"SELECT {RUN_COLUMNS} FROM runs WHERE workspace = ? AND (? IS NULL OR task_id = ?)"  # noqa: S608
            " AND sequence < ? ORDER BY sequence DESC LIMIT ?"
        )
        values = (workspace, task_id, task_id, before, min(limit, PAGE_MAX))
        return [_run(each) for each in self._rows(query, values)]

    def _prune(self, connection: sqlite3.Connection, table: str) -> None:
        oldest = f"(SELECT sequence FROM {table} ORDER BY sequence DESC LIMIT 1 OFFSET ?)"  # noqa: S608
        connection.execute(f"DELETE FROM {table} WHERE sequence <= {oldest}", (self.rows_max,))  # noqa: S608


def _open(path: Path | None) -> sqlite3.Connection:
    """Return a connection that can wait for others and loses nothing that was answered."""
    try:
        if path is not None:
            # For nobody but the owner to read, like its companions, which take over its mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            ":memory:" if path is None else path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA trusted_schema=OFF")
        _make_tables(connection, str(path))
    except OSError as error:
        raise UsageError(f"--data {path}: {error.strerror}") from None
    except sqlite3.Error as error:
        raise UsageError(f"--data {path}: {NOT_OURS} ({error})") from None
    return connection


def _make_tables(connection: sqlite3.Connection, where: str) -> None:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if found not in (0, FORMAT) or (found == 0 and tables):
        connection.close()
        raise UsageError(f"--data {where}: {NOT_OURS}")
    connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version={FORMAT}; COMMIT;")


def _request(row: tuple[object, ...]) -> KeptRequest:
    names = REQUEST_COLUMNS.split(", ")
    return KeptRequest(**dict(zip(names, row, strict=True)))  # type: ignore[arg-type]


def _run(row: tuple[object, ...]) -> KeptRun:
    names = RUN_COLUMNS.split(", ")
    return KeptRun(**dict(zip(names, row, strict=True)))  # type: ignore[arg-type]
