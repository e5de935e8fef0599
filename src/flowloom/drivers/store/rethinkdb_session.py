"""Queries to a RethinkDB cluster: a connection for each that is under way, a deadline on each, fail-over.

The client library sets no deadline on a query and its connections must not be shared.  So every query has a
connection to itself, and one that is late has its socket cut by a watchdog.  A query is repeated with jitter, on the
next server, until its time is out; what is sent here may be repeated.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from rethinkdb import errors

from flowloom.drivers.store.rethinkdb_queries import Query, r
from flowloom.drivers.store.urls import Endpoint
from flowloom.kernel.backoff import Backoff
from flowloom.kernel.errors import FlowloomError, Misconfigured, Unavailable

# The library logs what it raises as well.
logging.getLogger("rethinkdb.logger").setLevel(logging.CRITICAL)

_IDLE_MAX = 16
_WATCHDOG_SECONDS = 0.05


class Connection(Protocol):
    """What is used of the library's connections."""

    def close(self, noreply_wait: bool = True) -> None: ...


@dataclass(frozen=True)
class Settings:
    """shown: for errors.  ca: PEM file, ""  without TLS.  timeout_seconds: for each query, its repetitions included."""

    shown: str
    endpoints: tuple[Endpoint, ...]
    database: str
    user: str
    password: str = field(repr=False)
    ca: str
    timeout_seconds: float


def dial(settings: Settings, endpoint: Endpoint, seconds: float) -> Connection:
    """A connection of the library's."""
    connection: Connection = r.connect(
        host=endpoint.host,
        port=endpoint.port,
        db=settings.database,
        user=settings.user or "admin",
        password=settings.password,
        timeout=seconds,
        ssl={"ca_certs": settings.ca} if settings.ca else {},
    )
    return connection


def cut(connection: Connection) -> None:
    """End whatever waits for an answer on a connection, from another thread; it is of no use afterwards."""
    with contextlib.suppress(OSError, AttributeError):
        connection._instance._socket._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]


