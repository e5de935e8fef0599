"""A port for a server is free, stays free while the server is down, and is not handed out while it is up."""

from __future__ import annotations

import socket
from pathlib import Path

from flowloom.lab.ports import free_port, is_free


def test_port_lies_below_those_the_kernel_hands_to_clients() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 < free_port(3) < lowest - 2 for _ in range(50))


def test_port_that_somebody_listens_on_is_not_free() -> None:
    port = free_port()
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        assert not is_free(port)
    assert is_free(port) and not is_free(70000)
