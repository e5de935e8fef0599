"""A bus in memory: a real implementation of the contract that passes the conformance suite.

`MemoryBus` is the transport, `MemoryBus.open()` gives a handle on it.  Time is the clock's: heartbeats that
are due are sent by `beat()`.  Faults: `drop` (share of events lost, per subscriber), `break_connections()`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from random import Random

from flowloom.kernel.clock import Clock
from flowloom.kernel.errors import Unavailable
from flowloom.northbound.bus import BusEvent, Gone, Heartbeat, Notice
from flowloom.northbound.numbering import Numbering


class MemoryBus:
    """The transport that handles share.  Any thread may use it.

    random: decides which events are lost when `drop` is above 0.
    threaded: each subscription has a thread of its own and a queue of `queue_max` events, which loses what
        does not fit, as a real transport does.  Otherwise `deliver` is called from within `publish` and `beat`.
    """

    def __init__(
        self,
        clock: Clock,
        random: Random | None = None,
        heartbeat_seconds: float = 1.0,
        threaded: bool = False,
        queue_max: int = 1000,
    ) -> None:
        self.clock = clock
        self.heartbeat_seconds = heartbeat_seconds
        self.threaded = threaded
        self.queue_max = queue_max
        self.drop = 0.0
        self.lock = threading.RLock()
        self.publishers: list[MemoryPublisher] = []
        self.subscriptions: list[MemorySubscription] = []
        self._random = random or Random()
        self._epoch = 0

    def open(self) -> MemoryBusHandle:
        """Another handle."""
        return MemoryBusHandle(self)

    def beat(self) -> None:
        """Send every heartbeat that is due by the clock."""
        with self.lock:
            for publisher in list(self.publishers):
                for beat in publisher.numbering.heartbeats(self.clock.monotonic()):
                    self.send(beat)

    def break_connections(self, why: str = "broken by the test") -> None:
        """Tell every subscriber that its connection was lost."""
        with self.lock:
            for subscription in list(self.subscriptions):
                subscription.accept(Gone(why))

    def send(self, event: Notice | Heartbeat) -> None:
        """Hand `event` to every subscription that it concerns, lost ones apart.  The caller holds `lock`."""
        for subscription in list(self.subscriptions):
            if subscription.wants(event) and not (self.drop and self._random.random() < self.drop):
                subscription.accept(event)

    def new_epoch(self) -> int:
        """An epoch greater than every former one."""
        self._epoch = max(self._epoch + 1, int(self.clock.wall() * 1_000_000))
        return self._epoch


class MemoryBusHandle:
    """Implements `northbound.bus.Bus`."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self._opened: list[MemoryPublisher | MemorySubscription] = []

    def publisher(self, name: str) -> MemoryPublisher:
        with self._bus.lock:
            publisher = MemoryPublisher(self._bus, name)
            self._bus.publishers.append(publisher)
            self._opened.append(publisher)
        return publisher

    def subscribe(self, prefixes: Sequence[str], deliver: Callable[[BusEvent], None]) -> MemorySubscription:
        with self._bus.lock:
            subscription = MemorySubscription(self._bus, prefixes, deliver)
            self._bus.subscriptions.append(subscription)
            self._opened.append(subscription)
        return subscription

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()


class MemoryPublisher:
    """Implements `northbound.bus.Publisher`."""

    def __init__(self, bus: MemoryBus, name: str) -> None:
        self._bus = bus
        self.numbering = Numbering(name, bus.new_epoch(), bus.clock.monotonic(), bus.heartbeat_seconds)

    def publish(self, changes: Sequence[tuple[str, int, bytes | None]]) -> None:
        with self._bus.lock:
            if self not in self._bus.publishers:
                raise Unavailable("this publisher is closed")
            for key, version, value in changes:
                self._bus.send(self.numbering.notice(key, version, value))

    def close(self) -> None:
        with self._bus.lock:
            if self in self._bus.publishers:
                self._bus.publishers.remove(self)


class MemorySubscription:
    """Implements `northbound.bus.Subscription`."""

    def __init__(self, bus: MemoryBus, prefixes: Sequence[str], deliver: Callable[[BusEvent], None]) -> None:
        self._bus = bus
        self._prefixes = tuple(prefixes)
        self._deliver = deliver
        self._queue: deque[BusEvent] = deque()
        self._filled = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        if bus.threaded:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def wants(self, event: Notice | Heartbeat) -> bool:
        """Whether `event` concerns this subscription."""
        if isinstance(event, Notice):
            return event.key.startswith(self._prefixes)
        return not event.scope or event.scope.startswith(self._prefixes)

    def accept(self, event: BusEvent) -> None:
        """Deliver `event` now, or queue it for the thread; what does not fit is lost."""
        if self._thread is None:
            self._deliver(event)
            return
        with self._filled:
            if len(self._queue) < self._bus.queue_max:
                self._queue.append(event)
                self._filled.notify()

    def replace_prefixes(self, prefixes: Sequence[str]) -> None:
        self._prefixes = tuple(prefixes)

    def close(self) -> None:
        with self._bus.lock:
            if self in self._bus.subscriptions:
                self._bus.subscriptions.remove(self)
        with self._filled:
            self._closed = True
            self._filled.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._filled:
                while not self._queue and not self._closed:
                    self._filled.wait()
                if self._closed:
                    return
                event = self._queue.popleft()
            self._deliver(event)
