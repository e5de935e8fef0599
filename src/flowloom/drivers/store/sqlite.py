"""The embedded northbound store: one SQLite file in WAL mode on a local file system, no server.

URL: `sqlite:////abs/path/northbound.sqlite?synchronous=full|normal&log_max=N&busy_seconds=S`.

Objects and change log are written in one transaction, then every watch is rung (`doorbell`).  Any process
may write, be killed and come back: the log is the truth, a ring only says "look".  What somebody changes with
`sqlite3` is in the log too; values and versions are cast on reading, because such a hand leaves text in them.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

from flowloom.drivers.store.doorbell import Bell
from flowloom.drivers.store.sqlite_file import SqliteFile, translated_at_opening
from flowloom.kernel.errors import Misconfigured, StartOver, Unavailable
from flowloom.northbound.limits import newest_of_each_key, outcomes
from flowloom.northbound.store import Capabilities, Changes, Cursor, Entry, Listing, Outcome, Versions, Write

VALUE_BYTES_MAX = 1 << 20
LOG_MAX = 100_000
BUSY_SECONDS = 2.0
POLL_SECONDS = 0.5
_TRIMS = 1000
_PAGE_POSITIONS = 1000
_PAGE_BYTES = 8 << 20

_POINT = """
SELECT (SELECT value FROM meta WHERE name = 'epoch'),
       (SELECT coalesce(min(position), 1) - 1 FROM change),
       (SELECT coalesce(max(position), 0) FROM change)
