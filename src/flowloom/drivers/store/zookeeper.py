"""The northbound store in a ZooKeeper ensemble, version 3.5 or newer.

URL: `zookeeper://[USER:PASSWORD@]HOST[:2181],HOST.../PATH?option=value`, or `zookeeper+tls://...`.

- `PATH` (default `flowloom`): all nodes lie under `/PATH`; several databases may share an ensemble.
- `USER:PASSWORD@`, percent-encoded, or `USER@` with `password_file=/path`: digest authentication.  Nodes are then
  created for this user alone: Neutron and all agents use the same one.  (SASL is not supported.)
- `tls_ca=/path` (required with TLS), `tls_cert=/path&tls_key=/path`: PEM files.
- `timeout_seconds=5`: for each call, repetitions on other members included.
- `log_max=20000`: changes remembered; each is a node in the servers' memory.

Writes are transactions: an acknowledged one is on the disks of a majority.  One call's writes are one transaction up
to BATCH_WRITES keys and BATCH_BYTES bytes, beyond that several, in order.  A read first lets its member catch up
(`sync`); a listing is read node by node, then what the log says changed meanwhile, so that it is a snapshot of its
cursor.  ZooKeeper cannot give a part of a node, and kazoo takes about 0.1 ms a node, so `versions` costs as much as
`read`, and a listing of everything is slow: let agents list what they need (selective distribution).

A request must fit into the servers' `jute.maxbuffer`, 1 MiB unless changed: VALUE_BYTES_MAX is below it.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random, SystemRandom
from typing import NamedTuple

from kazoo import exceptions
from kazoo.protocol.states import WatchedEvent

from flowloom.drivers.store.urls import parse
from flowloom.drivers.store.zookeeper_database import Database, Identity
from flowloom.drivers.store.zookeeper_nodes import Held, decode, encode, parents_of, part_of, path_of
from flowloom.drivers.store.zookeeper_session import Found, Requests, Session, Settings
from flowloom.kernel.backoff import Backoff
from flowloom.kernel.errors import Misconfigured, StartOver, Unavailable
from flowloom.northbound.limits import newest_of_each_key, outcomes
from flowloom.northbound.store import Capabilities, Changes, Cursor, Entry, Listing, Outcome, Versions, Write

VALUE_BYTES_MAX = 900 << 10
BATCH_WRITES = 500
BATCH_BYTES = VALUE_BYTES_MAX + 4096
TIMEOUT_SECONDS = 5.0
LOG_MAX = 20_000
OLDEST = (3, 5)

_PAGE_POSITIONS = 200
_PAGE_BYTES = 4 << 20
_FETCH = 100
_POLL_SECONDS = 1.0
_LISTING_TRIES = 5
_ROUNDS_MAX = 1000
_MADE_MAX = 100_000
_PATH = re.compile(r"/[A-Za-z0-9\-_~:@+,=!]+(/[A-Za-z0-9\-_~:@+,=!]+)*")


def open_store(url: str) -> ZookeeperStore:
    """The store at `url`.  Misconfigured, or Unavailable while nobody answers there."""
    parsed = parse(url, default_port=2181)
    options = parsed.options
    path = f"/{parsed.path.rstrip('/') or 'flowloom'}"
    if not _PATH.fullmatch(path) or path.split("/")[1] == "zookeeper":
        raise Misconfigured("store", f"{parsed.shown}: a path is made of letters, digits and -_~:@+,=!, not /zookeeper")
    if bool(parsed.user) != bool(parsed.password):
        raise Misconfigured("store", f"{parsed.shown}: user and password go together")
    tls = options.tls(parsed.scheme == "zookeeper+tls")
    timeout = options.seconds("timeout_seconds", TIMEOUT_SECONDS, 0.5, 600)
    log_max = options.number("log_max", LOG_MAX, 1, 10**8)
    options.end()
    random = SystemRandom()
    session = Session(Settings(parsed.shown, parsed.endpoints, parsed.user, parsed.password, tls, timeout), random)
    database = Database(session, path, log_max)
    try:
        database.attempt(database.identity)
        _check_version(session)
    except Unavailable as error:
        session.close()
        raise session.opening(error) from error
    except BaseException:
        session.close()
        raise
    return ZookeeperStore(database, random)


def _check_version(session: Session) -> None:
    version = session.version()  # "" where the operator has forbidden the question.
    if version and tuple(int(each) for each in version.split(".")[:2]) < OLDEST:
        raise Misconfigured("store", f"{session.where}: ZooKeeper {version} is too old, 3.5 is needed")


class ZookeeperStore:
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

    def __init__(self, database: Database, random: Random) -> None:
        self.database = database
        self._random = random
        self._made: set[str] = set()  # Nodes on the way to keys that are known to be there.

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        chosen = newest_of_each_key(writes, VALUE_BYTES_MAX)
        self.database.session.check_open()
        decided: dict[str, tuple[bool, int]] = {}
        for batch in _batches(chosen.values()):
            decided.update(self._apply(batch))
        return outcomes(writes, chosen, decided)

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        self.database.session.check_open()
        paths = {key: path for key in keys if (path := path_of(self.database.objects, key))}
        held = self._held(paths) if paths else {}
        return [found.entry(key) if (found := held.get(key)) else None for key in keys]

    def read(self, prefix: str) -> Listing:
        found, cursor = self._listing(prefix, values=True)
        return Listing([found[key].entry(key) for key in sorted(found)], cursor)

    def versions(self, prefix: str) -> Versions:
        found, cursor = self._listing(prefix, values=False)
        return Versions({key: (held.version, not held.live) for key, held in found.items()}, cursor)

    def watch(self, prefix: str, cursor: Cursor) -> ZookeeperWatch:
        self.database.session.check_open()
        return ZookeeperWatch(self, prefix, cursor)

    def close(self) -> None:
        self.database.session.close()

    # --- writing ---

    def _apply(self, writes: Sequence[Write]) -> dict[str, tuple[bool, int]]:
        """What became of writes that fit into one transaction."""
        token = secrets.token_hex(6)
        deadline = time.monotonic() + self.database.session.settings.timeout_seconds
        backoff = Backoff(self._random, first_seconds=0.005, cap_seconds=0.2)
        size = sum(len(write.key) + len(write.value or b"") for write in writes)
        hint = f"; or the servers' jute.maxbuffer is below the {size} bytes of this write" if size > 50_000 else ""
        while True:
            decided = self.database.attempt(lambda requests: self._try(requests, writes, token), hint)
            if decided is not None:
                return decided
            delay = backoff.next_delay()
            if time.monotonic() + delay > deadline:
                raise Unavailable(f"{self.database.where}: other writers were faster for all of the time")
            time.sleep(delay)

    def _try(self, requests: Requests, writes: Sequence[Write], token: str) -> dict[str, tuple[bool, int]] | None:
        """Read, compare, write if nothing changed in between; None when something did."""
        database = self.database
        identity = database.believed(requests)
        paths = [path_of(database.objects, write.key) or "" for write in writes]
        nodes = requests.get_many(paths)
        decided: dict[str, tuple[bool, int]] = {}
        due: list[tuple[Write, str, Found | None]] = []
        for write, path, node in zip(writes, paths, nodes, strict=True):
            held = decode(node[0]) if node else None
            if held is None or held.version < write.version:
                due.append((write, path, node))
                decided[write.key] = True, write.version
            else:
                mine = held.version == write.version and held.token == token
                decided[write.key] = mine, held.version
        if not due:
            return decided
        self._make_parents(requests, [path for _, path, node in due if node is None])
        return decided if self._commit(requests, identity, due, token) else None

    def _commit(
        self, requests: Requests, identity: Identity, due: Sequence[tuple[Write, str, Found | None]], token: str
    ) -> bool:
        transaction = requests.transaction()
        transaction.check(self.database.node, identity.version)
        for write, path, node in due:
            data = encode(write.version, write.value, token)
            if node is None:
                transaction.create(path, data)
            else:
                transaction.set_data(path, data, node[1].version)
        keys = "\n".join(write.key for write, _, _ in due).encode()
        transaction.create(f"{self.database.log(identity.epoch)}/l", keys, sequence=True)
        try:
            results = requests.commit(transaction)
        except (exceptions.BadVersionError, exceptions.NodeExistsError):
            self.database.doubt()
            return False
        except exceptions.NoNodeError:  # Somebody removed what we relied on.
            self._made.clear()
            self.database.doubt()
            return False
        self.database.written(requests, identity, int(results[-1].rpartition("/l")[2]))
        return True

    def _make_parents(self, requests: Requests, paths: Iterable[str]) -> None:
        wanted = dict.fromkeys(parent for path in paths for parent in parents_of(self.database.objects, path))
        missing = [path for path in wanted if path not in self._made]
        if missing:
            try:
                requests.make(missing)
            except exceptions.NoNodeError:
                self._made.clear()
                self.database.doubt()
                return
            if len(self._made) > _MADE_MAX:
                self._made.clear()
            self._made.update(missing)

    # --- reading ---

    def _held(self, paths: Mapping[str, str], sync: bool = True) -> dict[str, Held]:
        """What keys hold, of those that hold something."""

        def fetch(requests: Requests) -> list[Found | None]:
            if sync:
                requests.sync()
            return requests.get_many(paths.values())

        nodes = self.database.attempt(fetch)
        decoded = ((key, decode(node[0], node[1].mzxid)) for key, node in zip(paths, nodes, strict=True) if node)
        return {key: held for key, held in decoded if held}

    def _listing(self, prefix: str, values: bool) -> tuple[dict[str, Held], Cursor]:
        """What is under `prefix` at one point: node by node, then what the log says changed meanwhile.

        The answers of one session never go back in time, and every node says which transaction changed it last.  So
        when all keys named by the log up to some entry have been read again, and none was changed after that entry,
        all is as of that entry.
        """
        self.database.session.check_open()
        for _ in range(_LISTING_TRIES):
            cursor = self.database.attempt(self._now)
            found: dict[str, Held] = {}
            newest_change = 0
            for key, held in self._walk(prefix):
                found[key] = held if values else held._replace(value=b"")
                newest_change = max(newest_change, held.changed)
            with contextlib.suppress(StartOver):  # Another history began, or the log is too short for this listing.
                for _ in range(_ROUNDS_MAX):
                    page = self.changes(prefix, cursor)
                    cursor = page.cursor
                    for key, held in page.found.items():
                        found[key] = held if values else held._replace(value=b"")
                        newest_change = max(newest_change, held.changed)
                    if not page.more and (page.transaction == 0 or newest_change <= page.transaction):
                        return found, cursor
        raise Unavailable(
            f"{self.database.where}: {prefix} changes faster than it can be read; try again, or raise log_max"
        )

    def _now(self, requests: Requests) -> Cursor:
        requests.sync()
        epoch = self.database.identity(requests).epoch
        return Cursor(epoch, self.database.newest(requests, epoch))

    def _walk(self, prefix: str) -> Iterator[tuple[str, Held]]:
        """Keys under `prefix` and what they hold, a part of the subtree at a time."""
        if prefix and not prefix.startswith("/"):
            return
        above, _, begin = prefix.rpartition("/")
        root = path_of(self.database.objects, above) if above else self.database.objects
        if root is None:
            return
        todo = self._children(root, above, begin)
        while todo:
            window = [todo.pop() for _ in range(min(len(todo), _FETCH))]
            paths = [path for path, _ in window]
            for (path, key), node in zip(window, self.database.attempt(_getting(paths)), strict=True):
                if node is None:
                    continue
                if held := decode(node[0], node[1].mzxid):
                    yield key, held
                if node[1].numChildren:
                    todo += self._children(path, key, "")

    def _children(self, path: str, key: str, begin: str) -> list[tuple[str, str]]:
        """Paths and keys of the nodes under one whose part of the key begins so."""
        names = self.database.attempt(lambda requests: requests.children(path))
        parts = ((name, part_of(name)) for name in sorted(names, reverse=True))
        return [(f"{path}/{name}", f"{key}/{part}") for name, part in parts if part.startswith(begin)]

    def changes(self, prefix: str, cursor: Cursor) -> _Page:
        """What the next changed keys hold now.  StartOver as `Watch.next`."""
        page = self.database.attempt(lambda requests: self.database.page(requests, cursor, _PAGE_POSITIONS))
        found: dict[str, Held] = {}
        paths: dict[str, str] = {}
        position, transaction, room = cursor.position, 0, _PAGE_BYTES
        for number, (keys, created) in enumerate(page.entries, 1):
            for key in keys:
                if key.startswith(prefix) and key not in found and (path := path_of(self.database.objects, key)):
                    paths[key] = path
            if len(paths) < _FETCH and number < len(page.entries):
                continue
            fetched = self._held(paths, sync=False) if paths else {}
            found.update(fetched)
            paths = {}
            position, transaction = cursor.position + number, created
            room -= sum(len(held.value) for held in fetched.values())
            if room <= 0:
                break
        return _Page(found, Cursor(cursor.epoch, position), transaction, position < page.newest)


class _Page(NamedTuple):
    """What changed keys hold, the cursor after the changes, the last one's transaction (0: none), and is there more."""

    found: dict[str, Held]
    cursor: Cursor
    transaction: int
    more: bool


