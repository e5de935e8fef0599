"""The threads that talk to the store and listen to the bus; what they hear goes to one `deliver`, which may block.

Reading and writing have a thread each, so that a long listing does not hold a port's status back.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from flowloom.agent.events import ClaimKey, KeyClaimed, KeyNotClaimed, NotWritten, WriteRecords, Written
from flowloom.kernel.backoff import Backoff
from flowloom.kernel.errors import Rejected, StartOver, Unavailable
from flowloom.northbound.bus import BusEvent, Gone, Publisher
from flowloom.northbound.requests import Answer, Request, ask
from flowloom.northbound.store import Changes, Cursor, Store, Watch, Write

WATCH_SECONDS: Final = 1.0
"""Longest wait of one look at the change feed: how soon a close is noticed."""

Heard = Answer | Changes | BusEvent | Written | NotWritten | KeyClaimed | KeyNotClaimed
Deliver = Callable[[Heard], None]


class LateStore:
    """A store that may not answer yet when it is first opened: opened on use, until that has worked once."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        """Misconfigured when the URL is wrong; a server that does not answer is tried again later."""
        self._open_store = open_store
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._closed = False
        with contextlib.suppress(Unavailable):  # Every later use says so again.
            self.get()

    def get(self) -> Store:
        """The open store.  Unavailable when it cannot be opened now."""
        with self._lock:
            if self._closed:
                raise Unavailable("the agent is ending")
            if self._store is None:
                self._store = self._open_store()
            return self._store

    def close(self) -> None:
        """Release it."""
        with self._lock:
            self._closed = True
            if self._store is not None:
                self._store.close()


class StoreThreads:
    """Requests of the follower, and the node's own records.

    claim: the integer key of this chassis.  publisher: tells the bus what was written; None: there is no bus.
    """

    def __init__(
        self, store: LateStore, claim: Callable[[Store], int], publisher: Publisher | None, deliver: Deliver
    ) -> None:
        self._store = store
        self._claim = claim
        self._publisher = publisher
        self._deliver = deliver
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._writes: queue.SimpleQueue[WriteRecords | ClaimKey | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._read, name="store-read", daemon=True),
            threading.Thread(target=self._write, name="store-write", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, request: Request) -> None:
        """Bounded by the follower's `requests_max`."""
        self._requests.put(request)

    def write(self, work: WriteRecords | ClaimKey) -> None:
        """Bounded by the core: one of each is under way at most."""
        self._writes.put(work)

    def close(self, timeout_seconds: float) -> None:
        """Finish what was begun."""
        self._requests.put(None)
        self._writes.put(None)
        for thread in self._threads:
            thread.join(timeout_seconds)

    def _read(self) -> None:
        while (request := self._requests.get()) is not None:
            try:
                answer = ask(self._store.get(), request)
            except Unavailable as error:
                answer = Answer(request, error)
            self._deliver(answer)

    def _write(self) -> None:
        while (work := self._writes.get()) is not None:
            if isinstance(work, ClaimKey):
                self._deliver(self._claimed())
            else:
                self._deliver(self._written(work.writes))

    def _claimed(self) -> KeyClaimed | KeyNotClaimed:
        try:
            return KeyClaimed(self._claim(self._store.get()))
        except (Unavailable, Rejected) as error:
            return KeyNotClaimed(str(error))

    def _written(self, writes: Sequence[Write]) -> Written | NotWritten:
        try:
            outcomes = self._store.get().apply(writes)
        except (Unavailable, Rejected) as error:
            return NotWritten(str(error))
        applied = [write for write, outcome in zip(writes, outcomes, strict=True) if outcome.applied]
        if self._publisher is not None and applied:
            # When it does not leave: the fact is in the store, and its number will be missed by whom it concerns.
            with contextlib.suppress(Unavailable):
                self._publisher.publish(applied)
        return Written(outcomes)


class WatchThread:
    """Follows the store's own change feed, where there is no bus.

    Whenever the feed begins after `wait_open` gave up on it, or begins again, `Gone` is delivered: what
    changed in between is found by comparing.
    """

    def __init__(self, store: LateStore, prefix: str, random: Random, deliver: Deliver) -> None:
        self._store = store
        self._prefix = prefix
        self._backoff = Backoff(random)
        self._deliver = deliver
        self._lock = threading.Lock()
        self._opened = threading.Event()
        self._compare = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-watch", daemon=True)
        self._thread.start()

    def wait_open(self, timeout_seconds: float) -> None:
        """Return once the feed has begun, so that a listing made from now on misses nothing, or after the timeout."""
        self._opened.wait(timeout_seconds)
        with self._lock:
            self._compare = True

    def close(self, timeout_seconds: float) -> None:
        """Nothing is delivered afterwards."""
        self._closed.set()
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                watch = self._open()
            except (Unavailable, StartOver):
                self._closed.wait(self._backoff.next_delay())
                continue
            with self._lock:
                self._opened.set()
                compare, self._compare = self._compare, True
            if compare:
                self._deliver(Gone("the change feed begins"))
            # StartOver: the history was trimmed, or is another one.
            with contextlib.suppress(StartOver):
                self._follow(watch)

    def _open(self) -> Watch:
        store = self._store.get()
        return store.watch(self._prefix, _now(store, self._prefix))

    def _follow(self, watch: Watch) -> None:
        try:
            while not self._closed.is_set():
                try:
                    changes = watch.next(WATCH_SECONDS)
                except Unavailable:
                    self._closed.wait(self._backoff.next_delay())
                    continue
                self._backoff.succeeded()
                if changes.entries:
                    self._deliver(changes)
        finally:
            watch.close()


def _now(store: Store, prefix: str) -> Cursor:
    """The end of the store's history, for the price of listing nothing."""
    return store.versions(f"{prefix}!nothing/").cursor
