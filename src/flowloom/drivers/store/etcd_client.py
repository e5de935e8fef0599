"""Calls to the members of an etcd cluster: fail-over between endpoints, a deadline on each, tokens, TLS.

A call goes to one endpoint until that one fails, then to the next; it is repeated with jitter until its time is
out.  What is sent here may be repeated: every write is a transaction that does nothing the second time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Generic, NamedTuple, Protocol, TypeVar, cast

import grpc

from flowloom.drivers.store import etcd_rpc_pb2 as rpc
from flowloom.kernel.backoff import Backoff
from flowloom.kernel.errors import Misconfigured, Unavailable

DIAGNOSIS_SECONDS = 0.3
"""Of a call's time, kept back to find out why it was in vain."""

OLDEST = (3, 4)
"""Of the servers that this driver was tested with."""

# etcd ends a connection that is pinged more often than every five seconds (--grpc-keepalive-min-time).  A member
# that hangs is noticed by a silent watch after these two together.
_PING_SECONDS = 6.0
_PONG_SECONDS = 3.0

_CHANNEL = {
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
    "grpc.keepalive_time_ms": int(_PING_SECONDS * 1000),
    "grpc.keepalive_timeout_ms": int(_PONG_SECONDS * 1000),
    "grpc.http2.ping_timeout_ms": int(_PONG_SECONDS * 1000),  # 60 s otherwise, whatever the line above says.
    "grpc.http2.max_pings_without_data": 0,
    "grpc.use_local_subchannel_pool": 1,
    "grpc.service_config_disable_resolution": 1,
    "grpc.initial_reconnect_backoff_ms": 50,
    "grpc.max_reconnect_backoff_ms": 1000,
}

# What may go better elsewhere, or later.  The request may have been carried out all the same.
_LOST = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}

# What an expired or outdated token leads to.  etcd says INVALID_ARGUMENT of an outdated one, and of much else.
_TOKEN = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT}


@dataclass(frozen=True)
class Tls:
    """PEM files' contents.  server_name: expected in the certificates instead of the endpoint's own; "": that."""

    ca: bytes
    key: bytes | None = field(repr=False)
    cert: bytes | None
    server_name: str


@dataclass(frozen=True)
class Settings:
    """endpoints: host:port.  timeout_seconds: for each call, repetitions included."""

    endpoints: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    tls: Tls | None = None
    timeout_seconds: float = 5.0


class Refused(Exception):
    """etcd understood a request and will not do it.  Its text is for people."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class _Message(Protocol):
    def SerializeToString(self) -> bytes: ...

    @classmethod
    def FromString(cls, s: bytes, /) -> _Message: ...


Q = TypeVar("Q", bound=_Message)
A = TypeVar("A", bound=_Message)


class Responses(Protocol):
    """What comes on a watch's stream; iterating raises grpc.RpcError at its end."""

    def __iter__(self) -> Iterator[rpc.WatchResponse]: ...

    def cancel(self) -> bool: ...


class Method(NamedTuple, Generic[Q, A]):
    """One of etcd's: its path, and what goes there and comes back."""

    path: str
    question: type[Q]
    answer: type[A]


_TXN = Method("/etcdserverpb.KV/Txn", rpc.TxnRequest, rpc.TxnResponse)
_WATCH = Method("/etcdserverpb.Watch/Watch", rpc.WatchRequest, rpc.WatchResponse)
_AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", rpc.AuthenticateRequest, rpc.AuthenticateResponse)
_STATUS = Method("/etcdserverpb.Maintenance/Status", rpc.StatusRequest, rpc.StatusResponse)
_ALARM = Method("/etcdserverpb.Maintenance/Alarm", rpc.AlarmRequest, rpc.AlarmResponse)