"""
_IF_NEWER = """
INSERT INTO object VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET version = excluded.version, value = excluded.value
WHERE excluded.version > CAST(version AS INTEGER)
"""
_TRIM = "DELETE FROM change WHERE position <= (SELECT max(position) FROM change) - ?"
_ENTRY = "key, CAST(version AS INTEGER), CAST(value AS BLOB)"
# CROSS JOIN keeps SQLite to this order: walk the log, look each key up.
_SINCE = """
SELECT c.position, o.key, CAST(o.version AS INTEGER), CAST(o.value AS BLOB) FROM change c CROSS JOIN object o ON o.key = c.key
WHERE c.position > ? AND c.position <= ? AND c.key >= ? AND c.key < ? ORDER BY c.position
"""


def open_store(url: str) -> SqliteStore:
    """The store at `url`; an absent file is created, its directory is not."""
    parts = urlsplit(url)
    path = unquote(parts.path[1:])
    if parts.scheme != "sqlite" or parts.netloc or not os.path.isabs(path):
        raise Misconfigured("store", f"{url} is not of the form sqlite:////absolute/path (four slashes)")
    synchronous, log_max, busy_seconds = _options(url, dict(parse_qsl(parts.query, keep_blank_values=True)))
    if not os.path.isdir(os.path.dirname(path)):
        raise Misconfigured("store", f"the directory {os.path.dirname(path)} does not exist; create it")
    if os.path.isdir(path):
        raise Misconfigured("store", f"{path} is a directory; name a file in it")
    with translated_at_opening(path):
        return SqliteStore(SqliteFile(path, synchronous, busy_seconds), log_max)


def _options(url: str, query: dict[str, str]) -> tuple[str, int, float]:
    synchronous = query.pop("synchronous", "full").upper()
    log_max, busy_seconds = query.pop("log_max", str(LOG_MAX)), query.pop("busy_seconds", str(BUSY_SECONDS))
    if query:
        raise Misconfigured("store", f"{url}: unknown option {next(iter(query))}")
    if synchronous not in ("FULL", "NORMAL"):
        raise Misconfigured("store", f"{url}: synchronous is full or normal")
    if not log_max.isdigit() or int(log_max) < 1:
        raise Misconfigured("store", f"{url}: log_max is a number of changes, at least 1")
    try:
        busy = float(busy_seconds)
    except ValueError as error:
        raise Misconfigured("store", f"{url}: busy_seconds is a number of seconds") from error
    return synchronous, int(log_max), busy


class SqliteStore:
    """Implements `northbound.store.Store`.  Any thread may call; open it after forking."""

    capabilities = Capabilities(
        atomic_batch=True, watch=True, consistent_read=True, durable=True, value_bytes_max=VALUE_BYTES_MAX
    )

    def __init__(self, file: SqliteFile, log_max: int) -> None:
        self._file = file
        self._log_max = log_max
        self._untrimmed = log_max  # Changes by this handle since it trimmed the log last; as if never.

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        chosen = newest_of_each_key(writes, VALUE_BYTES_MAX)
        if not chosen:
            self._file.check_open()
            return []
        with self._file.writing() as connection:
            decided = {key: _write(connection, write) for key, write in chosen.items()}
            self._trim(connection, len(chosen))
        if any(applied for applied, _ in decided.values()):
            self._file.ring()
        return outcomes(writes, chosen, decided)

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        with self._file.reading() as connection:
            return [_get(connection, key) for key in keys]

    def read(self, prefix: str) -> Listing:
        with self._file.reading() as connection:
            rows = connection.execute(
                f"SELECT {_ENTRY} FROM object WHERE key >= ? AND key < ? ORDER BY key", _range(prefix)
            )
            return Listing([Entry(*row) for row in rows], _point(connection)[0])

    def versions(self, prefix: str) -> Versions:
        with self._file.reading() as connection:
            rows = connection.execute(
                "SELECT key, CAST(version AS INTEGER), value IS NULL FROM object WHERE key >= ? AND key < ?",
                _range(prefix),
            )
            return Versions({key: (version, bool(dead)) for key, version, dead in rows}, _point(connection)[0])

    def watch(self, prefix: str, cursor: Cursor) -> SqliteWatch:
        self._file.check_open()
        return SqliteWatch(self._file, prefix, cursor)

    def close(self) -> None:
        self._file.close()

    def _trim(self, connection: sqlite3.Connection, changes: int) -> None:
        """Now and then: a thousandth more than `log_max` may stay, of every handle that writes."""
        self._untrimmed += changes
        if self._untrimmed >= max(1, self._log_max // _TRIMS):
            connection.execute(_TRIM, (self._log_max,))
            self._untrimmed = 0


class SqliteWatch:
    """Implements `northbound.store.Watch`: woken by the doorbell, and by its own clock if that fails."""

    def __init__(self, file: SqliteFile, prefix: str, cursor: Cursor) -> None:
        self._file = file
        self._prefix = prefix
        self._cursor = cursor
        self._generation = file.generation
        self._closed = False
        self._bell: Bell | None = None
        with contextlib.suppress(OSError):  # In a directory that cannot be written this watch polls.
            self._bell = file.doorbell.listen()

    def next(self, timeout_seconds: float) -> Changes:
        deadline = time.monotonic() + timeout_seconds
        while True:
            if self._closed:
                raise Unavailable("this watch is closed")
            if self._bell:
                self._bell.silence()
            entries, behind = self._advance()
            left = deadline - time.monotonic()
            if entries or (left <= 0 and not behind):
                return Changes(entries, self._cursor)
            if not behind:
                self._wait(min(left, POLL_SECONDS))

    def close(self) -> None:
        self._closed = True
        if self._bell:
            self._bell.close()

    def _wait(self, seconds: float) -> None:
        if self._bell:
            self._bell.wait(seconds)
        else:
            time.sleep(min(seconds, 0.05))

    def _advance(self) -> tuple[list[Entry], bool]:
        """The next page of changes, and whether there is more behind it; moves the cursor."""
        with self._file.reading() as connection:
            if self._file.generation != self._generation:
                raise StartOver(f"{self._file.path}: the file was replaced")
            newest, oldest = _point(connection)
            if newest.epoch != self._cursor.epoch:
                raise StartOver(f"{self._file.path}: epoch {newest.epoch}, the cursor is of {self._cursor.epoch}")
            if not oldest <= self._cursor.position <= newest.position:
                raise StartOver(f"{self._file.path}: position {self._cursor.position} is no longer in the log")
            upto = min(self._cursor.position + _PAGE_POSITIONS, newest.position)
            rows = connection.execute(_SINCE, (self._cursor.position, upto, *_range(self._prefix)))
            entries, position = _page(rows, upto)
        self._cursor = Cursor(newest.epoch, position)
        return entries, position < newest.position


def _page(rows: Iterator[tuple[int, str, int, bytes | None]], upto: int) -> tuple[list[Entry], int]:
    """Entries out of log rows, each key once, at most some megabytes; and the position they reach."""
    found: dict[str, Entry] = {}
    size = 0
    for position, key, version, value in rows:
        found[key] = Entry(key, version, value)
        size += len(value or b"")
        if size > _PAGE_BYTES:
            return list(found.values()), position
    return list(found.values()), upto


def _point(connection: sqlite3.Connection) -> tuple[Cursor, int]:
    """The newest point of the history, and the oldest position that can be resumed."""
    epoch, oldest, newest = connection.execute(_POINT).fetchone()
    return Cursor(epoch, newest), oldest


def _get(connection: sqlite3.Connection, key: str) -> Entry | None:
    row = connection.execute(f"SELECT {_ENTRY} FROM object WHERE key = ?", (key,)).fetchone()
    return None if row is None else Entry(*row)


def _write(connection: sqlite3.Connection, write: Write) -> tuple[bool, int]:
    if connection.execute(_IF_NEWER, write).rowcount:
        return True, write.version
    (held,) = connection.execute("SELECT CAST(version AS INTEGER) FROM object WHERE key = ?", (write.key,)).fetchone()
    return False, held


def _range(prefix: str) -> tuple[str, str]:
    """The keys under `prefix` as a half-open range; keys are ASCII, so the last code point ends every one."""
    return prefix, prefix + "\U0010ffff"
