"""A live watcher and a writer under faults: what the tests of every store's deaths need."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from flowloom.kernel.errors import StartOver, Unavailable
from flowloom.northbound.store import Entry, Store, Watch, Write
from flowloom.testing.waiting import wait_for

WRITES = 1500
KEYS = 300


class Follower:
    """A thread that keeps what a watch says; where it is told to start over it does, from a listing."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.held: dict[str, Entry] = {}
        self.unordered: list[Entry] = []
        self.started_over: list[StartOver] = []
        self.failed: list[BaseException] = []
        self._store, self._prefix = store, prefix
        self._stop = threading.Event()
        self._watch: Watch = store.watch(prefix, store.read(prefix).cursor)
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._watch.close()
        assert not self.failed

    def _follow(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._take(self._watch.next(0.2).entries)
                except Unavailable:
                    continue
                except StartOver as error:
                    self.started_over.append(error)
                    self._start_over()
        except BaseException as error:  # noqa: BLE001 - the test's own thread tells it.
            self.failed.append(error)

    def _start_over(self) -> None:
        while not self._stop.is_set():
            try:
                listing = self._store.read(self._prefix)
            except Unavailable:
                continue
            self._watch.close()
            self._watch = self._store.watch(self._prefix, listing.cursor)
            self.held = {entry.key: entry for entry in listing.entries}
            return

    def _take(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if (before := self.held.get(entry.key)) and before.version > entry.version:
                self.unordered.append(entry)
            self.held[entry.key] = entry


def write_under_fire(store: Store, faults: dict[int, Callable[[], None]]) -> dict[str, Entry]:
    """WRITES writes one after the other, a fault before those numbered so; what was acknowledged of each key last."""
    acknowledged: dict[str, Entry] = {}
    for number in range(WRITES):
        if number in faults:
            faults[number]()
        write = Write(f"/d/k{number % KEYS:03}", number // KEYS + 1, b"%d" % number)
        deadline = time.monotonic() + 60
        while True:
            try:
                (outcome,) = store.apply([write])
                break
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
        assert outcome.held == write.version
        acknowledged[write.key] = Entry(*write)
    return acknowledged


def check_nothing_lost(store: Store, follower: Follower, acknowledged: dict[str, Entry]) -> None:
    """The store holds what was acknowledged, and the watcher has it too."""
    assert {entry.key: entry for entry in store.read("/d/").entries} == acknowledged
    wait_for(lambda: follower.held == acknowledged, 30.0)
    assert not follower.unordered
