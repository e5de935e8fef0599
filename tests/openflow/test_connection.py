"""The connection against a peer that the test plays itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

import pytest

from flowloom.drivers.switch.connection import Connection
from flowloom.drivers.switch.openvswitch import open_switch
from flowloom.kernel.errors import Unavailable
from flowloom.openflow import messages

SECONDS = 10.0
Play = Callable[[socket.socket], None]


class Peer:
    """Listens at `address`; plays each connection with the next part of the script."""

    def __init__(self, address: Path) -> None:
        self.address = str(address)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.address)
        self._listening.listen()
        self._threads: list[threading.Thread] = []

    def play(self, *parts: Play) -> None:
        """Play the first connection with the first part, the second with the second."""

        def run(connection: socket.socket, part: Play) -> None:
            with connection:
                connection.settimeout(SECONDS)
                part(connection)

        def accept() -> None:
            for part in parts:
                connection, _ = self._listening.accept()
                self._threads.append(threading.Thread(target=run, args=(connection, part), daemon=True))
                self._threads[-1].start()

        self._threads.append(threading.Thread(target=accept, daemon=True))
        self._threads[0].start()

    def close(self) -> None:
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        self._listening.close()


@pytest.fixture
def peer(short_dir: Path) -> Iterator[Peer]:
    one = Peer(short_dir / "peer.sock")
    yield one
    one.close()


def receive(connection: socket.socket) -> messages.Message:
    """The next message, and nothing behind it."""
    head = connection.recv(8, socket.MSG_WAITALL)
    body = connection.recv(int.from_bytes(head[2:4], "big") - 8, socket.MSG_WAITALL)
    (said,), _ = messages.split(head + body)
    return said


def greet(connection: socket.socket) -> None:
    connection.sendall(messages.hello())
    assert receive(connection).kind == messages.HELLO


def test_echo_requests_are_answered_while_waiting_for_something_else(peer: Peer) -> None:
    answered = []

    def part(connection: socket.socket) -> None:
        greet(connection)
        connection.sendall(messages.message(messages.ECHO_REQUEST, b"still there?", 9))
        answered.append(receive(connection))
        connection.sendall(messages.message(messages.BARRIER_REPLY, b"", 5))

    peer.play(part)
    connection = Connection(peer.address, SECONDS)
    assert connection.receive().kind == messages.BARRIER_REPLY
    connection.close()
    assert answered == [messages.Message(messages.ECHO_REPLY, 9, b"still there?")]


def test_a_peer_that_answers_before_it_reads_on_does_not_stop_a_large_send(peer: Peer) -> None:
    size = 4_000_000

    def part(connection: socket.socket) -> None:
        greet(connection)
        # More than a socket holds, before anything is read: both would wait if we did not read.
        connection.sendall(messages.message(messages.BARRIER_REPLY, b"", 1) * (size // 8))
        taken = 0
        while taken < size:
            taken += len(connection.recv(1 << 16))

    peer.play(part)
    connection = Connection(peer.address, SECONDS)
    connection.send(bytes(size))
    for _ in range(size // 8):
        assert connection.receive().kind == messages.BARRIER_REPLY
    connection.close()


def test_a_peer_that_takes_nothing_is_unavailable_after_the_deadline(peer: Peer) -> None:
    ended = threading.Event()

    def part(connection: socket.socket) -> None:
        greet(connection)
        ended.wait(SECONDS)

    peer.play(part)
    connection = Connection(peer.address, 0.2)
    with pytest.raises(Unavailable, match="took nothing"):
        connection.send(bytes(10_000_000))
    ended.set()
    connection.close()


@pytest.mark.parametrize(
    ("greeting", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "nonsense"),
        (messages.message(messages.ECHO_REPLY, b"", 0), "does not speak"),
        (b"\4\0\0\x08\0\0\0\0", "does not speak"),
        (b"", "closed"),
        (messages.hello()[:5], "closed"),
    ],
)
def test_who_does_not_greet_in_openflow_1_5_is_unavailable(peer: Peer, greeting: bytes, why: str) -> None:
    def part(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(greeting)

    peer.play(part)
    with pytest.raises(Unavailable, match=why):
        Connection(peer.address, SECONDS)


def test_what_was_put_back_comes_first(peer: Peer) -> None:
    def part(connection: socket.socket) -> None:
        greet(connection)
        for xid in range(3):
            connection.sendall(messages.message(messages.BARRIER_REPLY, b"", xid))

    peer.play(part)
    connection = Connection(peer.address, SECONDS)
    first = [connection.receive(), connection.receive()]
    connection.put_back(first)
    assert [connection.receive().xid for _ in range(3)] == [0, 1, 2]
    connection.close()


def serve_packets(ended: threading.Event) -> Play:
    """The connection for packet-ins: negotiate, then stay until it is closed."""

    def part(connection: socket.socket) -> None:
        greet(connection)
        kinds = [receive(connection).kind for _ in range(3)]
        assert kinds == [messages.SET_CONFIG, messages.VENDOR, messages.BARRIER_REQUEST]
        connection.sendall(messages.message(messages.BARRIER_REPLY, b"", 6))
        assert connection.recv(1) == b""
        ended.set()

    return part


def test_an_idle_switch_answers_echo_requests_on_the_flow_connection(peer: Peer) -> None:
    """Those that come alone, and those that come in one piece with what somebody waited for."""
    answers: Queue[messages.Message] = Queue()
    asked, ended = threading.Event(), threading.Event()

    def flows(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(messages.hello() + messages.message(messages.ECHO_REQUEST, b"", 1))
        answers.put(receive(connection))
        connection.sendall(messages.message(messages.ECHO_REQUEST, b"", 2))
        answers.put(receive(connection))
        asked.set()
        for behind in (b"", messages.message(messages.ECHO_REQUEST, b"", 3)):
            request = receive(connection)
            connection.sendall(messages.message(messages.MULTIPART_REPLY, bytes(8), request.xid) + behind)
        answers.put(receive(connection))
        ended.wait(SECONDS)

    peer.play(flows, serve_packets(ended))
    lost: Queue[str] = Queue()
    switch = open_switch(peer.address, lambda packet: None, lost.put)
    assert asked.wait(SECONDS)
    assert switch.read() == {}
    assert [answers.get(timeout=SECONDS).xid for _ in range(3)] == [1, 2, 3]
    switch.close()
    assert ended.wait(SECONDS)
    assert lost.empty()


def test_losing_the_flow_connection_alone_is_losing_the_switch(peer: Peer) -> None:
    ended = threading.Event()
    go = threading.Event()

    def flows(connection: socket.socket) -> None:
        greet(connection)
        go.wait(SECONDS)

    peer.play(flows, serve_packets(ended))
    lost: Queue[str] = Queue()
    switch = open_switch(peer.address, lambda packet: None, lost.put)
    go.set()
    assert lost.get(timeout=SECONDS)
    assert ended.wait(SECONDS)  # The other connection was given up too.
    with pytest.raises(Unavailable):
        switch.read()
    assert lost.empty()
