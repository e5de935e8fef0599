"""The ZeroMQ bus: publish/subscribe through forwarders (`flowloom bus`), no broker state.

URL: `zmq+ipc:///dir` or `zmq+tcp://host:port[,host:port…]`, `?heartbeat_seconds=1&hwm=10000`.  With several
endpoints everything is sent to all and copies are dropped on arrival, so one may die without a loss.

Nobody waits for anybody: what exceeds `hwm` messages of a queue is dropped, and the numbers show it.
Open the bus after forking; a publisher's name is one process's alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import zmq

from flowloom.drivers.bus.zeromq_forwarder import run_forwarder
from flowloom.drivers.bus.zeromq_wire import BEAT_TOPIC, Address, decode, encode, parse_url
from flowloom.kernel.errors import Unavailable
from flowloom.northbound.bus import BusEvent, Gone, Heartbeat, Notice
from flowloom.northbound.numbering import Numbering

__all__ = ["ZeromqBus", "open_bus", "run_forwarder"]

_CLOSE_SECONDS = 1.0
_ATTACH_SECONDS = 0.5
_DRAIN_MAX = 1000
_PUBLISHERS_MAX = 10_000

Socket = zmq.Socket[bytes]


def open_bus(url: str) -> ZeromqBus:
    """The bus at `url`.  Forwarders that are not there yet are connected when they are."""
    return ZeromqBus(parse_url(url))


class ZeromqBus:
    """Implements `northbound.bus.Bus`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._context: zmq.Context[Socket] = zmq.Context()
        self._opened: list[ZeromqPublisher | ZeromqSubscription] = []
        self._lock = threading.Lock()
        self._last_epoch = 0

    def publisher(self, name: str) -> ZeromqPublisher:
        with self._lock:
            self._check_open()
            self._last_epoch = max(self._last_epoch + 1, time.time_ns() // 1000)
            publisher = ZeromqPublisher(self._socket(zmq.XPUB), self._address, name, self._last_epoch)
            self._opened.append(publisher)
        return publisher

    def subscribe(self, prefixes: Sequence[str], deliver: Callable[[BusEvent], None]) -> ZeromqSubscription:
        with self._lock:
            self._check_open()
            subscription = ZeromqSubscription(self._socket(zmq.SUB), self._address, prefixes, deliver)
            self._opened.append(subscription)
        return subscription

    def close(self) -> None:
        with self._lock:
            opened, self._opened = self._opened, []
        for one in opened:
            one.close()
        self._context.term()

    def _check_open(self) -> None:
        if self._context.closed:
            raise Unavailable("this bus is closed")

    def _socket(self, kind: int) -> Socket:
        place = self._context.socket(kind)
        place.set_hwm(self._address.hwm)
        for option, value in (
            (zmq.IPV6, 1),
            (zmq.RECONNECT_IVL, 50),  # Milliseconds, as those below.
            (zmq.RECONNECT_IVL_MAX, 1000),
            (zmq.HEARTBEAT_IVL, 2000),
            (zmq.HEARTBEAT_TIMEOUT, 6000),
        ):
            place.setsockopt(option, value)
        return place


class ZeromqPublisher:
    """Implements `northbound.bus.Publisher`: a socket behind a lock, and a thread for the heartbeats."""

    def __init__(self, place: Socket, address: Address, name: str, epoch: int) -> None:
        self._place = place
        self._lock = threading.Condition()
        self._count = 0
        self._closed = False
        self._numbering = Numbering(name, epoch, time.monotonic(), address.heartbeat_seconds)
        for endpoint in address.endpoints:
            place.connect(endpoint.inward)
        # What is sent before the forwarder has answered is lost; wait for it, but not for ever.
        place.poll(int(_ATTACH_SECONDS * 1000), zmq.POLLIN)
        self._thread = threading.Thread(target=self._beat, name=f"heartbeats of {name}", daemon=True)
        self._thread.start()

    def publish(self, changes: Sequence[tuple[str, int, bytes | None]]) -> None:
        with self._lock:
            if self._closed:
                raise Unavailable("this publisher is closed")
            for key, version, value in changes:
                self._send(self._numbering.notice(key, version, value))

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for beat in self._numbering.heartbeats(float("inf")):  # What is owed, before nobody can pay it.
                self._send(beat)
            self._place.close(linger=int(_CLOSE_SECONDS * 1000))
            self._lock.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _beat(self) -> None:
        with self._lock:
            while not self._closed:
                for beat in self._numbering.heartbeats(time.monotonic()):
                    self._send(beat)
                with contextlib.suppress(zmq.Again):  # The subscriptions that forwarders tell of; of no interest.
                    while True:
                        self._place.recv(zmq.NOBLOCK)
                self._lock.wait(max(0.0, self._numbering.next_due() - time.monotonic()))

    def _send(self, event: Notice | Heartbeat) -> None:
        self._count += 1
        with contextlib.suppress(zmq.Again):  # A full queue: lost, and its number shows it.
            self._place.send_multipart(encode(event, self._count), zmq.NOBLOCK)


class ZeromqSubscription:
    """Implements `northbound.bus.Subscription`: one thread owns the socket and calls `deliver`.

    malformed: messages that were none of this bus; counted and skipped.
    """

    def __init__(
        self, place: Socket, address: Address, prefixes: Sequence[str], deliver: Callable[[BusEvent], None]
    ) -> None:
        self.malformed = 0
        self._place = place
        self._deliver = deliver
        self._prefixes: set[bytes] = set()
        self._orders: deque[tuple[set[bytes], threading.Event]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closed = False
        self._close_lock = threading.Lock()
        self._seen: dict[str, tuple[int, int]] = {}  # publisher -> (epoch, count)
        self._live: set[str] = set()
        self._was_live = False
        place.setsockopt(zmq.LINGER, 0)
        place.subscribe(BEAT_TOPIC)
        self._monitor = place.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._subscribe({prefix.encode() for prefix in prefixes})
        for endpoint in address.endpoints:
            place.connect(endpoint.outward)
        self._thread = threading.Thread(target=self._run, name="bus subscription", daemon=True)
        self._thread.start()

    def replace_prefixes(self, prefixes: Sequence[str]) -> None:
        wanted = {prefix.encode() for prefix in prefixes}
        if threading.current_thread() is self._thread:
            self._subscribe(wanted)
            return
        done = threading.Event()
        self._orders.append((wanted, done))
        with self._close_lock:
            if self._closed:
                return
            os.eventfd_write(self._wake, 1)
        done.wait(_CLOSE_SECONDS)

    def close(self) -> None:
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
            os.eventfd_write(self._wake, 1)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        poller = zmq.Poller()
        for source in (self._place, self._monitor, self._wake):
            poller.register(source, zmq.POLLIN)
        while not self._closed:
            ready = dict(poller.poll())
            if self._wake in ready:
                os.eventfd_read(self._wake)
                self._obey()
            if self._monitor in ready:
                self._watch_connections()
            if self._place in ready:
                self._drain()
        self._place.disable_monitor()
        self._monitor.close(linger=0)
        self._place.close(linger=0)
        with self._close_lock:  # Whoever closes may still be about to ring.
            os.close(self._wake)

    def _obey(self) -> None:
        while self._orders:
            wanted, done = self._orders.popleft()
            self._subscribe(wanted)
            done.set()

    def _subscribe(self, wanted: set[bytes]) -> None:
        for prefix in wanted - self._prefixes:
            self._place.subscribe(prefix)
        for prefix in self._prefixes - wanted:
            self._place.unsubscribe(prefix)
        self._prefixes = wanted

    def _watch_connections(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                # Event (2 bytes), value (4), endpoint: zmq_socket_monitor(3).  pyzmq's own reader loads asyncio.
                head, name = self._monitor.recv_multipart(zmq.NOBLOCK)
                endpoint = name.decode()
                if int.from_bytes(head[:2], sys.byteorder) == zmq.EVENT_DISCONNECTED:
                    self._live.discard(endpoint)
                    if not self._live:
                        self._deliver(Gone(f"the connection to {endpoint} was lost"))
                else:
                    if not self._live and self._was_live:
                        self._deliver(Gone(f"the connection to {endpoint} is back; it was away for a while"))
                    self._live.add(endpoint)
                    self._was_live = True

    def _drain(self) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(_DRAIN_MAX):
                if self._closed:
                    return
                message = decode(self._place.recv_multipart(zmq.NOBLOCK))
                if message is None:
                    self.malformed += 1
                elif self._is_new(*message):
                    self._deliver(message[0])

    def _is_new(self, event: Notice | Heartbeat, count: int) -> bool:
        """Whether this is no copy of a message that came another way, nor overtaken by a later one."""
        epoch, last = self._seen.pop(event.publisher, (0, 0))
        fresh = event.epoch != epoch or count > last
        self._seen[event.publisher] = (event.epoch, count) if fresh else (epoch, last)
        if len(self._seen) > _PUBLISHERS_MAX:
            del self._seen[next(iter(self._seen))]
        return fresh
