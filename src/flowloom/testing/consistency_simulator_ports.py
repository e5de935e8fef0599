"""What processes of the consistency simulation call, and what goes wrong there: steps, store, bus.

Each call of a port is made of steps; at each step others may go on, and while there are faults the caller may be
held up, killed, or told that nobody answers although the deed is done, is not, or will be done later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Final

from flowloom.kernel.errors import Unavailable
from flowloom.northbound.bus import BusEvent, Notice
from flowloom.northbound.numbering import Numbering
from flowloom.northbound.store import Capabilities, Changes, Cursor, Entry, Listing, Outcome, Versions, Write
from flowloom.testing.fake_store import MemoryDatabase, MemoryStore
from flowloom.testing.scheduler import Scheduler, Task

HEARTBEAT_SECONDS: Final = 3.0


@dataclass(frozen=True)
class Faults:
    """How likely each fault is in one schedule; most schedules have a few of them, so that each is met alone too.

    By step: slow (up to half a second), pause (longer than a lease), crash (of the process).
    By statement: sql_lost (no connection, or no answer to a commit).
    By call of the store: store_lost (not done), store_unanswered (done, but not said), store_late (takes long),
    store_zombie (given up by the caller and done later), store_torn (a batch is written one by one).
    By notice: bus_lost, bus_doubled, bus_late; publish_refused: the bus takes none.
    By second: outage (the store is away for a while), clock_jump (of the database: an hour, either way),
    trim (the store forgets its history), wipe, restore (of the store, from an old copy), tamper (with the store), bypass (Neutron's objects change past
    the capture).
    """

    slow: float = 0.0
    pause: float = 0.0
    crash: float = 0.0
    sql_lost: float = 0.0
    store_lost: float = 0.0
    store_unanswered: float = 0.0
    store_late: float = 0.0
    store_zombie: float = 0.0
    store_torn: float = 0.0
    bus_lost: float = 0.0
    bus_doubled: float = 0.0
    bus_late: float = 0.0
    publish_refused: float = 0.0
    outage: float = 0.0
    clock_jump: float = 0.0
    trim: float = 0.0
    wipe: float = 0.0
    restore: float = 0.0
    tamper: float = 0.0
    bypass: float = 0.0


WORST: Final = Faults(
    slow=0.5,
    pause=0.01,
    crash=0.01,
    sql_lost=0.05,
    store_lost=0.2,
    store_unanswered=0.2,
    store_late=0.2,
    store_zombie=0.2,
    store_torn=1.0,
    bus_lost=0.4,
    bus_doubled=0.3,
    bus_late=0.3,
    publish_refused=0.3,
    outage=0.1,
    clock_jump=0.1,
    trim=0.3,
    wipe=0.03,
    restore=0.05,
    tamper=0.1,
    bypass=0.1,
)
"""The upper ends of what is drawn."""

NO_FAULTS: Final = Faults()

LOSSES: Final = ("wipe", "restore", "tamper", "bypass")
"""Faults that only a comparison of the copies can mend; it takes its time, so they are rarer."""


def draw_faults(random: Random, without: Sequence[str] = ()) -> Faults:
    """Some of the faults, each at a rate of its own; now and then none at all."""
    share = random.choice((0.0, 0.2, 0.4, 0.4, 0.6, 0.9))
    drawn = {
        field.name: getattr(WORST, field.name) * random.random()
        for field in fields(Faults)
        if random.random() < share * (0.3 if field.name in LOSSES else 1.0) and field.name not in without
    }
    return replace(NO_FAULTS, **drawn)


class Environment:
    """What every port of one simulation shares.

    crash: ends the process of a task; called from outside any task.  trace: what happened, if anybody reads it.
    """

    def __init__(self, random: Random, faults: Faults, lease_seconds: float, trace: list[str] | None) -> None:
        self.scheduler = Scheduler(random, random.choice((2.0, 5.0, 20.0)))
        self.random = random
        self.chance = random.random
        self.trace = trace
        self.crash: Callable[[Task], None] = lambda task: None
        self.crashes = True
        self.paused = 0
        self.set_faults(faults)
        self._lease_seconds = lease_seconds

    def set_faults(self, faults: Faults) -> None:
        """From now on these."""
        self.faults = faults
        self._unusual = faults.slow + faults.pause + faults.crash

    def say(self, text: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            task = self.scheduler.current
            self.trace.append(f"{self.scheduler.now:10.4f}  {'-' if task is None else task.name:<18} {text}")

    def step(self, what: str) -> None:
        """Others may go on; while there are faults this task may be held up here, or end here."""
        scheduler = self.scheduler
        task = scheduler.current
        if task is None:
            return
        chance = self.chance()
        if chance < self._unusual and not task.killed:
            self._unusual_step(task, what, chance)
        else:
            scheduler.pause(task.latency)
        if self.trace is not None:
            self.say(what)

    def sql_step(self, what: str) -> None:
        """A statement: it may fail, and its transaction with it; at "committed" the transaction is done."""
        self.step(what)
        faults = self.faults
        if faults.sql_lost and self.scheduler.current is not None and self.chance() < faults.sql_lost:
            self.say(f"no answer to: {what}")
            raise Unavailable(f"lost the connection to the database at: {what}")

    def _unusual_step(self, task: Task, what: str, chance: float) -> None:
        faults = self.faults
        if chance < faults.crash:
            self.say(f"crash at: {what}")
            self.scheduler.after(0.0, lambda: self.crash(task))
            self.scheduler.wait()
        elif chance < faults.crash + faults.pause:
            seconds = self._lease_seconds * (0.5 + 2.0 * self.chance())
            self.say(f"held up for {seconds:.1f} s at: {what}")
            self.paused += 1
            try:
                self.scheduler.pause(seconds)
            finally:
                self.paused -= 1
        else:
            self.scheduler.pause(self.chance() ** 4 * 0.5)


class SimulatedStore:
    """One process's handle on the store.  Implements `northbound.store.Store`.

    wrote: told of every write that took effect, whoever made it.  read: told of everything that a reader was told.
    """

    def __init__(
        self, environment: Environment, database: MemoryDatabase, ledger: StoreLedger, watch: bool = True
    ) -> None:
        self._environment = environment
        self._database = database
        self._handle: MemoryStore = database.open()
        self._ledger = ledger
        self.capabilities = Capabilities(
            atomic_batch=False, watch=watch, consistent_read=True, durable=True, value_bytes_max=1 << 20
        )

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        environment, faults = self._environment, self._environment.faults
        environment.step("apply")
        chance = environment.chance()
        if chance < faults.store_zombie:
            self._ledger.later(environment.chance() ** 2 * 40.0, writes)
            raise Unavailable("the store took too long; it may yet carry this out")
        chance -= faults.store_zombie
        if chance < faults.store_lost:
            raise Unavailable("the store was not reached")
        if faults.store_torn and environment.chance() < faults.store_torn:
            done: list[Outcome] = []
            for write in writes:
                done += self._ledger.apply([write])
                environment.step("apply the next")
        else:
            done = self._ledger.apply(writes)
        self._late("applied", faults)
        if chance - faults.store_lost < faults.store_unanswered:
            environment.say("no answer to: apply")
            raise Unavailable("no answer of the store")
        return done

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        self._ask("get")
        found = self._handle.get(keys)
        self._ledger.told(entry for entry in found if entry is not None)
        self._answered("got")
        return found

    def read(self, prefix: str) -> Listing:
        self._ask("read")
        found = self._handle.read(prefix)
        self._ledger.told(found.entries)
        self._answered("read")
        return found

    def versions(self, prefix: str) -> Versions:
        self._ask("versions")
        found = self._handle.versions(prefix)
        self._answered("versions")
        return found

    def watch(self, prefix: str, cursor: Cursor) -> SimulatedWatch:
        self._ask("watch")
        return SimulatedWatch(self._environment, self._database, prefix, cursor)

    def close(self) -> None:
        """The handle is the simulation's."""

    def _ask(self, what: str) -> None:
        environment = self._environment
        environment.step(what)
        if environment.chance() < environment.faults.store_lost:
            raise Unavailable("the store was not reached")

    def _answered(self, what: str) -> None:
        faults = self._environment.faults
        self._late(what, faults)
        if faults.store_unanswered and self._environment.chance() < faults.store_unanswered:
            raise Unavailable("no answer of the store")

    def _late(self, what: str, faults: Faults) -> None:
        environment = self._environment
        if faults.store_late and environment.scheduler.current and environment.chance() < faults.store_late:
            environment.scheduler.pause(environment.chance() ** 2 * 30.0)
        environment.step(what)


