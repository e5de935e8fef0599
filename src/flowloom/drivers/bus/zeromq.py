"""The bus on ZeroMQ: publishers -> forwarder -> subscribers.

    zmq+tcp://host:PORT[,host:PORT…][?heartbeat_seconds=1]    publishers connect to PORT, subscribers to PORT + 1
    zmq+ipc:///directory[?heartbeat_seconds=1]                directory/in.sock and directory/out.sock

A forwarder (`run_forwarder`, the command `flowloom bus`) keeps nothing; with several, clients connect to
all of them and drop doubles.  ZeroMQ drops silently what does not fit a queue or comes before a
subscription is in force: sequences and heartbeats make the first visible, and `Gone` is delivered with
the first message of every connection, when its subscriptions certainly are in force.

A message is three frames: topic (a key; a scope for its heartbeat; `~` for signs of life), head, value.
Open a bus after a fork, not before: ZeroMQ's threads do not survive one.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.northbound.bus import BusEvent, Gone, Heartbeat, Notice
from flowloom.northbound.numbering import Numbering

_Kept = TypeVar("_Kept", "ZmqPublisher", "ZmqSubscription")

LIFE_TOPIC: Final = b"~"
"""Sorts after every key: ZeroMQ renews subscriptions in this order, so whoever hears it hears the others too."""

QUEUE_MAX: Final = 100_000
"""Messages queued for one peer; what comes on top is dropped, and its loss seen."""

LINGER_MS: Final = 1000
_IPC_PATH_BYTES_MAX: Final = 107
_STOP_LOOK_SECONDS: Final = 0.2


class _Head(msgspec.Struct, array_like=True):
    """version 0: a heartbeat.  deleted: a tombstone (its value frame is empty)."""

    publisher: str
    epoch: int
    sequence: int
    previous: int = 0
    version: int = 0
    deleted: bool = False


_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(_Head).decode


@dataclass(frozen=True)
class Endpoint:
    """Where one forwarder is: what publishers and what subscribers connect to."""

    publishers: str
    subscribers: str


@dataclass(frozen=True)
class Address:
    """A parsed URL."""

    endpoints: tuple[Endpoint, ...]
    heartbeat_seconds: float


def parse_url(url: str) -> Address:
    """Misconfigured when `url` is not of the forms above."""
    parts = urlsplit(url)
    heartbeat = _heartbeat(url, parts.query)
    if parts.scheme == "zmq+ipc":
        directory = parts.path.rstrip("/")
        if parts.netloc or not directory.startswith("/"):
            raise Misconfigured("bus", f"{url!r}: write zmq+ipc:///absolute/directory")
        if len(f"{directory}/out.sock".encode()) > _IPC_PATH_BYTES_MAX:
            raise Misconfigured("bus", f"{directory!r} is too long for a unix socket's path; use a shorter directory")
        return Address((Endpoint(f"ipc://{directory}/in.sock", f"ipc://{directory}/out.sock"),), heartbeat)
    if parts.scheme != "zmq+tcp" or parts.path not in ("", "/") or not parts.netloc:
        raise Misconfigured("bus", f"{url!r}: write zmq+tcp://host:port[,host:port] or zmq+ipc:///directory")
    return Address(tuple(_tcp(url, one) for one in parts.netloc.split(",")), heartbeat)


def _heartbeat(url: str, query: str) -> float:
    options = parse_qs(query, keep_blank_values=True)
    unknown = set(options) - {"heartbeat_seconds"}
    if unknown:
        raise Misconfigured("bus", f"{url!r}: unknown option {sorted(unknown)[0]!r}; known: heartbeat_seconds")
    text = options.get("heartbeat_seconds", ["1"])[-1]
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 60:
        raise Misconfigured("bus", f"{url!r}: heartbeat_seconds is {text!r}, not a number from 0.01 to 60")
    return seconds


def _tcp(url: str, text: str) -> Endpoint:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 1 <= int(port) <= 65534:
        raise Misconfigured("bus", f"{url!r}: {text!r} is not host:port with a port from 1 to 65534")
    return Endpoint(f"tcp://{host}:{port}", f"tcp://{host}:{int(port) + 1}")


def open_bus(url: str) -> ZmqBus:
    """The bus at `url`; connects in the background, so a forwarder that is down is no error here."""
    return ZmqBus(parse_url(url))


class ZmqBus:
    """See `northbound.bus.Bus`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._context = zmq.Context()
        self._open: list[ZmqPublisher | ZmqSubscription] = []
        self._closed = False

    def publisher(self, name: str) -> ZmqPublisher:
        return self._keep(ZmqPublisher(self._context, self._address, name))

    def subscribe(self, prefixes: Sequence[str], deliver: Callable[[BusEvent], None]) -> ZmqSubscription:
        return self._keep(ZmqSubscription(self._context, self._address, prefixes, deliver))

    def _keep(self, made: _Kept) -> _Kept:
        if self._closed:
            made.close()
            raise Unavailable("the bus is closed")
        self._open.append(made)
        return made

    def close(self) -> None:
        self._closed = True
        while self._open:
            self._open.pop().close()
        self._context.term()


