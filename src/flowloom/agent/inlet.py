"""Entries of the store become records of the replica; what cannot be read is named, counted and passed over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from flowloom.compiler.schema import KINDS
from flowloom.kernel.errors import Rejected
from flowloom.model.keys import NO_PROJECT, scope_prefix
from flowloom.model.records import PortStatus, Record
from flowloom.northbound.pointer import Pointer, pointer_key, pointer_of
from flowloom.northbound.store import Entry
from flowloom.northbound.topology import Change, entries_to_changes

BAD_MAX: Final = 1000
"""Unreadable records that are remembered by name; all of them are counted."""

READ: Final[dict[str, type[Record]]] = {kind.type.kind: kind.type for kind in KINDS}
"""The kinds of record that something here reads, by name."""

_STATUS: Final = f"/{PortStatus.kind}/"


class Inlet:
    """bad: key -> why the record there cannot be read.  bad_count: how many times that happened."""

    def __init__(self, deployment: str, chassis: str) -> None:
        self.bad: dict[str, str] = {}
        self.bad_count = 0
        self._own = scope_prefix(deployment, NO_PROJECT, chassis)
        self._pointer = pointer_key(deployment)

    def passes_over(self, key: str) -> bool:
        """No record is made of what is stored at `key`: the status of a port of another chassis, the pointer."""
        return key == self._pointer or (_STATUS in key and not key.startswith(self._own))

    def pointer(self, entries: Iterable[Entry]) -> Pointer | None:
        """The pointer to the deployment's store, if it is among `entries`; None too for one that cannot be read."""
        for entry in entries:
            if entry.key == self._pointer:
                try:
                    return pointer_of(entry)
                except Rejected as error:
                    self.bad_count += 1
                    self.bad[entry.key] = error.why
        return None

    def changes(self, entries: Iterable[Entry]) -> Sequence[Change]:
        """What concerns this node, in order.

        Port statuses of other chassis are passed over unread: nobody here asks for them, and there are as
        many as ports.  A record that became unreadable is left as it was known.
        """
        kept = [entry for entry in entries if not self.passes_over(entry.key)]
        changes, unreadable = entries_to_changes(kept)
        if self.bad:
            for entry in kept:
                self.bad.pop(entry.key, None)
        for key, why in unreadable:
            self.bad_count += 1
            if len(self.bad) < BAD_MAX:
                self.bad[key] = why
        return changes
