"""One prefix of an etcd cluster as a database of its own: layout, identity, and transactions that hold to both.

Under the URL's prefix P:

- `P<key>`: what the key holds, readable with etcdctl: 19 digits of version, then `=` and the value, or `-` for a
  tombstone.  The order of these values as bytes is the order of versions, which is what etcd can compare.
- `P#database`: `flowloom <schema> <epoch>`.  Every write compares it, so nothing is written into another database.
- `P#elsewhere`: written where that comparison fails.  It says nothing; but etcd's space quota counts only puts that
  a transaction's own branches hold, not those of the transactions nested in it, and lets pass what holds none.

The position of a cursor is etcd's revision.  A cluster restored from a snapshot repeats old revisions under an old
epoch: whoever sees the revision go back gives the database another epoch, and the cluster's own id is part of it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flowloom.drivers.store import etcd_rpc_pb2 as rpc
from flowloom.drivers.store.etcd_client import Client, Refused
from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.northbound.store import Cursor, Entry, Write

SCHEMA = 1
_DIGITS = 19
_VALUE, _TOMBSTONE = b"=", b"-"
_TRIES = 5


class Snapshot(NamedTuple):
    """Answers as of one revision.  cursor: that point, in the database they came from."""

    answers: Sequence[rpc.RangeResponse]
    cursor: Cursor


class Database:
    """Any thread may use it."""

    def __init__(self, client: Client, prefix: str) -> None:
        self.client = client
        self.name = f"{client.where}, prefix {prefix}"
        self._prefix = prefix.encode()
        self._meta = self._prefix + b"#database"
        self._lock = threading.RLock()
        self._identity = b""
        self._revision = 0

    def open(self, batch_writes: int) -> None:
        """Find the database, or make it.  Misconfigured when an operator must act, Unavailable."""
        try:
            self.client.check_version()
            self._identify()
        except Refused as error:
            raise Misconfigured("store", f"{self.name}: {error}; mend user, password or role") from error
        try:
            steps = [rpc.Operation(txn=rpc.TxnRequest(success=[_get(self._meta)]))] * batch_writes
            self.client.txn(rpc.TxnRequest(success=steps))
        except Refused as error:
            why = f"{error}; {batch_writes + 1} operations a transaction must be allowed (--max-txn-ops)"
            raise Misconfigured("store", f"{self.name}: {why}") from error

    # --- keys and values ---

    def key(self, key: str) -> bytes:
        """As etcd knows it.  What is no key of ours stands where nothing is ever written."""
        return self._prefix + (key if key.startswith("/") else f"/ {key}").encode()

    def range(self, prefix: str, limit: int = 0) -> rpc.RangeRequest:
        """Asks for the first `limit` keys under `prefix`; 0: for all."""
        begin = self.key(prefix or "/")
        return rpc.RangeRequest(key=begin, range_end=end_of(begin), limit=limit)

    def entry(self, kv: rpc.KeyValue) -> Entry:
        """What a key holds.  Version 0: nothing of ours; somebody else wrote there."""
        return Entry(kv.key[len(self._prefix) :].decode(errors="replace"), *decode(kv.value))

    @property
    def meta_key(self) -> bytes:
        """Changes when the database becomes another one."""
        return self._meta

    # --- transactions ---

    def read(self, ranges: Sequence[rpc.RangeRequest]) -> Snapshot:
        """Answers to all of `ranges` in one step.  Raises Unavailable; Refused, OUT_OF_RANGE: a revision is gone."""
        request = rpc.TxnRequest(success=[_get(self._meta), *(rpc.Operation(range=each) for each in ranges)])
        for _ in range(_TRIES):
            answer, _again = self._txn(request)
            meta, *found = (each.range for each in answer.responses) if answer else (None,)
            if answer and meta and meta.kvs:
                return Snapshot(found, self._cursor(meta.kvs[0].value, answer.header))
            self.find_identity()
        raise Unavailable(f"{self.name}: the database was replaced again and again")

    def write(self, steps: Iterable[rpc.TxnRequest]) -> tuple[list[rpc.TxnResponse], bool]:
        """All of `steps` at once, in the database that `read` reads; and whether they may have been done before."""
        operations = [rpc.Operation(txn=step) for step in steps]
        before = False
        for _ in range(_TRIES):
            identity = self._identity or self.find_identity()
            request = rpc.TxnRequest(
                compare=[rpc.Compare(key=self._meta, what=rpc.Compare.VALUE, result=rpc.Compare.EQUAL, value=identity)],
                success=operations,
                failure=[_put(self._prefix + b"#elsewhere", b"")],
            )
            answer, again = self._txn(request)
            before = before or again or answer is None
            if answer and answer.succeeded:
                return [each.txn for each in answer.responses], before
            self.find_identity()
        raise Unavailable(f"{self.name}: the database was replaced again and again")

    def find_identity(self) -> bytes:
        """Look again which database this is; make it if it is none.  Raises Unavailable when it is not ours."""
        try:
            return self._identify()
        except Misconfigured as error:
            raise Unavailable(error.why) from error
        except Refused as error:
            raise Unavailable(f"{self.name}: {error}") from error

    def went_back(self) -> None:
        """The history is another one, of an old copy: give it another epoch, unless somebody has."""
        with self._lock:
            known, self._revision = self._identity, 0
            if self.find_identity() != known:
                return
            replace = rpc.TxnRequest(
                compare=[rpc.Compare(key=self._meta, what=rpc.Compare.VALUE, result=rpc.Compare.EQUAL, value=known)],
                success=[_put(self._meta, _new_identity())],
            )
            try:
                self.client.txn(replace)
            except Refused:
                return  # Whoever may write will see it too.
            self.find_identity()

    def _txn(self, request: rpc.TxnRequest) -> tuple[rpc.TxnResponse | None, bool]:
        """An answer; None when it came from a history that is not the one known so far."""
        seen = self._revision
        answer, again = self.client.txn(request)
        revision = answer.header.revision
        if revision < seen:
            self.went_back()
            return None, True
        with self._lock:
            self._revision = max(self._revision, revision)
        return answer, again

    def _identify(self) -> bytes:
        with self._lock:
            identity = self._look()
            self._epoch(identity)
            self._identity = identity
            return identity

    def _look(self) -> bytes:
        first = rpc.RangeRequest(key=self._prefix + b"/", range_end=end_of(self._prefix + b"/"), limit=1)
        answer, _ = self.client.txn(rpc.TxnRequest(success=[_get(self._meta), rpc.Operation(range=first)]))
        meta, others = answer.responses[0].range.kvs, answer.responses[1].range.kvs
        if meta:
            return meta[0].value
        if others and not decode(others[0].value)[0]:
            key = others[0].key.decode(errors="replace")
            raise Misconfigured("store", f"{self.name} holds keys of something else ({key}); choose another prefix")
        make = rpc.TxnRequest(
            compare=[rpc.Compare(key=self._meta, what=rpc.Compare.CREATE_REVISION, create_revision=0)],
            success=[_put(self._meta, _new_identity())],
        )
        self.client.txn(make)
        answer, _ = self.client.txn(rpc.TxnRequest(success=[_get(self._meta)]))
        if not answer.responses[0].range.kvs:
            raise Unavailable(f"{self.name}: the database was removed while it was made")
        return answer.responses[0].range.kvs[0].value

    def _cursor(self, identity: bytes, header: rpc.Header) -> Cursor:
        try:
            return Cursor(f"{self._epoch(identity)}.{header.cluster_id:x}", header.revision)
        except Misconfigured as error:
            raise Unavailable(error.why) from error

    def _epoch(self, identity: bytes) -> str:
        name, _, rest = identity.decode(errors="replace").partition(" ")
        schema, _, epoch = rest.partition(" ")
        if name != "flowloom" or not schema.isdigit():
            raise Misconfigured("store", f"{self.name} holds something else; choose another prefix")
        if int(schema) > SCHEMA:
            raise Misconfigured("store", f"{self.name} has schema {schema}, this release knows {SCHEMA}; upgrade it")
        return epoch


def if_newer(key: bytes, write: Write) -> rpc.TxnRequest:
    """Put, unless the key holds this version or a newer one; then say what it holds.

    Compares in the negative, because etcd answers "no" to any comparison of values where there is none.
    """
    return rpc.TxnRequest(
        compare=[
            rpc.Compare(key=key, what=rpc.Compare.VALUE, result=rpc.Compare.GREATER, value=_version(write.version))
        ],
        success=[_get(key)],
        failure=[_put(key, encode(write))],
    )


def if_unchanged(kv: rpc.KeyValue, write: Write) -> rpc.TxnRequest:
    """Put, if the key was not written since it held `kv`."""
    return rpc.TxnRequest(
        compare=[rpc.Compare(key=kv.key, what=rpc.Compare.MOD_REVISION, mod_revision=kv.mod_revision)],
        success=[_put(kv.key, encode(write))],
    )


def encode(write: Write) -> bytes:
    """The value of etcd's for what a key shall hold."""
    return _version(write.version) + (_TOMBSTONE if write.value is None else _VALUE + write.value)


def decode(value: bytes) -> tuple[int, bytes | None]:
    """Version and value; version 0 and all of it when it is not of our making."""
    version, mark = value[:_DIGITS], value[_DIGITS : _DIGITS + 1]
    if len(version) == _DIGITS and version.isdigit():
        if mark == _VALUE:
            return int(version), value[_DIGITS + 1 :]
        if mark == _TOMBSTONE and len(value) == _DIGITS + 1:
            return int(version), None
    return 0, value


def end_of(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`, whose last byte is ASCII."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _version(version: int) -> bytes:
    return b"%0*d" % (_DIGITS, version)


def _get(key: bytes) -> rpc.Operation:
    return rpc.Operation(range=rpc.RangeRequest(key=key))


def _put(key: bytes, value: bytes) -> rpc.Operation:
    return rpc.Operation(put=rpc.PutRequest(key=key, value=value))


def _new_identity() -> bytes:
    return f"flowloom {SCHEMA} {secrets.token_hex(8)}".encode()
