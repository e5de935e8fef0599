"""The northbound store in an etcd cluster, version 3.4 or newer, over gRPC.

URL: `etcd://[USER:PASSWORD@]HOST[:2379],HOST…/PREFIX?option=value`, or `etcd+tls://…` for an encrypted connection.

- `PREFIX` (default `flowloom`): all keys lie under `/PREFIX/`; several databases may share a cluster.
- `USER:PASSWORD@`, percent-encoded; or `USER@` with `password_file=/path`, whose first line is the password.
- `tls_ca=/path` (required with TLS): PEM file of the authorities that servers' certificates are verified with.
- `tls_cert=/path&tls_key=/path`: PEM files of the client certificate and its key, where the servers ask for one.
- `tls_server_name=NAME`: expected in the servers' certificates instead of each endpoint's own host.
- `timeout_seconds=5`: for each call, repetitions on other members included.

Reads are linearizable, listings are taken at one revision; a call's writes are one transaction, up to BATCH_WRITES
keys and BATCH_BYTES bytes, beyond that several, in order.  etcd cannot give a part of a value, so that `versions`
costs the cluster as much as `read`; values are dropped page by page.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

import grpc

from flowloom.drivers.store import etcd_rpc_pb2 as rpc
from flowloom.drivers.store import urls
from flowloom.drivers.store.etcd_client import Client, Refused, Settings, Tls
from flowloom.drivers.store.etcd_database import Database, decode, if_newer, if_unchanged
from flowloom.drivers.store.etcd_watch import EtcdWatch
from flowloom.kernel.errors import Misconfigured, Rejected, Unavailable
from flowloom.northbound.limits import newest_of_each_key, outcomes
from flowloom.northbound.store import Capabilities, Cursor, Entry, Listing, Outcome, Versions, Write

T = TypeVar("T")

VALUE_BYTES_MAX = 1 << 20
"""With its key it stays below etcd's --max-request-bytes, 1.5 MiB unless changed."""

BATCH_WRITES = 127
"""etcd's --max-txn-ops, 128 unless changed, less the operation that a nested transaction counts for."""

BATCH_BYTES = (1 << 20) + (1 << 18)

_KEYS_PER_GET = 100
_PAGE_BYTES = 4 << 20
_PAGE_KEYS_MAX = 5000
_PAGE_KEYS_FIRST = 100
_TRIES = 5

_PREFIX = re.compile(r"/[a-zA-Z0-9\-._~:@+,=!/]*[^/]")
_FORM = "etcd://[user:password@]host:2379,host:2379/prefix"


def open_store(url: str) -> EtcdStore:
    """The store at `url`.  Misconfigured: an operator must act; Unavailable: no member answers now."""
    settings, prefix = parse(url)
    client = Client(settings, Random())
    database = Database(client, prefix)
    try:
        database.open(BATCH_WRITES)
    except BaseException:
        client.close()
        raise
    return EtcdStore(database)


def parse(url: str) -> tuple[Settings, str]:
    """What `url` says: settings and prefix.  Misconfigured, without a secret in it, when it is not of the form above."""
    found = urls.parse(url, default_port=2379)
    options, shown = found.options, found.shown
    if found.scheme not in ("etcd", "etcd+tls"):
        raise Misconfigured("store", f"{shown} is not of the form {_FORM}")
    prefix = f"/{found.path.rstrip('/') or 'flowloom'}"
    if not _PREFIX.fullmatch(prefix):
        raise Misconfigured("store", f"{shown}: a prefix is made of letters, digits and -._~:@+,=!/")
    password = found.password
    if file := options.file("password_file"):
        password = Path(file).read_text().partition("\n")[0].rstrip("\r")
    if bool(found.user) != bool(password):
        raise Misconfigured("store", f"{shown}: user and password go together")
    files = options.tls(found.scheme == "etcd+tls")
    tls = _tls(options, files) if files else None
    timeout = options.seconds("timeout_seconds", 5.0, 0.5, 600.0)
    options.end()
    return Settings(tuple(map(str, found.endpoints)), found.user, password, tls, timeout), prefix


def _tls(options: urls.Options, files: urls.TlsFiles) -> Tls:
    if not files.ca:
        raise options.wrong("tls_ca", "is required: the PEM file of the authorities to trust")
    try:
        checked = ssl.create_default_context(cafile=files.ca)
    except ssl.SSLError as error:
        raise options.wrong("tls_ca", f"names {files.ca}, which holds no certificates") from error
    try:
        if files.cert:
            checked.load_cert_chain(files.cert, files.key)
    except ssl.SSLError as error:
        why = f"names {files.cert}, which is no certificate or not that of {files.key} ({error.reason})"
        raise options.wrong("tls_cert", why) from error
    key, cert = (Path(path).read_bytes() if path else None for path in (files.key, files.cert))
    return Tls(Path(files.ca).read_bytes(), key, cert, options.text("tls_server_name"))


