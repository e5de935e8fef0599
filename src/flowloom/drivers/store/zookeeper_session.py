"""A session with a ZooKeeper ensemble: a deadline on every request, pipelines, and why nobody answers.

kazoo keeps the session, on one member after the other.  A request that a lost connection leaves open ends with an
error here and is never repeated behind the caller's back: what may be repeated is `attempt`'s whole function.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from kazoo import exceptions
from kazoo.client import KazooClient, KazooState, TransactionRequest
from kazoo.handlers.threading import KazooTimeoutError, SequentialThreadingHandler
from kazoo.protocol.states import WatchedEvent, ZnodeStat
from kazoo.security import CREATOR_ALL_ACL

from flowloom.drivers.store.urls import Endpoint, TlsFiles
from flowloom.kernel.backoff import Backoff
from flowloom.kernel.errors import FlowloomError, Misconfigured, Unavailable

T = TypeVar("T")
Found = tuple[bytes, ZnodeStat]

LOG = logging.getLogger("flowloom.zookeeper")
# At DEBUG and below kazoo writes its requests, passwords included.
LOG.addFilter(lambda record: record.levelno >= logging.INFO)

WINDOW = 200
"""Requests under way at once."""

_SESSION_SECONDS_LEAST = 4.0
_RENEW_SECONDS = 10.0
_DIAGNOSIS_SECONDS = 0.5

# The answer is not known, or there is no connection.
_LOST = (
    exceptions.ConnectionLoss,
    exceptions.ConnectionClosedError,
    exceptions.SessionExpiredError,
    exceptions.SessionMovedError,
    exceptions.OperationTimeoutError,
    exceptions.RequestTimeoutError,
    exceptions.ThrottledOpError,
    KazooTimeoutError,
)
_REFUSED = (exceptions.NoAuthError, exceptions.AuthFailedError, exceptions.InvalidACLError)


@dataclass(frozen=True)
class Settings:
    """shown: for errors.  timeout_seconds: for each call, its repetitions included."""

    shown: str
    endpoints: tuple[Endpoint, ...]
    user: str
    password: str = field(repr=False)
    tls: TlsFiles | None
    timeout_seconds: float


class Polling(SequentialThreadingHandler):  # type: ignore[misc]
    """kazoo's threads, with another way to wait for sockets.

    kazoo makes and closes an epoll object for every wait, of which a request needs five: half of its time.  poll(2)
    needs no object, and knows no limit to the number of a descriptor either.
    """

    def select(
        self,
        rlist: Sequence[socket.socket],
        wlist: Sequence[socket.socket],
        xlist: Sequence[socket.socket],
        timeout: float | None = None,
    ) -> tuple[list[socket.socket], list[socket.socket], list[socket.socket]]:
        """As select(2), of what is to be read and written; an error or the end of a connection counts as ready."""
        wanted: dict[int, int] = {}
        for sockets, events in ((rlist, select.POLLIN), (wlist, select.POLLOUT)):
            for each in sockets:
                wanted[each.fileno()] = wanted.get(each.fileno(), 0) | events
        poll = select.poll()
        for number, events in wanted.items():
            poll.register(number, events)  # ValueError: it is closed.
        found = dict(poll.poll(None if timeout is None else math.ceil(timeout * 1000)))
        readable = [each for each in rlist if found.get(each.fileno(), 0) & ~select.POLLOUT]
        writable = [each for each in wlist if found.get(each.fileno(), 0) & ~select.POLLIN]
        return readable, writable, []


class Requests:
    """Requests on a session that is connected now.  What a lost connection leaves open raises kazoo's errors."""

    def __init__(self, client: KazooClient, seconds: float) -> None:
        """seconds: the longest wait for any one answer."""
        self.client = client
        self._seconds = seconds

    def get_many(self, paths: Iterable[str]) -> list[Found | None]:
        """Data and state of each node; None: there is none."""
        return list(self._pipelined(self.client.get_async, paths))

    def get(self, path: str) -> Found | None:
        return self.get_many([path])[0]

    def exists(self, path: str, watch: Callable[[WatchedEvent], None] | None = None) -> ZnodeStat | None:
        """The node's state; `watch` is called once when it appears, changes or goes."""
        found: ZnodeStat | None = self._wait(self.client.exists_async(path, watch))
        return found

    def children(self, path: str) -> list[str]:
        """Names; none of a node that is not there."""
        return next(self._pipelined(self.client.get_children_async, [path])) or []

    def sync(self) -> None:
        """Let the member in use catch up with the leader."""
        self._wait(self.client.sync_async("/"))

    def make(self, paths: Iterable[str]) -> None:
        """Create empty nodes, in order; those that are there stay."""
        for result in self._in_order(self.client.create_async, paths):
            with contextlib.suppress(exceptions.NodeExistsError):
                self._wait(result)

    def delete(self, paths: Iterable[str]) -> None:
        """Delete nodes that have no children; those that are gone, or have some, stay."""
        for result in self._in_order(self.client.delete_async, paths):
            with contextlib.suppress(exceptions.NoNodeError, exceptions.NotEmptyError):
                self._wait(result)

    def transaction(self) -> TransactionRequest:
        """To be filled and given to `commit`."""
        return self.client.transaction()

    def commit(self, transaction: TransactionRequest) -> Sequence[Any]:
        """All or nothing: the results, or the error of the first operation that failed."""
        results: Sequence[Any] = self._wait(transaction.commit_async())
        failed = [each for each in results if isinstance(each, Exception)]
        for each in failed:
            if not isinstance(each, exceptions.RolledBackError | exceptions.RuntimeInconsistency):
                raise each
        if failed:
            raise failed[0]
        return results

    def _pipelined(self, send: Callable[[str], Any], paths: Iterable[str]) -> Iterator[Any]:
        for result in self._in_order(send, paths):
            try:
                yield self._wait(result)
            except exceptions.NoNodeError:
                yield None

    def _in_order(self, send: Callable[[str], Any], paths: Iterable[str]) -> Iterator[Any]:
        under_way: deque[Any] = deque()
        for path in paths:
            under_way.append(send(path))
            if len(under_way) >= WINDOW:
                yield under_way.popleft()
        yield from under_way

    def _wait(self, result: Any) -> Any:
        return result.get(timeout=self._seconds)