class Endpoint:
    """One member's address and the channel to it."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        self.address = address
        self._made: dict[str, object] = {}
        options: list[tuple[str, int | str]] = list(_CHANNEL.items())
        if tls is None:
            self.channel = grpc.insecure_channel(address, options=options)
            return
        if tls.server_name:
            options.append(("grpc.ssl_target_name_override", tls.server_name))
        credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
        self.channel = grpc.secure_channel(address, credentials, options=options)

    def unary(self, method: Method[Q, A]) -> grpc.UnaryUnaryMultiCallable[Q, A]:
        """To call `method` here."""
        made = self._made.get(method.path)
        if made is None:
            made = self._made[method.path] = self.channel.unary_unary(
                method.path,
                request_serializer=method.question.SerializeToString,
                response_deserializer=method.answer.FromString,
            )
        return cast("grpc.UnaryUnaryMultiCallable[Q, A]", made)


class Client:
    """Any thread may call.  Open it after forking."""

    def __init__(self, settings: Settings, random: Random) -> None:
        self.settings = settings
        self.where = f"etcd {', '.join(settings.endpoints)}"
        self.closed = False
        self._random = random
        self._endpoints = [Endpoint(address, settings.tls) for address in settings.endpoints]
        self._current = random.randrange(len(self._endpoints))
        self._lock = threading.Lock()
        self._token = ""

    def txn(self, request: rpc.TxnRequest) -> tuple[rpc.TxnResponse, bool]:
        """A transaction: see `call`."""
        return self.call(_TXN, request)

    def call(self, method: Method[Q, A], request: Q) -> tuple[A, bool]:
        """The answer, and whether an earlier attempt may have been carried out before it.

        Raises Unavailable (an attempt may have been carried out, or may still be), Refused.
        """
        settings = self.settings
        ends = time.monotonic() + settings.timeout_seconds - DIAGNOSIS_SECONDS
        share = settings.timeout_seconds / len(self._endpoints)
        backoff = Backoff(self._random, 0.02, 0.5)
        again = renewed = False
        while True:
            endpoint = self.endpoint()
            try:
                left = min(share, ends - time.monotonic())
                metadata = self.metadata(endpoint, left)
                return endpoint.unary(method)(request, timeout=max(left, 0.01), metadata=metadata), again
            except grpc.RpcError as error:
                code, text = _said(error)
                if code in _TOKEN and settings.user and not renewed:
                    renewed = True
                    self.forget_token()
                    continue
                if code not in _LOST:
                    raise self._refusal(endpoint, code, text) from error
                again = True
                self.leave(endpoint)
                pause = backoff.next_delay()
                if time.monotonic() + pause >= ends:
                    raise Unavailable(self._silence(endpoint, text)) from error
            except ValueError as error:  # What gRPC says of a channel that another thread has closed.
                self.check_open()
                raise Unavailable(f"{self.where}: {error}") from error
            time.sleep(pause)

    def check_version(self) -> None:
        """Misconfigured when the member in use is too old.  Raises Unavailable, Refused."""
        version = self.call(_STATUS, rpc.StatusRequest())[0].version
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise Misconfigured("store", f"{self.where} is of version {version}; it must be {oldest} or newer")

    def endpoint(self) -> Endpoint:
        """The one in use.  Unavailable when the client is closed."""
        self.check_open()
        return self._endpoints[self._current]

    def leave(self, endpoint: Endpoint) -> None:
        """Use the next one, unless another thread has left this one already."""
        with self._lock:
            if self._endpoints[self._current] is endpoint:
                self._current = (self._current + 1) % len(self._endpoints)

    def watch(self, endpoint: Endpoint, requests: Iterator[rpc.WatchRequest]) -> Responses:
        """A stream of events from one member, until it is cancelled.  It ends when the member has lost its leader."""
        method = endpoint.channel.stream_stream(
            _WATCH.path,
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )
        metadata = (*self.metadata(endpoint, self.settings.timeout_seconds), ("hasleader", "true"))
        return method(requests, metadata=metadata)

    def metadata(self, endpoint: Endpoint, seconds: float) -> tuple[tuple[str, str], ...]:
        """Who is asking: a token got with the password; none without a user.  Raises grpc.RpcError."""
        settings = self.settings
        if not settings.user:
            return ()
        with self._lock:
            token = self._token
        if not token:
            question = rpc.AuthenticateRequest(name=settings.user, password=settings.password)
            try:
                token = endpoint.unary(_AUTHENTICATE)(question, timeout=max(seconds, 0.01)).token
            except grpc.RpcError as error:
                # Authentication is not enabled, yet: then nothing is asked for.
                if _said(error)[0] is grpc.StatusCode.FAILED_PRECONDITION:
                    return ()
                raise
            with self._lock:
                self._token = token
        return (("token", token),)

    def forget_token(self) -> None:
        """Get another one for the next call."""
        with self._lock:
            self._token = ""

    def check_open(self) -> None:
        """Unavailable after `close`."""
        if self.closed:
            raise Unavailable("this store is closed")

    def close(self) -> None:
        """End every call and every stream."""
        self.closed = True
        for endpoint in self._endpoints:
            endpoint.channel.close()

    def _silence(self, endpoint: Endpoint, text: str) -> str:
        """Why nobody answered, as far as the members say."""
        self.check_open()
        asked = {
            each.address: each.unary(_STATUS).future(rpc.StatusRequest(), timeout=DIAGNOSIS_SECONDS)
            for each in self._endpoints
        }
        for address, asking in asked.items():
            try:
                answer = asking.result()
            except grpc.RpcError:
                continue
            if not answer.leader:
                return f"{self.where}: {address} has no leader: too few members are up, or can reach each other"
        return f"{self.where} does not answer in {self.settings.timeout_seconds:g} s: {endpoint.address}: {text}"

    def _refusal(self, endpoint: Endpoint, code: grpc.StatusCode, text: str) -> Exception:
        if code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Refused(code, text)
        try:
            alarms = endpoint.unary(_ALARM)(
                rpc.AlarmRequest(), timeout=DIAGNOSIS_SECONDS, metadata=self.metadata(endpoint, DIAGNOSIS_SECONDS)
            ).alarms
        except grpc.RpcError:
            alarms = []  # type: ignore[assignment]
        if any(alarm.kind == rpc.AlarmResponse.NOSPACE for alarm in alarms):
            text = (
                "out of space (alarm NOSPACE), it refuses writes: compact and defragment it or raise "
                "--quota-backend-bytes, then etcdctl alarm disarm"
            )
        return Unavailable(f"{self.where}: {text}")


def _said(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    call = cast(grpc.Call, error)
    code = call.code()
    return code, f"{call.details() or 'no reason given'} ({code.name})"
