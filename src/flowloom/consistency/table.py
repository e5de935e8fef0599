"""The SQL side as consistency sees it: sync rows with the facts behind them, leases, and the audit.

Three ports, implemented in `neutron.tables` over SQLAlchemy and in `testing.sql_model` in memory; both pass
`testing.table_conformance`.  (A fourth, which store is in force, is in `place`.)  Errors: Unavailable (no answer, or the database gave up a deadlock again and again;
the outcome of a write is then unknown, and repeating it is harmless).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from flowloom.kernel.errors import Rejected
from flowloom.model.records import Record


class Ref(NamedTuple):
    """A Neutron object."""

    kind: str
    id: str


@dataclass(frozen=True)
class Row:
    """One sync row: how far the store has followed one object.

    key: what flows carry instead of the id; allotted with the row.
    project_id, scope: where the record lies in the store, for ever.
    version: of the newest change; synced_version: the newest that the store acknowledged; 0: none.
    deleted: the object is gone, and its record is to be a tombstone.
    mark: `marks.mark` of what the store acknowledged at `synced_version`; 0: nothing yet.
    shard: `marks.shard_of` the object.
    attempts, last_error: of the drain since the last acknowledgement.
    """

    key: int
    kind: str
    id: str
    project_id: str
    scope: str
    version: int
    synced_version: int
    deleted: bool
    mark: int
    shard: int
    attempts: int = 0
    last_error: str = ""

    @property
    def ref(self) -> Ref:
        return Ref(self.kind, self.id)

    @property
    def dirty(self) -> bool:
        return self.version > self.synced_version


@dataclass(frozen=True)
class Fact:
    """A row and what Neutron holds of its object, read in one snapshot.

    record: None when the object is gone.  refused: why it cannot become a record; then record is None.
    known: False when no translation for this kind exists here (a newer plug-in wrote the row): the row is left alone.
    """

    row: Row
    record: Record | None
    refused: Rejected | None = None
    known: bool = True


class Acknowledged(NamedTuple):
    """That the store holds `version` of the row's object, with this `mark`."""

    key: int
    version: int
    mark: int


class Reopen(NamedTuple):
    """Have an object written again.

    above: its version becomes greater than this one (it stays as it is where it already is).
    project_id, scope: of the row that is made, as deleted, where the object has none (an orphan of the store).
    """

    ref: Ref
    above: int
    project_id: str
    scope: str


class ShardSum(NamedTuple):
    """What a side holds of one shard: how many objects, and the sum of their marks modulo 2**64."""

    objects: int
    total: int


class SyncTable(Protocol):
    """The sync rows.  Every method is one transaction of its own; reads are snapshots."""

    def dirty_projects(self, dirty_for_seconds: float = 0.0, refs: Collection[Ref] | None = None) -> list[str]:
        """Projects with dirty rows (among `refs`, if given) that have been dirty so long; the longest waiting first."""
        ...

    def dirty(self, project_id: str, limit: int, skip: Collection[int] = ()) -> list[Fact]:
        """Dirty rows of a project, the longest dirty first, without those whose key is in `skip`."""
        ...

    def facts(self, refs: Collection[Ref]) -> list[Fact]:
        """Rows of these objects as they are now; an object without a row is left out."""
        ...

    def acknowledge(self, done: Sequence[Acknowledged], generation: int) -> bool:
        """Move `synced_version` and `mark` forward; never back.  A row is clean when both versions meet.

        One above the row's version changes nothing: Neutron's database was restored since it was read.
        False, and nothing is changed, when `generation`, in which it was written, is not in force (`place.Place`):
        another store is.  The generation is compared in the same transaction.
        """
        ...

    def note(self, failures: Sequence[tuple[Row, str]]) -> None:
        """Write on rows why they are still dirty (unless they have changed since), and count an attempt."""
        ...

    def note_project(self, project_id: str, why: str) -> None:
        """The same on every dirty row of a project."""
        ...

    def reopen(self, lease: Lease, wanted: Sequence[Reopen], generation: int) -> bool:
        """Make these objects dirty with synced_version 0, if `lease` is still the newest of its name.

        generation: of the store in which something was found wrong with them.
        False: the lease is another's, or another generation is in force, and nothing was changed.  The fence of the
        lease and the generation are compared in the same transaction.
        """
        ...

    def sums(self) -> dict[int, ShardSum]:
        """Of every shard that is not empty: rows with synced_version > 0 and their marks."""
        ...

    def shard(self, shard: int, after_key: int, limit: int) -> list[Row]:
        """Rows of a shard in the order of their keys, from beyond `after_key`."""
        ...

    def adopt(self, limit: int) -> list[Ref]:
        """Find objects without a row, and rows of objects that went past the capture; make them dirty; which."""
        ...