class Session:
    """Any thread may use it."""

    def __init__(self, settings: Settings, random: Random) -> None:
        self.where = settings.shown
        self.settings = settings
        self._random = random
        self._pid = os.getpid()
        self._lock = threading.Lock()  # Guards the change of the client.
        self._changed = threading.Event()
        self._closed = False
        self._down_since = time.monotonic()
        self._connections = 0
        self._client = self._new_client()

    @property
    def connections(self) -> int:
        """How often a connection was made: another number, another member or another ensemble behind the address."""
        return self._connections

    def attempt(self, work: Callable[[Requests], T], hint: str = "") -> T:
        """`work`, again and again until it goes through or the time is out.

        Raises Unavailable (with `hint` when the connection broke on it), and what `work` raises of its own.
        """
        deadline = time.monotonic() + self.settings.timeout_seconds
        backoff = Backoff(self._random, first_seconds=0.02, cap_seconds=0.5)
        while True:
            requests = self._connected(deadline)
            try:
                return work(requests)
            except _LOST as error:
                delay = backoff.next_delay()
                if time.monotonic() + delay >= deadline:
                    raise Unavailable(f"{self.where}: {self._why(error)}{hint}") from error
            except _REFUSED as error:
                raise Unavailable(f"{self.where}: {refusal(error)}") from error
            except exceptions.KazooException as error:
                raise Unavailable(f"{self.where}: ZooKeeper refuses ({type(error).__name__}: {error})") from error
            time.sleep(delay)

    def check_open(self) -> None:
        """Raise Unavailable after `close`, and RuntimeError in a child of the process that opened."""
        if self._pid != os.getpid():
            raise RuntimeError(f"{self.where} was opened before a fork; open the store in the child")
        if self._closed:
            raise Unavailable(f"{self.where}: this handle of the store is closed")

    def close(self) -> None:
        """End the session; repeating it does nothing."""
        with self._lock:
            if self._closed or self._pid != os.getpid():
                return
            self._closed = True
            self._end(self._client)

    def version(self) -> str:
        """Of the servers, as the first that answers says; "" when none does."""
        for endpoint in self.settings.endpoints:
            with contextlib.suppress(OSError):
                if found := re.search(r"version: (\d+\.\d+(\.\d+)?)", _asked(endpoint, self.settings.tls)):
                    return found[1]
        return ""

    def _connected(self, deadline: float) -> Requests:
        """Requests on the session, as soon as it is connected; Unavailable, with the reason, when it is not in time."""
        while True:
            self.check_open()
            self._changed.clear()
            client = self._client
            if client.state == KazooState.CONNECTED:
                return Requests(client, max(0.05, deadline - time.monotonic()))
            now = time.monotonic()
            if now >= deadline:
                raise Unavailable(f"{self.where}: {self._why()}")
            if now - self._down_since > _RENEW_SECONDS or (now - self._down_since > 0.5 and self._went_back(client)):
                self._renew(client)
            self._changed.wait(min(deadline - now, 0.5))

    def _went_back(self, client: KazooClient) -> bool:
        """Whether a server that serves has seen less than this session: it will not take it."""
        for endpoint in self.settings.endpoints:
            with contextlib.suppress(OSError):
                found = re.search(r"Zxid: 0x([0-9a-f]+)", _asked(endpoint, self.settings.tls))
                if found and int(found[1], 16) < client.last_zxid:
                    return True
        return False

    def _renew(self, old: KazooClient) -> None:
        # A session that knows more than the servers is refused for ever: they were restored from a copy, or wiped.
        with self._lock:
            if self._closed or self._client is not old:
                return
            self._down_since = time.monotonic()
            self._client = self._new_client()
        self._end(old)

    def _new_client(self) -> KazooClient:
        settings = self.settings
        options: dict[str, Any] = {}
        if settings.user:
            options["auth_data"] = [("digest", f"{settings.user}:{settings.password}")]
            options["default_acl"] = CREATOR_ALL_ACL
        if settings.tls:
            options |= {
                "use_ssl": True,
                "verify_certs": True,
                "check_hostname": True,
                "ca": settings.tls.ca,
                "certfile": settings.tls.cert or None,
                "keyfile": settings.tls.key or None,
            }
        client = KazooClient(
            hosts=",".join(str(endpoint) for endpoint in settings.endpoints),
            timeout=max(_SESSION_SECONDS_LEAST, settings.timeout_seconds),
            connection_retry={"max_tries": -1, "delay": 0.05, "backoff": 2, "max_delay": 1.0},
            logger=LOG,
            handler=Polling(),
            **options,
        )
        client.add_listener(self._state_changed)
        client.start_async()
        return client

    def _state_changed(self, state: str) -> None:
        if state == KazooState.CONNECTED:
            self._connections += 1
        else:
            self._down_since = time.monotonic()
        self._changed.set()

    def _end(self, client: KazooClient) -> None:
        """Say good-bye where somebody hears it; otherwise kazoo waits for its attempts to end, and nobody for kazoo."""

        def stop() -> None:
            with contextlib.suppress(Exception):  # What a library cannot close, the process's end does.
                client.stop()
                client.close()

        if client.state == KazooState.CONNECTED:
            stop()
        else:
            threading.Thread(target=stop, daemon=True).start()

    def _why(self, error: Exception | None = None) -> str:
        """Why there is no connection, as each member says or does not say."""
        if error is not None and self._client.state == KazooState.CONNECTED:
            return f"no answer in time ({type(error).__name__})"
        heard = []
        for endpoint in self.settings.endpoints:
            try:
                said = _asked(endpoint, self.settings.tls)
            except OSError as failure:
                heard.append(f"{endpoint}: {failure}")
                continue
            if "not currently serving" in said:
                heard.append(f"{endpoint} serves nobody: it has no quorum")
            elif "Mode: read-only" in said:
                heard.append(f"{endpoint} is read-only: it has no quorum")
            else:
                heard.append(f"{endpoint} answers, but no session was made in time")
        return f"no connection ({'; '.join(heard)})"

    def opening(self, error: FlowloomError) -> FlowloomError:
        """An error of the first request: what an operator must mend is Misconfigured."""
        if isinstance(error.__cause__, _REFUSED):
            return Misconfigured("store", f"{error}; mend user, password or the nodes' ACLs")
        if self.settings.tls:
            for endpoint in self.settings.endpoints:
                try:
                    _asked(endpoint, self.settings.tls)
                except ssl.SSLError as failure:
                    return Misconfigured("store", f"{self.where}: no TLS connection to {endpoint} ({failure})")
                except OSError:
                    continue
        return error


def refusal(error: Exception) -> str:
    """A sentence for what ZooKeeper does not allow."""
    return f"ZooKeeper refuses the credentials, or the nodes belong to another user ({type(error).__name__})"


def _asked(endpoint: Endpoint, tls: TlsFiles | None) -> str:
    """What one server says to `srvr`, the question that every server answers.  OSError (ssl.SSLError among them)."""
    with contextlib.ExitStack() as stack:
        connection: socket.socket = stack.enter_context(socket.create_connection(endpoint, _DIAGNOSIS_SECONDS))
        if tls:
            context = ssl.create_default_context(cafile=tls.ca)
            if tls.cert:
                context.load_cert_chain(tls.cert, tls.key)
            connection = stack.enter_context(context.wrap_socket(connection, server_hostname=endpoint.host))
        connection.sendall(b"srvr")
        said = b""
        while len(said) < 4096 and (more := connection.recv(4096)):
            said += more
        return said.decode(errors="replace")
