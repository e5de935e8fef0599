"""Requests to a Redis primary, wherever it is now: connections, fail-over, a deadline on every request.

All keys of a database lie in one hash slot, so there is one server to talk to: the one that is named, the primary
that the Sentinels agree on, or the primary of the slot's shard.  It is looked for at the first request and after
every answer that says that it is another one; a request is repeated with jitter until its time is out.  What is sent
here may be repeated: scripts recognize their own writes.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import redis
from redis.connection import Connection, SSLConnection

from flowloom.drivers.store.redis_scripts import Script
from flowloom.drivers.store.urls import Endpoint, TlsFiles
from flowloom.kernel.backoff import Backoff
from flowloom.kernel.errors import FlowloomError, Misconfigured, Unavailable

Argument = str | bytes | int
Command = tuple[Argument, ...]
Reply = Any  # What RESP carries: bytes, int, None, and lists of these.

_IDLE_MAX = 16
_PROBE_SECONDS = 1.0
_PROBE_SECONDS_LEAST = 0.2

# The first words of Redis's errors (its protocol's error codes).
# The primary is another one now, or will be one soon.
_ELSEWHERE = frozenset(
    ["READONLY", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "UNBLOCKED", "BUSY", "NOREPLICAS"]
)
_CREDENTIALS = frozenset(["NOAUTH", "WRONGPASS", "NOPERM"])
_SENTENCES = {
    "OOM": "Redis refuses writes: it is at its maxmemory; give it more",
    "MISCONF": "Redis refuses writes: it cannot save to its disk; free or mend the disk",
    "NOREPLICAS": "Redis refuses writes: fewer replicas are in step than min-replicas-to-write",
    "READONLY": "Redis refuses writes: it is a replica; name the primary, or use Sentinel",
    "CLUSTERDOWN": "the Redis cluster is down: a slot has no primary, or this side has no majority",
    "LOADING": "Redis is loading its data",
    "BUSY": "Redis is busy with another script",
    "WRONGTYPE": "the prefix holds data of another kind",
}


@dataclass(frozen=True)
class Access:
    """How to reach a server.  client_name: as CLIENT LIST shows it."""

    user: str
    password: str = field(repr=False)
    database: int
    tls: TlsFiles | None
    client_name: str = "flowloom"

    def dial(self, endpoint: Endpoint, seconds: float) -> Connection:
        """An authenticated connection; redis.RedisError when there is none within about `seconds`."""
        options: dict[str, Any] = {
            "host": endpoint.host,
            "port": endpoint.port,
            "db": self.database,
            "username": self.user or None,
            "password": self.password or None,
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "client_name": self.client_name,
            "driver_info": None,
            "protocol": 2,
            "socket_keepalive": True,
        }
        if self.tls is None:
            connection: Connection = Connection(**options)
        else:
            connection = SSLConnection(
                ssl_ca_certs=self.tls.ca,
                ssl_certfile=self.tls.cert or None,
                ssl_keyfile=self.tls.key or None,
                ssl_cert_reqs="required",
                ssl_check_hostname=True,
                **options,
            )
        connection.connect()
        return connection


class Locator(Protocol):
    """Knows where the primary is."""

    def find(self, seconds: float) -> Endpoint:
        """Where it is now; Unavailable (or redis.RedisError) when nobody says so within about `seconds`."""
        ...


class Primary:
    """Requests to the primary.  Any thread may call."""

    def __init__(self, where: str, locator: Locator, access: Access, timeout_seconds: float, random: Random) -> None:
        """where: for errors.  timeout_seconds: for each request, its repetitions included."""
        self.where = where
        self.timeout_seconds = timeout_seconds
        self._locator = locator
        self._access = access
        self._random = random
        self._lock = threading.Lock()  # Guards what follows.
        self._at: Endpoint | None = None
        self._generation = 0
        self._idle: list[Connection] = []
        self._closed = False
        self._pid = os.getpid()

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument], wait: int = 0) -> Reply:
        """The script's reply.  wait: replicas that must have it; with fewer it is Unavailable, though written.

        Raises Unavailable.
        """
        deadline = time.monotonic() + self.timeout_seconds
        rest = (len(keys), *keys, *arguments)

        def ask(connection: Connection) -> Reply:
            left = deadline - time.monotonic()
            after: list[Command] = [("WAIT", wait, max(1, int(left * 800)))] if wait else []
            replies = _ask(connection, [("EVALSHA", script.digest, *rest), *after], left)
            if isinstance(replies[0], redis.exceptions.NoScriptError):
                replies = _ask(connection, [("EVAL", script.text, *rest), *after], left)
            for reply in replies:
                if isinstance(reply, redis.RedisError):
                    raise reply
            if wait and replies[1] < wait:
                raise Unavailable(f"{self.where}: written, but only {replies[1]} of {wait} replicas have confirmed it")
            return replies[0]

        return self._repeat(ask, deadline)

    def command(self, *command: Argument) -> Reply:
        """One command's reply.  Raises Unavailable."""
        deadline = time.monotonic() + self.timeout_seconds

        def ask(connection: Connection) -> Reply:
            reply = _ask(connection, [command], deadline - time.monotonic())[0]
            if isinstance(reply, redis.RedisError):
                raise reply
            return reply

        return self._repeat(ask, deadline)

    def wait(self, command: Command, seconds: float) -> None:
        """Wait until the server answers a command that blocks, at most about `seconds`.

        Returns early when the connection is lost: the request that follows finds out what is the matter.
        """
        deadline = time.monotonic() + self.timeout_seconds
        with contextlib.suppress(redis.RedisError, _NotFound), self._connection(deadline) as connection:
            reply = _ask(connection, [command], seconds + min(1.0, self.timeout_seconds))[0]
            if isinstance(reply, redis.RedisError):
                raise reply

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
            self._drop_idle()

    def _repeat(self, ask: Callable[[Connection], Reply], deadline: float) -> Reply:
        backoff = Backoff(self._random, first_seconds=0.02, cap_seconds=0.5)
        while True:
            try:
                with self._connection(deadline) as connection:
                    return ask(connection)
            except redis.RedisError as error:
                failure = Unavailable(f"{self.where}: {_sentence(error)}")
                if not _may_go_better(error):
                    raise failure from error
                cause: Exception = error
            except _NotFound as error:
                failure, cause = Unavailable(f"{self.where}: {error}"), error
            delay = backoff.next_delay()
            if time.monotonic() + delay >= deadline:
                raise failure from cause
            time.sleep(delay)

    @contextmanager
    def _connection(self, deadline: float) -> Iterator[Connection]:
        """A connection to the primary; lost with whatever error leaves the block."""
        with self._lock:
            self.check_open()
            at, generation = self._at, self._generation
            connection = self._idle.pop() if self._idle else None
        try:
            left = max(0.05, deadline - time.monotonic())
            if at is None:
                at = self._locator.find(left)
                left = max(0.05, deadline - time.monotonic())
            if connection is None:
                connection = self._access.dial(at, min(left, self.timeout_seconds / 2))
            yield connection
        except Unavailable:
            self._give_back(connection, at, generation)
            raise
        except BaseException as error:
            if connection is not None:
                connection.disconnect()
            if not isinstance(error, redis.ResponseError) or code(error) in _ELSEWHERE:
                self._forget(generation)
            raise
        else:
            self._give_back(connection, at, generation)

    def _give_back(self, connection: Connection | None, at: Endpoint | None, generation: int) -> None:
        if connection is None:
            return
        with self._lock:
            if not self._closed and generation == self._generation and self._at in (None, at):
                self._at = at
                if len(self._idle) < _IDLE_MAX:
                    self._idle.append(connection)
                    return
        connection.disconnect()

    def _forget(self, generation: int) -> None:
        """The primary may be elsewhere: look for it before the next request."""
        with self._lock:
            if generation == self._generation:
                self._generation += 1
                self._at = None
                self._drop_idle()

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()


