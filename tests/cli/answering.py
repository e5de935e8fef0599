"""A process that answers at a control socket, as the contract says, for tests of who asks."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Answer = Callable[[Mapping[str, Any]], object]


@contextmanager
def answering(path: Path, answer: Answer) -> Iterator[list[dict[str, Any]]]:
    """Serves until the end; the questions so far.  An answer of bytes is sent as it is and ends the connection."""
    questions: list[dict[str, Any]] = []
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen()

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                question = json.loads(line)
                questions.append(question)
                said = answer(question)
                if isinstance(said, bytes):
                    connection.sendall(said)
                    return
                connection.sendall(json.dumps(said).encode() + b"\n")

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield questions
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        path.unlink(missing_ok=True)
