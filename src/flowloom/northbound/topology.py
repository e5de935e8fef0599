"""Records in and out of the northbound store: the level at which the rest of Flowloom speaks of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flowloom.kernel.errors import Rejected, Unavailable
from flowloom.model.codec import decode, encode
from flowloom.model.keys import key_of, parse_key
from flowloom.model.records import NORTHBOUND, Record
from flowloom.model.sharing import share
from flowloom.northbound.bus import Publisher
from flowloom.northbound.store import Entry, Outcome, Store, Write

_KINDS: dict[str, type[Record]] = {kind.kind: kind for kind in NORTHBOUND}


class Put(NamedTuple):
    """`record` as it should be, distributed with `scope` of `project`."""

    project: str
    scope: str
    record: Record


class Delete(NamedTuple):
    """That the record is gone, as of `version`."""

    project: str
    scope: str
    kind: type[Record]
    id: str
    version: int


class Change(NamedTuple):
    """A record, or its absence (None), at `version`."""

    kind: type[Record]
    id: str
    record: Record | None
    version: int


class Bad(NamedTuple):
    """An entry that is no record which this release can read."""

    key: str
    why: str


class Topology:
    """One deployment's records in a store, announced on a bus.  Thread-safe as far as store and publisher are.

    publisher: None where nobody follows a bus.
    unpublished: notices that the bus refused; whoever follows finds those facts by comparing.
    """

    def __init__(self, store: Store, publisher: Publisher | None, deployment: str) -> None:
        self.deployment = deployment
        self.unpublished = 0
        self._store = store
        self._publisher = publisher

    def put(self, project: str, scope: str, record: Record) -> Outcome:
        """Store `record` if it is newer.  Raises what `Store.apply` raises."""
        return self.apply([Put(project, scope, record)])[0]

    def delete(self, project: str, scope: str, kind: type[Record], id: str, version: int) -> Outcome:
        """Leave a tombstone at `version` if that is newer."""
        return self.apply([Delete(project, scope, kind, id, version)])[0]

    def apply(self, intents: Sequence[Put | Delete]) -> list[Outcome]:
        """Store each intent that is newer, then publish those that the store now holds; outcomes in order.

        An intent that the store held already is published too: whoever stored it may have died before
        the notice left.
        """
        writes = [self._write(intent) for intent in intents]
        outcomes = self._store.apply(writes)
        held = [w for w, outcome in zip(writes, outcomes, strict=True) if outcome.held == w.version]
        if self._publisher is not None and held:
            try:
                self._publisher.publish([(write.key, write.version, write.value) for write in held])
            except Unavailable:
                self.unpublished += len(held)
        return outcomes

    def _write(self, intent: Put | Delete) -> Write:
        match intent:
            case Put(project, scope, record):
                key = key_of(self.deployment, project, scope, record.kind, record.id)
                return Write(key, record.version, encode(record))
            case Delete(project, scope, kind, id, version):
                return Write(key_of(self.deployment, project, scope, kind.kind, id), version, None)


def entries_to_changes(entries: Iterable[Entry]) -> tuple[list[Change], list[Bad]]:
    """Entries as records, in order; and those that are none: corrupt, of an unknown kind, or of a newer schema."""
    changes: list[Change] = []
    bad: list[Bad] = []
    for entry in entries:
        try:
            changes.append(_change(entry))
        except Rejected as error:
            bad.append(Bad(entry.key, error.why))
    return changes, bad


def _change(entry: Entry) -> Change:
    key = parse_key(entry.key)
    kind = _KINDS.get(key.kind)
    if kind is None:
        raise Rejected(entry.key, f"unknown kind {key.kind!r}")
    if entry.value is None:
        return Change(kind, key.id, None, entry.version)
    record = decode(entry.key, entry.value, key.kind)
    if record.id != key.id:
        raise Rejected(entry.key, f"the value says it is {record.id!r}")
    if record.version != entry.version:
        raise Rejected(entry.key, f"the value says version {record.version}, the store {entry.version}")
    share(record)
    return Change(kind, record.id, record, entry.version)