class SimulatedWatch:
    """Implements `northbound.store.Watch` in virtual time."""

    def __init__(self, environment: Environment, database: MemoryDatabase, prefix: str, cursor: Cursor) -> None:
        self._environment = environment
        self._database = database
        self._prefix = prefix
        self._cursor = cursor

    def next(self, timeout_seconds: float) -> Changes:
        environment, database = self._environment, self._database
        deadline = environment.scheduler.now + timeout_seconds
        while True:
            environment.step("watch")
            if not database.available or environment.chance() < environment.faults.store_lost:
                raise Unavailable("the store was not reached")
            changes = database._since(self._prefix, self._cursor)
            self._cursor = changes.cursor
            left = deadline - environment.scheduler.now
            if changes.entries or left <= 0:
                return changes
            environment.scheduler.pause(min(left, 0.25))

    def close(self) -> None:
        """Nothing is held."""


class StoreLedger:
    """The way into the store's database, on which everything that takes effect is looked at.

    wrote: called with every write that was applied.  In flight: calls that were given up and are yet to come.
    """

    def __init__(self, environment: Environment, database: MemoryDatabase, wrote: Callable[[Write], None]) -> None:
        self.in_flight = 0
        self.newest_told: dict[str, int] = {}
        self.went_back: list[str] = []
        self._environment = environment
        self._database = database
        self._handle = database.open()
        self._wrote = wrote

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        """What the store makes of a call that reached it."""
        done = self._handle.apply(writes)
        for write, outcome in zip(writes, done, strict=True):
            if outcome.applied:
                self._environment.say(f"the store takes {write.key} {write.version} {_short(write.value)}")
                self._wrote(write)
        return done

    def later(self, seconds: float, writes: Sequence[Write]) -> None:
        """A call that its caller has given up reaches the store after all."""
        self.in_flight += 1
        self._environment.say(f"given up: apply; it will be carried out in {seconds:.1f} s")

        def arrive() -> None:
            self.in_flight -= 1
            if self._database.available:
                self.apply(writes)

        self._environment.scheduler.after(seconds, arrive)

    def told(self, entries: object) -> None:
        """Readers were told of `entries`: whatever a reader has seen, no later reader may see less."""
        newest = self.newest_told
        for key, version, _ in entries:  # type: ignore[attr-defined]
            if version < newest.get(key, 0):
                self.went_back.append(f"a reader was told version {version} of {key} after {newest[key]}")
            newest[key] = version

    def another_history(self) -> None:
        """The database was wiped or restored: what was told before does not count."""
        self.newest_told.clear()


