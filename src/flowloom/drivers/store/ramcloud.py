"""The northbound store in a RAMCloud cluster.

URL: `ramcloud://COORDINATOR[:12246][,COORDINATOR...]/NAME?option=value`, or `ramcloud+zk://ZOOKEEPER[:2181],.../NAME`
for a cluster that keeps its coordinator's address in ZooKeeper (the client library must be built with that).

- `NAME` (default `flowloom`): of the tables, `NAME.objects` and `NAME.log`; made if they are missing.
- `library=libramcloud.so`: RAMCloud's C client library, the last published version; a path, or a name that the system's
  loader finds.
- `transport=tcp`: as the coordinator listens: `tcp`, `basic+udp`, `infrc`...  `cluster=main`: the cluster's name.
- `log_file=/path`: where the client library's log goes, for all of the process (default: standard error).
- `span=1`: servers that the tables are spread over, when this process makes them.
- `timeout_seconds=5`: for each call.  `log_max=20000`: changes remembered.  `poll_seconds=0.5`: RAMCloud cannot wake who
  follows it, so a watch looks this often.

RAMCloud writes one object atomically, has no order of keys, and its enumeration is not a snapshot.  Batches, snapshots
and changes are made by a log: see `ramcloud_database`.  A listing walks through all objects, whatever the prefix.
RAMCloud has no authentication and no encryption.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from random import SystemRandom

from flowloom.drivers.store.ramcloud_database import Database, Page
from flowloom.drivers.store.ramcloud_library import OBJECT_BYTES_MAX, RamcloudError, Status, load
from flowloom.drivers.store.ramcloud_records import RECORD_ROOM, Held, decode_object
from flowloom.drivers.store.ramcloud_session import Calls, Session, Settings
from flowloom.drivers.store.urls import StoreUrl, parse
from flowloom.kernel.errors import Misconfigured, StartOver, Unavailable
from flowloom.northbound.limits import is_key, newest_of_each_key, outcomes
from flowloom.northbound.store import Capabilities, Changes, Cursor, Entry, Listing, Outcome, Versions, Write

BATCH_WRITES = 80
BATCH_BYTES = OBJECT_BYTES_MAX - RECORD_ROOM
VALUE_BYTES_MAX = BATCH_BYTES - RECORD_ROOM
TIMEOUT_SECONDS = 5.0
LOG_MAX = 20_000
POLL_SECONDS = 0.5

_WALK_OBJECTS = 1000
_TRIES = 5
_ROUNDS_MAX = 1000
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TRANSPORT = re.compile(r"[A-Za-z0-9_+]{1,32}")
_HOST = re.compile(r"[A-Za-z0-9._-]+")


def open_store(url: str) -> RamcloudStore:
    """The store at `url`.  Misconfigured, or Unavailable while nobody answers there."""
    parsed = parse(url, default_port=2181 if url.startswith("ramcloud+zk:") else 12246)
    options = parsed.options
    name = parsed.path or "flowloom"
    if not _NAME.fullmatch(name):
        raise Misconfigured("store", f"{parsed.shown}: a name of tables is made of letters, digits and _.-")
    if parsed.user or parsed.password:
        raise Misconfigured("store", f"{parsed.shown}: RAMCloud knows no users; leave user and password out")
    library, log_file = options.text("library", "libramcloud.so"), options.text("log_file")
    cluster = options.text("cluster", "main")
    if not _NAME.fullmatch(cluster):
        raise options.wrong("cluster", "is a name of letters, digits and _.-")
    settings = Settings(
        shown=parsed.shown,
        locator=_locator(parsed),
        cluster=cluster,
        timeout_seconds=options.seconds("timeout_seconds", TIMEOUT_SECONDS, 0.5, 600),
    )
    span = options.number("span", 1, 1, 1000)
    log_max = options.number("log_max", LOG_MAX, 1, 10**8)
    poll_seconds = options.seconds("poll_seconds", POLL_SECONDS, 0.001, 60)
    options.end()
    if not library:
        raise options.wrong("library", "is the path of RAMCloud's client library, libramcloud.so")
    if log_file and not os.access(log_file if os.path.exists(log_file) else os.path.dirname(log_file) or ".", os.W_OK):
        # The library would end the process.
        raise options.wrong("log_file", f"names {log_file}, which user {os.getuid()} cannot write")
    session = Session(load(library, log_file), settings, SystemRandom())
    store = RamcloudStore(Database(session, name, span, log_max), poll_seconds)
    try:
        store.database.run(store.database.ensure)
    except BaseException:
        session.close()
        raise
    return store


def _locator(parsed: StoreUrl) -> str:
    """Where the coordinator is, in RAMCloud's own form."""
    transport = parsed.options.text("transport", "tcp")
    if not _TRANSPORT.fullmatch(transport):
        raise parsed.options.wrong("transport", "is one of RAMCloud's: tcp, basic+udp, infrc...")
    for endpoint in parsed.endpoints:
        if not _HOST.fullmatch(endpoint.host):
            raise Misconfigured("store", f"{parsed.shown}: {endpoint.host} is neither a name nor an IPv4 address")
    if parsed.scheme == "ramcloud+zk":
        return "zk:" + ",".join(f"{host}:{port}" for host, port in parsed.endpoints)
    return ";".join(f"{transport}:host={host},port={port}" for host, port in parsed.endpoints)


