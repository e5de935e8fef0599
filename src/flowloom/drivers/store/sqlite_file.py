"""One SQLite file as a northbound database: its schema, its identity, its connections.

The file may be moved away and back while processes run, or replaced: its inode is looked at on every use.
Gone: Unavailable.  Another one: all connections are opened anew, and `generation` counts up.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from flowloom.drivers.store.doorbell import Doorbell
from flowloom.kernel.errors import Misconfigured, Unavailable

APPLICATION_ID = 0x464C4F57  # "FLOW"
SCHEMA = 2
_IDLE_MAX = 8

# object: what each key holds; value NULL: a tombstone.  Without rowid, so that a prefix is one range.
# change: which key changed at which position; at least the newest one stays.
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE object (key TEXT PRIMARY KEY, version INTEGER NOT NULL, value BLOB) WITHOUT ROWID;
CREATE TABLE change (position INTEGER PRIMARY KEY, key TEXT NOT NULL);
"""

# The log is written by triggers (since schema 2), so that every watch sees what somebody changes with a client of
# SQLite's own.  A feed cannot say that a key is gone without a version: a row that is deleted leaves a gap in the
# positions with nothing before it, and whoever follows must start over.  What `apply` does, and REPLACE, is no delete.
_GAP = """
  INSERT INTO change (position, key) SELECT coalesce(max(position), 0) + 2, OLD.key FROM change;
  DELETE FROM change WHERE position < (SELECT max(position) FROM change);
"""
_TRIGGERS = (
    "CREATE TRIGGER object_inserted AFTER INSERT ON object BEGIN INSERT INTO change (key) VALUES (NEW.key); END",
    "CREATE TRIGGER object_updated AFTER UPDATE ON object BEGIN INSERT INTO change (key) VALUES (NEW.key); END",
    f"CREATE TRIGGER object_deleted AFTER DELETE ON object BEGIN {_GAP} END",
    f"CREATE TRIGGER object_renamed AFTER UPDATE OF key ON object WHEN NEW.key <> OLD.key BEGIN {_GAP} END",
)

Identity = tuple[int, int]


class SqliteFile:
    """Connections to one file, handed out to any thread.

    synchronous: FULL (an applied write survives power loss) or NORMAL (it survives every crash but that).
    busy_seconds: how long a writer waits for others before it is Unavailable.
    """

    def __init__(self, path: str, synchronous: str, busy_seconds: float) -> None:
        self.path = path
        self.busy_seconds = busy_seconds
        self.generation = 0
        self._synchronous = synchronous
        self._lock = threading.Lock()  # Guards what follows.
        self._writing = threading.Lock()  # Own threads queue here; SQLite's busy wait is for other processes.
        self._idle: list[sqlite3.Connection] = []
        self._pid = os.getpid()
        self._closed = False
        self._identity = self._prepare(create=True)
        self.doorbell = Doorbell(path + ".d")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a read transaction: one snapshot."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a write transaction, committed when the block ends without an error."""
        self.check_open()
        if not self._writing.acquire(timeout=self.busy_seconds):
            raise Unavailable(f"{self.path}: other writers held it for {self.busy_seconds:g} s")
        try:
            with self._connection() as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
        finally:
            self._writing.release()

    def ring(self) -> None:
        """Wake the watches of all processes."""
        with self._lock:
            if not self._closed:
                self.doorbell.ring()

    def check_open(self) -> None:
        """Raise Unavailable after `close`, and RuntimeError in a child of the process that opened."""
        if self._pid != os.getpid():
            # SQLite's locks do not survive a fork: going on would damage the file.
            raise RuntimeError(f"{self.path} was opened before a fork; open the store in the child")
        if self._closed:
            raise Unavailable(f"{self.path}: this handle of the store is closed")

    def close(self) -> None:
        """Close the idle connections now, the others when they are given back."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._drop_idle()
            self.doorbell.close()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self.check_open()
            self._look_at_file()
            connection = self._idle.pop() if self._idle else None
            generation = self.generation
        with translated(self.path):
            connection = connection or self._connect("rw")
            try:
                yield connection
            finally:
                self._give_back(connection, generation)

    def _give_back(self, connection: sqlite3.Connection, generation: int) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        with self._lock:
            if not self._closed and generation == self.generation and len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def _look_at_file(self) -> None:
        identity = _identity(self.path)
        if identity is None:
            raise Unavailable(f"{self.path}: the file is gone")
        if identity != self._identity:
            with translated(self.path):
                self._identity = self._prepare(create=False)
            self.generation += 1
            self._drop_idle()
            self.doorbell.close()
            self.doorbell = Doorbell(self.path + ".d")

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(self.path)}?mode={mode}",
            uri=True,
            timeout=self.busy_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        return connection

    def _prepare(self, create: bool) -> Identity:
        """Make the schema where it is missing and a new epoch where the file is a copy; the file's identity."""
        connection = self._connect("rwc" if create else "rw")
        try:
            _use_wal(connection, self.busy_seconds)
            connection.execute("BEGIN IMMEDIATE")
            identity = _identity(self.path)
            if identity is None:
                raise Unavailable(f"{self.path}: the file is gone")
            _ensure_schema(connection, self.path)
            _ensure_epoch(connection, inode=identity[1])
            connection.execute("COMMIT")
        finally:
            connection.close()
        return identity


def _identity(path: str) -> Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _use_wal(connection: sqlite3.Connection, busy_seconds: float) -> None:
    # The change of mode wants the file for itself and, unlike all else, does not wait by SQLite's own timer.
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def _ensure_schema(connection: sqlite3.Connection, path: str) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:
        for statement in _TABLES.strip().split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        schema = 1
    elif application != APPLICATION_ID:
        raise Misconfigured("store", f"{path} is a database of another program; name another file")
    if schema == 1:
        for statement in _TRIGGERS:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
    elif schema != SCHEMA:
        raise Misconfigured("store", f"{path} has schema {schema}, this release knows {SCHEMA}; upgrade this node")


def _ensure_epoch(connection: sqlite3.Connection, inode: int) -> None:
    # A file with another inode is a copy, put here by hand: what followed the copying is missing from it.
    meta = dict(connection.execute("SELECT name, value FROM meta"))
    if meta.get("inode") != inode:
        connection.execute("REPLACE INTO meta VALUES ('inode', ?), ('epoch', ?)", (inode, secrets.token_hex(8)))


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@contextmanager
def translated(path: str) -> Iterator[None]:
    """SQLite's errors as Unavailable: the outcome of a write is then unknown."""
    try:
        yield
    except sqlite3.Error as error:
        if _code(error) in _DAMAGED:
            raise Unavailable(f"{path}: the database is damaged ({error}); restore it or move it away") from error
        raise Unavailable(f"{path}: {error}") from error


@contextmanager
def translated_at_opening(path: str) -> Iterator[None]:
    """SQLite's errors while a store is opened: what an operator must mend is Misconfigured."""
    try:
        yield
    except sqlite3.Error as error:
        if _code(error) in _DAMAGED:
            raise Misconfigured(
                "store", f"{path} is damaged or no SQLite database ({error}); restore it or move it away"
            ) from error
        if _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise Misconfigured(
                "store", f"{path} cannot be opened for writing as user {os.getuid()} ({error}); mend its permissions"
            ) from error
        raise Unavailable(f"{path}: {error}") from error
    except OSError as error:
        raise Misconfigured("store", f"{error.filename or path}: {error.strerror}; mend it") from error
