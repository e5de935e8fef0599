"""Neutron's database, the store and the agents' replicas under faults, from one seed: are they equal in the end?

W Neutron workers, R recovery services and A agents run production code (`consistency`, `northbound.follower`) on a
SQL model, a store and a bus of the simulation, in virtual time, in one thread.  Every call of a port is made of steps,
between which anybody may go on; there processes are also killed or held up, answers lost, late or belated.

    result = simulate(seed)
    assert not result.failures

First users work while things go wrong.  Then everything is healed, and within `SETTLE_SECONDS` of virtual time all
copies must be equal.  All the while: what the store takes, Neutron has committed at that very version; no reader of
the store and no agent sees a version go back; what was acknowledged to a user stays.
"""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Final

from flowloom.consistency.lease import LEASE_SECONDS_MAX
from flowloom.consistency.table import Ref
from flowloom.kernel.errors import Rejected
from flowloom.model.codec import encode
from flowloom.model.keys import deployment_prefix, key_of, project_prefix
from flowloom.northbound.follower import Follower, FollowerSettings
from flowloom.northbound.store import Entry, Write
from flowloom.testing.consistency_simulator_actors import (
    DEPLOYMENT,
    AgentProcess,
    FollowerLike,
    NeutronProcess,
    Operator,
    Process,
    RecoveryProcess,
    drain_as_the_worker_does,
    next_text,
    recover,
    recover_by_draining,
    wake_the_worker,
)
from flowloom.testing.consistency_simulator_ports import (
    LOSSES,
    NO_FAULTS,
    Environment,
    Faults,
    SimulatedBus,
    StoreLedger,
    draw_faults,
)
from flowloom.testing.fake_store import MemoryDatabase
from flowloom.testing.scheduler import Task
from flowloom.testing.sql_model import Conflicts, Content, NeutronTransaction, SqlModel, Transaction
from flowloom.testing.sql_model_tables import ModelTables, record
from flowloom.testing.table_conformance import KINDS, REFUSED, UNKNOWN_KIND

SETTLE_SECONDS: Final = 400.0
"""Virtual time within which all copies are equal once everything is healed: leases run out, back-offs end."""

WORK_SECONDS_MAX: Final = 120.0
"""Virtual time after which it is healed although users have not finished: they may be locked out for long."""

WORLDS_PER_COLLECTION: Final = 25


JUNK: Final = b'{"schema":1,"kind":"port","id":"junk","version":1}'


_key_of = lru_cache(maxsize=10_000)(key_of)


@dataclass(frozen=True)
class Parts:
    """What the processes of a simulation are made of: production code, unless a broken model replaces a part.

    tombstones: whether a deleted object is to leave one in the store.
    without: faults that these parts do not claim to survive.
    whole_snapshot: whether a transaction of the SQL model reads one (`SqlModel.whole_snapshot`).
    """

    tables: Callable[[SqlModel], ModelTables] = ModelTables
    neutron_transaction: Callable[[Transaction, SqlModel], NeutronTransaction] = NeutronTransaction
    committed: Callable[[NeutronProcess, Iterable[Ref]], None] = wake_the_worker
    neutron_drain: Callable[[NeutronProcess], None] = drain_as_the_worker_does
    recover: Callable[[RecoveryProcess], None] = recover
    follower: Callable[[Sequence[str], Random, FollowerSettings], FollowerLike] = Follower
    database: Callable[[Random], MemoryDatabase] = MemoryDatabase
    tombstones: bool = True
    without: tuple[str, ...] = ()
    whole_snapshot: bool = True


FLOWLOOM: Final = Parts()

DRAIN_ALONE: Final = Parts(recover=recover_by_draining, without=LOSSES)
"""What holds without any comparison."""


@dataclass(frozen=True)
class Result:
    """failures: what was not as promised, a sentence each.  steps: how often a task went on.

    settled_seconds: virtual time from healing to equal.
    """

    seed: int
    failures: tuple[str, ...]
    steps: int
    seconds: float
    settled_seconds: float
    acknowledged: int