def _short(value: bytes | None) -> str:
    return "deleted" if value is None else value[-60:].decode(errors="replace")


class SimulatedBus:
    """Hands notices and heartbeats to subscribers: late, twice, or not at all."""

    def __init__(self, environment: Environment) -> None:
        self.subscribers: list[Callable[[BusEvent], None]] = []
        self._environment = environment
        self._epoch = 0

    def publisher(self, name: str) -> SimulatedPublisher:
        """A publisher with a new epoch."""
        self._epoch += 1
        return SimulatedPublisher(self._environment, self, name, self._epoch)

    def send(self, event: BusEvent, only: Callable[[BusEvent], None] | None = None) -> None:
        """To every subscriber, or to this one."""
        environment, faults = self._environment, self._environment.faults
        for subscriber in self.subscribers if only is None else [only]:
            if faults.bus_lost and environment.chance() < faults.bus_lost:
                environment.say(f"the bus loses {_named(event)}")
                continue
            self._deliver(subscriber, event)
            if faults.bus_doubled and environment.chance() < faults.bus_doubled:
                self._deliver(subscriber, event)

    def _deliver(self, subscriber: Callable[[BusEvent], None], event: BusEvent) -> None:
        environment, faults = self._environment, self._environment.faults
        late = 0.002
        if faults.bus_late and environment.chance() < faults.bus_late:
            late = environment.chance() ** 2 * 20.0
        environment.scheduler.after(late, lambda: subscriber(event))


class SimulatedPublisher:
    """Implements `northbound.bus.Publisher`."""

    def __init__(self, environment: Environment, bus: SimulatedBus, name: str, epoch: int) -> None:
        self.closed = False
        self.numbering = Numbering(name, epoch, environment.scheduler.now, HEARTBEAT_SECONDS)
        self._environment = environment
        self._bus = bus
        environment.scheduler.after(0.0, self._beat)

    def publish(self, changes: Sequence[tuple[str, int, bytes | None]]) -> None:
        environment = self._environment
        environment.step("publish")
        if environment.faults.publish_refused and environment.chance() < environment.faults.publish_refused:
            raise Unavailable("the bus takes nothing")
        for change in changes:
            self._bus.send(self.numbering.notice(*change))
        environment.step("published")

    def close(self) -> None:
        """Its process has ended: no more heartbeats."""
        self.closed = True

    def _beat(self) -> None:
        if self.closed:
            return
        for beat in self.numbering.heartbeats(self._environment.scheduler.now):
            self._bus.send(beat)
        self._environment.scheduler.after(HEARTBEAT_SECONDS, self._beat)


def _named(event: BusEvent) -> str:
    return f"{event.key} {event.version}" if isinstance(event, Notice) else str(event)