def _getting(paths: Sequence[str]) -> Callable[[Requests], list[Found | None]]:
    return lambda requests: requests.get_many(paths)


class ZookeeperWatch:
    """Implements `northbound.store.Watch`: reads the log; a watch on the entry to come wakes it, and its own clock."""

    def __init__(self, store: ZookeeperStore, prefix: str, cursor: Cursor) -> None:
        self._store = store
        self._database = store.database
        self._prefix = prefix
        self._cursor = cursor
        self._bell = threading.Event()
        self._closed = False

    def next(self, timeout_seconds: float) -> Changes:
        deadline = time.monotonic() + timeout_seconds
        while True:
            if self._closed:
                raise Unavailable("this watch is closed")
            self._bell.clear()
            page = self._store.changes(self._prefix, self._cursor)
            self._cursor = page.cursor
            left = deadline - time.monotonic()
            if page.found or (left <= 0 and not page.more):
                return Changes([held.entry(key) for key, held in page.found.items()], self._cursor)
            if not page.more and not self._has_come():
                self._bell.wait(min(left, _POLL_SECONDS))

    def close(self) -> None:
        self._closed = True
        self._bell.set()

    def _has_come(self) -> bool:
        """Whether the next entry is there; otherwise the bell rings when it comes."""
        path = self._database.entry(self._cursor.epoch, self._cursor.position)
        return self._database.attempt(lambda requests: requests.exists(path, self._ring)) is not None

    def _ring(self, _: WatchedEvent) -> None:
        self._bell.set()


def _batches(writes: Iterable[Write]) -> Iterator[Sequence[Write]]:
    """Writes cut into transactions."""
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