@dataclass
class World:
    """One simulation.  Made from its seed alone, and from the parts under test."""

    seed: int
    parts: Parts = FLOWLOOM
    trace: list[str] | None = None
    faults: Faults | None = None
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random = Random(self.seed)
        self.lease_seconds = random.choice((6.0, 15.0))
        self.batch = random.choice((1, 2, 200))
        self.gap_seconds = random.choice((0.5, 2.0, 4.0))
        self.operations_left = random.randint(15, 50)
        self.refused = random.choice((0.0, 0.0, 0.03))
        self.guard_objects = random.choice((1, 1000))
        self.watched = random.random() < 0.8
        faults = self.faults if self.faults is not None else draw_faults(random, self.parts.without)
        self.compares = any(getattr(faults, name) for name in LOSSES) or random.random() < 0.3
        self.environment = Environment(random, faults, self.lease_seconds, self.trace)
        self.environment.crash = self._crash
        self.scheduler = self.environment.scheduler
        self.database = self.parts.database(Random(random.random()))
        self.ledger = StoreLedger(self.environment, self.database, self._wrote)
        self.bus = SimulatedBus(self.environment)
        self._clock_offset = 1_700_000_000.0
        self.sql = SqlModel(
            lambda: self._clock_offset + self.scheduler.now,
            self.environment.sql_step,
            random.choice(tuple(Conflicts)),
            self.scheduler,
            self.parts.whole_snapshot,
        )
        self.sql.committed = self._committed
        self.texts = 0
        self.histories = 0
        self.tampered: set[str] = set()
        self.process_of: dict[Task, Process] = {}
        self.latencies: dict[str, float] = {}
        self._versions: dict[Ref, int] = {}
        self._acknowledged = 0
        self._contents: dict[tuple[Ref, int], list[tuple[int, Content | None]]] = {}
        self._copies: list[Sequence[Entry]] = []
        self._strays: set[str] = set()
        self._ahead: set[str] = set()
        self._bypassed: set[Ref] = set()
        self._make_objects()
        self._make_processes()

    def _make_objects(self) -> None:
        random = self.random
        projects = ("a", "b")[: random.choice((1, 2))]
        networks = [(f"n{n}", projects[n % len(projects)]) for n in range(random.choice((1, 2)))]
        self.places: dict[Ref, tuple[str, str]] = {Ref("network", n): (project, n) for n, project in networks}
        for number in range(random.randint(2, 6)):
            network, project = networks[number % len(networks)]
            self.places[Ref("port", f"p{number}")] = (project, network)
        if random.random() < 0.05:
            self.places[Ref(UNKNOWN_KIND, "u0")] = (networks[0][1], networks[0][0])
        self.refs = list(self.places)
        self.keys = {ref: key_of(DEPLOYMENT, *place, ref.kind, ref.id) for ref, place in self.places.items()}
        self._ref_of_key = {key: ref for ref, key in self.keys.items()}
        self.projects = projects

    def _make_processes(self) -> None:
        random = self.random
        everything = [deployment_prefix(DEPLOYMENT)]
        one_project = [project_prefix(DEPLOYMENT, self.projects[-1])]
        self.neutrons = [NeutronProcess(self, f"neutron{n}") for n in range(random.choice((1, 2, 2, 3)))]
        self.recoveries = [RecoveryProcess(self, f"recovery{n}") for n in range(random.choice((1, 2)))]
        self.agents = [AgentProcess(self, f"agent{n}", (everything, one_project)[n]) for n in range(2)]
        self.processes: list[Process] = [*self.neutrons, *self.recoveries, *self.agents]
        if self.guard_objects < 1000 and self.compares:
            self.processes.append(Operator(self, "operator"))
        if random.random() < 0.3:
            self.latencies[random.choice(self.processes).name] = random.random() ** 2
        self.bus.subscribers = [agent.hear for agent in self.agents]

    # What processes tell ---------------------------------------------------------------------------

    def next_content(self, ref: Ref, found: Content | None) -> Content | None:
        """What a user does next to an object."""
        return next_text(self, ref, found)

    def acknowledged(self, versions: dict[Ref, int]) -> None:
        """A user was told that these versions are committed."""
        self._acknowledged += 1
        for ref, version in versions.items():
            self._versions[ref] = max(version, self._versions.get(ref, 0))

    def violation(self, what: str) -> None:
        """Something happened that never may."""
        self.environment.say(f"VIOLATION: {what}")
        self.violations.append(what)

    def _committed(self, one: Transaction) -> None:
        """Note what Neutron holds of an object at each version: one content, unless it changes past the capture."""
        objects, rows = self.sql.table("objects"), self.sql.table("sync")
        for table, key in one.written:
            row = rows.get(key) if table in ("objects", "sync") else None
            if row is None:
                continue
            ref, found = Ref(row.kind, row.id), (row.key, objects.get(key))
            known = self._contents.setdefault((ref, row.version), [])
            if found not in known:
                known.append(found)
                if self.trace is not None:
                    self.environment.say(f"commits {ref.kind} {ref.id} version {row.version}: {found[1]}")

    def _wrote(self, write: Write) -> None:
        """What the store takes must be what Neutron committed at that version."""
        if write.key in self._strays:
            if write.value is not None:
                self.violation(f"the store took a value of {write.key}, where Neutron never puts one")
            return
        ref = self._ref_of_key.get(write.key)
        committed = None if ref is None else self._contents.get((ref, write.version))
        if ref is None or not committed:
            self.violation(f"the store took version {write.version} of {write.key}, which Neutron never had")
        elif all(write.value != self._value(ref, write.version, *found) for found in committed):
            self.violation(f"the store took a content of {write.key} that Neutron never had at version {write.version}")

    def _value(self, ref: Ref, version: int, key: int, content: Content | None) -> bytes | None:
        if content is None:
            return None
        found = record(ref.kind, ref.id, content.project_id, content.scope, key, version, content.text)
        return b"" if isinstance(found, Rejected) else encode(found)

    # What goes wrong --------------------------------------------------------------------------------

    def _crash(self, task: Task) -> None:
        process = self.process_of[task]
        if not process.up:
            return
        process.crash()
        self.scheduler.after(self.random.random() ** 2 * 20.0, lambda: None if process.up else process.start())

    def _every_second(self) -> None:
        faults, chance = self.environment.faults, self.random.random
        if faults is NO_FAULTS:
            return
        if chance() < faults.outage:
            self._outage(chance() ** 2 * 40.0)
        if chance() < faults.clock_jump:
            self._clock_offset += self.random.choice((3600.0, -3600.0))
            self.environment.say("the database's clock jumps")
        if chance() < 0.2:
            self._copies.append(self.database.copy())
        if chance() < faults.trim:
            self.database.trim(self.random.randrange(3))
        if chance() < faults.wipe:
            self.environment.say("the store is wiped")
            self.database.wipe()
            self._another_history()
        if self._copies and chance() < faults.restore:
            self.environment.say("the store is restored from an old copy")
            self.database.restore(self.random.choice(self._copies))
            self._another_history()
        if chance() < faults.tamper:
            self._tamper()
        if chance() < faults.bypass:
            self._bypass()
        self.scheduler.after(1.0, self._every_second)

    def _another_history(self) -> None:
        self.histories += 1
        self.ledger.another_history()

    def _tamper(self) -> None:
        """Somebody uses the store's own client."""
        random = self.random
        ref = random.choice(self.refs)
        key = self.keys[ref]
        held = {entry.key: entry for entry in self.database.entries()}
        found = held.get(key)
        # What was written by hand, seen by an agent, and then lost by the store: not claimed (docs/why.md).
        loses = self.environment.faults.restore or self.environment.faults.wipe
        match random.randrange(6):
            case 0:
                ref = Ref("port", f"orphan{random.randrange(3)}")
                key = key_of(DEPLOYMENT, *self.places[self.refs[0]], ref.kind, ref.id)
                self._ref_of_key[key], self.keys[ref] = ref, key
                if not (loses and key in self.tampered):
                    self._plant(key, held)
            case 1 if ref.kind in KINDS and ref in self.sql.table("sync"):
                key = key_of(DEPLOYMENT, self.places[ref][0], "elsewhere", ref.kind, ref.id)
                self._strays.add(key)
                if not (loses and key in self.tampered):
                    self._plant(key, held)
            case 2 if key not in self._ahead:
                self._write_by_hand(key, None)
            case 3 if found is not None and not loses:
                self._write_by_hand(key, found._replace(value=JUNK if found.value != JUNK else None))
            case 4 if found is not None and not loses:
                self._ahead.add(key)
                version, value = found.version + random.randint(1, 9), random.choice((JUNK, None))
                self._write_by_hand(key, Entry(key, version, value))
            case 5 if found is not None and found.version > 1 and key not in self._ahead:
                self._write_by_hand(key, Entry(key, found.version - 1, JUNK))

    def _plant(self, key: str, held: dict[str, Entry]) -> None:
        """Something where Neutron has nothing; where it was removed, it comes back."""
        version = held[key].version + 1 if key in held else self.random.randint(1, 5)
        self._write_by_hand(key, Entry(key, version, JUNK))

    def _write_by_hand(self, key: str, entry: Entry | None) -> None:
        self.environment.say(f"somebody tampers with {key}: {entry}")
        self.tampered.add(key)
        self.ledger.newest_told.pop(key, None)
        self.database.tamper(key, entry, seen=self.random.random() < 0.5)

    def _bypass(self) -> None:
        """Somebody changes an object of Neutron's past the capture: by hand, or in a way that nobody knows of."""
        ref = self.random.choice(self.refs)
        row = self.sql.table("sync").get(ref)
        if row is not None and row.version > row.synced_version:
            return  # Nobody knows yet what the store took of this version: `docs/why.md`, what is not claimed.
        content = self.next_content(ref, self.sql.table("objects").get(ref))
        self.environment.say(f"{ref.kind} {ref.id} changes past the capture: {content}")
        self._bypassed.add(ref)
        self.sql.force("objects", ref, content)

    def _outage(self, seconds: float) -> None:
        if not self.database.available:
            return
        self.environment.say(f"the store is away for {seconds:.1f} s")
        self.database.available = False

        def back() -> None:
            self.environment.say("the store is back")
            self.database.available = True

        self.scheduler.after(seconds, back)

    # The run ----------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Work under faults, heal, settle."""
        healed_at = 0.0
        failures: list[str] = []
        try:
            for process in self.processes:
                process.start()
            self.scheduler.after(1.0, self._every_second)
            while self.operations_left > 0 and self.scheduler.now < WORK_SECONDS_MAX and not self.violations:
                self.scheduler.run(self.scheduler.now + 1.0)
            self._heal()
            healed_at = self.scheduler.now
            failures = self._settle(healed_at + SETTLE_SECONDS)
        finally:
            self.scheduler.close()
        now = self.scheduler.now
        return Result(self.seed, tuple(failures), self.scheduler.steps, now, now - healed_at, self._acknowledged)

    def _heal(self) -> None:
        self.environment.say("--- healed ---")
        self.environment.set_faults(NO_FAULTS)
        self.operations_left = 0
        self.latencies.clear()
        for task in self.process_of:
            task.latency = 0.0
        self.database.available = True
        for process in self.processes:
            if not process.up:
                process.start()

    def _settle(self, deadline: float) -> list[str]:
        """Let time pass until all is equal and nothing is under way any more; else what is not equal."""
        while True:
            self.scheduler.run(self.scheduler.now + 1.0)
            wrong = self.violations + self.ledger.went_back + self._broken_tasks()
            if wrong:
                return wrong
            under_way = self.ledger.in_flight or self.environment.paused
            if not under_way and not self._dirty() and not self.differences():
                return []
            if self.scheduler.now >= deadline:
                return self.differences() or ["something is still under way"]

    def _dirty(self) -> bool:
        """Whether the drain still has something to do that can be done: the cheap part of the verdict."""
        objects = self.sql.table("objects")
        for ref, row in self.sql.table("sync").items():
            content = objects.get(ref)
            writable = row.kind in KINDS and (content is None or content.text != REFUSED)
            if writable and row.version > row.synced_version:
                return True
        return False

    def _broken_tasks(self) -> list[str]:
        broken = [(task, task.error) for task in self.process_of if task.error is not None]
        return [f"{task.name} died: {''.join(traceback.format_exception(error))}" for task, error in broken]

    # The verdict ------------------------------------------------------------------------------------

    def differences(self) -> list[str]:
        """What is not equal, a sentence each."""
        held = {entry.key: entry for entry in self.database.entries()}
        found = [said for ref in self.sql.table("objects") if (said := self._without_row(ref))]
        found += [said for ref in self.sql.table("sync") if (said := self._of_row(ref, held))]
        rows = self.sql.table("sync")
        found += [
            f"orphan in the store: {entry}"
            for key, entry in held.items()
            if entry.value is not None and self._ref_of_key.get(key) not in rows
        ]
        found += [
            f"an acknowledged change is lost: {ref} {version}"
            for ref, version in self._versions.items()
            if ref not in rows or rows[ref].version < version
        ]
        live = {key: entry for key, entry in held.items() if entry.value is not None}
        for agent in self.agents:
            found += self._replica_differences(agent, live)
        now = self.sql.now()
        found += [
            f"{name} is still held by {lease.owner}"
            for name, lease in self.sql.table("lease").items()
            if name.startswith("project:") and lease.owner and now <= lease.until <= now + LEASE_SECONDS_MAX
        ]
        return found

    def _unwritable(self) -> list[Ref]:
        """Objects that nobody can make a record of."""
        objects = self.sql.table("objects").items()
        return [Ref(*ref) for ref, content in objects if ref[0] not in KINDS or content.text == REFUSED]

    def _replica_differences(self, agent: AgentProcess, live: dict[str, Entry]) -> list[str]:
        wanted = {key: entry for key, entry in live.items() if key.startswith(tuple(agent.prefixes))}
        keys = wanted.keys() | agent.values.keys()
        for ref in self._unwritable():
            if self.histories or self.keys[ref] in self.tampered:
                keys.discard(self.keys[ref])  # A restored store has what it had long ago, an agent something newer.
        return [
            f"{agent.name} has {agent.values.get(key)}, the store {wanted.get(key)}"
            for key in sorted(keys)
            if wanted.get(key) != agent.values.get(key)
        ]

    def _without_row(self, ref: Ref) -> str:
        return "" if ref in self.sql.table("sync") else f"{ref} has no row"

    def _of_row(self, ref: Ref, held: dict[str, Entry]) -> str:
        row = self.sql.table("sync")[ref]
        content: Content | None = self.sql.table("objects").get(ref)
        if ref[0] not in KINDS or (content is not None and content.text == REFUSED):
            unsaid = row.version == row.synced_version and ref not in self._bypassed
            return f"{ref} is clean, but nobody could write it" if unsaid else ""
        if row.deleted is not (content is None):
            return f"{ref}: the row says deleted={row.deleted}, the object is {content}"
        if row.version > row.synced_version:
            return f"{ref} is dirty: {row.version} > {row.synced_version} {row.last_error}"
        key = _key_of(DEPLOYMENT, row.project_id, row.scope, *ref)
        entry = held.get(key)
        if entry is None and content is None and not self.parts.tombstones:
            return ""
        wanted = (key, row.version, self._value(Ref(*ref), row.version, row.key, content))
        return "" if entry == wanted else f"Neutron has {wanted}, the store {entry}"


def simulate(
    seed: int, parts: Parts = FLOWLOOM, trace: list[str] | None = None, faults: Faults | None = None
) -> Result:
    """One schedule, from its seed.

    trace: is filled with what happened, a line each.  faults: these, instead of what the seed draws.
    """
    return World(seed, parts, trace, faults).run()


def simulate_many(seeds: Iterable[int], parts: Parts = FLOWLOOM, faults: Faults | None = None) -> Iterator[Result]:
    """Many schedules, one after the other.  Meanwhile nothing is logged: faults are what a simulation is made of."""
    silenced, collecting = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.CRITICAL)
    gc.disable()  # Worlds are garbage as a whole: looking through them while they live costs a tenth of the time.
    try:
        for number, seed in enumerate(seeds, start=1):
            yield simulate(seed, parts, None, faults)
            if number % WORLDS_PER_COLLECTION == 0:
                gc.collect()
    finally:
        logging.disable(silenced)
        if collecting:
            gc.enable()