class _NotFound(Exception):
    """No primary for now; the text says what was heard."""


def _ask(connection: Connection, commands: Sequence[Command], seconds: float) -> list[Reply]:
    """The replies of commands sent together; errors of Redis are among them."""
    if seconds <= 0:
        raise redis.TimeoutError("the time is out")
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Reply] = []
    for _ in commands:
        try:
            replies.append(connection.read_response(timeout=seconds))
        except redis.ResponseError as error:
            replies.append(error)
    return replies


def code(error: redis.RedisError) -> str:
    """The protocol's error code: the first word of what Redis said."""
    return getattr(error, "status_code", None) or (str(error).split(maxsplit=1) or [""])[0]


def is_refused_credential(error: redis.RedisError) -> bool:
    """Whether user, password or rights are at fault."""
    return isinstance(error, redis.AuthenticationError) or code(error) in _CREDENTIALS


def is_refused_certificate(error: BaseException) -> bool:
    """Whether TLS was tried and one side did not like the other."""
    return isinstance(error.__context__, ssl.SSLError) or isinstance(error, ssl.SSLError)


def _may_go_better(error: redis.RedisError) -> bool:
    """Whether the same request may succeed in a moment, here or elsewhere."""
    if is_refused_credential(error) or is_refused_certificate(error):
        return False
    return code(error) in _ELSEWHERE or not isinstance(error, redis.ResponseError)


