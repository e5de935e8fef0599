"""A control socket: one JSON object a line in, one JSON object a line out."""

from __future__ import annotations

import contextlib
import json
import os
import socket
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
    """Serves `answer` at a unix socket until closed.

    What `answer` raises as a FlowloomError goes back as `{"error": ...}`.  At most CLIENTS_MAX at a time;
    others wait.  Misconfigured when a live process already answers at `path`.
    """

    def __init__(self, path: str, answer: Answer) -> None:
        _clear(path)
        slots = threading.BoundedSemaphore(CLIENTS_MAX)

        class Handler(socketserver.StreamRequestHandler):
            timeout = IDLE_SECONDS

            def handle(self) -> None:
                with slots, contextlib.suppress(OSError):
                    while line := self.rfile.readline(LINE_BYTES_MAX):
                        self.wfile.write(json.dumps(_reply(line, answer)).encode() + b"\n")

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

        self._path = path
        self._server = Server(path, Handler)
        os.chmod(path, 0o600)
        threading.Thread(target=self._server.serve_forever, name="flowloom-control", daemon=True).start()

    def close(self) -> None:
        """Stop and remove the socket; repeating it does nothing."""
        self._server.shutdown()
        self._server.server_close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


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


def _clear(path: str) -> None:
    """Remove what a dead process left behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except OSError:
            os.unlink(path)
            return
    raise Misconfigured("[flowloom] control", f"another process answers at {path}; give each recovery its own")
