"""Ask a running process over its control socket: one JSON object a line, there and back."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from flowloom.kernel.clock import Clock, SystemClock
from flowloom.kernel.errors import Rejected, Unavailable

ANSWER_BYTES_MAX = 256 << 20
"""A longer answer is not read to its end: 10,000 ports' flows with their causes are about a tenth of it."""

A = TypeVar("A")


class _Failed(msgspec.Struct):
    error: str = ""


def ask(
    path: str,
    question: Mapping[str, object],
    answer: type[A],
    timeout_seconds: float,
    clock: Clock | None = None,
) -> A:
    """Put `question` (`{"ask": "status"}`) to the process at the unix socket `path`; its answer.

    The whole exchange ends within `timeout_seconds`.  Unavailable: nobody is there, or no whole answer
    in time.  Rejected: it answered that it cannot, or what it answered is not an `answer`.
    """
    clock = clock or SystemClock()
    deadline = clock.monotonic() + timeout_seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(timeout_seconds)
            connection.connect(path)
            connection.sendall(msgspec.json.encode(question) + b"\n")
            line = _read_line(connection, path, deadline, clock)
        except TimeoutError as error:
            raise Unavailable(f"{path} did not answer within {timeout_seconds:g} s") from error
        except FileNotFoundError as error:
            raise Unavailable(f"{path} does not exist: the process is not running") from error
        except ConnectionRefusedError as error:
            raise Unavailable(f"{path} has no process behind it: it ended without cleaning up") from error
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror or error}") from error
    try:
        failed = msgspec.json.decode(line, type=_Failed)
        if failed.error:
            raise Rejected(path, failed.error)
        return msgspec.json.decode(line, type=answer)
    except msgspec.DecodeError as error:
        raise Rejected(path, f"its answer cannot be read: {error}") from error


def _read_line(connection: socket.socket, path: str, deadline: float, clock: Clock) -> bytes:
    """Everything up to the first newline."""
    parts: list[bytes] = []
    size = 0
    while True:
        left = deadline - clock.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(1 << 18)
        if not part:
            raise Unavailable(f"{path} closed the connection in the middle of its answer")
        end = part.find(b"\n")
        if end >= 0:
            return b"".join([*parts, part[:end]])
        parts.append(part)
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            raise Rejected(path, f"its answer is longer than {ANSWER_BYTES_MAX >> 20} MiB")
