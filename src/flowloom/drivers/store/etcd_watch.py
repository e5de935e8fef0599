"""A change feed out of etcd's own history: resumed on another member where one fails, never silently behind.

Traps that shape it: a response's header may be far ahead of the events in it, so that only events move the cursor;
a large revision comes in fragments, and is shown whole; a watch of a revision that is yet to come waits for it
without a word, though the database was restored and will reach it on another way; a member cut off from its leader
says nothing, unless it is asked to.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

import grpc

from flowloom.drivers.store import etcd_rpc_pb2 as rpc
from flowloom.drivers.store.etcd_client import Client, Endpoint
from flowloom.drivers.store.etcd_database import Database
from flowloom.kernel.errors import StartOver, Unavailable
from flowloom.northbound.store import Changes, Cursor, Entry

_OBJECTS, _META = 1, 2  # Ids of the two watches that a stream carries.
_RESPONSES_MAX = 4


class _Ended(Exception):
    """The stream is over; its text says why."""


class _Stream:
    """Responses of one member, read by a thread of their own; at most _RESPONSES_MAX wait, the rest stays there."""

    def __init__(self, client: Client, requests: Sequence[rpc.WatchRequest]) -> None:
        self.endpoint: Endpoint = client.endpoint()
        self._requests = requests
        self._closed = threading.Event()
        self._changed = threading.Condition()
        self._waiting: deque[rpc.WatchResponse] = deque()
        self._end: str | None = None
        try:
            self._call = client.watch(self.endpoint, self._send())
        except grpc.RpcError as error:
            raise _Ended(_why(error)) from error
        except ValueError as error:  # The channel was closed meanwhile.
            raise _Ended(str(error)) from error
        threading.Thread(target=self._receive, name="etcd-watch", daemon=True).start()

    def take(self, timeout_seconds: float) -> rpc.WatchResponse | None:
        """The next response; None when the time is out.  Raises _Ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._end is not None, timeout_seconds)
            if self._waiting:
                self._changed.notify_all()
                return self._waiting.popleft()
            if self._end is not None:
                raise _Ended(self._end)
            return None

    def close(self) -> None:
        self._closed.set()
        self._call.cancel()
        with self._changed:
            self._end = self._end or "closed"
            self._waiting.clear()
            self._changed.notify_all()

    def _send(self) -> Iterator[rpc.WatchRequest]:
        yield from self._requests
        self._closed.wait()  # The stream lives as long as there may be requests.

    def _receive(self) -> None:
        why = "the stream ended"
        try:
            for response in self._call:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._waiting) < _RESPONSES_MAX or self._closed.is_set())
                    if self._closed.is_set():
                        return
                    self._waiting.append(response)
                    self._changed.notify_all()
        except grpc.RpcError as error:
            why = _why(error)
        finally:
            self._closed.set()  # Lets gRPC's own thread, which waits in _send, go.
            with self._changed:
                self._end = self._end or why
                self._changed.notify_all()


