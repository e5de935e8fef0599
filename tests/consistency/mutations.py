"""Production code with one thing taken away, for the simulator to judge."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import pytest

from flowloom.consistency import shards
from flowloom.consistency.differences import Difference
from flowloom.consistency.drain import Drain
from flowloom.consistency.lease import Held
from flowloom.consistency.table import Acknowledged, Lease, Ref, Reopen
from flowloom.northbound.follower import Follower
from flowloom.northbound.replica import Replica
from flowloom.northbound.store import Entry
from flowloom.testing.broken_models import OverwritingDatabase, nobody
from flowloom.testing.consistency_simulator import DRAIN_ALONE, FLOWLOOM, Parts
from flowloom.testing.consistency_simulator_actors import NeutronProcess
from flowloom.testing.consistency_simulator_ports import Faults
from flowloom.testing.sql_model import Content, LeaseRow, NeutronTransaction, SyncRow
from flowloom.testing.sql_model_tables import ModelTables

SLOW = Faults(slow=0.5)
"""Nothing goes wrong, and everything takes its time."""


@dataclass(frozen=True)
class Mutation:
    """patch: what is changed of production code.  parts: what is changed of the model's statements.

    harmless: why it does no harm in the end; "": it is caught.
    faults: these, instead of what the seed draws: those under which it is not rare.
    """

    parts: Parts
    patch: Callable[[pytest.MonkeyPatch], None] = lambda patch: None
    harmless: str = ""
    faults: Faults | None = None


# Statements of the SQL side -------------------------------------------------------------------------


class AcknowledgesWhateverIsThere(ModelTables):
    def _acknowledged(self, row: SyncRow | None, done: Acknowledged) -> SyncRow | None:
        if row is None:
            return None
        return row._replace(synced_version=row.version, mark=done.mark, dirty_since=0.0)


class ReleasesAnyway(ModelTables):
    def _released(self, row: LeaseRow | None, lease: Lease) -> LeaseRow | None:
        return super()._released(row, lease if row is None else replace(lease, asked=row.asked))


class TakesWhatIsHeld(ModelTables):
    def _asked(self, row: LeaseRow | None, seen: LeaseRow) -> LeaseRow | None:
        return None

    def take(self, name: str, owner: str, seconds: float) -> Lease | None:
        row = self.database.table("lease").get(name)
        if row is not None:
            self.database.force("lease", name, row._replace(owner=""))
        return super().take(name, owner, seconds)


class ReopensWithoutFence(ModelTables):
    def _fenced(self, row: LeaseRow | None, lease: Lease) -> LeaseRow | None:
        return row


class WaitsForAFutureTime(ModelTables):
    def dirty_projects(self, dirty_for_seconds: float = 0.0, refs: Collection[Ref] | None = None) -> list[str]:
        now = self.database.now()
        early = {ref for ref, row in self.database.table("sync").items() if row.dirty_since <= now}
        if dirty_for_seconds > 0:
            refs = early if refs is None else early & set(refs)
        return super().dirty_projects(dirty_for_seconds, refs)


class BumpsOnceForSavepoints(NeutronTransaction):
    """A bump inside a savepoint counts for the whole transaction, also when the savepoint is rolled back."""

    def _bump(self, ref: Any, content: Content | None, came: bool) -> None:
        super()._bump(ref, content, came)
        self._bumped[0].update(self._bumped[-1])


class ReopensBelow(ModelTables):
    def _reopened(self, row: SyncRow | None, wanted: Reopen) -> SyncRow:
        return super()._reopened(row, wanted._replace(above=0))


# Python of the product --------------------------------------------------------------------------------


def acts_after_its_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Held, "check", lambda self: None)


def never_publishes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Drain, "_publish", lambda self, writes: None)


def acknowledges_first(patch: pytest.MonkeyPatch) -> None:
    write = Drain._write

    def acknowledge_then_write(self: Drain, held: Held, facts: Any) -> Any:
        self._table.acknowledge([Acknowledged(fact.row.key, fact.row.version, 1) for fact in facts if fact.known], 0)
        return write(self, held, facts)

    patch.setattr(Drain, "_write", acknowledge_then_write)


def never_looks_again(patch: pytest.MonkeyPatch) -> None:
    """A row that was left to the holder stays where it is: the holder does not look once more."""
    release = Held.release

    def let_go(self: Held) -> bool:
        while not release(self):
            pass
        return True

    patch.setattr(Held, "release", let_go)


def never_wakes_the_drain(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NeutronProcess, "wake", lambda self, refs: None)


def follower_ignores_epochs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Follower, "_see_epoch", lambda self, cursor, now: None)


def follower_takes_anything(patch: pytest.MonkeyPatch) -> None:
    def take(self: Replica, entry: Entry) -> Entry | None:
        self._tombstones.pop(entry.key, None)
        self.forget(entry.key, 1 << 60)
        return original(self, entry)

    original = Replica.take
    patch.setattr(Replica, "take", take)


def follower_never_compares(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Follower, "_compare", lambda self, prefix, now: None)


def leases_of_the_future_live(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shards, "LEASE_SECONDS_MAX", float("inf"))


def repairs_at_the_same_version(patch: pytest.MonkeyPatch) -> None:
    reopen = Difference.reopen
    patch.setattr(Difference, "reopen", lambda self: reopen(replace(self, changed=False)))


MUTATIONS: dict[str, Mutation] = {
    "acknowledge without looking at the version": Mutation(replace(DRAIN_ALONE, tables=AcknowledgesWhateverIsThere)),
    "acknowledge before the store has it": Mutation(DRAIN_ALONE, acknowledges_first),
    "read rows and objects in two snapshots": Mutation(replace(DRAIN_ALONE, whole_snapshot=False)),
    "a bump is forgotten with its savepoint": Mutation(
        replace(DRAIN_ALONE, neutron_transaction=BumpsOnceForSavepoints)
    ),
    "act after the lease has run out, into a store that overwrites": Mutation(
        replace(DRAIN_ALONE, database=OverwritingDatabase), acts_after_its_lease
    ),
    "release although somebody asked, without recovery": Mutation(
        replace(DRAIN_ALONE, tables=ReleasesAnyway, recover=nobody), faults=SLOW
    ),
    "an agent takes what is older": Mutation(DRAIN_ALONE, follower_takes_anything),
    "an agent never compares": Mutation(DRAIN_ALONE, follower_never_compares),
    "repair below the version that the store holds": Mutation(replace(FLOWLOOM, tables=ReopensBelow)),
    "a lease of a time to come counts as held": Mutation(
        FLOWLOOM, leases_of_the_future_live, faults=Faults(clock_jump=0.1, crash=0.01, tamper=0.1)
    ),
    "what went past the capture is repaired at its old version": Mutation(
        FLOWLOOM, repairs_at_the_same_version, faults=Faults(slow=0.2, wipe=0.1, bypass=0.2)
    ),
    "what is dirty since a time to come is left for then": Mutation(
        replace(DRAIN_ALONE, tables=WaitsForAFutureTime), faults=Faults(clock_jump=0.1, crash=0.01)
    ),
    "act after the lease has run out": Mutation(
        DRAIN_ALONE, acts_after_its_lease, "the store applies only what is newer"
    ),
    "take a lock that another holds": Mutation(
        replace(DRAIN_ALONE, tables=TakesWhatIsHeld), harmless="the store applies only what is newer"
    ),
    "release although somebody asked": Mutation(
        replace(DRAIN_ALONE, tables=ReleasesAnyway), harmless="recovery drains what stays dirty"
    ),
    "look no more after being asked": Mutation(DRAIN_ALONE, never_looks_again, "recovery drains what stays dirty"),
    "never wake the drain after a commit": Mutation(
        DRAIN_ALONE, never_wakes_the_drain, "recovery drains what stays dirty"
    ),
    "an agent does not see that the store is another": Mutation(
        FLOWLOOM, follower_ignores_epochs, "it only keeps flows less long while a store is filled again"
    ),
    "never publish": Mutation(DRAIN_ALONE, never_publishes, "agents compare now and then without being told"),
    "reopen without comparing the fence": Mutation(
        replace(FLOWLOOM, tables=ReopensWithoutFence), harmless="writing again what is current changes nothing"
    ),
}
"""By what is taken away."""
