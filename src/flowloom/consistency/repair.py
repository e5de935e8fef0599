"""Repair of what differs, project by project, under the project's lock and through the write path.

The seven steps of the talk are the body of `Repairer.repair`: lock, read Neutron, read the store, compare,
update the object, next, unlock.  What is written goes the way of every change: the sync row is reopened, with
the lock's fence compared in the same transaction, and the drain writes it if it is newer.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from flowloom.consistency.compare import Suspect, reread
from flowloom.consistency.differences import Difference, Kind, classify
from flowloom.consistency.drain import LOCK_PREFIX, Drain, Northbound
from flowloom.consistency.lease import LEASE_SECONDS, Held, LeaseLost, hold
from flowloom.consistency.marks import NODE_KINDS
from flowloom.consistency.table import AuditEntry, AuditTable, Fact, LeaseTable, Ref, SyncTable
from flowloom.kernel.clock import Clock
from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.northbound.store import Entry, Write

LOG = logging.getLogger(__name__)

TURNS_MAX = 5
"""Drain turns that a repair waits for its objects, where a backlog of the project comes first."""

BEFORE = "to be written again"
"""What an entry says that was written before the repair: a service that died in between leaves it behind."""


@dataclass
class Repaired:
    """What became of suspects.

    equal: suspects that are no difference.  repaired: those repaired, and verified or in the drain's hands.
    left: cannot be repaired.  again: their lock was another's, or was lost: try later.
    answers: what the store said of each key, for whoever keeps an index.
    """

    equal: list[Suspect] = field(default_factory=list)
    repaired: list[Difference] = field(default_factory=list)
    left: list[Difference] = field(default_factory=list)
    again: list[Suspect] = field(default_factory=list)
    answers: dict[str, Entry | None] = field(default_factory=dict)
    lost: int = 0
    audited: int = 0


class Repairer:
    """Repairs suspects.  owner: under whose name locks are held, `by`: under whose name it is audited."""

    def __init__(
        self,
        table: SyncTable,
        leases: LeaseTable,
        audit: AuditTable,
        northbound: Northbound,
        drain: Drain,
        clock: Clock,
        deployment: str,
        owner: str,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._table = table
        self._leases = leases
        self._audit = audit
        self._northbound = northbound
        self._drain = drain
        self._clock = clock
        self._deployment = deployment
        self._owner = owner
        self._lease_seconds = lease_seconds

    def repair(
        self, suspects: Sequence[Suspect], held_kinds: Collection[str] = (), guard: str = "", by: str = ""
    ) -> Repaired:
        """Look at suspects again, repair what is a difference.  Unavailable: what was done until then is audited.

        held_kinds: differences of these kinds wait for `guard`; otherwise `guard` is what let them pass.
        """
        done = Repaired()
        for project, chosen in by_project(suspects):
            lock = self._lock(project)
            if lock is None:
                done.again += chosen
                continue
            try:
                generation = self._northbound.generation
                judged = reread(self._table, self._northbound.store(), self._deployment, chosen)
                found = self._sort(chosen, judged.differences, held_kinds, done)
                done.answers |= zip((suspect.key for suspect in chosen), judged.entries, strict=True)
                self._update_objects(lock, generation, project, found, done, guard, by or self._owner)
                while not lock.release():  # Unlock; but somebody has left us a row meanwhile.
                    self._drain.drain_under(lock, project, set())
            except LeaseLost as error:
                LOG.warning("The repair of project %s stops: %s", project or "-", error)
                done.lost += 1
                done.again += chosen
            except (Unavailable, Misconfigured):
                _give_up(lock, project)
                raise
            # Next.
        return done

    def _lock(self, project: str) -> Held | None:
        return hold(self._leases, self._clock, LOCK_PREFIX + project, self._owner, self._lease_seconds)

    def _sort(
        self, chosen: Sequence[Suspect], differences: Sequence[Difference], held_kinds: Collection[str], done: Repaired
    ) -> list[Difference]:
        """Those to be repaired now; those that cannot be are noted, and those that a guard holds are found again."""
        found = {difference.key for difference in differences}
        done.equal += [suspect for suspect in chosen if suspect.key not in found]
        rest = [each for each in differences if each.kind not in held_kinds]
        done.left += [each for each in rest if each.left]
        return [each for each in rest if not each.left]

    def _update_objects(
        self,
        lock: Held,
        generation: int,
        project: str,
        found: Sequence[Difference],
        done: Repaired,
        guard: str,
        by: str,
    ) -> None:
        if not found:
            return
        lock.check()
        self._audit.append([_entry(each, -1, BEFORE, "", by, guard) for each in found])
        placed, strays = [each for each in found if not each.misplaced], [each for each in found if each.misplaced]
        if placed:
            # `update_object` of the talk: make it dirty if the lock is still ours, then the ordinary way.
            if not self._table.reopen(lock.lease, [each.reopen() for each in placed], generation):
                self._northbound.look_again()
                raise LeaseLost(
                    f"the lock of project {project or '-'} went to another while its objects were compared, "
                    "or the deployment moved to another store"
                )
            self._write(lock, project, {each.ref for each in placed})
        if strays:
            self._bury(lock, strays)
        self._verify(found, done, guard, by)

    def _write(self, lock: Held, project: str, refs: set[Ref]) -> None:
        skip: set[int] = set()
        for _ in range(TURNS_MAX):
            _, more = self._drain.drain_under(lock, project, skip)
            if not more or not any(fact.row.dirty for fact in self._table.facts(refs)):
                return

    def _bury(self, lock: Held, strays: Sequence[Difference]) -> None:
        """Tombstones where Neutron never writes: no row can carry them, hence straight into the store."""
        lock.check()
        writes = [Write(each.key, each.store_version + 1, None) for each in strays]
        self._northbound.store().apply(writes)
        publisher = self._northbound.publisher()
        if publisher is not None:
            try:
                publisher.publish([(write.key, write.version, None) for write in writes])
            except Unavailable as error:
                LOG.warning("The bus did not take %d notices: %s", len(writes), error)

    def _verify(self, found: Sequence[Difference], done: Repaired, guard: str, by: str) -> None:
        """Read both sides again, and say what was seen."""
        facts = {fact.row.ref: fact for fact in self._table.facts({each.ref for each in found if not each.misplaced})}
        entries = self._northbound.store().get([each.key for each in found])
        done.answers |= {each.key: entry for each, entry in zip(found, entries, strict=True)}
        done.repaired += found
        said = []
        for each, entry in zip(found, entries, strict=True):
            fact = None if each.misplaced else facts.get(each.ref)
            version, what, seen = -1 if entry is None else entry.version, _done(each, entry), _verified(fact, entry)
            said.append(_entry(each, version, what, seen, by, guard))
            LOG.info("Repaired %s %s, which was %s: %s; %s", each.ref.kind, each.ref.id, each.kind, what, seen)
        self._audit.append(said)
        done.audited += len(said)


def by_project(suspects: Sequence[Suspect]) -> Iterator[tuple[str, list[Suspect]]]:
    """Suspects in the projects whose locks protect them; node-owned records are nobody's to repair here."""
    projects: dict[str, list[Suspect]] = {}
    for suspect in suspects:
        if suspect.ref.kind not in NODE_KINDS:
            projects.setdefault(suspect.project_id, []).append(suspect)
    yield from projects.items()


