"""Bare clients: the least that does "write if newer", and reads everything, with each system's own library.

What a bare client does: each write compares the version with the one held, on the server, in as few round trips as
the system needs, acknowledged as durably as the driver's, on the same server, with a deadline where the library has
one.  What it does not: no change log that a watch can resume from (etcd keeps one anyway), no epoch that tells a
restored or replaced database, no tombstones, no check of keys, no fail-over, no repetition and no judgement of a write
whose answer was lost, and of what a write did not replace it says only that it did not.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import grpc
import redis
from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError, NodeExistsError, NoNodeError

from flowloom.drivers.store import etcd_rpc_pb2 as rpc

VALUE = bytes(range(250)) * 2
"""Of every object."""

_SECONDS = 5.0
_WINDOW = 200


class Bare(Protocol):
    """Any thread may write."""

    def write(self, key: str, version: int) -> bool:
        """Let `key` hold VALUE at `version`, if that is newer; whether it was."""
        ...

    def read(self, prefix: str) -> int:
        """Read, with values, everything that the driver has stored under `prefix`; how many objects."""
        ...

    def close(self) -> None: ...


class BareSqlite:
    """One statement, which is one transaction, in WAL mode; one connection that threads take in turn.

    A file of its own beside the driver's, so that neither checkpoints the other's log.
    """

    def __init__(self, path: Path, driver: Path, synchronous: str = "FULL") -> None:
        self._driver = driver
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        self._connection.execute(
            "CREATE TABLE object (key TEXT PRIMARY KEY, version INTEGER, value BLOB) WITHOUT ROWID"
        )

    def write(self, key: str, version: int) -> bool:
        with self._lock:
            done = self._connection.execute(
                "INSERT INTO object VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE "
                "SET version = excluded.version, value = excluded.value WHERE excluded.version > version",
                (key, version, VALUE),
            )
            return done.rowcount == 1

    def read(self, prefix: str) -> int:
        with contextlib.closing(sqlite3.connect(self._driver)) as connection:
            asked = "SELECT key, version, value FROM object WHERE key >= ? AND key < ? ORDER BY key"
            return len(connection.execute(asked, (prefix, prefix + "~")).fetchall())

    def close(self) -> None:
        self._connection.close()


class BareEtcd:
    """One transaction: the value begins with the version, so etcd compares it; the put is in the branch for "older"."""

    def __init__(self, endpoint: str) -> None:
        options = [("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(endpoint, options=options)
        self._txn = self._channel.unary_unary(
            "/etcdserverpb.KV/Txn",
            request_serializer=rpc.TxnRequest.SerializeToString,
            response_deserializer=rpc.TxnResponse.FromString,
        )

    def write(self, key: str, version: int) -> bool:
        where, marked = b"/bare" + key.encode(), b"%019d" % version
        # "Greater" and not "less", because a comparison with a key that is not there is false.
        request = rpc.TxnRequest(
            compare=[rpc.Compare(key=where, what=rpc.Compare.VALUE, result=rpc.Compare.GREATER, value=marked)],
            failure=[rpc.Operation(put=rpc.PutRequest(key=where, value=marked + b"=" + VALUE))],
        )
        return not self._txn(request, timeout=_SECONDS).succeeded

    def read(self, prefix: str) -> int:
        begin = b"/flowloom" + prefix.encode()
        asked = rpc.RangeRequest(key=begin, range_end=begin[:-1] + bytes([begin[-1] + 1]))
        answer = self._txn(rpc.TxnRequest(success=[rpc.Operation(range=asked)]), timeout=60)
        return len([(kv.key, kv.value) for kv in answer.responses[0].range.kvs])

    def close(self) -> None:
        self._channel.close()


class BareRedis:
    """A script: compares the version in one hash, and puts version and value into two, as the driver's layout needs.

    It compares numbers, which is exact up to 2**53.  The hash tag is the driver's: in a Cluster, the same primary.
    """

    _TEXT = """
    local held = redis.call('HGET', KEYS[1], ARGV[1])
    if held and tonumber(held) >= tonumber(ARGV[2]) then return 0 end
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
    return 1
    """

    def __init__(self, port: int) -> None:
        self._redis: Any = redis.Redis("127.0.0.1", port, socket_timeout=_SECONDS)
        self._script = self._redis.register_script(self._TEXT)

    def write(self, key: str, version: int) -> bool:
        return bool(self._script(keys=("{flowloom}bare:version", "{flowloom}bare:value"), args=(key, version, VALUE)))

    def read(self, prefix: str) -> int:
        # Redis has no range of a hash: everything is read, and most of what there is lies under `prefix`.
        versions = self._redis.hgetall("{flowloom}:version")
        values = self._redis.hgetall("{flowloom}:value")
        begin = prefix.encode()
        return len([(key, versions[key], value) for key, value in values.items() if key.startswith(begin)])

    def close(self) -> None:
        self._redis.close()


class BareZookeeper:
    """Read, compare, `set(version=)` of what was read: "if newer" cannot be asked of ZooKeeper in one request."""

    def __init__(self, port: int, root: str = "/bare") -> None:
        self._root = root
        self._client = KazooClient(f"127.0.0.1:{port}", timeout=_SECONDS)
        self._client.start()

    def write(self, key: str, version: int) -> bool:
        path = self._root + key
        data = b"%d\n" % version + VALUE
        while True:
            try:
                held, stat = self._client.get(path)
                if held and int(held.partition(b"\n")[0]) >= version:
                    return False
                self._client.set(path, data, version=stat.version)
            except NoNodeError:
                with contextlib.suppress(NodeExistsError):
                    self._client.create(path, data, makepath=True)
                    return True
            except BadVersionError:
                continue
            return True

    def read(self, prefix: str) -> int:
        return sum(1 for _ in self._walk("/flowloom/objects" + prefix.rstrip("/")))

    def _walk(self, path: str) -> Iterator[bytes]:
        """The data of every leaf under `path`, WINDOW requests under way at once."""
        under_way: deque[tuple[str, Any]] = deque()
        names = (f"{path}/{name}" for name in self._client.get_children(path))
        for each in names:
            under_way.append((each, self._client.get_async(each)))
            if len(under_way) >= _WINDOW:
                yield from self._came(*under_way.popleft())
        while under_way:
            yield from self._came(*under_way.popleft())

    def _came(self, path: str, asking: Any) -> Iterator[bytes]:
        data, stat = asking.get(timeout=60)
        if data:
            yield data
        if stat.numChildren:
            yield from self._walk(path)

    def close(self) -> None:
        self._client.stop()
        self._client.close()


class BareZookeeperSet(BareZookeeper):
    """`set(version=)` alone: the writer remembers what it wrote last, and that nobody else has written.

    Less than "write if newer": a second writer would have to read.  For comparison only.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port, "/bare-set")
        self._held: dict[str, int] = {}

    def write(self, key: str, version: int) -> bool:
        path, data = self._root + key, b"%d\n" % version + VALUE
        if key not in self._held:
            self._client.create(path, data, makepath=True)
            self._held[key] = 0
        else:
            self._held[key] = self._client.set(path, data, version=self._held[key]).version
        return True
