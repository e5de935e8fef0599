"""Entries of the store become records of the replica; what cannot be read is named, counted and passed over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from flowloom.kernel.errors import Rejected
from flowloom.model.codec import decode
from flowloom.model.keys import Key, parse_key
from flowloom.model.records import NORTHBOUND, PortStatus, Record
from flowloom.northbound.store import Entry

BAD_MAX: Final = 1000
"""Unreadable records that are remembered by name; all of them are counted."""

_KINDS: Final = {kind.kind: kind for kind in NORTHBOUND}


class Inlet:
    """bad: key -> why the record there cannot be read.  bad_count: how many times that happened."""

    def __init__(self, deployment: str, chassis: str) -> None:
        self.bad: dict[str, str] = {}
        self.bad_count = 0
        self._deployment = deployment
        self._chassis = chassis

    def records(self, entries: Iterable[Entry]) -> Iterator[tuple[type[Record], str, Record | None]]:
        """(kind, id, record; None: gone) of each entry that concerns this node.

        Port statuses of other chassis are passed over unread: nobody here asks for them, and there are as
        many as ports.  A record that became unreadable is left as it was known.
        """
        for entry in entries:
            if "!" in entry.key:
                continue  # Not a record: the store's own bookkeeping, see `northbound.limits`.
            try:
                found = self._record(entry)
            except Rejected as error:
                self.bad_count += 1
                if len(self.bad) < BAD_MAX:
                    self.bad[entry.key] = error.why
                continue
            if self.bad:
                self.bad.pop(entry.key, None)
            if found is not None:
                yield found

    def _record(self, entry: Entry) -> tuple[type[Record], str, Record | None] | None:
        key: Key = parse_key(entry.key)
        kind = _KINDS.get(key.kind)
        if kind is None:
            if entry.value is None:
                return None
            raise Rejected(entry.key, f"unknown kind {key.kind!r}")
        if kind is PortStatus and key.scope != self._chassis:
            return None
        if entry.value is None:
            return kind, key.id, None
        record = decode(entry.key, entry.value, key.kind)
        if record.id != key.id or record.version != entry.version:
            raise Rejected(
                entry.key,
                f"it says it is {record.id!r} version {record.version}, the store has version {entry.version}",
            )
        return kind, key.id, record