class Session:
    """Any thread may use it.  dial: opens connections (tests pass their own)."""

    def __init__(
        self,
        settings: Settings,
        random: Random,
        dial: Callable[[Settings, Endpoint, float], Connection] = dial,
    ) -> None:
        self.settings = settings
        self.where = settings.shown
        self._random = random
        self._dial = dial
        self._pid = os.getpid()
        self._lock = threading.Lock()  # Guards what follows.
        self._endpoints = list(settings.endpoints)
        self._idle: list[Connection] = []
        self._deadlines: dict[int, tuple[Connection, float]] = {}
        self._watchdog: threading.Thread | None = None
        self._closed = False

    def run(self, query: Query, **options: Any) -> Any:
        """The query's answer.  Unavailable: not, or perhaps, done."""
        deadline = time.monotonic() + self.settings.timeout_seconds
        backoff = Backoff(self._random, first_seconds=0.02, cap_seconds=0.5)
        while True:
            try:
                with self.connection(deadline) as connection:
                    return query.run(connection, **options)
            except (errors.ReqlError, AttributeError, OSError) as error:
                failure = Unavailable(f"{self.where}: {sentence(error)}")
                if not may_go_better(error):
                    raise failure from error
                delay = backoff.next_delay()
                if time.monotonic() + delay >= deadline:
                    raise failure from error
            time.sleep(delay)

    @contextmanager
    def connection(self, deadline: float) -> Iterator[Connection]:
        """A connection for the block alone; cut at `deadline`, and closed with whatever error leaves the block."""
        connection, endpoint = self._take(deadline)
        self._guard(connection, deadline)
        try:
            yield connection
        except BaseException as error:
            self._unguard(connection)
            _close(connection)
            if not isinstance(error, errors.ReqlRuntimeError) or isinstance(error, errors.ReqlAvailabilityError):
                self._defer(endpoint)
            raise
        self._unguard(connection)
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        _close(connection)

    def new_connection(self) -> Connection:
        """One that the caller keeps and closes.  Unavailable."""
        deadline = time.monotonic() + self.settings.timeout_seconds
        try:
            return self._connect(deadline)[0]
        except (errors.ReqlError, OSError) as error:
            raise Unavailable(f"{self.where}: {sentence(error)}") from error

    def check_open(self) -> None:
        """Raise Unavailable after `close`, and RuntimeError in a child of the process that opened."""
        if self._pid != os.getpid():
            raise RuntimeError(f"{self.where} was opened before a fork; open the store in the child")
        if self._closed:
            raise Unavailable(f"{self.where}: this handle of the store is closed")

    def close(self) -> None:
        """Close the idle connections now, the others when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            _close(connection)

    def _take(self, deadline: float) -> tuple[Connection, Endpoint | None]:
        self.check_open()
        with self._lock:
            if self._idle:
                return self._idle.pop(), None
        return self._connect(deadline)

    def _connect(self, deadline: float) -> tuple[Connection, Endpoint]:
        self.check_open()
        with self._lock:
            endpoint = self._endpoints[0]
        left = max(0.05, deadline - time.monotonic())
        share = left if len(self._endpoints) == 1 else max(0.2, left / len(self._endpoints))
        try:
            return self._dial(self.settings, endpoint, min(left, share)), endpoint
        except (errors.ReqlError, OSError):
            self._defer(endpoint)
            raise

    def _defer(self, endpoint: Endpoint | None) -> None:
        """Something is wrong there: ask another server first, and trust no connection that was made before."""
        with self._lock:
            if endpoint is not None and self._endpoints[0] == endpoint:
                self._endpoints.append(self._endpoints.pop(0))
            idle, self._idle = self._idle, []
        for connection in idle:
            _close(connection)

    def _guard(self, connection: Connection, deadline: float) -> None:
        with self._lock:
            self._deadlines[id(connection)] = connection, deadline
            if self._watchdog is None:
                self._watchdog = threading.Thread(target=self._watch, daemon=True)
                self._watchdog.start()

    def _unguard(self, connection: Connection) -> None:
        with self._lock:
            self._deadlines.pop(id(connection), None)

    def _watch(self) -> None:
        while True:
            time.sleep(_WATCHDOG_SECONDS)
            with self._lock:
                now = time.monotonic()
                late = [connection for connection, deadline in self._deadlines.values() if deadline < now]
                if not self._deadlines and self._closed:
                    return
            for connection in late:
                cut(connection)


def _close(connection: Connection) -> None:
    # Without noreply_wait: on a dead connection that waits for ever.
    with contextlib.suppress(errors.ReqlError, OSError, AttributeError):
        connection.close(noreply_wait=False)


def close(connection: Connection) -> None:
    """Close a connection, dead or alive."""
    _close(connection)


def is_refused(error: BaseException) -> bool:
    """Whether user, password, rights or certificates are at fault."""
    return isinstance(error, errors.ReqlAuthError | errors.ReqlPermissionError) or isinstance(
        error.__context__, ssl.SSLError
    )


def may_go_better(error: BaseException) -> bool:
    """Whether the same query may go through in a moment, here or elsewhere.

    A change of primary, a lost quorum and a table that is not there are one class of errors; a dead connection shows
    as any of several, AttributeError among them.
    """
    if is_refused(error) or isinstance(error, errors.ReqlCompileError):
        return False
    if isinstance(error, errors.ReqlDriverError | errors.ReqlAvailabilityError | errors.ReqlInternalError):
        return True
    # A feed on a dead connection raises a bare runtime error; every real one is of a class below it.
    return type(error) is errors.ReqlRuntimeError or not isinstance(error, errors.ReqlError)


def sentence(error: BaseException) -> str:
    """What an error means, in one line."""
    message = (getattr(error, "message", "") or str(error)).split("\n")[0]
    if is_refused(error):
        return f"RethinkDB refuses the credentials, the user lacks a right, or TLS failed ({message})"
    if isinstance(error, errors.ReqlOpIndeterminateError):
        return f"it is not known whether this was done ({message})"
    if isinstance(error, errors.ReqlAvailabilityError):
        return f"not done ({message})"
    if isinstance(error, errors.ReqlDriverError | AttributeError | OSError) and not isinstance(
        error, errors.ReqlCompileError
    ):
        return f"no answer ({message})"
    return message


def opening(error: FlowloomError) -> FlowloomError:
    """An error of the first query: what an operator must mend is Misconfigured."""
    if error.__cause__ is not None and is_refused(error.__cause__):
        return Misconfigured("store", f"{error}; mend the URL or the user's rights")
    return error
