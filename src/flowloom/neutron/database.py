"""A SQL database as the tables use it: snapshots to read, short transactions to write, errors that say who acts next.

What is relied on:

=========== ============================================ ======================================================
database    reading: one snapshot                        writing: `version = version + 1` loses nothing
=========== ============================================ ======================================================
SQLite      BEGIN on a write-ahead log                   one writer at a time (BEGIN IMMEDIATE)
InnoDB      REPEATABLE READ, asked for by each reader    an UPDATE reads the newest row under its lock at every
                                                         isolation level; a repetition after a deadlock starts anew
Galera      the same, after the causality wait           the same at one node; of two nodes the second to certify
                                                         is rolled back (1213) and repeats
PostgreSQL  REPEATABLE READ, asked for by each reader    at READ COMMITTED as InnoDB; above it a serialization
                                                         failure, and the whole transaction repeats
=========== ============================================ ======================================================

Capture runs inside Neutron's own transactions and asks for no level: its statements are right at READ
COMMITTED and above.  A reader at READ UNCOMMITTED or READ COMMITTED could pair one moment's version with
another's content, so readers never take the server's default.  Tests: `tests/consistency/test_isolation.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.neutron.sqlite_dialect import reader_url

C = TypeVar("C")

SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
CAUSALITY_WAIT = "SET STATEMENT wsrep_sync_wait = 1 FOR SELECT 1"
"""Galera: wait until this node has applied what any node had committed before.  Elsewhere it does nothing."""


class Contended(Exception):
    """The database gave the transaction up in favour of another, or cannot take one now: nothing of it happened."""


class Database(Protocol):
    """Where Neutron's and our tables are.  Any thread may use it.

    Both raise Contended, Unavailable (a write's outcome is then unknown) and Misconfigured (the schema is not ours).
    """

    def reader(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that reads one snapshot, not older than any commit that was answered before."""
        ...

    def writer(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that is committed at the end of the block, or rolled back by whatever leaves it."""
        ...


class SqlDatabase:
    """A database by plain SQLAlchemy.

    writing, reading: engines of the same database; readers of SQLite refuse to write.
    causality_wait: False saves the round trip to the other nodes of a Galera cluster; reads may then be old.
    """

    def __init__(self, writing: sa.Engine, reading: sa.Engine, causality_wait: bool = True) -> None:
        self.writing = writing
        self.reading = reading
        self._causality_wait = causality_wait

    @classmethod
    def at(cls, url: str, causality_wait: bool = True) -> Self:
        """The same by engines of its own, for the database at `url`."""
        return cls(_engine(url), _engine(reader_url(url)), causality_wait)

    @property
    def url(self) -> str:
        """Of the writers, password included."""
        return self.writing.url.render_as_string(hide_password=False)

    @contextmanager
    def reader(self) -> Iterator[sa.Connection]:
        with translated_errors(), self.reading.connect() as connection:
            begin_snapshot(connection, self._causality_wait)
            yield connection

    @contextmanager
    def writer(self) -> Iterator[sa.Connection]:
        with translated_errors(), self.writing.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close every connection; repeating it does nothing."""
        self.reading.dispose()
        self.writing.dispose()


def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url)
    path = engine.url.database
    if engine.dialect.name == "sqlite" and path and path != ":memory:":
        # A connection of the pool to a file that was moved away or replaced would go on with what nobody else sees.
        def opened(_connection: Any, record: Any) -> None:
            record.info["file"] = _identity(path)

        def taken(_connection: Any, record: Any, _proxy: Any) -> None:
            if record.info["file"] != _identity(path):
                raise exc.DisconnectionError(f"{path} is another file by now")

        sa.event.listen(engine, "connect", opened)
        sa.event.listen(engine, "checkout", taken)
    return engine


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def begin_snapshot(connection: sa.Connection, causality_wait: bool = True) -> None:
    """Make the transaction of `connection`, in which nothing was read yet, a snapshot."""
    dialect = connection.dialect
    if dialect.name in ("mysql", "mariadb"):
        if causality_wait and getattr(dialect, "is_mariadb", False):
            connection.exec_driver_sql(CAUSALITY_WAIT).close()
        connection.exec_driver_sql(SNAPSHOT)
    elif dialect.name == "postgresql":
        connection.exec_driver_sql(SNAPSHOT)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the drivers' errors, wrapped by SQLAlchemy and perhaps by oslo.db, into those of `Database`."""
    try:
        yield
    except exc.TimeoutError as error:
        raise Unavailable(f"Neutron's database: no connection is free: {error}") from error
    except exc.DBAPIError as error:
        _raise_translated(error)
        raise
    except Exception as error:
        # oslo.db replaces SQLAlchemy's errors by its own, which share no ancestor with them.
        if isinstance(getattr(error, "inner_exception", None), Exception):
            _raise_translated(error)
        raise


def _raise_translated(error: Exception) -> None:
    """Raise what `error` means; return when it means a fault of ours."""
    cause, disconnected = _driver_error(error)
    text = f"Neutron's database: {cause}"
    match _meaning(cause):
        case "contended":
            raise Contended(text) from error
        case "schema":
            why = f"{cause}; run neutron-db-manage --subproject flowloom upgrade heads"
            raise Misconfigured("[database] connection", why) from error
        case "unavailable":
            raise Unavailable(text) from error
    if disconnected:
        raise Unavailable(text) from error


def _driver_error(error: Exception) -> tuple[Exception, bool]:
    """The driver's own error at the bottom, and whether SQLAlchemy gave the connection up."""
    disconnected = False
    while True:
        disconnected |= bool(getattr(error, "connection_invalidated", False))
        inner = getattr(error, "inner_exception", None) or getattr(error, "orig", None)
        if not isinstance(inner, Exception) or inner is error:
            return error, disconnected
        error = inner


# https://mariadb.com/kb/en/mariadb-error-code-reference/: lock wait time-out, deadlock (also Galera's certification
# failure), record changed since the snapshot (innodb_snapshot_isolation), duplicate key, error during commit,
# and 1047: the node is not (or no longer) part of a quorum.
_MYSQL_CONTENDED = frozenset({1205, 1213, 1020, 1062, 1180, 1047})
_MYSQL_SCHEMA = frozenset({1054, 1146})
# Too many connections, shutdown in progress, aborted and killed connections, interrupted, read-only, refused log-in,
# unknown database, and what the client itself says of a connection that broke.
_MYSQL_UNAVAILABLE = frozenset(
    {1040, 1053, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1290, 1317, 1836, 1927, 1969}
    | {1044, 1045, 1049, 0, 2002, 2003, 2006, 2013, 2014, 2055, 4031}
)
# https://www.sqlite.org/rescode.html
_SQLITE_CONTENDED = frozenset({5, 6})
_SQLITE_DUPLICATE = frozenset({1555, 2067})
_SQLITE_SCHEMA = frozenset({1})
_SQLITE_UNAVAILABLE = frozenset({8, 10, 11, 13, 14, 26})
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL_CONTENDED = frozenset({"40001", "40P01", "55P03", "23505"})
_POSTGRESQL_SCHEMA = frozenset({"42P01", "42703"})
_POSTGRESQL_UNAVAILABLE = frozenset({"08", "53", "57"})


def _meaning(error: Exception) -> str:
    code = error.args[0] if error.args else None
    if isinstance(code, int):
        return _meant(code, _MYSQL_CONTENDED, _MYSQL_SCHEMA, _MYSQL_UNAVAILABLE)
    sqlite = getattr(error, "sqlite_errorcode", None)
    if sqlite in _SQLITE_DUPLICATE:
        return "contended"
    if sqlite is not None:
        return _meant(sqlite & 0xFF, _SQLITE_CONTENDED, _SQLITE_SCHEMA, _SQLITE_UNAVAILABLE)
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state is not None and state[:2] in _POSTGRESQL_UNAVAILABLE:
        return "unavailable"
    return _meant(state, _POSTGRESQL_CONTENDED, _POSTGRESQL_SCHEMA, frozenset())


def _meant(code: C, contended: frozenset[C], schema: frozenset[C], unavailable: frozenset[C]) -> str:
    if code in contended:
        return "contended"
    if code in schema:
        return "schema"
    return "unavailable" if code in unavailable else ""
