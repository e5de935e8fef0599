"""How the ZooKeeper session waits for sockets: as select(2) does, for what kazoo asks."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator

import pytest

from flowloom.drivers.store.zookeeper_session import Polling

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    yield near, far
    near.close()
    far.close()


def test_nothing_is_ready_until_the_time_is_out(pair: Pair) -> None:
    began = time.monotonic()
    assert Polling().select([pair[0]], [], [], 0.05) == ([], [], [])
    assert 0.05 <= time.monotonic() - began < 2


def test_of_several_sockets_that_one_is_named_which_has_something(pair: Pair) -> None:
    near, far = pair
    near.send(b"x")
    assert Polling().select([near, far], [], [], 1.0) == ([far], [], [])


def test_a_socket_may_be_written_to_and_read_from_at_once(pair: Pair) -> None:
    near, far = pair
    assert Polling().select([near], [near], [], 1.0) == ([], [near], [])
    far.send(b"x")
    assert Polling().select([near], [near], [], 1.0) == ([near], [near], [])


def test_the_end_of_a_connection_can_be_read(pair: Pair) -> None:
    near, far = pair
    far.close()
    assert Polling().select([near], [], [], 1.0) == ([near], [], [])


def test_a_closed_socket_is_an_error_and_no_wait(pair: Pair) -> None:
    pair[0].close()
    with pytest.raises(ValueError, match="negative"):
        Polling().select([pair[0]], [], [], 5.0)


def test_a_descriptor_that_another_thread_closed_is_ready_so_that_reading_finds_out(pair: Pair) -> None:
    near, _far = pair
    number = near.detach()
    stale = socket.socket(fileno=os.dup(number))
    os.close(number)
    os.close(stale.fileno())
    try:
        assert Polling().select([stale], [], [], 5.0) == ([stale], [], [])
    finally:
        stale.detach()


def test_numbers_of_descriptors_have_no_limit(pair: Pair) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = 2000
    if most != resource.RLIM_INFINITY and most <= number:
        pytest.skip("this process may not have so many files open")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number + 1), most))
    os.dup2(pair[0].fileno(), number)
    high = socket.socket(fileno=number)
    try:
        pair[1].send(b"x")
        assert Polling().select([high], [], [], 1.0) == ([high], [], [])
    finally:
        high.close()
