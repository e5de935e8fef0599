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
from flowloom.kernel.errors import Misconfigured, Rejected, StartOver, Unavailable
from flowloom.northbound.bus import BusEvent, Gone, Publisher
from flowloom.northbound.pointer import Pointer, open_in_force, pointer_key, pointer_of, same_place
from flowloom.northbound.requests import Answer, Request, ask
from flowloom.northbound.store import Changes, Cursor, Store, Watch, Write

WATCH_SECONDS: Final = 1.0
"""Longest wait of one look at the change feed: how soon a close is noticed."""

Heard = Answer | Changes | BusEvent | Written | NotWritten | KeyClaimed | KeyNotClaimed
Deliver = Callable[[Heard], None]


class LateStore:
    """The deployment's store as far as this agent knows, opened on use, until that has worked once.

    It begins with the configured one and goes where pointers lead (`northbound.pointer`).  Any thread may use it.
    """

    def __init__(self, configured: str, deployment: str, opener: Callable[[str], Store]) -> None:
        """Misconfigured when the URL is wrong; a server that does not answer is tried again later."""
        self._configured = configured
        self._deployment = deployment
        self._opener = opener
        self._lock = threading.Lock()
        self._url = configured
        self._generation = 0
        self._store: Store | None = None
        self._former: Store | None = None  # Until the one that it points at is open.
        self._closed = False
        try:
            self.get()
        except Unavailable:
            pass  # Every later use says so again.
        except Rejected as error:
            raise Misconfigured("store", str(error)) from error

    def get(self) -> Store:
        """The open store.  Unavailable when it cannot be opened now."""
        with self._lock:
            if self._closed:
                raise Unavailable("the agent is ending")
            if self._store is None:
                self._store = self._open()
            return self._store

    def follow(self, pointer: Pointer) -> bool:
        """Go where a pointer leads, unless one of a later generation led here; whether that is another store."""
        with self._lock:
            if self._closed or pointer.generation <= self._generation:
                return False
            self._generation = pointer.generation
            if same_place(pointer.url, self._url):
                return False
            self._url = pointer.url
            if self._store is not None:
                self._close(self._former)
                self._former, self._store = self._store, None
            return True

    def is_current(self, store: Store) -> bool:
        """Whether `store` is what `get` gives, without waiting."""
        return self._store is store

    def close(self) -> None:
        """Release it."""
        with self._lock:
            self._closed = True
            self._close(self._former)
            self._close(self._store)

    def _open(self) -> Store:
        """Under the lock."""
        try:
            found = open_in_force(self._configured, self._deployment, self._opener, self._url, self._generation)
        except (Unavailable, Misconfigured, Rejected) as error:
            if self._generation == 0:
                raise
            self._ask_former()
            raise Unavailable(f"the deployment moved to {self._url}, which cannot be used here: {error}") from error
        self._url, self._generation = found.url, found.generation
        self._close(self._former)
        self._former = None
        return found.store

    def _ask_former(self) -> None:
        """Where the one that led here leads now: the deployment may have moved on, or back."""
        if self._former is None:
            return
        with contextlib.suppress(Unavailable, Rejected):
            pointer = pointer_of(self._former.get([pointer_key(self._deployment)])[0])
            if pointer is not None and pointer.generation > self._generation:
                self._url, self._generation = pointer.url, pointer.generation

    @staticmethod
    def _close(store: Store | None) -> None:
        if store is not None:
            store.close()


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
        self._writes: queue.SimpleQueue[WriteRecords | ClaimKey | Pointer | None] = queue.SimpleQueue()
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

    def follow(self, pointer: Pointer) -> None:
        """The deployment's store may be another one; when it is, `Gone` is delivered."""
        self._writes.put(pointer)  # Not here: it may have to wait for a store that is being opened.

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
            elif isinstance(work, Pointer):
                if self._store.follow(work):
                    self._deliver(Gone(f"the deployment moved to store generation {work.generation}"))
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
                store = self._store.get()
                watch = store.watch(self._prefix, _now(store, self._prefix))
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
                self._follow(watch, store)

    def _follow(self, watch: Watch, store: Store) -> None:
        """Until the end, or until the deployment's store is another one."""
        try:
            while not self._closed.is_set() and self._store.is_current(store):
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
