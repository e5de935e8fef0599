"""The processes of the consistency simulation.  What they run is production code; what they call is simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import TYPE_CHECKING, Final, Protocol

from flowloom.consistency.drain import Drain
from flowloom.consistency.options import Options
from flowloom.consistency.place import Place
from flowloom.consistency.recovery import RecoveryCore
from flowloom.consistency.table import Ref
from flowloom.kernel.backoff import Backoff
from flowloom.kernel.errors import FlowloomError, Unavailable
from flowloom.northbound.bus import BusEvent, Heartbeat
from flowloom.northbound.follower import FollowerSettings, Step
from flowloom.northbound.requests import Answer, Request, ask
from flowloom.northbound.store import Changes, Entry
from flowloom.testing.consistency_simulator_ports import HEARTBEAT_SECONDS, SimulatedPublisher, SimulatedStore
from flowloom.testing.scheduler import Task, TaskClock
from flowloom.testing.sql_model import Content, Deadlock, NeutronTransaction
from flowloom.testing.sql_model_tables import ModelTables
from flowloom.testing.table_conformance import REFUSED

if TYPE_CHECKING:
    from flowloom.testing.consistency_simulator import World

DEPLOYMENT: Final = "sim"
API_RETRIES: Final = 10
"""Neutron's own: it begins an API operation again after a deadlock."""

TICK_SECONDS: Final = 1.0


class FollowerLike(Protocol):
    """What an agent needs of `northbound.follower.Follower`."""

    epoch: str

    def start(self, now: float) -> Step: ...
    def receive(self, event: BusEvent | Changes | Answer, now: float) -> Step: ...
    def tick(self, now: float) -> Step: ...


class Process:
    """Tasks that live and die together.  life: 1, 2, 3…, each without memory of the former ones."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.life = 0
        self.up = False
        self.tasks: list[Task] = []
        self.publisher: SimulatedPublisher | None = None
        self.clock = TaskClock(world.scheduler)
        self.tables: ModelTables = world.parts.tables(world.sql)
        self._store = SimulatedStore(world.environment, world.database, world.ledger, world.watched)

    @property
    def owner(self) -> str:
        """The name under which this life holds leases."""
        return f"{self.name}.{self.life}"

    def store(self) -> SimulatedStore:
        """As `consistency.drain.Northbound` wants it."""
        return self._store

    def get_publisher(self) -> SimulatedPublisher:
        """This life's own."""
        if self.publisher is None:
            self.publisher = self.world.bus.publisher(self.name)
        return self.publisher

    def start(self) -> None:
        """A new life."""
        self.life += 1
        self.up = True
        self.world.environment.say(f"{self.owner} starts")
        self.begin()

    def crash(self) -> None:
        """kill -9."""
        self.up = False
        self.world.environment.say(f"{self.owner} is killed")
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            self.world.scheduler.kill(task)
        if self.publisher is not None:
            self.publisher.close()
            self.publisher = None

    def begin(self) -> None:
        """Make this life's tasks."""
        raise NotImplementedError

    def run(self, what: str, body: Callable[[], None]) -> Task:
        """A task of this life."""
        task = self.world.scheduler.spawn(f"{self.owner}/{what}", body)
        task.latency = self.world.latencies.get(self.name, 0.0)
        self.tasks.append(task)
        self.world.process_of[task] = self
        return task


class NorthboundOf:
    """A process's link to store and bus.  Implements `consistency.drain.Northbound`; the store is never moved."""

    generation = 0

    def __init__(self, process: Process) -> None:
        self._process = process

    def store(self) -> SimulatedStore:
        return self._process.store()

    def publisher(self) -> SimulatedPublisher | None:
        return self._process.get_publisher()

    def look_again(self) -> Place:
        return Place()


class _Undone(Exception):
    """A user's error: what was begun is rolled back."""