@dataclass(frozen=True)
class Lease:
    """The right to act under `name`, until `seconds` after it was asked for.

    fence: greater with every new holder of the name, for ever.
    asked: how many others wanted it while it was held; see `LeaseTable.release`.
    """

    name: str
    owner: str
    fence: int
    asked: int = 0


@dataclass(frozen=True)
class Holder:
    """A lease as others see it.  seconds_left: by the database's clock; negative: it has run out."""

    name: str
    owner: str
    fence: int
    seconds_left: float


class LeaseTable(Protocol):
    """Leases by compare-and-swap in SQL, by the database's clock.

    A change is one UPDATE whose WHERE names the holder that was seen, and whose row count decides; a
    certification failure or a deadlock counts as lost.  Nothing waits.
    """

    def take(self, name: str, owner: str, seconds: float) -> Lease | None:
        """The lease, if it is free, has run out, or claims to last longer than any lease may; else None.

        None leaves word with the holder (`asked`).  The owner itself is refused too: re-entry is by handle.
        """
        ...

    def renew(self, leases: Sequence[Lease], seconds: float) -> list[Lease]:
        """Make them last `seconds` from now; those that were still ours (same fence, same owner)."""
        ...

    def release(self, lease: Lease) -> Lease | None:
        """Give it back.  If somebody asked for it since `lease.asked`, it is kept, and returned with the new number:
        look again at what it protects before letting go.  None: it is given back, or was lost before."""
        ...

    def holders(self, prefix: str) -> list[Holder]:
        """Every lease whose name begins so and that has an owner, those that ran out included."""
        ...


class AuditEntry(NamedTuple):
    """One repair, or one repair that was not made.

    at: seconds since 1970, by the database's clock (0 when appended: it is filled in).
    kind: what was found, one of `differences.Kind`.  comparison: which comparison found it.
    neutron_version, store_version: before; -1: there was none.  version: after.
    done: what was done.  verified: how it was looked at afterwards; "" when it could not be.
    by: the service.  guard: id of the guard that let it pass or held it; "".
    """

    at: float
    kind: str
    ref: Ref
    project_id: str
    comparison: str
    neutron_version: int
    store_version: int
    version: int
    done: str
    verified: str
    by: str
    guard: str = ""


class GuardEntry(NamedTuple):
    """A repair that was held because it would touch too much.

    found: kind -> how many.  approved_by: "" while it waits.
    """

    id: str
    at: float
    by: str
    found: dict[str, int]
    of_objects: int
    sample: tuple[str, ...]
    approved_by: str = ""


class AuditTable(Protocol):
    """What was repaired, and what waits for somebody's word.  Bounded: the oldest entries go first."""

    def append(self, entries: Sequence[AuditEntry]) -> None:
        """Keep them; repeating it keeps them twice."""
        ...

    def recent(self, limit: int, project_id: str | None = None, ref: Ref | None = None) -> list[AuditEntry]:
        """The newest first."""
        ...

    def prune(self, keep: int) -> int:
        """Forget all but the newest `keep`; how many went."""
        ...

    def hold(self, guard: GuardEntry) -> None:
        """Keep a guard; one with the same id is replaced unless it is approved."""
        ...

    def guards(self) -> list[GuardEntry]:
        """Those kept, the newest first (at most 100)."""
        ...

    def approve(self, guard_id: str, by: str) -> bool:
        """Let it pass; False when there is no such guard."""
        ...

    def lift(self, guard_id: str) -> None:
        """Forget it: what it held is repaired, or gone.  Nothing happens when there is none."""
        ...