def _socket(context: zmq.Context[Any], kind: int, address: Address) -> zmq.Socket[Any]:
    made: zmq.Socket[Any] = context.socket(kind)
    made.set(zmq.SNDHWM, QUEUE_MAX)
    made.set(zmq.RCVHWM, QUEUE_MAX)
    made.set(zmq.LINGER, LINGER_MS)
    made.set(zmq.RECONNECT_IVL, 50)
    made.set(zmq.RECONNECT_IVL_MAX, 1000)
    interval_ms = int(address.heartbeat_seconds * 1000)
    made.set(zmq.HEARTBEAT_IVL, interval_ms)
    made.set(zmq.HEARTBEAT_TIMEOUT, 3 * interval_ms)
    made.set(zmq.IPV6, 1)
    return made


class ZmqPublisher:
    """See `northbound.bus.Publisher`.  One lock makes its socket usable from any thread."""

    def __init__(self, context: zmq.Context[Any], address: Address, name: str) -> None:
        self._lock = threading.Lock()
        self._socket = _socket(context, zmq.PUB, address)
        for endpoint in address.endpoints:
            self._socket.connect(endpoint.publishers)
        epoch = time.time_ns() // 1000
        self._numbering = Numbering(name, epoch, time.monotonic(), address.heartbeat_seconds)
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._beat, name=f"bus heartbeat of {name}", daemon=True)
        self._thread.start()

    def publish(self, changes: Sequence[tuple[str, int, bytes | None]]) -> None:
        with self._lock:
            if self._closed:
                raise Unavailable("the publisher is closed")
            now = time.monotonic()
            for key, version, value in changes:
                notice = self._numbering.notice(key, version, value, now)
                head = _Head(
                    notice.publisher, notice.epoch, notice.sequence, notice.previous, version, deleted=value is None
                )
                self._send([key.encode(), _ENCODE(head), value or b""])

    def _send(self, frames: list[bytes]) -> None:
        """A full queue drops, as ZeroMQ does: the sequence shows it."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            pass
        except zmq.ZMQError as error:
            raise Unavailable(f"bus: {error}") from error

    def _beat(self) -> None:
        """Send heartbeats when they are due; a scope's is due at the earliest one interval after its notice."""
        while True:
            with self._lock:
                if self._closed:
                    return
                now = time.monotonic()
                for beat in self._numbering.heartbeats(now):
                    topic = beat.scope.encode() if beat.scope else LIFE_TOPIC
                    self._send([topic, _ENCODE(_Head(beat.publisher, beat.epoch, beat.sequence)), b""])
                due = self._numbering.next_due()
            self._wake.wait(max(0.0, due - now))

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._wake.set()
        self._thread.join()
        self._socket.close()


class _Line:
    """A subscriber's connection to one forwarder.  fresh: nothing was received since it was (re)made."""

    def __init__(self, context: zmq.Context[Any], address: Address, endpoint: Endpoint) -> None:
        self.socket = _socket(context, zmq.SUB, address)
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self.name = endpoint.subscribers
        self.fresh = True
        self.socket.subscribe(LIFE_TOPIC)

    def close(self) -> None:
        self.socket.disable_monitor()
        self.socket.close(linger=0)


