"""After a test: drain what it left dirty, then compare what Neutron holds with what the store holds.

The comparison lists every object of Neutron's tables by itself and does not ask the sync rows which objects
there are or which changed; so it finds what the capture has missed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.models import address_group, l3, port_forwarding, securitygroup
from neutron.db.qos import models as qos
from neutron.services.trunk import models as trunk
from neutron_lib.db import api as db_api

from flowloom.consistency.drain import Drain, write_of
from flowloom.consistency.marks import mark
from flowloom.consistency.place import Place
from flowloom.consistency.table import Fact, Ref
from flowloom.kernel.clock import SystemClock
from flowloom.neutron.adoption import adoptable
from flowloom.neutron.bump import place_of
from flowloom.neutron.captured import ROOTS
from flowloom.neutron.models import SYNC
from flowloom.neutron.sessions import NeutronDatabase
from flowloom.neutron.tables import SqlLeaseTable, SqlSyncTable
from flowloom.neutron.translate import facts
from flowloom.testing.fake_store import MemoryDatabase, MemoryStore

DEPLOYMENT = "own"

LISTED: dict[str, Any] = {
    "network": models_v2.Network,
    "subnet": models_v2.Subnet,
    "port": models_v2.Port,
    "router": l3.Router,
    "floatingip": l3.FloatingIP,
    "port_forwarding": port_forwarding.PortForwarding,
    "security_group": securitygroup.SecurityGroup,
    "address_group": address_group.AddressGroup,
    "qos_policy": qos.QosPolicy,
    "trunk": trunk.Trunk,
}
"""Kind of record: the table in which every object of it stands once."""


class NotEqual(AssertionError):
    """The audit found differences.  One a line."""


class _Northbound:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def store(self) -> MemoryStore:
        return self._store

    generation = 0

    def look_again(self) -> Place:
        return Place()

    def publisher(self) -> None:
        return None


class Audit:
    """Of one test: the store that its changes are drained into, after each commit, and the comparison at its end.

    at_once: False drains only at the end.
    """

    def __init__(self, at_once: bool) -> None:
        self._at_once = at_once
        self._database = NeutronDatabase()
        self._store = MemoryDatabase()
        self._table = SqlSyncTable(self._database, facts, adoptable)
        leases = SqlLeaseTable(self._database)
        self._drain = Drain(self._table, leases, _Northbound(self._store.open()), SystemClock(), DEPLOYMENT, "audit")
        self._woken: set[Ref] = set()
        self._draining = False
        self.drained, self.not_drained = 0, 0

    def wake(self, refs: Collection[Ref]) -> None:
        """After a commit, in the thread of the test: have its changes in the store before the next one.

        What was clean and is changed without a bump is then a difference; what is still dirty could hide it.
        """
        self._woken |= set(refs)
        if self._draining or not self._at_once:
            return
        self._draining = True
        try:
            self.drained += self._drain.drain(refs).written
        except Exception:  # noqa: BLE001  (a mock of the test's, perhaps: then it is drained at the end)
            self.not_drained += 1
        finally:
            self._draining = False

    def check(self, drivers: Sequence[Any], refused: Sequence[str]) -> dict[str, int]:
        """How many objects of each kind were compared, and other counts.  NotEqual names every difference.

        drivers: of this test.  refused: bulk statements that the strict capture refused.
        """
        assert set(LISTED) == set(ROOTS), f"the audit does not list {set(ROOTS) ^ set(LISTED)}"
        uncommitted = _take_back()
        wrong = [*refused]
        wrong += [f"{ref.kind} {ref.id}: no worker was woken for it" for ref in self._asleep()]
        drained = self._drain.drain()
        wrong += [f"{key}: the store is ahead" for key in drained.newer]
        wrong += [f"project {project}: somebody holds its lock" for project in drained.left]
        exist = dict(self._exist())
        rows = self._rows()
        wrong += [f"{ref.kind} {ref.id}: no sync row" for ref in sorted(exist.keys() - rows)]
        known = self._table.facts(rows)
        wrong += [line for fact in known for line in self._about(fact, exist.get(fact.row.ref))]
        held = {write_of(DEPLOYMENT, fact).key for fact in known}
        wrong += [f"{entry.key}: an orphan in the store" for entry in self._store.entries() if entry.key not in held]
        if wrong:
            raise NotEqual("\n".join(["the audit finds:", *wrong]))
        counts = {kind: sum(ref.kind == kind for ref in exist) for kind in LISTED}
        counts["bulk statements"] = sum(each.capture.bulk_statements for each in drivers)
        counts["took back"] = uncommitted
        counts["gone"] = len(rows) - len(exist)
        counts["refused"] = sum(fact.refused is not None for fact in known)
        counts["drained at once"], counts["not drained at once"] = self.drained, self.not_drained
        return {name: count for name, count in counts.items() if count}

    def _asleep(self) -> list[Ref]:
        with self._database.reader() as connection:
            dirty = connection.execute(
                sa.select(SYNC.c.kind, SYNC.c.object_id).where(SYNC.c.version > SYNC.c.synced_version)
            )
            return sorted({Ref(*row) for row in dirty} - self._woken)

    def _exist(self) -> Iterator[tuple[Ref, tuple[str, str]]]:
        """Every object that there is, with (scope, project) of where its record is to lie."""
        with self._database.reader() as connection:
            for kind, model in LISTED.items():
                for identifier in connection.scalars(sa.select(model.__table__.c.id)).all():
                    place = place_of(connection, Ref(kind, identifier))
                    assert place is not None
                    yield Ref(kind, identifier), place

    def _rows(self) -> set[Ref]:
        with self._database.reader() as connection:
            return {Ref(*row) for row in connection.execute(sa.select(SYNC.c.kind, SYNC.c.object_id))}

    def _about(self, fact: Fact, place: tuple[str, str] | None) -> Iterator[str]:
        """What is wrong with one object.  place: where its record is to lie; None: it is gone."""
        row, name = fact.row, f"{fact.row.kind} {fact.row.id}"
        write = write_of(DEPLOYMENT, fact)
        entry = self._store.open().get([write.key])[0]
        if fact.refused is not None:
            return  # Counted; the row stays dirty and says why.
        if not fact.known:
            yield f"{name}: no translation"
        if (fact.record is None) != (place is None) or row.deleted != (place is None):
            yield f"{name}: Neutron has it: {place is not None}; record {fact.record}, row says deleted={row.deleted}"
        if place is not None and (row.scope, row.project_id) != place:
            yield f"{name}: lies under {(row.scope, row.project_id)}, is to lie under {place}"
        if row.dirty:
            yield f"{name}: dirty after the drain: {row.last_error or row}"
        if entry is None:
            yield f"{name}: missing in the store"
        elif entry.version != row.version:
            yield f"{name}: version {row.version}, the store holds {entry.version}"
        elif entry.value != write.value:
            yield f"{name}: the store holds {entry.value!r}, Neutron {write.value!r}"
        elif row.mark != mark(*entry):
            yield f"{name}: the mark in SQL is not of what the store holds"


def _take_back() -> int:
    """Roll back what a test has left uncommitted on the one connection of its database; 1 if there was something.

    What nobody committed was told to no worker, and whoever reads through the same connection would see it.
    """
    with db_api.CONTEXT_WRITER.get_engine().connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        open_transaction = bool(raw.in_transaction)
        if open_transaction:
            raw.rollback()
    return int(open_transaction)