class NeutronProcess(Process):
    """An API worker: operations in one thread, the drain of what they touched in another."""

    def begin(self) -> None:
        self.waiting: dict[Ref, None] = {}
        self.drain_task = self.run("drain", lambda: self.world.parts.neutron_drain(self))
        self.run("api", self._serve)

    def wake(self, refs: Iterable[Ref]) -> None:
        """After a commit: have these objects drained soon, as `neutron.worker` does."""
        self.waiting.update(dict.fromkeys(refs))
        self.world.scheduler.wake(self.drain_task)

    def take(self) -> dict[Ref, None]:
        """What is to be drained next; waits until there is something."""
        while not self.waiting:
            self.world.scheduler.wait()
        taken, self.waiting = self.waiting, {}
        return taken

    def _serve(self) -> None:
        world = self.world
        while world.operations_left > 0:
            world.operations_left -= 1
            world.scheduler.pause(world.random.random() ** 3 * world.gap_seconds)
            self._operation()

    def _operation(self) -> None:
        """One API call: a transaction over some objects, one of them perhaps twice; begun again after a deadlock."""
        world, random = self.world, self.world.random
        refs = random.choices(world.refs, k=random.choice((1, 1, 1, 2, 2, 3, 4)))
        for _ in range(API_RETRIES):
            try:
                done = self._transaction(refs)
            except Deadlock:
                continue
            except (_Undone, Unavailable):
                return
            world.acknowledged(done.versions())
            world.parts.committed(self, done.refs)
            return

    def _transaction(self, refs: list[Ref]) -> NeutronTransaction:
        world, random = self.world, self.world.random
        with world.sql.transaction() as one:
            neutron = world.parts.neutron_transaction(one, world.sql)
            for ref in refs:
                if random.random() < 0.25:
                    self._nested(neutron, ref)
                else:
                    self._change(neutron, ref)
            if random.random() < 0.08:
                raise _Undone
        return neutron

    def _nested(self, neutron: NeutronTransaction, ref: Ref) -> None:
        try:
            with neutron.nested():
                self._change(neutron, ref)
                if self.world.random.random() < 0.4:
                    raise _Undone
        except _Undone:
            pass

    def _change(self, neutron: NeutronTransaction, ref: Ref) -> None:
        world = self.world
        neutron.write(ref, world.next_content(ref, neutron.get(ref)))


def drain_as_the_worker_does(process: NeutronProcess) -> None:
    """The loop of `neutron.worker` around `Drain`."""
    world = process.world
    drain = _drain_of(process)
    backoff = Backoff(Random(world.random.random()))
    while True:
        refs = process.take()
        try:
            drain.drain(refs=refs.keys())
            backoff.succeeded()
        except FlowloomError as error:
            world.environment.say(f"stays dirty: {error}")
            process.waiting.update(refs)
            process.clock.sleep(backoff.next_delay())


def _drain_of(process: Process) -> Drain:
    world = process.world
    return Drain(
        process.tables,
        process.tables,
        NorthboundOf(process),
        process.clock,
        DEPLOYMENT,
        process.owner,
        world.batch,
        world.lease_seconds,
    )


def wake_the_worker(process: NeutronProcess, refs: Iterable[Ref]) -> None:
    """What production does after a commit."""
    process.wake(refs)


class RecoveryProcess(Process):
    """One recovery service."""

    def begin(self) -> None:
        self.world.parts.recover(self)


def recover_by_draining(process: RecoveryProcess) -> None:
    """Only the part of recovery that drains what was left behind."""
    drain = _drain_of(process)

    def step() -> float:
        drain.drain(dirty_for_seconds=1.0)
        return 1.0

    process.run("drain", lambda: call_again(process, step))


def recover(process: RecoveryProcess) -> None:
    """The whole of recovery, in three threads as its shell has them.

    Where nothing is lost that only a comparison finds, it is often left out: it would mend what the drain does wrong.
    """
    world = process.world
    if not world.compares:
        recover_by_draining(process)
        return
    options = Options(
        DEPLOYMENT,
        lease_seconds=world.lease_seconds,
        dirty_seconds=3.0,
        drain_batch=world.batch,
        compare_seconds=2.0,
        versions_seconds=20.0,
        adopt_seconds=10.0,
        reread_per_second=400.0,
        guard_objects=world.guard_objects,
    )
    core = RecoveryCore(
        process.tables,
        process.tables,
        process.tables,
        NorthboundOf(process),
        process.clock,
        Random(world.random.random()),
        process.owner,
        options,
    )

    def compare() -> float:
        core.follow_step()
        return min(1.0, core.compare_step(), core.audit_step())

    process.run("members", lambda: call_again(process, core.members_step))
    process.run("drain", lambda: call_again(process, core.drain_step))
    process.run("compare", lambda: call_again(process, compare))