def _sentence(error: redis.RedisError) -> str:
    if is_refused_credential(error):
        return f"Redis refuses the credentials or the user lacks a right ({error})"
    if is_refused_certificate(error):
        return f"no TLS connection ({error.__context__ or error})"
    if sentence := _SENTENCES.get(code(error)):
        return sentence
    return str(error) if isinstance(error, redis.ResponseError) else f"no answer ({error})"


# --- where the primary is ---


def info(connection: Connection, seconds: float, *sections: str) -> dict[str, str]:
    """What a server says of itself."""
    reply = _ask(connection, [("INFO", *sections)], seconds)[0]
    if isinstance(reply, redis.RedisError):
        raise reply
    return parse_info(reply)


def parse_info(reply: bytes) -> dict[str, str]:
    """INFO's lines `name:value`."""
    lines = reply.decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _check_primary(access: Access, endpoint: Endpoint, seconds: float) -> None:
    """Raise _NotFound unless the server at `endpoint` says that it is a primary."""
    connection = access.dial(endpoint, seconds)
    try:
        role = info(connection, seconds, "replication").get("role")
    finally:
        connection.disconnect()
    if role != "master":
        raise _NotFound(f"{endpoint} is a {role}")


class _Asking:
    """Asks several servers in turn; one that did not answer is asked last the next time."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = list(endpoints)

    def _in_turn(self, seconds: float) -> Iterator[tuple[Endpoint, float]]:
        """Each server with its share of the time, until that is out; those that are left out come first next time."""
        deadline = time.monotonic() + seconds
        share = min(_PROBE_SECONDS, max(_PROBE_SECONDS_LEAST, seconds / len(self._endpoints) / 2))
        for endpoint in list(self._endpoints):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            yield endpoint, min(left, share)

    def _defer(self, endpoint: Endpoint) -> None:
        self._endpoints = [*(each for each in self._endpoints if each != endpoint), endpoint]


class Hosts(_Asking):
    """The first of the named servers that says that it is a primary."""

    def __init__(self, endpoints: Sequence[Endpoint], access: Access) -> None:
        super().__init__(endpoints)
        self._access = access

    def find(self, seconds: float) -> Endpoint:
        heard = []
        for endpoint, share in self._in_turn(seconds):
            try:
                _check_primary(self._access, endpoint, share)
            except (redis.RedisError, _NotFound) as error:
                if isinstance(error, redis.RedisError) and not _may_go_better(error):
                    raise
                heard.append(str(error))
                self._defer(endpoint)
                continue
            return endpoint
        raise _NotFound(f"no primary: {'; '.join(heard)}")


class Sentinels(_Asking):
    """The primary that the Sentinels watch as `name`, as the newest configuration among them has it."""

    def __init__(self, endpoints: Sequence[Endpoint], name: str, sentinel: Access, access: Access) -> None:
        super().__init__(endpoints)
        self._name = name
        self._sentinel = sentinel
        self._access = access

    def find(self, seconds: float) -> Endpoint:
        found: list[tuple[int, Endpoint]] = []
        heard: list[str] = []
        unknown = False
        # The half of the time for the Sentinels, the other for the primary that they name.
        for endpoint, share in self._in_turn(seconds / 2):
            try:
                connection = self._sentinel.dial(endpoint, share)
                try:
                    reply = _ask(connection, [("SENTINEL", "MASTER", self._name)], share)[0]
                finally:
                    connection.disconnect()
                if isinstance(reply, redis.RedisError):
                    raise reply
            except redis.RedisError as error:
                heard.append(f"{endpoint}: {error}")
                if is_refused_credential(error) or is_refused_certificate(error):
                    raise
                unknown = unknown or isinstance(error, redis.ResponseError)
                self._defer(endpoint)
                continue
            said = dict(zip(reply[::2], reply[1::2], strict=True))
            found.append((int(said[b"config-epoch"]), Endpoint(said[b"ip"].decode(), int(said[b"port"]))))
        if not found and unknown:
            raise redis.ResponseError(f"the Sentinels watch no primary named {self._name}")
        if not found:
            raise _NotFound(f"no Sentinel knows the primary of {self._name}: {'; '.join(heard)}")
        at = max(found)[1]
        _check_primary(self._access, at, min(_PROBE_SECONDS, seconds / 2))
        return at


class Cluster(_Asking):
    """The primary of one hash slot.  Members that were not named are learned, so one that answers is enough."""

    def __init__(self, endpoints: Sequence[Endpoint], slot: int, access: Access) -> None:
        super().__init__(endpoints)
        self._named = tuple(endpoints)
        self._slot = slot
        self._access = access

    def find(self, seconds: float) -> Endpoint:
        heard = []
        for endpoint, share in self._in_turn(seconds):
            try:
                at = self._ask_member(endpoint, share)
                _check_primary(self._access, at, share)
            except (redis.RedisError, _NotFound) as error:
                if isinstance(error, redis.RedisError) and not _may_go_better(error):
                    raise
                heard.append(f"{endpoint}: {error}")
                self._defer(endpoint)
                continue
            return at
        raise _NotFound(f"no primary of slot {self._slot}: {'; '.join(heard)}")

    def _ask_member(self, endpoint: Endpoint, seconds: float) -> Endpoint:
        connection = self._access.dial(endpoint, seconds)
        try:
            reply = _ask(connection, [("CLUSTER", "SLOTS")], seconds)[0]
        finally:
            connection.disconnect()
        if isinstance(reply, redis.RedisError):
            raise reply
        members = [_member(node, endpoint) for _, _, *nodes in reply for node in nodes]
        learned = [each for each in dict.fromkeys(members) if each not in self._named]
        known = dict.fromkeys([*self._endpoints, *learned])
        self._endpoints = [each for each in known if each in self._named or each in learned]
        for first, last, primary, *_ in reply:
            if first <= self._slot <= last:
                return _member(primary, endpoint)
        raise _NotFound("the slot has no server")


def _member(node: list[Any], asked: Endpoint) -> Endpoint:
    # An empty or absent address means: the one that was asked.
    host = node[0].decode() if node[0] else asked.host
    return Endpoint(asked.host if host == "?" else host, int(node[1]))


def opening(primary: Primary, error: Unavailable) -> FlowloomError:
    """An error of the first request: what an operator must mend is Misconfigured."""
    cause = error.__cause__
    if isinstance(cause, redis.RedisError) and (
        is_refused_credential(cause)
        or is_refused_certificate(cause)
        or (isinstance(cause, redis.ResponseError) and code(cause) not in _ELSEWHERE | _SENTENCES.keys())
    ):
        return Misconfigured("store", f"{error}; mend the URL or the user's rights")
    return error
