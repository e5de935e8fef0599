"""A Neutron in memory over several stores: workers, agents, movers that can be killed at any moment, hands between calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from recovery_world import DEPLOYMENT, World

from flowloom.agent.northside import LateStore
from flowloom.consistency.drain import Drain
from flowloom.consistency.move import Mover
from flowloom.consistency.place import Move, Step
from flowloom.kernel.errors import Misconfigured, Rejected, Unavailable
from flowloom.model.codec import encode
from flowloom.model.keys import NO_PROJECT, deployment_prefix, key_of, parse_key
from flowloom.model.records import Chassis, PortStatus
from flowloom.neutron.config import _OPTIONS, Settings
from flowloom.neutron.link import NorthboundLink
from flowloom.northbound.keys import claim_key
from flowloom.northbound.pointer import pointer_key, pointer_of
from flowloom.northbound.store import Capabilities, Cursor, Entry, Listing, Outcome, Store, Versions, Watch, Write
from flowloom.testing.fake_store import MemoryDatabase
from flowloom.testing.sql_model_tables import ModelTables

A, B, C = "memory://a/", "memory://b/", "memory://c/"


class Killed(BaseException):
    """kill -9 of who calls."""


class Hooked:
    """A store that says before and after each call that it is being called; otherwise the one inside."""

    def __init__(self, inside: Store, hook: Callable[[str], None], watches: bool = True) -> None:
        self._inside = inside
        self._hook = hook
        self.capabilities: Capabilities = replace(inside.capabilities, watch=watches)

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        self._hook("before apply")
        outcomes = self._inside.apply(writes)
        self._hook("after apply")
        return outcomes

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        self._hook("before get")
        return self._inside.get(keys)

    def read(self, prefix: str) -> Listing:
        self._hook("before read")
        return self._inside.read(prefix)

    def versions(self, prefix: str) -> Versions:
        self._hook("before versions")
        return self._inside.versions(prefix)

    def watch(self, prefix: str, cursor: Cursor) -> Watch:
        self._hook("before watch")
        return self._inside.watch(prefix, cursor)

    def close(self) -> None:
        self._inside.close()


def settings(store: str = A) -> Settings:
    """As neutron.conf without any option but these."""
    return Settings(**{option.dest: option.default for option in _OPTIONS} | {"store": store, "deployment": DEPLOYMENT})


class Worker:
    """An API worker.  between: called after each of its writes, before it acknowledges."""

    def __init__(self, world: MoveWorld, name: str) -> None:
        self.between: Callable[[], None] = lambda: None
        tables = ModelTables(world.sql)
        self.link = NorthboundLink(settings(), name, tables, self._open)
        self._world = world
        self._drain = Drain(tables, tables, self.link, world.clock, DEPLOYMENT, name)

    def _open(self, url: str, _setting: str) -> Store:
        return Hooked(self._world.open(url), self._called)

    def _called(self, what: str) -> None:
        if what == "after apply":
            between, self.between = self.between, lambda: None
            between()

    def drain(self) -> bool:
        """Whether it could."""
        try:
            self._drain.drain()
        except (Unavailable, Misconfigured):
            return False
        return True


class Agent:
    """A host as far as it writes to the store: its chassis, and the status of two ports.  Its clock is its own."""

    def __init__(self, world: MoveWorld, name: str, configured: str = A) -> None:
        self.name = name
        self.counter = 0
        self.key = 0
        self.late = LateStore(configured, DEPLOYMENT, world.open)
        self._epoch = ""

    def turn(self) -> bool:
        """Look for a pointer, go where it leads, write what is to be written there; whether the store answered."""
        try:
            store = self.late.get()
            pointer = pointer_of(store.get([pointer_key(DEPLOYMENT)])[0])
            if pointer is not None and self.late.follow(pointer):
                store = self.late.get()
            epoch = store.versions(f"{deployment_prefix(DEPLOYMENT)}!nothing/").cursor.epoch
            if epoch != self._epoch:
                self.key = claim_key(store, DEPLOYMENT, Chassis.kind, self.name)
                self._epoch = epoch
                self.write(store)
            else:
                self.write(store, ports=1)
        except Unavailable:
            return False
        return True

    def write(self, store: Store, ports: int = 2) -> None:
        self.counter += 1
        chassis = Chassis(
            id=self.name,
            version=self.counter,
            key=self.key,
            tunnel_ip="192.0.2.1",
            tunnel_types=("geneve",),
            started_at=1.0,
        )
        writes = [Write(self._key(Chassis.kind, self.name), self.counter, encode(chassis))]
        for port in range(ports):
            status = PortStatus(
                id=f"port{port}", version=self.counter, chassis=self.name, port_version=self.counter, up=True, reason=""
            )
            writes.append(Write(self._key(PortStatus.kind, f"port{port}"), self.counter, encode(status)))
        store.apply(writes)

    def _key(self, kind: str, id: str) -> str:
        return key_of(DEPLOYMENT, NO_PROJECT, self.name, kind, id)


class MoveWorld(World):
    """databases: by URL.  unwatched: URLs of stores without a change feed."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        self.databases = {A: self.store, B: MemoryDatabase(Random(seed + 1)), C: MemoryDatabase(Random(seed + 2))}
        self.unwatched: set[str] = set()
        self.workers = [Worker(self, f"worker-{number}") for number in range(2)]
        self.agents = [Agent(self, f"host{number}") for number in range(2)]
        self.places = ModelTables(self.sql)
        self.events = 0
        self.die_at = 0
        self._lives = 0

    def open(self, url: str) -> Store:
        """As `open_store`.  Unavailable while the database does not answer."""
        if url not in self.databases:
            raise Misconfigured("store", f"no driver for {url}")
        if not self.databases[url].available:
            raise Unavailable(f"{url} does not answer")
        return self.databases[url].open()

    # --- movers ------------------------------------------------------------------------------

    def mover(self, configured: str = A) -> Mover:
        """Of a recovery service that begins to live."""
        self._lives += 1
        tables, name = ModelTables(self.sql), f"recovery-{self._lives}"
        link = NorthboundLink(settings(configured), name, tables, self._open_counted)
        return Mover(tables, tables, tables, link, link.open, configured, self.clock, DEPLOYMENT, name)

    def _open_counted(self, url: str, _setting: str = "") -> Store:
        return Hooked(self.open(url), self._counted, url not in self.unwatched)

    def _counted(self, _what: str) -> None:
        self.events += 1
        if self.events == self.die_at:
            raise Killed

    def step(self, mover: Mover) -> float:
        """One step of a mover; Killed when it is its time."""
        self.sql.step = self._counted
        try:
            return mover.step()
        except Unavailable:
            return 1.0
        finally:
            self.sql.step = lambda _what: None

    def finish(self, mover: Mover, meanwhile: Callable[[], None] = lambda: None, steps: int = 2000) -> Move:  # type: ignore[override]
        """Until the move has ended; meanwhile: called between any two steps."""
        for _ in range(steps):
            wait = self.step(mover)
            move = self.places.place().move
            assert move is not None
            if not move.under_way:
                return move
            meanwhile()
            self.clock.advance(max(wait, 0.01))
        raise AssertionError(f"the move does not end: {self.places.place()}")

    def begin(self, target: str, source: str = "", mover: Mover | None = None) -> Mover:
        """Ask for a move, of this mover or of a new one."""
        mover = mover or self.mover()
        mover.ask({"ask": "move", "from": source or self.in_force, "to": target, "by": "anna"})
        return mover

    @property
    def in_force(self) -> str:
        return self.places.place().url or A

    # --- judging -----------------------------------------------------------------------------

    def settle(self) -> None:
        """Everybody does what is left to do."""
        for _ in range(4):
            for worker in self.workers:
                worker.drain()
            for agent in self.agents:
                agent.turn()

    def wrong(self) -> list[str]:
        """In words, what is not as it should be in the store in force; empty: all is equal, clean, and followed."""
        url = self.in_force
        self.store = self.databases[url]
        found = self.unequal()
        held = {entry.key: entry for entry in self.store.entries()}
        for agent in self.agents:
            if not agent.late.is_current(agent.late.get()) or agent.late._url != url:
                found.append(f"{agent.name} is at {agent.late._url}")
            for port in range(2):
                if (entry := held.get(agent._key(PortStatus.kind, f"port{port}"))) is None or entry.value is None:
                    found.append(f"{agent.name}: no status of port{port}")
            chassis = held.get(agent._key(Chassis.kind, agent.name))
            if chassis is None or chassis.version != agent.counter:
                found.append(f"{agent.name}: {chassis}, not version {agent.counter}")
        found += [f"{key} is of nobody" for key in held if not key.startswith((f"/{DEPLOYMENT}/", f"/{DEPLOYMENT}!"))]
        return found

    def marks(self, url: str) -> dict[str, Entry]:
        """What a store holds of Neutron's objects."""
        return {
            entry.key: entry
            for entry in self.databases[url].entries(deployment_prefix(DEPLOYMENT))
            if entry.key != pointer_key(DEPLOYMENT) and parse_key(entry.key).project != NO_PROJECT
        }


__all__ = ["DEPLOYMENT", "A", "Agent", "B", "C", "Killed", "MoveWorld", "Rejected", "Step", "Worker"]