def _give_up(lock: Held, project: str) -> None:
    """Give the lock back; the error that made this necessary is the one to be told."""
    try:
        while not lock.release():
            pass
    except Unavailable as error:
        LOG.warning("The lock of project %s runs out by itself: %s", project or "-", error)


def _done(each: Difference, entry: Entry | None) -> str:
    if each.kind == Kind.UNMARKED:
        return "acknowledged again"
    if entry is None or entry.version <= each.store_version:
        return "made dirty"
    what = "tombstone" if entry.value is None else "record"
    return f"{what} written as version {entry.version}"


def _verified(fact: Fact | None, entry: Entry | None) -> str:
    """How both sides look after the repair, read anew."""
    if fact is not None and fact.row.dirty:
        return f"not yet written: {fact.row.last_error or 'behind a backlog'}"
    kind = classify(fact, entry)
    return "read again: equal" if kind is None else f"read again: {kind}"


def _entry(each: Difference, version: int, done: str, verified: str, by: str, guard: str) -> AuditEntry:
    return AuditEntry(
        at=0.0,
        kind=each.kind,
        ref=each.ref,
        project_id=each.project_id,
        comparison=each.comparison,
        neutron_version=each.neutron_version,
        store_version=each.store_version,
        version=version,
        done=done,
        verified=verified,
        by=by,
        guard=guard,
    )
