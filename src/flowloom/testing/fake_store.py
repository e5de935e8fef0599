"""A store in memory: a real implementation of the contract that passes the conformance suite.

`MemoryDatabase` is the database, `MemoryDatabase.open()` gives a handle on it; faults are its attributes
and methods: `available = False`, `trim()`, `wipe()`, `restore(copy)`, `tamper(key, entry)`.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from random import Random

from flowloom.kernel.errors import StartOver, Unavailable
from flowloom.northbound.limits import newest_of_each_key, outcomes
from flowloom.northbound.store import Capabilities, Changes, Cursor, Entry, Listing, Outcome, Versions, Write

_PAGE_ENTRIES = 1000


class MemoryDatabase:
    """The state that handles share.  Any thread may use it.

    random: gives the epochs (default: seeded by the operating system).
    log_max: changes remembered for watches.
    """

    def __init__(self, random: Random | None = None, log_max: int = 100_000, value_bytes_max: int = 1 << 20) -> None:
        self.log_max = log_max
        self.value_bytes_max = value_bytes_max
        self.changed = threading.Condition()
        self._random = random or Random()
        self._available = True
        self._fill()

    def open(self) -> MemoryStore:
        """Another handle."""
        return MemoryStore(self)

    @property
    def available(self) -> bool:
        """False: every call of every handle raises Unavailable."""
        return self._available

    @available.setter
    def available(self, value: bool) -> None:
        with self.changed:
            self._available = value
            self.changed.notify_all()

    def wipe(self) -> None:
        """All is gone; what follows is another history (a new epoch)."""
        with self.changed:
            self._fill()
            self.changed.notify_all()

    def copy(self) -> Sequence[Entry]:
        """What is held now, for `restore`."""
        with self.changed:
            return tuple(self._held[key] for key in self._keys)

    def restore(self, copy: Sequence[Entry]) -> None:
        """Hold what was held when `copy` was made; what follows is another history (a new epoch)."""
        with self.changed:
            self._fill(copy)
            self.changed.notify_all()

    def tamper(self, key: str, entry: Entry | None, seen: bool) -> None:
        """Somebody writes or removes (None) a key past the contract; seen: the change feed shows what he wrote."""
        with self.changed:
            if entry is None:
                if self._held.pop(key, None) is not None:
                    self._keys.remove(key)
                return
            if key not in self._held:
                insort(self._keys, key)
            self._held[key] = entry
            if seen:
                self._position += 1
                self._log.append(key)
            self.changed.notify_all()

    def trim(self, keep: int = 0) -> None:
        """Forget the history but for its last `keep` changes."""
        with self.changed:
            while len(self._log) > keep:
                self._log.popleft()
            self.changed.notify_all()

    def entries(self, prefix: str = "") -> list[Entry]:
        """What is held, for tests: works while the database is cut off."""
        with self.changed:
            return list(self._under(prefix))

    def _fill(self, copy: Sequence[Entry] = ()) -> None:
        self._epoch = f"{self._random.getrandbits(64):016x}"
        self._held: dict[str, Entry] = {entry.key: entry for entry in copy}
        self._keys: list[str] = [entry.key for entry in copy]
        self._log: deque[str] = deque()  # keys; the last one's position is self._position.
        self._position = 0

    # The rest is for handles, which hold `changed`.

    def _cursor(self) -> Cursor:
        return Cursor(self._epoch, self._position)

    def _under(self, prefix: str) -> Iterator[Entry]:
        for index in range(bisect_left(self._keys, prefix), len(self._keys)):
            if not self._keys[index].startswith(prefix):
                return
            yield self._held[self._keys[index]]

    def _write(self, write: Write) -> tuple[bool, int]:
        held = self._held.get(write.key)
        if held is not None and held.version >= write.version:
            return False, held.version
        if held is None:
            insort(self._keys, write.key)
        self._held[write.key] = Entry(*write)
        self._position += 1
        self._log.append(write.key)
        if len(self._log) > self.log_max:
            self._log.popleft()
        return True, write.version

    def _since(self, prefix: str, cursor: Cursor) -> Changes:
        oldest = self._position - len(self._log)
        if cursor.epoch != self._epoch:
            raise StartOver(f"the database is another one: epoch {self._epoch}, not {cursor.epoch}")
        if not oldest <= cursor.position <= self._position:
            raise StartOver(f"history begins after {oldest}, asked for what came after {cursor.position}")
        found: dict[str, Entry] = {}
        position = cursor.position
        while position < self._position and len(found) < _PAGE_ENTRIES:
            key = self._log[position - oldest]
            position += 1
            if key.startswith(prefix) and key in self._held:
                found[key] = self._held[key]
        return Changes(list(found.values()), Cursor(self._epoch, position))


class MemoryStore:
    """A handle on a `MemoryDatabase`: implements `northbound.store.Store`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self.capabilities = Capabilities(
            atomic_batch=True,
            watch=True,
            consistent_read=True,
            durable=False,
            value_bytes_max=database.value_bytes_max,
        )
        self._database = database
        self._closed = False

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        database = self._database
        chosen = newest_of_each_key(writes, database.value_bytes_max)
        with database.changed:
            self._check()
            decided = {key: database._write(write) for key, write in chosen.items()}
            database.changed.notify_all()
        return outcomes(writes, chosen, decided)

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        with self._database.changed:
            self._check()
            return [self._database._held.get(key) for key in keys]

    def read(self, prefix: str) -> Listing:
        with self._database.changed:
            self._check()
            return Listing(list(self._database._under(prefix)), self._database._cursor())

    def versions(self, prefix: str) -> Versions:
        with self._database.changed:
            self._check()
            return Versions(_versions(self._database._under(prefix)), self._database._cursor())

    def watch(self, prefix: str, cursor: Cursor) -> MemoryWatch:
        with self._database.changed:
            self._check()
            return MemoryWatch(self, prefix, cursor)

    def close(self) -> None:
        with self._database.changed:
            self._closed = True
            self._database.changed.notify_all()

    def _check(self) -> None:
        if self._closed:
            raise Unavailable("this handle of the store is closed")
        if not self._database.available:
            raise Unavailable("the database is cut off")


def _versions(entries: Iterable[Entry]) -> dict[str, tuple[int, bool]]:
    return {entry.key: (entry.version, entry.value is None) for entry in entries}


class MemoryWatch:
    """Implements `northbound.store.Watch`; waits in real time."""

    def __init__(self, store: MemoryStore, prefix: str, cursor: Cursor) -> None:
        self._store = store
        self._prefix = prefix
        self._cursor = cursor
        self._closed = False

    def next(self, timeout_seconds: float) -> Changes:
        database = self._store._database
        deadline = time.monotonic() + timeout_seconds
        with database.changed:
            while True:
                if self._closed:
                    raise Unavailable("this watch is closed")
                self._store._check()
                changes = database._since(self._prefix, self._cursor)
                self._cursor = changes.cursor
                left = deadline - time.monotonic()
                if changes.entries or left <= 0:
                    return changes
                database.changed.wait(left)

    def close(self) -> None:
        with self._store._database.changed:
            self._closed = True
            self._store._database.changed.notify_all()
