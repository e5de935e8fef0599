"""SQLAlchemy dialects that let several writers share one SQLite file.

`sqlite+immediate:////path` takes the write lock when its transaction begins, so a transaction that
reads first and writes later cannot find, half-way, that somebody else wrote (SQLITE_BUSY_SNAPSHOT,
https://www.sqlite.org/isolation.html), which no time-out cures.  `sqlite+deferred:////path` only
reads: a snapshot that never waits for a writer and refuses to write.

Both keep the dialect's name "sqlite", so that whoever asks for it (oslo.db, alembic) is not surprised.
The lock is taken at a transaction's first statement and held until it ends: whoever waits for anything
inside a write transaction makes every other writer wait too.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

BUSY_TIMEOUT_MS = 30_000
"""How long a writer waits for the lock before it is told `database is locked`."""

IMMEDIATE = "sqlite+immediate:"
DEFERRED = "sqlite+deferred:"

_PRAGMAS = (
    f"busy_timeout={BUSY_TIMEOUT_MS}",
    "foreign_keys=ON",
    "synchronous=NORMAL",
)

_keepers: dict[tuple[int, str], sqlite3.Connection] = {}
_writing = threading.local()


def reader_url(url: str) -> str:
    """The URL that readers of the database at `url` use."""
    return DEFERRED + url.removeprefix(IMMEDIATE) if url.startswith(IMMEDIATE) else url


def _keep_open(path: str) -> None:
    """Hold one idle connection per process and file.

    Without it each close of a process's only connection checkpoints and removes the write-ahead log,
    which costs about 10 ms.  Keyed by process: a connection must not be used across a fork.
    """
    if (os.getpid(), path) in _keepers:
        return
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    _keepers[os.getpid(), path] = connection


def _driver_connection(connection: Any) -> Any:
    """The sqlite3 connection inside the pool's wrapper, or `connection` itself."""
    return getattr(connection, "dbapi_connection", connection)


class Deferred(SQLiteDialect_pysqlite):
    """Readers: a snapshot from the first read on; writes are refused."""

    driver = "deferred"
    supports_statement_cache = True
    begin_statement: ClassVar[str] = "BEGIN DEFERRED"
    query_only: ClassVar[str] = "ON"

    def on_connect(self) -> Callable[[Any], None]:
        inherited = super().on_connect()

        def prepare(connection: Any) -> None:
            if inherited is not None:
                inherited(connection)
            connection.isolation_level = None  # The driver would start transactions of its own.
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            path = connection.execute("PRAGMA database_list").fetchone()[2]
            if path:
                _keep_open(path)
            connection.execute(f"PRAGMA query_only={self.query_only}")

        return prepare

    def do_begin(self, dbapi_connection: Any) -> None:
        connection = _driver_connection(dbapi_connection)
        if not connection.in_transaction:
            self._begin(connection)

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        if statement == "BEGIN":  # oslo.db begins transactions by this statement instead of by `do_begin`.
            self._begin(cursor.connection)
        else:
            super().do_execute(cursor, statement, parameters, context)  # type: ignore[no-untyped-call]

    def _begin(self, connection: Any) -> None:
        connection.execute(self.begin_statement)


class Immediate(Deferred):
    """Writers: one at a time, each from begin to end."""

    driver = "immediate"
    supports_statement_cache = True
    begin_statement = "BEGIN IMMEDIATE"
    query_only = "OFF"

    def _begin(self, connection: Any) -> None:
        holder = getattr(_writing, "connection", None)
        if holder is not None and holder is not connection:
            # It would wait for its own thread until the time-out; better to say so at once.
            raise sqlite3.OperationalError("this thread already holds a write transaction on another connection")
        connection.execute(self.begin_statement)
        _writing.connection = connection

    def _ended(self, dbapi_connection: Any) -> None:
        if getattr(_writing, "connection", None) is _driver_connection(dbapi_connection):
            _writing.connection = None

    def do_commit(self, dbapi_connection: Any) -> None:
        super().do_commit(dbapi_connection)  # type: ignore[no-untyped-call]
        self._ended(dbapi_connection)

    def do_rollback(self, dbapi_connection: Any) -> None:
        super().do_rollback(dbapi_connection)  # type: ignore[no-untyped-call]
        self._ended(dbapi_connection)

    def do_close(self, dbapi_connection: Any) -> None:
        super().do_close(dbapi_connection)  # type: ignore[no-untyped-call]
        self._ended(dbapi_connection)
