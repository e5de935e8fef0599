"""A control socket: one JSON object a line in, one JSON object a line out.

Several recovery processes may be given the same path.  One of them has it, whoever holds the lock on
`path.lock` (the kernel takes the lock from a process that dies); the others answer at `path.<pid>` and take
the path over when its holder is gone, as soon as `claim` is called.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socketserver
import threading
from collections.abc import Callable, Mapping
from typing import Any

from flowloom.kernel.errors import FlowloomError, Misconfigured

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]
LINE_BYTES_MAX = 64 << 10
CLIENTS_MAX = 16
IDLE_SECONDS = 30.0


class ControlSocket:
    """Serves `answer` at a unix socket until closed; `path` says where.

    What `answer` raises as a FlowloomError goes back as `{"error": ...}`.  At most CLIENTS_MAX at a time;
    others wait.  Misconfigured when nothing can listen there.
    """

    def __init__(self, path: str, answer: Answer) -> None:
        self._shared_path = path
        self._answer = answer
        self._slots = threading.BoundedSemaphore(CLIENTS_MAX)
        self._lock = _locked(path)
        self.path = path if self._lock is not None else f"{path}.{os.getpid()}"
        self._server = self._listen(self.path)

    def claim(self) -> bool:
        """Take the shared path if nobody has it any more; whether it is ours now.  Who is being answered is not disturbed."""
        if self._lock is None:
            self._lock = _locked(self._shared_path)
            if self._lock is None:
                return False
            former = (self._server, self.path)
            self.path = self._shared_path
            self._server = self._listen(self.path)
            _stop(*former)
        return True

    def close(self) -> None:
        """Stop and remove the socket; repeating it does nothing."""
        _stop(self._server, self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _listen(self, path: str) -> socketserver.ThreadingUnixStreamServer:
        slots, answer = self._slots, self._answer

        class Handler(socketserver.StreamRequestHandler):
            timeout = IDLE_SECONDS

            def handle(self) -> None:
                with slots, contextlib.suppress(OSError):
                    while line := self.rfile.readline(LINE_BYTES_MAX):
                        self.wfile.write(json.dumps(_reply(line, answer)).encode() + b"\n")

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # What a dead process left behind: no living one has it, or we had not the lock.
        try:
            server = Server(path, Handler)
        except OSError as error:
            raise Misconfigured("[flowloom] control", f"cannot listen at {path}: {error.strerror or error}") from error
        os.chmod(path, 0o600)
        threading.Thread(target=server.serve_forever, name="flowloom-control", daemon=True).start()
        return server


def _stop(server: socketserver.ThreadingUnixStreamServer, path: str) -> None:
    server.shutdown()
    server.server_close()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _reply(line: bytes, answer: Answer) -> Mapping[str, Any]:
    try:
        question = json.loads(line)
    except ValueError:
        return {"error": "not a JSON object in one line"}
    if not isinstance(question, dict):
        return {"error": "not a JSON object"}
    try:
        return answer(question)
    except FlowloomError as error:
        return {"error": str(error)}


def _locked(path: str) -> int | None:
    """The descriptor that holds the lock on `path`; None: another process holds it."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured("[flowloom] control", f"cannot lock {path}.lock: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
