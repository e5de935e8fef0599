"""The control socket: one JSON object a line, there and back, on a unix stream socket."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

import msgspec

from flowloom.kernel.errors import Misconfigured

QUESTION_BYTES_MAX: Final = 1 << 16
CONNECTIONS_MAX: Final = 16

Question = dict[str, Any]
Reply = dict[str, Any]


class ControlSocket:
    """Listens at `path`; `ask` is called from a connection's own thread and returns the reply.

    Questions of one connection are answered in order.  More than CONNECTIONS_MAX at a time wait.
    """

    def __init__(self, path: str, ask: Callable[[Question], Reply]) -> None:
        """Misconfigured when the path cannot be bound, or another process answers there."""
        self._path = path
        self._ask = ask
        self._free = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._listener = _listen(path)
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # Closed.
            self._free.acquire()
            threading.Thread(target=self._serve, args=(connection,), name="control-client", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                while line := lines.readline(QUESTION_BYTES_MAX):
                    connection.sendall(msgspec.json.encode(self._reply(line)) + b"\n")
        except OSError:
            pass  # The other side left; there is nobody to tell.
        finally:
            self._free.release()

    def _reply(self, line: bytes) -> Reply:
        if not line.endswith(b"\n"):
            return {"error": f"a question is one line of at most {QUESTION_BYTES_MAX} bytes"}
        try:
            question = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            return {"error": f"not a JSON object: {error}"}
        return self._ask(question)


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        if _answers(path):
            raise Misconfigured(
                "control", f"another process answers at {path}; is an agent of this host running already?"
            )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(CONNECTIONS_MAX)
    except OSError as error:
        listener.close()
        raise Misconfigured("control", f"cannot listen at {path}: {error.strerror}") from error
    except Misconfigured:
        listener.close()
        raise
    return listener


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True
