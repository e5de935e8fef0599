"""The forwarder of the ZeroMQ bus: many publishers in, many subscribers out, no state.

Kill it and start it again at will: publishers and subscribers reconnect by themselves, and subscribers
know that they may have missed something.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import zmq

from flowloom.drivers.bus.zeromq_wire import BEAT_TOPIC, Address, Endpoint, parse_url
from flowloom.kernel.errors import Misconfigured


def run_forwarder(url: str, stop: threading.Event | None = None) -> None:
    """Forward until `stop` is set (None: until the process ends).  Misconfigured when it cannot listen.

    url: one endpoint.  Its `tcp` form listens on that host's address alone, port and port + 1.
    """
    address = parse_url(url, "url")
    if len(address.endpoints) != 1:
        raise Misconfigured("url", f"{url}: a forwarder has one endpoint; start one process for each")
    endpoint = address.endpoints[0]
    context = zmq.Context()
    with _alone(endpoint):
        inward, outward = _sockets(context, address)
        try:
            for place, listening in ((inward, _to_bind(endpoint, 0)), (outward, _to_bind(endpoint, 1))):
                place.setsockopt(zmq.IPV6, int("[" in listening))
                place.bind(listening)
        except zmq.ZMQError as error:
            context.destroy(linger=0)
            raise Misconfigured("url", f"cannot listen at {listening}: {error.strerror}") from error
        # A standing subscription, so that a publisher sees when it is connected.
        inward.send(b"\x01" + BEAT_TOPIC)
        forwarding = threading.Thread(target=_forward, args=(inward, outward), daemon=True)
        forwarding.start()
        try:
            (stop or threading.Event()).wait()
        finally:
            context.term()  # Ends the proxy in the other thread, which closes the sockets.
            forwarding.join()


def _sockets(context: zmq.Context[zmq.Socket[bytes]], address: Address) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    inward, outward = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    for place in (inward, outward):
        place.set_hwm(address.hwm)
        place.setsockopt(zmq.LINGER, 0)
        place.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        place.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
    return inward, outward


def _forward(inward: zmq.Socket[bytes], outward: zmq.Socket[bytes]) -> None:
    try:
        zmq.proxy(inward, outward)
    except zmq.ContextTerminated:
        inward.close(linger=0)
        outward.close(linger=0)


def _to_bind(endpoint: Endpoint, offset: int) -> str:
    if endpoint.directory:
        return (endpoint.inward, endpoint.outward)[offset]
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port + offset, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Misconfigured("url", f"{endpoint.host} has no address: {error}") from error
    ip = found[0][4][0]
    return f"tcp://[{ip}]:{endpoint.port + offset}" if ":" in str(ip) else f"tcp://{ip}:{endpoint.port + offset}"


@contextmanager
def _alone(endpoint: Endpoint) -> Iterator[None]:
    """Hold the directory: a second forwarder would take the sockets away from the first without a word."""
    if not endpoint.directory:
        yield
        return
    try:
        os.makedirs(endpoint.directory, exist_ok=True)
        lock = open(os.path.join(endpoint.directory, "forwarder.lock"), "w")  # noqa: SIM115 - held below
    except OSError as error:
        raise Misconfigured("url", f"{error.filename}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Misconfigured("url", f"another forwarder runs in {endpoint.directory}") from error
        yield
