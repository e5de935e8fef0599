"""From dirty sync rows to the northbound store, project by project, under the project's lock.

Read rows and objects in one snapshot; write each record if it is newer than what the store holds; publish;
move `synced_version`.  Whoever dies between two of these steps, or does them twice, leaves a dirty row or
repeats a write that the store finds stale: versions decide.  Who finds the lock held leaves word and goes:
the holder looks again before it lets go, so contention becomes batching and nobody waits.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flowloom.consistency.lease import LEASE_SECONDS, Held, LeaseLost, hold
from flowloom.consistency.marks import mark
from flowloom.consistency.place import Place
from flowloom.consistency.table import Acknowledged, Fact, LeaseTable, Ref, Row, SyncTable
from flowloom.kernel.clock import Clock
from flowloom.kernel.errors import Misconfigured, Rejected, Unavailable
from flowloom.model.codec import encode
from flowloom.model.keys import key_of
from flowloom.northbound.bus import Publisher
from flowloom.northbound.store import Outcome, Store, Write

LOG = logging.getLogger(__name__)

REREADS_MAX = 5
"""How often one turn reads an object again because the store held something newer than what it had read."""

BATCHES_PER_TURN = 5
"""After so many batches of one project the others get their turn."""

LOCK_PREFIX = "project:"


class Northbound(Protocol):
    """Where records go: to the store that is in force, as far as this process knows."""

    @property
    def generation(self) -> int:
        """Of that store.  Read it before `store`: then what was written is never of an older store than it says."""
        ...

    def store(self) -> Store:
        """The store; the same object as long as it is the same store.  Unavailable while it cannot be opened."""
        ...

    def publisher(self) -> Publisher | None:
        """The publisher that tells the bus what the store has taken; None: nobody follows a bus."""
        ...

    def look_again(self) -> Place:
        """Ask which store is in force, and use that one from now on."""
        ...


@dataclass(frozen=True)
class Drained:
    """What one drain did.

    written: records and tombstones that the store now holds through it or held already.
    refused: objects that were named and left dirty.  newer: keys at which the store keeps a version
    above Neutron's own; left dirty.  unknown: objects of a kind that is not known here; left alone.
    left: projects whose lock another held, who will see to them.
    """

    read: int = 0
    written: int = 0
    refused: tuple[Rejected, ...] = ()
    newer: tuple[str, ...] = ()
    unknown: tuple[Ref, ...] = ()
    left: tuple[str, ...] = ()

    def __add__(self, other: Drained) -> Drained:
        return Drained(
            self.read + other.read,
            self.written + other.written,
            self.refused + other.refused,
            self.newer + other.newer,
            self.unknown + other.unknown,
            self.left + other.left,
        )


class Drain:
    """Empties the sync table into one store.

    owner: the name under which this process holds locks; no other process has it.
    batch: objects that are read in one snapshot and written in one call.
    unpublished: notices that the bus did not take; the facts are in the store, and followers find them there.
    """

    def __init__(
        self,
        table: SyncTable,
        leases: LeaseTable,
        northbound: Northbound,
        clock: Clock,
        deployment: str,
        owner: str,
        batch: int = 200,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self.unpublished = 0
        self._table = table
        self._leases = leases
        self._northbound = northbound
        self._clock = clock
        self._deployment = deployment
        self._owner = owner
        self._batch = batch
        self._lease_seconds = lease_seconds

    def drain(self, refs: Collection[Ref] | None = None, dirty_for_seconds: float = 0.0) -> Drained:
        """Write what is dirty, in the projects of `refs`, or where it has been so for long enough.

        Projects take turns, so that none waits behind another's backlog.  An object that is refused, or at which
        the store is ahead, is attempted once a call.  Unavailable when the store or the database does not answer:
        what was written until then counts, and the rows of the project say why they are still dirty.
        """
        done = Drained()
        waiting = self._table.dirty_projects(dirty_for_seconds, refs)
        skip: dict[str, set[int]] = {project: set() for project in waiting}
        while waiting:
            turn, waiting = waiting, []
            for project in turn:
                part, more = self.drain_project(project, skip[project])
                done += part
                if more:
                    waiting.append(project)
        return done

    def drain_project(self, project: str, skip: set[int]) -> tuple[Drained, bool]:
        """One turn of a project under its lock: what was done, and whether there is more.

        skip: keys of rows not to be tried again in this call; those that cannot be written now are added.
        """
        held = hold(self._leases, self._clock, LOCK_PREFIX + project, self._owner, self._lease_seconds)
        if held is None:
            return Drained(left=(project,)), False
        done = Drained()
        try:
            while True:
                part, more = self.drain_under(held, project, skip)
                done += part
                if held.release():
                    return done, more
                # Somebody has left us a row meanwhile.
        except LeaseLost as error:
            LOG.warning("Draining project %s stops: %s", project or "-", error)
            return done, False  # Whoever has the lock now sees to it.
        except (Unavailable, Misconfigured) as error:
            self._give_up(held, project, str(error))
            raise

    def drain_under(self, held: Held, project: str, skip: set[int]) -> tuple[Drained, bool]:
        """The same under a lock that the caller holds and keeps."""
        done = Drained()
        reread: Counter[int] = Counter()
        for _ in range(BATCHES_PER_TURN):
            held.check()
            facts = self._table.dirty(project, self._batch, skip)
            if not facts:
                return done, False
            part, failed, again = self._write(held, facts)
            done += part
            reread.update(again)
            skip |= failed | {key for key in again if reread[key] >= REREADS_MAX}
            if len(facts) < self._batch and not again:
                return done, False  # Who made a row dirty since has asked for the lock, and is seen at its release.
        return done, True

    def _write(self, held: Held, facts: Sequence[Fact]) -> tuple[Drained, set[int], set[int]]:
        """Store, publish, acknowledge one batch; with it the keys of rows that failed, and of those to be read again."""
        unknown = [fact.row for fact in facts if not fact.known]
        refused = [(fact.row, fact.refused) for fact in facts if fact.known and fact.refused is not None]
        writes = {fact.row: write_of(self._deployment, fact) for fact in facts if fact.known and fact.refused is None}
        rows = {write.key: row for row, write in writes.items()}
        held.check()
        generation = self._northbound.generation
        outcomes, bad = self._apply(list(writes.values()))
        refused += [(rows[error.ref], error) for error in bad]
        here = [row for row, write in writes.items() if outcomes.get(write.key) == row.version]
        ahead = {key: row for key, row in rows.items() if outcomes.get(key, -1) > row.version}
        self._publish([writes[row] for row in here])
        done = [Acknowledged(row.key, row.version, mark(*writes[row])) for row in here]
        if not self._table.acknowledge(done, generation):
            # The deployment has moved to another store: all of this is still dirty, and goes there.
            place = self._northbound.look_again()
            LOG.info("Store generation %d is in force instead of %d: writing there", place.generation, generation)
            return Drained(read=len(facts)), set(), {row.key for row in here}
        failures = [(row, error.why) for row, error in refused]
        failures += [(row, f"objects of kind {row.kind!r} are not known to this release") for row in unknown]
        newer = self._still_behind(ahead, outcomes, failures)
        self._table.note(failures)
        for row, error in refused:
            LOG.error("%s %s stays dirty: %s", row.kind, row.id, error.why)
        drained = Drained(
            read=len(facts),
            written=len(here),
            refused=tuple(error for _, error in refused),
            newer=tuple(newer),
            unknown=tuple(row.ref for row in unknown),
        )
        return drained, {row.key for row, _ in failures}, {row.key for key, row in ahead.items() if key not in newer}

    def _apply(self, writes: list[Write]) -> tuple[dict[str, int], list[Rejected]]:
        """key -> version that the store now holds; those it refuses are left out, and named."""
        store, bad = self._northbound.store(), list[Rejected]()
        pending = {write.key: write for write in writes}
        while pending:
            try:
                return _held(store.apply(list(pending.values()))), bad
            except Rejected as error:
                if pending.pop(error.ref, None) is None:  # It names none of ours: find the guilty ones one by one.
                    return _apply_singly(store, pending.values(), bad)
                bad.append(error)
        return {}, bad

    def _publish(self, writes: Sequence[Write]) -> None:
        """Tell the bus, also what the store held already: whoever stored it may have died before the notice left."""
        publisher = self._northbound.publisher()
        if publisher is None or not writes:
            return
        try:
            publisher.publish([(write.key, write.version, write.value) for write in writes])
        except Unavailable:
            self.unpublished += len(writes)
            LOG.warning("The bus did not take %d notices; the facts are in the store", len(writes))

    def _still_behind(
        self, ahead: Mapping[str, Row], outcomes: Mapping[str, int], failures: list[tuple[Row, str]]
    ) -> list[str]:
        """Keys at which the store holds a version that Neutron has not even given out yet."""
        if not ahead:
            return []
        now = {fact.row.ref: fact.row for fact in self._table.facts([row.ref for row in ahead.values()])}
        behind = [key for key, row in ahead.items() if now[row.ref].version < outcomes[key]]
        why = "the store holds version {} of it, which Neutron never gave out (restored, or edited by hand?)"
        failures += [(ahead[key], why.format(outcomes[key])) for key in behind]
        return behind

    def _give_up(self, held: Held, project: str, why: str) -> None:
        """Say why on the rows and give the lock back; the first error is the one to be told."""
        try:
            self._northbound.look_again()  # It may have been the former store, which is switched off by now.
            self._table.note_project(project, why)
            while not held.release():
                pass
        except (Unavailable, Misconfigured) as error:
            LOG.warning("The lock of project %s runs out by itself: %s", project or "-", error)


def write_of(deployment: str, fact: Fact) -> Write:
    """What the store is to hold of a fact that was not refused."""
    row = fact.row
    key = key_of(deployment, row.project_id, row.scope, row.kind, row.id)
    return Write(key, row.version, None if fact.record is None else encode(fact.record))


def _apply_singly(store: Store, writes: Iterable[Write], bad: list[Rejected]) -> tuple[dict[str, int], list[Rejected]]:
    outcomes: dict[str, int] = {}
    for write in writes:
        try:
            outcomes |= _held(store.apply([write]))
        except Rejected as error:
            bad.append(Rejected(write.key, error.why))
    return outcomes, bad


def _held(outcomes: Iterable[Outcome]) -> dict[str, int]:
    return {outcome.key: outcome.held for outcome in outcomes}
