"""The northbound store in RethinkDB, 2.4.

URL: `rethinkdb://[USER:PASSWORD@]HOST[:28015],HOST.../DATABASE?option=value`, or `rethinkdb+tls://...`.

- `DATABASE` (default `flowloom`): a database of RethinkDB's, for this store alone; made if it is missing.
- `USER:PASSWORD@` (default `admin` without a password), percent-encoded, or `USER@` with `password_file=/path`.
- `tls_ca=/path`, required with TLS: the PEM file that servers' certificates are verified with.  (The client library
  shows no client certificates.)
- `replicas=N`: of the tables, when this process makes them (default: the number of servers that the URL names, at
  most 3).
- `timeout_seconds=5`: for each query, its repetitions included.  `log_max=100000`: changes remembered.

What RethinkDB cannot do is declared: a batch is atomic a key at a time, and a listing is not one moment's: it may hold
what was written after its cursor, and a watch from there shows it again.  Nothing is missed: see `rethinkdb_queries`.
Writes are on the disks of a majority of the replicas when they are acknowledged (`hard`, `majority`).
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random, SystemRandom
from typing import Any

from rethinkdb import errors

from flowloom.drivers.store import rethinkdb_queries as queries
from flowloom.drivers.store.rethinkdb_queries import Row, r
from flowloom.drivers.store.rethinkdb_session import Connection, Session, Settings, close, dial, opening, sentence
from flowloom.drivers.store.urls import Endpoint, parse
from flowloom.kernel.backoff import Backoff
from flowloom.kernel.errors import Misconfigured, StartOver, Unavailable
from flowloom.northbound.limits import newest_of_each_key, outcomes
from flowloom.northbound.store import Capabilities, Changes, Cursor, Entry, Listing, Outcome, Versions, Write

VALUE_BYTES_MAX = 1 << 20
LOG_MAX = 100_000
TIMEOUT_SECONDS = 5.0

_BATCH_WRITES = 200
_BATCH_BYTES = 4 << 20
_PAGE_BYTES = 4 << 20
_PAGE_KEYS_MAX = 2000
_PAGE_KEYS_FIRST = 100
_PAGE_POSITIONS = 200
_GET_KEYS = 100
_POLL_SECONDS = 2.0
_TRIES = 5
_TRIM_EVERY = 64
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


def open_store(url: str) -> RethinkdbStore:
    """The store at `url`.  Misconfigured, or Unavailable while nobody answers there."""
    parsed = parse(url, default_port=28015)
    options = parsed.options
    database = parsed.path or "flowloom"
    if not _NAME.fullmatch(database) or database == "rethinkdb":
        raise Misconfigured("store", f"{parsed.shown}: a database's name is made of letters, digits, _ and -")
    tls = options.tls(parsed.scheme == "rethinkdb+tls")
    if tls and tls.cert:
        raise options.wrong("tls_cert", "cannot be used: RethinkDB's client library shows no certificate")
    settings = Settings(
        shown=parsed.shown,
        endpoints=parsed.endpoints,
        database=database,
        user=parsed.user,
        password=parsed.password,
        ca=tls.ca if tls else "",
        timeout_seconds=options.seconds("timeout_seconds", TIMEOUT_SECONDS, 0.5, 600),
    )
    replicas = options.number("replicas", min(3, len(parsed.endpoints)), 1, 100)
    log_max = options.number("log_max", LOG_MAX, 1, 10**9)
    options.end()
    return connect(settings, replicas, log_max)


def connect(
    settings: Settings,
    replicas: int,
    log_max: int,
    dial: Callable[[Settings, Endpoint, float], Connection] = dial,
) -> RethinkdbStore:
    """The store that `settings` name.  dial: opens connections."""
    random = SystemRandom()
    session = Session(settings, random, dial)
    store = RethinkdbStore(session, replicas, log_max, random)
    try:
        store.ensure()
    except Unavailable as error:
        session.close()
        raise opening(error) from error
    except BaseException:
        session.close()
        raise
    return store


class RethinkdbStore:
    """Implements `northbound.store.Store`.  Any thread may call; open it after forking."""

    capabilities = Capabilities(
        atomic_batch=False, watch=True, consistent_read=False, durable=True, value_bytes_max=VALUE_BYTES_MAX
    )

    def __init__(self, session: Session, replicas: int, log_max: int, random: Random) -> None:
        self.session = session
        self.where = session.where
        self._replicas = replicas
        self._log_max = log_max
        self._random = random
        self._epoch = ""

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        chosen = newest_of_each_key(writes, VALUE_BYTES_MAX)
        self.session.check_open()
        decided: dict[str, tuple[bool, int]] = {}
        for batch in _batches(chosen.values()):
            decided.update(self._apply(batch))
        return outcomes(writes, chosen, decided)

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        self.session.check_open()
        found = {entry.key: entry for entry in map(queries.entry, self._rows(dict.fromkeys(keys)))}
        return [found.get(key) for key in keys]

    def read(self, prefix: str) -> Listing:
        rows, cursor = self._listing(prefix, values=True)
        return Listing([queries.entry(rows[key]) for key in sorted(rows)], cursor)

    def versions(self, prefix: str) -> Versions:
        rows, cursor = self._listing(prefix, values=False)
        return Versions({key: (queries.version(row), queries.is_gone(row)) for key, row in rows.items()}, cursor)

    def watch(self, prefix: str, cursor: Cursor) -> RethinkdbWatch:
        self.session.check_open()
        return RethinkdbWatch(self, prefix, cursor)

    def close(self) -> None:
        self.session.close()

    # --- the database ---

    def ensure(self) -> None:
        """Make the database where there is none; Misconfigured when it holds something else."""
        self._make_tables()
        for _ in range(_TRIES):
            found = self.session.run(queries.identity())
            if found is not None:
                self._check(found)
                self._epoch = found["epoch"]
                return
            if not self.session.run(queries.is_empty()):
                raise Misconfigured("store", f"{self.where}: its tables hold another program's data; name another")
            self.session.run(queries.make_identity(secrets.token_hex(8)))
        raise Unavailable(f"{self.where}: the database disappears as often as it is made")

    def _make_tables(self) -> None:
        database, run = self.session.settings.database, self.session.run
        if database not in run(r.db_list()):
            self._make(r.db_create(database), lambda: database in run(r.db_list()))
        there = set(run(r.table_list()))
        if there and there.isdisjoint(queries.TABLES):
            raise Misconfigured("store", f"{self.where}: the database {database} is another program's; name another")
        for name in sorted(set(queries.TABLES) - there):
            self._make(r.table_create(name, replicas=self._replicas), lambda: name in run(r.table_list()))  # noqa: B023
        run(r.expr([r.table(name).wait(timeout=30)["ready"] for name in queries.TABLES]))
        indexes = r.table("object").index_list()
        if "pending" not in run(indexes):
            self._make(r.table("object").index_create("pending"), lambda: "pending" in run(indexes))
        run(r.table("object").index_wait("pending"))

    def _make(self, query: queries.Query, is_there: Callable[[], bool]) -> None:
        """Make something once; an error is none when it is there then, by this hand or another's."""
        try:
            with self.session.connection(time.monotonic() + self.session.settings.timeout_seconds) as connection:
                query.run(connection)
        except (errors.ReqlError, AttributeError, OSError) as error:
            if not is_there():
                raise Unavailable(f"{self.where}: {sentence(error)}") from error

    def _check(self, found: Row) -> None:
        if found.get("program") != queries.PROGRAM:
            raise Misconfigured("store", f"{self.where}: the table meta is another program's; name another database")
        if found.get("schema") != queries.SCHEMA:
            raise Misconfigured(
                "store",
                f"{self.where}: schema {found.get('schema')}, this release knows {queries.SCHEMA}; upgrade this node",
            )

    def run(self, query: queries.Query) -> Any:
        """As `Session.run`; tables that somebody dropped are made anew, empty and under another epoch."""
        try:
            return self.session.run(query)
        except Unavailable as error:
            # A table that is missing and a quorum that is missing are one class of errors: look which it is.
            if not isinstance(error.__cause__, errors.ReqlOpFailedError) or not self._is_dropped():
                raise
        self.ensure()
        return self.session.run(query)

    def _is_dropped(self) -> bool:
        if self.session.settings.database not in self.session.run(r.db_list()):
            return True
        return not set(queries.TABLES) <= set(self.session.run(r.table_list()))

    # --- writing ---

    def _apply(self, writes: Sequence[Write]) -> dict[str, tuple[bool, int]]:
        token = secrets.token_hex(6)
        for _ in range(_TRIES):
            done = self.run(queries.apply(writes, token, self._epoch))
            if done.get("epoch") is not False:
                break
            self.ensure()  # Another database: with its epoch the writes go there.
        else:
            raise Unavailable(f"{self.where}: the database changes as often as it is looked at")
        if "held" not in done:
            raise Unavailable(f"{self.where}: not all was done ({done['first_error']})")
        decided = {}
        for write, held in zip(writes, done["held"], strict=True):
            decided[write.key] = held.get("token") == token, queries.version(held)
        mine = {key: token for key, (applied, _) in decided.items() if applied}
        if mine:
            self._announce(mine)
        return decided

    def _announce(self, tokens: Mapping[str, str]) -> None:
        """Name keys in the log, then take their marks away: an acknowledged write is in the log."""
        deadline = time.monotonic() + self.session.settings.timeout_seconds
        backoff = Backoff(self._random, first_seconds=0.002, cap_seconds=0.1)
        append = queries.append(list(tokens), secrets.token_hex(6))
        while (done := self.run(append))["errors"]:
            delay = backoff.next_delay()  # Another writer took the number.
            if time.monotonic() + delay > deadline:
                raise Unavailable(f"{self.where}: other writers were faster for all of the time")
            time.sleep(delay)
        self.run(queries.settle({queries.id_of(key): token for key, token in tokens.items()}))
        if done["number"] % _TRIM_EVERY == 0 and done["number"] > self._log_max:
            self.run(queries.trim(done["number"] - self._log_max))

    def adopt_orphans(self) -> None:
        """Announce what dead writers wrote and did not come to announce."""
        found = self.run(queries.orphans(_BATCH_WRITES))
        if found:
            self._announce({row.get("key", row["id"]): row.get("token", "") for row in found})

    # --- reading ---

    def _rows(self, keys: Iterable[str]) -> Iterator[Row]:
        wanted = list(keys)
        for start in range(0, len(wanted), _GET_KEYS):
            yield from self.run(queries.get(wanted[start : start + _GET_KEYS]))

    def _listing(self, prefix: str, values: bool) -> tuple[dict[str, Row], Cursor]:
        """Documents by key, and the log's end before they were read: what changed meanwhile a watch from there shows."""
        self.session.check_open()
        for _ in range(_TRIES):
            cursor = self._now()
            rows = {row.get("key", row["id"]): row for row in self._pages(prefix, values)}
            if self._now().epoch == cursor.epoch:
                return {key: row for key, row in rows.items() if key.startswith(prefix)}, cursor
        raise Unavailable(f"{self.where}: the database changes as often as it is looked at")

    def _now(self) -> Cursor:
        while (said := self.run(queries.now()))["epoch"] is None:
            self.ensure()
        return Cursor(said["epoch"], int(said["tail"]))

    def _pages(self, prefix: str, values: bool) -> Iterator[Row]:
        after, size = None, _PAGE_KEYS_FIRST
        while True:
            rows = self.run(queries.page(prefix, after, size, values))
            yield from rows
            if len(rows) < size:
                return
            after = rows[-1]["id"]
            taken = sum(len(row.get("value") or "") + 200 for row in rows)
            size = max(1, min(_PAGE_KEYS_MAX, 4 * size, _PAGE_BYTES * len(rows) // taken))

    def changes(self, prefix: str, cursor: Cursor, token: str) -> tuple[dict[str, Entry], Cursor, str, bool]:
        """What the next changed keys hold, the cursor after them, the last log entry's mark, and whether there are more.

        token: the mark of the entry at the cursor, "" if it is not known.  StartOver as `Watch.next`.
        """
        said = self.run(queries.since(cursor.position, _PAGE_POSITIONS))
        if said["epoch"] != cursor.epoch:
            if said["epoch"] is None:
                self.ensure()
            raise StartOver(f"{self.where}: epoch {said['epoch']}, the cursor is of {cursor.epoch}")
        numbers = [int(each["id"]) for each in said["entries"]]
        begin = cursor.position or 1
        if numbers != list(range(begin, begin + len(numbers))) or (cursor.position and not numbers):
            raise StartOver(f"{self.where}: position {cursor.position} is no longer in the log")
        if cursor.position and token and said["entries"][0]["mark"] != token:
            raise StartOver(
                f"{self.where}: the log is another one: entry {cursor.position} is not the one that was read"
            )
        if not cursor.position and not numbers and said["tail"]:
            raise StartOver(f"{self.where}: position 0 is no longer in the log")
        fresh = said["entries"][1:] if cursor.position else said["entries"]
        keys = dict.fromkeys(key for each in fresh for key in each["keys"] if key.startswith(prefix))
        found = {entry.key: entry for entry in map(queries.entry, self._rows(keys))}
        position = numbers[-1] if numbers else 0
        mark = str(said["entries"][-1]["mark"]) if numbers else ""
        return found, Cursor(cursor.epoch, position), mark, position < said["tail"]


class RethinkdbWatch:
    """Implements `northbound.store.Watch`: reads the log; a feed of it wakes, and a clock where the feed is silent.

    A feed dies at every change of primary and says nothing without a quorum, so that nothing is believed of it.
    """

    def __init__(self, store: RethinkdbStore, prefix: str, cursor: Cursor) -> None:
        self._store = store
        self._prefix = prefix
        self._cursor = cursor
        self._mark = ""
        self._closed = False
        self._connection: Connection | None = None
        self._feed: Any = None
        self._adopted = 0.0

    def next(self, timeout_seconds: float) -> Changes:
        deadline = time.monotonic() + timeout_seconds
        while True:
            if self._closed:
                raise Unavailable("this watch is closed")
            self._open_feed()  # Before the log is read: what comes afterwards rings.
            self._adopt()
            found, self._cursor, self._mark, more = self._store.changes(self._prefix, self._cursor, self._mark)
            left = deadline - time.monotonic()
            if found or (left <= 0 and not more):
                return Changes(list(found.values()), self._cursor)
            if not more:
                self._wait(min(left, _POLL_SECONDS))

    def close(self) -> None:
        self._closed = True
        self._drop_feed()

    def _adopt(self) -> None:
        if time.monotonic() - self._adopted > queries.PENDING_SECONDS:
            self._store.adopt_orphans()
            self._adopted = time.monotonic()

    def _open_feed(self) -> None:
        if self._feed is not None:
            return
        session = self._store.session
        self._connection = session.new_connection()
        try:
            self._feed = queries.bell(self._cursor.position).run(self._connection)
        except (errors.ReqlError, AttributeError, OSError):
            self._drop_feed()

    def _wait(self, seconds: float) -> None:
        if self._feed is None:
            time.sleep(min(seconds, 0.2))
            return
        try:
            self._feed.next(wait=max(0.0, seconds))
        except errors.ReqlTimeoutError:
            return
        except (errors.ReqlError, errors.ReqlCursorEmpty, AttributeError, OSError):
            self._drop_feed()

    def _drop_feed(self) -> None:
        self._feed = None
        if self._connection is not None:
            close(self._connection)
            self._connection = None


def _batches(writes: Iterable[Write]) -> Iterator[Sequence[Write]]:
    batch: list[Write] = []
    size = 0
    for write in writes:
        own = len(write.key) + len(write.value or b"")
        if batch and (len(batch) == _BATCH_WRITES or size + own > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(write)
        size += own
    if batch:
        yield batch