class ZmqSubscription:
    """See `northbound.bus.Subscription`.  Its thread owns every socket; `_wake` gets its attention."""

    def __init__(
        self,
        context: zmq.Context[Any],
        address: Address,
        prefixes: Sequence[str],
        deliver: Callable[[BusEvent], None],
    ) -> None:
        self._deliver = deliver
        self._lock = threading.Lock()
        self._wanted = frozenset(prefixes)
        self._subscribed: frozenset[str] = frozenset()
        self._closed = False
        self._heard: dict[str, tuple[int, int]] = {}
        self._wake, self._woken = socket.socketpair()
        self._lines = [_Line(context, address, endpoint) for endpoint in address.endpoints]
        self._apply_prefixes()
        for line in self._lines:
            line.socket.connect(line.name)
        self._thread = threading.Thread(target=self._run, name="bus subscription", daemon=True)
        self._thread.start()

    def replace_prefixes(self, prefixes: Sequence[str]) -> None:
        with self._lock:
            self._wanted = frozenset(prefixes)
        self._wake.send(b"p")

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._wake.send(b"c")
        if threading.current_thread() is not self._thread:
            self._thread.join()
            self._wake.close()

    def _apply_prefixes(self) -> None:
        """Add before removing, so that what both sets hold is not interrupted."""
        with self._lock:
            wanted = self._wanted
        for line in self._lines:
            for prefix in sorted(wanted - self._subscribed):
                line.socket.subscribe(prefix)
            for prefix in sorted(self._subscribed - wanted):
                line.socket.unsubscribe(prefix)
        self._subscribed = wanted

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._woken, zmq.POLLIN)
        for line in self._lines:
            poller.register(line.socket, zmq.POLLIN)
            poller.register(line.monitor, zmq.POLLIN)
        try:
            while not self._closed:
                ready = dict(poller.poll())
                if self._woken.fileno() in ready:
                    self._woken.recv(4096)
                    self._apply_prefixes()
                for line in self._lines:
                    if line.monitor in ready:
                        self._watch(line)
                    if line.socket in ready:
                        self._receive(line)
        finally:
            for line in self._lines:
                line.close()
            self._woken.close()

    def _watch(self, line: _Line) -> None:
        event = recv_monitor_message(line.monitor)["event"]
        if event == zmq.EVENT_DISCONNECTED:
            line.fresh = True
            self._say(Gone(f"connection to {line.name} lost"))

    def _receive(self, line: _Line) -> None:
        """Everything that is there, up to a bound, so that a flood does not starve a close."""
        for _ in range(1000):
            try:
                frames = line.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if line.fresh:
                line.fresh = False
                self._say(Gone(f"connected to {line.name}: what came before was not heard"))
            event = self._event(frames)
            if event is not None:
                self._say(event)

    def _event(self, frames: list[bytes]) -> BusEvent | None:
        """The event in a message; None for a double, and for what is not of this bus."""
        try:
            topic, head_bytes, value = frames
            head = _DECODE(head_bytes)
            key = topic.decode()
        except (ValueError, msgspec.DecodeError):
            return None
        if not head.version:
            return Heartbeat(head.publisher, head.epoch, head.sequence, "" if topic == LIFE_TOPIC else key)
        number = (head.epoch, head.sequence)
        if len(self._lines) > 1 and number <= self._heard.get(head.publisher, (0, 0)):
            return None
        self._heard[head.publisher] = number
        return Notice(
            head.publisher,
            head.epoch,
            head.sequence,
            head.previous,
            key,
            head.version,
            None if head.deleted else value,
        )

    def _say(self, event: BusEvent) -> None:
        if not self._closed:
            self._deliver(event)


def run_forwarder(url: str, stop: threading.Event | None = None) -> None:
    """Forward until `stop` is set (None: for ever); for a URL with several endpoints, at the first of them.

    Misconfigured when the address cannot be listened at.
    """
    (endpoint, *_) = parse_url(url).endpoints
    context: zmq.Context[Any] = zmq.Context()
    incoming, outgoing = context.socket(zmq.SUB), context.socket(zmq.PUB)
    for each in (incoming, outgoing):
        each.set(zmq.SNDHWM, QUEUE_MAX)
        each.set(zmq.RCVHWM, QUEUE_MAX)
        each.set(zmq.LINGER, 0)
        each.set(zmq.IPV6, 1)
    incoming.subscribe(b"")
    try:
        _bind(incoming, endpoint.publishers)
        _bind(outgoing, endpoint.subscribers)
    except Misconfigured:
        context.destroy(linger=0)
        raise

    def forward() -> None:
        try:
            zmq.proxy(incoming, outgoing)
        except zmq.ContextTerminated:
            pass
        finally:
            incoming.close()
            outgoing.close()

    thread = threading.Thread(target=forward, name="bus forwarder", daemon=True)
    thread.start()
    while thread.is_alive() and not (stop is not None and stop.wait(_STOP_LOOK_SECONDS)):
        thread.join(_STOP_LOOK_SECONDS)
    context.term()
    thread.join()


def _bind(made: zmq.Socket[Any], address: str) -> None:
    if address.startswith("ipc://"):
        path = Path(address.removeprefix("ipc://"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misconfigured("bus", f"{path.parent}: {os.strerror(error.errno or 0)}") from error
    try:
        made.bind(address)
    except zmq.ZMQError as error:
        raise Misconfigured("bus", f"cannot listen at {address}: {error}; is another forwarder running?") from error
