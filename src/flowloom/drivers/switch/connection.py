"""One OpenFlow 1.5 connection over a unix socket: blocking, with a deadline on everything."""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Iterable
from threading import Lock
from typing import Final

from flowloom.kernel.errors import Unavailable
from flowloom.openflow import messages
from flowloom.openflow.messages import Message

_RECEIVE_BYTES: Final = 1 << 18
_SEND_BYTES: Final = 1 << 18


class Connection:
    """A negotiated connection.  Every failure is Unavailable, and the connection is of no use after it.

    A call ends at the latest `deadline_seconds` after the last byte moved.
    """

    def __init__(self, address: str, deadline_seconds: float) -> None:
        """Connect to the unix socket `address` and agree on OpenFlow 1.5."""
        self._deadline_seconds = deadline_seconds
        self._rest = b""
        self._messages: deque[Message] = deque()
        self._sending = Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(deadline_seconds)
        try:
            self._socket.connect(address)
            self.send(messages.hello())
            said = self.receive()
            if said.kind != messages.HELLO or not messages.offers_our_version(said):
                raise Unavailable(f"{address} does not speak OpenFlow 1.5")
        except OSError as error:
            self._socket.close()
            raise Unavailable(f"no switch at {address}: {error}") from error
        except Unavailable:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For polling."""
        return self._socket.fileno()

    def send(self, data: bytes, *, drain: bool = True) -> None:
        """Send all of `data`.

        drain: take in what arrives meanwhile, so that a switch that waits for us to read cannot make both
        wait.  Leave it off when another thread receives.
        """
        view = memoryview(data)
        try:
            poller = select.poll()
            poller.register(self._socket, select.POLLIN | select.POLLOUT if drain else select.POLLOUT)
            with self._sending:
                while view:
                    ready = poller.poll(self._deadline_seconds * 1000)
                    if not ready:
                        raise Unavailable(f"the switch took nothing for {self._deadline_seconds} s")
                    if ready[0][1] & select.POLLOUT:
                        view = view[self._socket.send(view[:_SEND_BYTES]) :]
                    elif not drain:
                        raise Unavailable("the switch closed the connection")
                    if drain and ready[0][1] & ~select.POLLOUT:
                        self._fill()
        except (OSError, ValueError) as error:  # ValueError: closed, so there is no descriptor to poll.
            raise Unavailable(f"the switch is gone: {error}") from error

    def receive(self) -> Message:
        """The next message; echo requests are answered and not reported."""
        while True:
            while not self._messages:
                try:
                    self._fill()
                except TimeoutError as error:
                    raise Unavailable(f"the switch said nothing for {self._deadline_seconds} s") from error
                except OSError as error:
                    raise Unavailable(f"the switch is gone: {error}") from error
            said = self._messages.popleft()
            if said.kind != messages.ECHO_REQUEST:
                return said
            self.send(messages.echo_reply(said), drain=False)

    def waiting(self) -> list[Message]:
        """What has arrived, without waiting; echo requests are answered and not reported."""
        try:
            poller = select.poll()
            poller.register(self._socket, select.POLLIN)
            if poller.poll(0):
                self._fill()
        except OSError as error:
            raise Unavailable(f"the switch is gone: {error}") from error
        return self.taken()

    def put_back(self, said: Iterable[Message]) -> None:
        """Messages that were received and are for somebody else."""
        self._messages.extendleft(reversed(list(said)))

    def taken(self) -> list[Message]:
        """What was taken in already; echo requests are answered and not reported."""
        said = []
        while self._messages:
            one = self._messages.popleft()
            if one.kind == messages.ECHO_REQUEST:
                self.send(messages.echo_reply(one), drain=False)
            else:
                said.append(one)
        return said

    def shutdown(self) -> None:
        """Make every call in progress, and every later one, fail; safe from any thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # The other side was faster.

    def close(self) -> None:
        """Give the socket back; nobody uses it any more."""
        self._socket.close()

    def _fill(self) -> None:
        data = self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise Unavailable("the switch closed the connection")
        buffer = self._rest + data if self._rest else data
        try:
            whole, used = messages.split(buffer)
        except ValueError as error:
            raise Unavailable(f"the switch speaks nonsense: {error}") from error
        self._messages.extend(whole)
        self._rest = buffer[used:]