def call_again(process: Process, step: Callable[[], float]) -> None:
    """The outermost loop of a thread of recovery."""
    backoff = Backoff(Random(process.world.random.random()), cap_seconds=5.0)
    while True:
        try:
            seconds = step()
            backoff.succeeded()
        except FlowloomError as error:
            process.world.environment.say(f"recovery goes on after: {error}")
            seconds = backoff.next_delay()
        process.clock.sleep(max(seconds, 0.1))


class Operator(Process):
    """Somebody who lets pass what a guard holds."""

    def begin(self) -> None:
        self.run("approves", lambda: call_again(self, self._approve))

    def _approve(self) -> float:
        for guard in self.tables.guards():
            if not guard.approved_by:
                self.world.environment.say(f"approves {guard.id}: {guard.found} of {guard.of_objects}")
                self.tables.approve(guard.id, "operator")
        return 5.0


class AgentProcess(Process):
    """An agent's northbound side: a follower, and a thread that asks the store.

    values: its replica.
    """

    def __init__(self, world: World, name: str, prefixes: list[str]) -> None:
        super().__init__(world, name)
        self.prefixes = prefixes
        self.values: dict[str, Entry] = {}
        self._newest: dict[str, int] = {}

    def begin(self) -> None:
        world = self.world
        settings = FollowerSettings(
            own_publisher=self.name,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            refresh_seconds=60.0,
            grace_seconds=10.0,
            answer_seconds=20.0,
            retry_cap_seconds=2.0,
        )
        self.values = {}
        self._newest = {}
        self._requests: list[Request] = []
        self.follower = world.parts.follower(self.prefixes, Random(world.random.random()), settings)
        self._reader = self.run("store", self._read)
        self._perform(self.follower.start(world.scheduler.now))
        life = self.life
        world.scheduler.after(TICK_SECONDS, lambda: self._tick(life))
        world.scheduler.after(HEARTBEAT_SECONDS, lambda: self._beat(life))

    def hear(self, event: BusEvent) -> None:
        """From the bus."""
        if self.up:
            self._perform(self.follower.receive(event, self.world.scheduler.now))

    def _tick(self, life: int) -> None:
        if self.up and life == self.life:
            self._perform(self.follower.tick(self.world.scheduler.now))
            self.world.scheduler.after(TICK_SECONDS, lambda: self._tick(life))

    def _beat(self, life: int) -> None:
        """Its own sign of life, which it hears over the bus; nobody else of this simulation listens to it."""
        if self.up and life == self.life:
            self.world.bus.send(Heartbeat(self.name, life, 0), self.hear)
            self.world.scheduler.after(HEARTBEAT_SECONDS, lambda: self._beat(life))

    def _perform(self, step: Step) -> None:
        for change in step.changes:
            self._take(change)
        if step.requests:
            self._requests += step.requests
            self.world.scheduler.wake(self._reader)

    def _read(self) -> None:
        while True:
            while not self._requests:
                self.world.scheduler.wait()
            answer = ask(self._store, self._requests.pop(0))
            self._perform(self.follower.receive(answer, self.world.scheduler.now))

    def _take(self, change: Entry) -> None:
        world = self.world
        key, version, value = change
        world.environment.say(f"{self.name} takes {key} {version}{'' if value is not None else ' deleted'}")
        newest = self._newest.get(key, 0)
        if value is not None:
            if version <= newest:
                world.violation(f"{self.name} went from version {newest} of {key} to {version}")
            self.values[key] = change
            self._newest[key] = version
            return
        self.values.pop(key, None)
        if version > newest:
            self._newest[key] = version
        elif world.histories or key in world.tampered or not world.parts.tombstones:
            self._newest.pop(key, None)  # The store lost it, and the agent was told so.
        else:
            world.violation(f"{self.name} forgot {key}, which the store never lost")


def next_text(world: World, ref: Ref, found: Content | None) -> Content | None:
    """What a user makes of an object next: create, change or delete it; now and then something untranslatable."""
    random = world.random
    if found is not None and random.random() < 0.3:
        return None
    world.texts += 1
    text = REFUSED if random.random() < world.refused else f"v{world.texts}"
    return Content(*world.places[ref], text)
