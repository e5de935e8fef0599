"""A doorbell without a broker: a directory of unix datagram sockets, one a listener.

Whoever changed something sends one byte to each socket and never waits: a full socket has bells waiting
already, a dead one is removed.  A lost ring costs the listener its polling interval, nothing else.

Sockets are addressed through `/proc/self/fd`, because a unix socket's path is limited to 107 bytes and
because that follows the directory when it is moved.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket


class Bell:
    """One listener.  One thread waits; any may close."""

    def __init__(self, directory: int) -> None:
        """Listen in the directory that the descriptor `directory` is open on.  OSError: it cannot be written."""
        self._directory = os.dup(directory)
        self._name = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        # Bound under a hidden name first: between a file's birth and its binding a ring would take it for dead.
        try:
            self._socket.bind(_address(self._directory, f".{self._name}"))
            os.rename(f".{self._name}", self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError:
            self.close()
            raise

    def silence(self) -> None:
        """Forget the rings so far: call it before looking at what they announced."""
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(64):
                pass

    def wait(self, timeout_seconds: float) -> None:
        """Return at the next ring, or after `timeout_seconds`."""
        select.select([self._socket], [], [], timeout_seconds)

    def close(self) -> None:
        """Stop listening; repeating it does nothing."""
        if self._directory < 0:
            return
        self._socket.close()
        for name in (self._name, f".{self._name}"):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._directory)
        os.close(self._directory)
        self._directory = -1


class Doorbell:
    """The ringing end and the place where bells hang.  Any thread may use it."""

    def __init__(self, path: str) -> None:
        """Use the directory `path`, made if it is missing.  OSError: it can be neither made nor read."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def ring(self) -> None:
        """Wake every listener; never waits, never fails."""
        for name in os.listdir(self._directory):
            if name.startswith("."):
                continue
            try:
                self._socket.sendto(b"!", _address(self._directory, name))
            except ConnectionRefusedError:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._directory)
            except OSError:
                continue  # Full: it has bells waiting.  Gone or forbidden: it polls.

    def listen(self) -> Bell:
        """A new listener."""
        return Bell(self._directory)

    def close(self) -> None:
        """Release the descriptors; bells go on by themselves."""
        self._socket.close()
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


def _address(directory: int, name: str) -> str:
    return f"/proc/self/fd/{directory}/{name}"