class EtcdStore:
    """Implements `northbound.store.Store`.  Any thread may call; open it after forking."""

    capabilities = Capabilities(
        atomic_batch=True,
        watch=True,
        consistent_read=True,
        durable=True,
        value_bytes_max=VALUE_BYTES_MAX,
        batch_writes_max=BATCH_WRITES,
        batch_bytes_max=BATCH_BYTES,
    )

    def __init__(self, database: Database) -> None:
        self._database = database

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        self._database.client.check_open()
        chosen = newest_of_each_key(writes, VALUE_BYTES_MAX)
        decided: dict[str, tuple[bool, int]] = {}
        for batch in _batches(chosen.values()):
            for write, outcome in zip(batch, self._apply(batch), strict=True):
                decided[write.key] = outcome
        return outcomes(writes, chosen, decided)

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        database = self._database
        database.client.check_open()
        found: list[Entry | None] = []
        for start in range(0, len(keys), _KEYS_PER_GET):
            asked = [rpc.RangeRequest(key=database.key(key)) for key in keys[start : start + _KEYS_PER_GET]]
            try:
                answers = database.read(asked).answers
            except Refused as error:
                raise Unavailable(f"{database.name}: {error}") from error
            found += [database.entry(answer.kvs[0]) if answer.kvs else None for answer in answers]
        return found

    def read(self, prefix: str) -> Listing:
        entries, cursor = self._list(prefix, self._database.entry)
        return Listing(entries, cursor)

    def versions(self, prefix: str) -> Versions:
        def marked(kv: rpc.KeyValue) -> tuple[str, tuple[int, bool]]:
            key, version, value = self._database.entry(kv)
            return key, (version, value is None)

        found, cursor = self._list(prefix, marked)
        return Versions(dict(found), cursor)

    def watch(self, prefix: str, cursor: Cursor) -> EtcdWatch:
        self._database.client.check_open()
        return EtcdWatch(self._database, prefix, cursor)

    def close(self) -> None:
        self._database.client.close()

    def _apply(self, batch: Sequence[Write]) -> list[tuple[bool, int]]:
        """Decide each write of one transaction: applied or not, and the version held."""
        database = self._database
        try:
            answers, before = database.write(if_newer(database.key(write.key), write) for write in batch)
        except Refused as error:
            if error.code is grpc.StatusCode.INVALID_ARGUMENT and len(batch) > 1:
                # More than these servers take at once.  Smaller steps find out what it is that they will not have.
                half = len(batch) // 2
                return self._apply(batch[:half]) + self._apply(batch[half:])
            raise self._refusal(error, batch[0]) from error
        return [self._outcome(*each, before) for each in zip(batch, answers, strict=True)]

    def _outcome(self, write: Write, answer: rpc.TxnResponse, before: bool) -> tuple[bool, int]:
        """before: the transaction was tried without an answer; what is found may be its own work."""
        if not answer.succeeded:
            return True, write.version
        kv = answer.responses[0].range.kvs[0]
        version, value = decode(kv.value)
        if version < write.version:
            return self._replace(kv, write)
        return before and version == write.version and value == write.value, version

    def _replace(self, kv: rpc.KeyValue, write: Write) -> tuple[bool, int]:
        """Write over something that is not of our making and counts as older than everything."""
        for _ in range(_TRIES):
            try:
                (answer,), _before = self._database.write([if_unchanged(kv, write)])
                if answer.succeeded:
                    return True, write.version
                (answer,), before = self._database.write([if_newer(kv.key, write)])
            except Refused as error:
                raise self._refusal(error, write) from error
            if not answer.succeeded:
                return True, write.version
            kv = answer.responses[0].range.kvs[0]
            version, value = decode(kv.value)
            if version >= write.version:
                return before and version == write.version and value == write.value, version
        raise Unavailable(f"{self._database.name}: somebody else keeps writing {write.key}")

    def _refusal(self, error: Refused, write: Write) -> Exception:
        if error.code is grpc.StatusCode.INVALID_ARGUMENT:
            why = f"{error}; it must take requests of {BATCH_BYTES} bytes (--max-request-bytes)"
            return Rejected(write.key, f"{self._database.name}: {why}")
        return Unavailable(f"{self._database.name}: {error}")

    def _list(self, prefix: str, of: Callable[[rpc.KeyValue], T]) -> tuple[list[T], Cursor]:
        """`of` everything under `prefix`, as of one revision."""
        why = "the database was replaced"
        for _ in range(_TRIES):
            try:
                if found := self._list_once(prefix, of):
                    return found
            except Refused as error:
                if error.code is not grpc.StatusCode.OUT_OF_RANGE:
                    raise Unavailable(f"{self._database.name}: {error}") from error
                why = str(error)  # The revision that the listing began with was compacted meanwhile.
        raise Unavailable(f"{self._database.name}: no listing came to its end: {why}")

    def _list_once(self, prefix: str, of: Callable[[rpc.KeyValue], T]) -> tuple[list[T], Cursor] | None:
        """None when another database took this one's place between two pages."""
        database = self._database
        found: list[T] = []
        limit = _PAGE_KEYS_FIRST
        (page,), cursor = database.read([database.range(prefix, limit=limit)])
        after = database.range(prefix)
        while True:
            found += map(of, page.kvs)
            if not page.more:
                return found, cursor
            size = page.ByteSize() // len(page.kvs)
            limit = max(1, min(_PAGE_KEYS_MAX, _PAGE_BYTES // size))
            after.MergeFrom(rpc.RangeRequest(key=page.kvs[-1].key + b"\0", revision=cursor.position, limit=limit))
            (page,), now = database.read([after])
            if now.epoch != cursor.epoch:
                return None


def _batches(writes: Iterable[Write]) -> Iterator[Sequence[Write]]:
    """Cut what one transaction cannot hold."""
    batch: list[Write] = []
    size = 0
    for write in writes:
        each = 2 * len(write.key) + len(write.value or b"") + 200
        if batch and (len(batch) == BATCH_WRITES or size + each > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(write)
        size += each
    if batch:
        yield batch
