"""What can be wrong between Neutron and the store, of one object: a decision on values, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from flowloom.consistency.index import Held
from flowloom.consistency.marks import mark
from flowloom.consistency.table import Fact, Ref, Reopen, Row
from flowloom.model.codec import encode
from flowloom.northbound.store import Entry


class Kind(StrEnum):
    """Kinds of differences.  Those of one object between Neutron and the store, and how each is repaired:

    missing: acknowledged once, and the store has nothing.  Written again at the same version.
    stale: the store holds an older version than it acknowledged.  Written again at the same version.
    tombstone missing: deleted in Neutron, and the store holds nothing or an old value.  The same.
    orphan: the store holds a value of which Neutron knows nothing.  A tombstone above it.
    different: equal versions, other content.  Written above it.
    ahead: the store holds a version that Neutron never gave out.  Written above it.
    uncaptured: the store holds what was captured, and Neutron changed past the capture.  Written anew above.
    unmarked: both hold the same, and the sync row's mark is of something else.  Only the row is put right.

    Of others:

    not adopted: an object of Neutron without a sync row (made past the capture).
    status: a port's status in Neutron was out of step with its host's report for longer than a pass.
    dead chassis: node-owned records of a chassis that serves nothing and is silent.
    """

    MISSING = "missing"
    STALE = "stale"
    TOMBSTONE_MISSING = "tombstone missing"
    ORPHAN = "orphan"
    DIFFERENT = "different"
    AHEAD = "ahead"
    UNCAPTURED = "uncaptured"
    UNMARKED = "unmarked"
    NOT_ADOPTED = "not adopted"
    STATUS = "status"
    DEAD_CHASSIS = "dead chassis"


HARMLESS = frozenset({Kind.UNMARKED})
"""Repairs that change nothing in the store: no guard counts them."""


@dataclass(frozen=True)
class Difference:
    """One object that is not equal.

    key: where the store holds it, or should.  neutron_version, store_version: -1: there is none.
    comparison: which comparison found it.  left: why it cannot be repaired; "".
    misplaced: the store holds it at a key where Neutron never puts it: no sync row can stand for that.
    changed: Neutron holds something else than was acknowledged at its version: it changed past the capture, too.
    """

    kind: Kind
    ref: Ref
    project_id: str
    scope: str
    key: str
    neutron_version: int
    store_version: int
    comparison: str
    left: str = ""
    misplaced: bool = False
    changed: bool = False

    def reopen(self) -> Reopen:
        """How the write path is told to repair it."""
        match self.kind:
            case Kind.MISSING | Kind.STALE | Kind.TOMBSTONE_MISSING:
                # Agents may know what was acknowledged: another content needs another version.
                above = self.neutron_version if self.changed else max(0, self.store_version)
            case Kind.UNMARKED:
                above = self.neutron_version - 1
            case _:
                above = self.store_version
        return Reopen(self.ref, above, self.project_id, self.scope)


def suspicion(row: Row | None, held: Held | None) -> Kind | None:
    """What is wrong as far as versions and marks tell; None: nothing, or the drain has it in hand."""
    if row is None:
        return None if held is None or held.tombstone else Kind.ORPHAN
    if held is not None and held.version > row.version:
        return Kind.AHEAD
    if row.dirty:
        return None
    if held is None:
        return Kind.TOMBSTONE_MISSING if row.deleted else Kind.MISSING
    if held.version < row.version:
        return Kind.TOMBSTONE_MISSING if row.deleted and not held.tombstone else Kind.STALE
    return None if held.mark == row.mark else Kind.DIFFERENT


def classify(fact: Fact | None, entry: Entry | None) -> Kind | None:
    """What is wrong by content: `fact` and `entry` are of the same key and were both read just now.

    fact None: Neutron knows nothing of the object, or puts it elsewhere.  None: nothing is wrong, the drain
    has it in hand, or it cannot be judged (a kind that is not known here, an object that has no record).
    """
    row = None if fact is None else fact.row
    held = None if entry is None else Held(entry.version, mark(*entry), entry.value is None)
    kind = suspicion(row, held)
    if fact is None or row is None or entry is None or held is None or kind not in (None, Kind.DIFFERENT):
        return kind if fact is None or fact.known else None
    if not fact.known or row.dirty:
        return None
    if fact.refused is not None:
        return kind  # What it should be nobody knows; what the store acknowledged is not there any more.
    wanted = mark(entry.key, row.version, None if fact.record is None else encode(fact.record))
    if held.mark == wanted:
        return None if row.mark == wanted else Kind.UNMARKED
    return Kind.UNCAPTURED if held.mark == row.mark else Kind.DIFFERENT