class RamcloudStore:
    """Implements `northbound.store.Store`.  Any thread may call; open it after forking."""

    capabilities = Capabilities(
        atomic_batch=True,
        watch=True,
        consistent_read=True,
        durable=True,
        value_bytes_max=VALUE_BYTES_MAX,
        batch_writes_max=BATCH_WRITES,
        batch_bytes_max=BATCH_BYTES,
    )

    def __init__(self, database: Database, poll_seconds: float) -> None:
        self.database = database
        self.poll_seconds = poll_seconds
        self._session = database.session

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        chosen = newest_of_each_key(writes, VALUE_BYTES_MAX)
        self._session.check_open()
        decided: dict[str, tuple[bool, int]] = {}
        for batch in _batches(chosen.values()):
            decided.update(self._apply(batch, secrets.token_hex(6)))
        return outcomes(writes, chosen, decided)

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        self._session.check_open()
        wanted = [key for key in dict.fromkeys(keys) if is_key(key)]
        held = self.database.run(lambda calls: self.database.get(calls, wanted)) if wanted else {}
        return [found.entry(key) if (found := held.get(key)) else None for key in keys]

    def read(self, prefix: str) -> Listing:
        found, cursor = self._listing(prefix, values=True)
        return Listing([found[key].entry(key) for key in sorted(found)], cursor)

    def versions(self, prefix: str) -> Versions:
        found, cursor = self._listing(prefix, values=False)
        return Versions({key: (held.version, held.value is None) for key, held in found.items()}, cursor)

    def watch(self, prefix: str, cursor: Cursor) -> RamcloudWatch:
        self._session.check_open()
        return RamcloudWatch(self, prefix, cursor)

    def close(self) -> None:
        self._session.close()

    def _apply(self, batch: Sequence[Write], token: str) -> dict[str, tuple[bool, int]]:
        return self.database.run(lambda calls: self.database.apply(calls, batch, token))

    # --- reading ---

    def _listing(self, prefix: str, values: bool) -> tuple[dict[str, Held], Cursor]:
        """What is under `prefix` at one point: object by object, then what the log says changed meanwhile.

        All entries up to some point are carried out, what they name has been read after that, and nothing that was read
        is of a later entry: then all is as of that point.
        """
        self._session.check_open()
        for _ in range(_TRIES):
            cursor = self.database.run(self.database.catch_up)
            found: dict[str, Held] = {}
            newest = 0
            try:
                for key, held in self._walk(prefix):
                    found[key] = held if values else _bare(held)
                    newest = max(newest, held.number if held.epoch == cursor.epoch else 0)
                for _ in range(_ROUNDS_MAX):
                    page = self.changes(prefix, cursor, "")
                    cursor = page.cursor
                    for key, held in page.found.items():
                        found[key] = held if values else _bare(held)
                        newest = max(newest, held.number if held.epoch == cursor.epoch else 0)
                    if not page.more and newest <= cursor.position:
                        return found, cursor
            except StartOver:
                continue  # Another history began, or the log is too short for this listing.
        raise Unavailable(
            f"{self.database.where}: {prefix} changes faster than it can be read; try again, or raise log_max"
        )

    def _walk(self, prefix: str) -> Iterator[tuple[str, Held]]:
        """All objects under `prefix`, a part at a time, so that others come in between.  StartOver: the table is gone."""
        begin = prefix.encode()
        enumeration = self._session.run(self.database.walk)

        def part(calls: Calls) -> tuple[list[tuple[bytes, bytes]], bool]:
            found: list[tuple[bytes, bytes]] = []
            for _ in range(_WALK_OBJECTS):
                calls.check()
                each = enumeration.next()
                if each is None:
                    return found, True
                if each[0].startswith(begin):
                    found.append(each)
            return found, False

        done = False
        try:
            while not done:
                found, done = self._session.run(part, repeat=False)
                for key, data in found:
                    yield key.decode(errors="replace"), decode_object(data, 0)
        except Unavailable as error:
            if isinstance(error.__cause__, RamcloudError) and error.__cause__.status == Status.TABLE_DOESNT_EXIST:
                raise StartOver(str(error)) from error
            raise
        finally:
            self._session.later(lambda _: enumeration.close())

    def changes(self, prefix: str, cursor: Cursor, token: str) -> Page:
        """As `Database.changes`."""
        return self.database.run(lambda calls: self.database.changes(calls, prefix, cursor, token))


class RamcloudWatch:
    """Implements `northbound.store.Watch`: looks at the log, again and again."""

    def __init__(self, store: RamcloudStore, prefix: str, cursor: Cursor) -> None:
        self._store = store
        self._prefix = prefix
        self._cursor = cursor
        self._token = ""
        self._closed = threading.Event()

    def next(self, timeout_seconds: float) -> Changes:
        deadline = time.monotonic() + timeout_seconds
        while True:
            if self._closed.is_set():
                raise Unavailable("this watch is closed")
            page = self._store.changes(self._prefix, self._cursor, self._token)
            self._cursor, self._token = page.cursor, page.token
            left = deadline - time.monotonic()
            if page.found or (left <= 0 and not page.more):
                return Changes([held.entry(key) for key, held in page.found.items()], self._cursor)
            if not page.more:
                self._closed.wait(min(left, self._store.poll_seconds))

    def close(self) -> None:
        self._closed.set()


def _bare(held: Held) -> Held:
    return held if held.value is None else held._replace(value=b"")


def _batches(writes: Iterable[Write]) -> Iterator[Sequence[Write]]:
    """Calls' writes in parts that fit into one log entry each."""
    batch: list[Write] = []
    size = 0
    for write in writes:
        own = len(write.key) + len(write.value or b"")
        if batch and (len(batch) == BATCH_WRITES or size + own > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(write)
        size += own
    if batch:
        yield batch
