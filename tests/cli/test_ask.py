"""The control-socket client against sockets that answer, hang, break off and lie."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flowloom.cli.answers import AgentStatus
from flowloom.cli.ask import ask
from flowloom.kernel.errors import Rejected, Unavailable


@contextmanager
def served(path: Path, behave: Callable[[socket.socket], None]) -> Iterator[None]:
    """One connection at `path` is handed to `behave`, then closed."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            behave(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listening.close()
        thread.join(5)


def answers(line: bytes) -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        connection.makefile("rb").readline()
        connection.sendall(line)

    return behave


def status(path: Path, timeout_seconds: float = 5.0) -> AgentStatus:
    return ask(str(path), {"ask": "status"}, AgentStatus, timeout_seconds)


def test_question_and_answer_are_one_json_line_each(tmp_path: Path) -> None:
    heard = []

    def behave(connection: socket.socket) -> None:
        heard.append(connection.makefile("rb").readline())
        connection.sendall(b'{"chassis":"h1","in_sync":true,"of_a_later_release":1}\n')

    with served(tmp_path / "s", behave):
        assert status(tmp_path / "s") == AgentStatus(chassis="h1", in_sync=True)
    assert heard == [b'{"ask":"status"}\n']


def test_long_answer_arrives_whole(tmp_path: Path) -> None:
    name = "x" * 1_000_000
    with served(tmp_path / "s", answers(b'{"chassis":"%s"}\n' % name.encode())):
        assert status(tmp_path / "s").chassis == name


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the process is not running"):
        status(tmp_path / "s")


def test_left_behind_socket(tmp_path: Path) -> None:
    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).bind(str(tmp_path / "s"))
    with pytest.raises(Unavailable, match="no process behind it"):
        status(tmp_path / "s")


@pytest.mark.timeout(10)
def test_silence_ends_at_the_deadline(tmp_path: Path) -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(b'{"chassis":')
        connection.makefile("rb").read()

    with served(tmp_path / "s", behave), pytest.raises(Unavailable, match=r"did not answer within 0.2 s"):
        status(tmp_path / "s", 0.2)


def test_broken_off_answer_is_no_answer(tmp_path: Path) -> None:
    with served(tmp_path / "s", answers(b'{"chassis":"h1"')), pytest.raises(Unavailable, match="in the middle"):
        status(tmp_path / "s")


def test_error_of_the_other_side_is_passed_on(tmp_path: Path) -> None:
    error = b'{"error":"no such question"}\n'
    with served(tmp_path / "s", answers(error)), pytest.raises(Rejected, match="no such question"):
        status(tmp_path / "s")


@pytest.mark.parametrize("line", [b"\n", b"[]\n", b"\xff\xfe\n", b'{"backlog":"many"}\n'])
def test_unreadable_answer_is_named(tmp_path: Path, line: bytes) -> None:
    with served(tmp_path / "s", answers(line)), pytest.raises(Rejected, match="cannot be read"):
        status(tmp_path / "s")


def test_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="too long"):
        status(tmp_path / ("x" * 120))
