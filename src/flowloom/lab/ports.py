"""TCP ports of the loopback for servers that may be killed and started again."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from flowloom.lab.errors import LabFailed

_TRIES = 200


def free_port(run: int = 1) -> int:
    """The first of `run` consecutive ports of 127.0.0.1 that are free now.  LabFailed when none is found.

    They lie below the kernel's ephemeral ports: while a server is down, no client's connection can take its place.
    """
    top = _lowest_ephemeral_port()
    for first in random.sample(range(top // 2, top - run), _TRIES):
        if all(is_free(port) for port in range(first, first + run)):
            return first
    raise LabFailed(f"no free port of 127.0.0.1 between {top // 2} and {top} in {_TRIES} tries")


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    try:
        check_free(port)
    except (OSError, OverflowError):
        return False
    return True


def check_free(port: int) -> None:
    """Do nothing when a server could listen on this port of 127.0.0.1 now; else OSError or OverflowError says why not."""
    with socket.socket() as probe:
        # As servers do: connections of a predecessor that still linger do not make it taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def _lowest_ephemeral_port() -> int:
    # ip(7): ip_local_port_range.
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