class EtcdWatch:
    """Implements `northbound.store.Watch`."""

    def __init__(self, database: Database, prefix: str, cursor: Cursor) -> None:
        self._database = database
        self._client = database.client
        self._range = database.range(prefix)
        self._cursor = cursor
        self._closed = False
        self._stream: _Stream | None = None
        self._early: deque[rpc.WatchResponse] = deque()  # Came before both watches were confirmed.
        self._cut: list[rpc.Event] = []  # Of a revision whose other events are still to come.
        self._owed: int | None = None  # Changes up to this revision are on their way; None: not known.

    def next(self, timeout_seconds: float) -> Changes:
        ends = time.monotonic() + timeout_seconds
        failures = 0
        while True:
            self._check_open()
            try:
                stream = self._stream or self._connect()
                response = self._early.popleft() if self._early else stream.take(max(0.0, ends - time.monotonic()))
                entries = self._entries(response) if response is not None else self._catch_up(stream)
            except _Ended as error:
                address = self._stream.endpoint.address if self._stream else self._client.endpoint().address
                self._leave()
                self._check_open()
                failures += 1
                if failures >= len(self._client.settings.endpoints):
                    raise Unavailable(f"{self._database.name}: watch on {address}: {error}") from error
                continue
            except BaseException:
                self._drop()
                raise
            if entries or (response is None and time.monotonic() >= ends):
                return Changes(entries, self._cursor)

    def close(self) -> None:
        self._closed = True
        self._drop()

    def _check_open(self) -> None:
        self._client.check_open()
        if self._closed:
            raise Unavailable("this watch is closed")

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        self._early.clear()
        self._cut = []
        if stream:
            stream.close()

    def _leave(self) -> None:
        if self._stream:
            self._client.leave(self._stream.endpoint)
            self._client.forget_token()
        self._drop()

    def _connect(self) -> _Stream:
        """Go on from the cursor, with the member in use.  Raises _Ended, StartOver, Unavailable."""
        start = self._cursor.position + 1
        stream = self._stream = _Stream(
            self._client,
            [
                _create(_OBJECTS, self._range.key, self._range.range_end, start),
                _create(_META, self._database.meta_key, b"", start),
            ],
        )
        self._owed = None
        ends = time.monotonic() + self._client.settings.timeout_seconds
        created = 0
        while created < 2:
            response = stream.take(max(0.0, ends - time.monotonic()))
            if response is None:
                raise _Ended("it was not confirmed in time")
            if response.created and not response.canceled:
                created += 1
            elif response.canceled:
                self._entries(response)
            else:
                self._early.append(response)
        now = self._database.read([]).cursor
        if now.epoch != self._cursor.epoch:
            raise StartOver(f"{self._database.name}: epoch {now.epoch}, the cursor is of {self._cursor.epoch}")
        if now.position < self._cursor.position:
            self._database.went_back()
            raise StartOver(f"{self._database.name}: at {now.position}, before the cursor's {self._cursor.position}")
        if now.position == self._cursor.position:
            self._owed = now.position
        return stream

    def _catch_up(self, stream: _Stream) -> list[Entry]:
        """The time is out and nothing came: nothing there, or not here yet?  Wait for what is known to exist."""
        if self._owed is None:
            after = self._cursor.position
            asked = rpc.RangeRequest(
                key=self._range.key,
                range_end=self._range.range_end,
                min_mod_revision=after + 1,
                order=rpc.RangeRequest.DESCEND,
                order_by=rpc.RangeRequest.MODIFIED,
                keys_only=True,
                limit=1,
            )
            newest = self._database.read([asked]).answers[0].kvs
            self._owed = newest[0].mod_revision if newest else after
        if self._cursor.position >= self._owed:
            return []
        ends = time.monotonic() + self._client.settings.timeout_seconds
        while (left := ends - time.monotonic()) > 0:
            response = stream.take(left)
            if response is not None and (entries := self._entries(response)):
                return entries
        raise _Ended(f"it is behind: at {self._cursor.position}, not {self._owed}")

    def _entries(self, response: rpc.WatchResponse) -> list[Entry]:
        """What a response says; moves the cursor."""
        if response.canceled:
            if response.compact_revision:
                raise StartOver(f"{self._database.name}: the history up to {response.compact_revision} was compacted")
            raise _Ended(response.cancel_reason or "cancelled")
        if response.watch_id == _META:
            if response.events:
                raise StartOver(f"{self._database.name}: the database has become another one")
            return []
        if not response.events and not response.fragment:
            # A timed notice: nothing happened here up to this revision.
            self._cursor = Cursor(self._cursor.epoch, max(self._cursor.position, response.header.revision))
            return []
        events = [*self._cut, *response.events]
        newest = events[-1].kv.mod_revision
        self._cut = [event for event in events if event.kv.mod_revision == newest] if response.fragment else []
        whole = events[: len(events) - len(self._cut)]
        if any(event.type == rpc.Event.DELETE for event in whole):
            raise StartOver(f"{self._database.name}: a key was removed by somebody else, without a version")
        if whole:
            self._cursor = Cursor(self._cursor.epoch, whole[-1].kv.mod_revision)
        return [self._database.entry(event.kv) for event in whole]


def _create(number: int, key: bytes, range_end: bytes, start: int) -> rpc.WatchRequest:
    create = rpc.WatchCreate(
        key=key, range_end=range_end, start_revision=start, progress_notify=True, watch_id=number, fragment=True
    )
    return rpc.WatchRequest(create=create)


def _why(error: grpc.RpcError) -> str:
    details = getattr(error, "details", None)
    return (details() if details else None) or "the connection was lost"
