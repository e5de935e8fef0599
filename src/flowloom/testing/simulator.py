"""A whole cloud in one process from one seed: a store, a bus, N agents with their switches, and faults.

Time is virtual; every effect of an agent takes effect, and is answered, at moments drawn from the seed.
While faults are on, notices are lost, doubled and reordered, the store goes away, switches restart, lose
their connection or the outcome of a batch, agents are killed and come back with no memory.  After `heal`
and a bounded time, `differences` must be empty: every switch holds what full recompute over the records of
the store says, and of every port the store holds the right status.

    cloud = Cloud(seed)
    cloud.run(60.0)
    cloud.heal()
    cloud.run(cloud.settle_seconds)
    assert cloud.differences() == []
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random
from typing import Final

from msgspec.structs import replace

from flowloom.agent.core import AgentCore, CoreSettings, Effect, Event
from flowloom.agent.events import (
    BatchDone,
    ClaimKey,
    FollowStore,
    KeyClaimed,
    KeyNotClaimed,
    Log,
    NotWritten,
    OpenSwitch,
    PacketOut,
    ReadSwitch,
    SendBatch,
    SwitchLost,
    SwitchOpened,
    SwitchRead,
    WriteRecords,
    Written,
)
from flowloom.agent.ports import ADMIN_DOWN, NO_INTERFACE, NO_NETWORK
from flowloom.apps import punts
from flowloom.apps.dhcp import DhcpSettings
from flowloom.apps.dhcp_server import DhcpServer
from flowloom.apps.release import AppSettings, apps
from flowloom.apps.switching import TunnelPorts
from flowloom.compiler.compiler import Compiler
from flowloom.compiler.unit import App
from flowloom.kernel.clock import ManualClock
from flowloom.kernel.errors import Unavailable
from flowloom.model.codec import decode, encode
from flowloom.model.keys import deployment_prefix, key_of
from flowloom.model.records import Chassis, Interface, Network, Port, PortStatus, Record, Subnet
from flowloom.northbound.bus import BusEvent
from flowloom.northbound.follower import Follower, FollowerSettings
from flowloom.northbound.numbering import Numbering
from flowloom.northbound.requests import CompareVersions, GetKeys, ReadPrefix, ask
from flowloom.northbound.store import Write
from flowloom.openflow.facts import is_ours
from flowloom.southbound.interfaces import Lost, Plugged, Snapshot
from flowloom.southbound.switch import Switch
from flowloom.testing.fake_store import MemoryDatabase
from flowloom.testing.fake_switch import FakeSwitch
from flowloom.testing.histories import a_change, with_version

DEPLOYMENT: Final = "sim"
TUNNELS: Final = TunnelPorts(geneve=65201, vxlan=65202)
TICK_SECONDS: Final = 0.2
_ANSWER_SECONDS: Final = 0.05


class Cloud:
    """hosts: how many chassis, h0 onward.  faults: whether anything goes wrong until `heal`."""

    settle_seconds: Final = 90.0

    def __init__(self, seed: int, hosts: int = 3, faults: bool = True) -> None:
        self.random = Random(seed)
        self.clock = ManualClock()
        self.database = MemoryDatabase(Random(self.random.random()))
        self.faults = faults
        self.log: list[str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._publishers: dict[str, Numbering] = {}
        self._epoch = 0
        self._version = 0
        self._unwritten: dict[str, Write] = {}
        self._neutron = self.publisher("neutron")
        self.hosts = {f"h{n}": SimulatedHost(self, f"h{n}") for n in range(hosts)}
        for host in self.hosts.values():
            host.start()
        self._every(0.5, self._beat)
        self._every(0.7, self._change_the_world)
        self._every(1.3, self._break_something)
        self._every(1.0, self._write_again)

    # Time -----------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.clock.monotonic()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do it then."""
        self._number += 1
        heapq.heappush(self._events, (self.now + seconds, self._number, action))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            at, _, action = heapq.heappop(self._events)
            self.clock.advance(max(0.0, at - self.now))
            action()
        self.clock.advance(max(0.0, end - self.now))

    def heal(self) -> None:
        """Nothing goes wrong from now on, and what is down comes back."""
        self.faults = False
        self.database.available = True
        for host in self.hosts.values():
            host.switch.answers = True
            host.switch.lose_in_apply = None
            if host.core is None:
                host.start()

    def delay(self) -> float:
        """How long something takes."""
        return self.random.uniform(0.0, _ANSWER_SECONDS)

    def _every(self, seconds: float, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            self._every(seconds, action)

        self.after(seconds * self.random.uniform(0.5, 1.5), again)

    # The bus --------------------------------------------------------------------------------------

    def publisher(self, name: str) -> Numbering:
        """A new life of a publisher."""
        self._epoch += 1
        self._publishers[name] = numbering = Numbering(name, self._epoch, self.now)
        return numbering

    def publish(self, numbering: Numbering, writes: Sequence[Write]) -> None:
        """Say to everybody what was written."""
        for write in writes:
            self._spread(numbering.notice(*write))

    def _beat(self) -> None:
        for name, numbering in self._publishers.items():
            if name not in self.hosts or self.hosts[name].core is not None:
                for beat in numbering.heartbeats(self.now):
                    self._spread(beat)

    def _spread(self, event: BusEvent) -> None:
        for host in self.hosts.values():
            for _ in range(self._copies()):
                late = self.random.uniform(0.0, 3.0) if self.faults and self.random.random() < 0.1 else 0.0
                self.after(late or 0.001, partial(host.hear, event))

    def _copies(self) -> int:
        if not self.faults:
            return 1
        chance = self.random.random()
        return 0 if chance < 0.1 else 2 if chance < 0.2 else 1

    # The world ------------------------------------------------------------------------------------

    def _change_the_world(self) -> None:
        """One change by a user, as Neutron or as the one who plugs interfaces."""
        if not self.faults:
            return
        kind, id, record = a_change(self.random, 0)
        if kind is Chassis:
            return  # Agents write that themselves.
        if kind is Interface:
            host = self.random.choice(list(self.hosts.values()))
            port_id = f"{id}@n{self.random.randrange(3)}"
            host.plug(Plugged(port_id, f"vif-{port_id}", record.ofport if isinstance(record, Interface) else None))
            return
        if kind is not Network:
            # A record's scope never changes in its life: what lies in another network is another record.
            network_id = record.network_id if isinstance(record, Port | Subnet) else f"n{self.random.randrange(3)}"
            id = f"{id}@{network_id}"
            record = None if record is None else replace(record, id=id)
        self.write(kind, id, record)

    def write(self, kind: type[Record], id: str, record: Record | None) -> None:
        """Neutron changes a record (None: deletes it); it reaches the store when the store answers."""
        self._version += 1
        key = key_of(DEPLOYMENT, "", id.partition("@")[2] or id, kind.kind, id)
        value = None if record is None else encode(with_version(record, self._version))
        self._unwritten[key] = Write(key, self._version, value)
        self._write_again()

    def _write_again(self) -> None:
        writes = list(self._unwritten.values())
        try:
            outcomes = self.database.open().apply(writes)
        except Unavailable:
            return
        self._unwritten = {}
        self.publish(self._neutron, [write for write, out in zip(writes, outcomes, strict=True) if out.applied])

    def _break_something(self) -> None:
        if not self.faults:
            return
        host = self.random.choice(list(self.hosts.values()))
        match self.random.randrange(9):
            case 0:
                self.database.available = not self.database.available
            case 1:
                host.switch.restart()
            case 2:
                host.switch.lose("connection reset")
            case 3:
                host.switch.lose_in_apply = self.random.random() < 0.5
            case 4:
                host.switch.answers = not host.switch.answers
            case 5:
                host.stop()
            case 6 if host.core is None:
                host.start()
            case 7:
                host.blink()
            case 8:
                host.drift()

    # The verdict ----------------------------------------------------------------------------------

    def differences(self) -> list[str]:
        """What is not as it should be, a sentence each."""
        records = [
            decode(entry.key, entry.value)
            for entry in self.database.entries(deployment_prefix(DEPLOYMENT))
            if entry.value is not None
        ]
        self.random.shuffle(records)
        return [said for host in self.hosts.values() for said in host.differences(records)]


class SimulatedHost:
    """One chassis: a switch and its plugged interfaces, which stay, and an agent, which comes and goes."""

    def __init__(self, cloud: Cloud, name: str) -> None:
        self.name = name
        self.number = int(name[1:])
        self.switch = FakeSwitch()
        self.core: AgentCore | None = None
        self._cloud = cloud
        self._plugged: dict[str, Plugged] = {}
        self._life = 0
        self._connection: Switch | None = None
        self._numbering: Numbering | None = None
        self._working = False

    @property
    def apps(self) -> tuple[App, ...]:
        """The release's apps, as this chassis has them."""
        return apps(AppSettings(self.name, TUNNELS, DhcpSettings()))

    # Life -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new life, with no memory of the former ones."""
        cloud = self._cloud
        self._life += 1
        self._working = False
        self._numbering = cloud.publisher(self.name)
        settings = CoreSettings(
            deployment=DEPLOYMENT,
            chassis=self.name,
            tunnel_ip=f"192.168.50.{self.number + 1}",
            tunnel_types=("geneve", "vxlan"),
            epoch=int(cloud.clock.wall()),
            audit_seconds=20.0,
        )
        follower = Follower(
            [deployment_prefix(DEPLOYMENT)],
            Random(cloud.random.random()),
            FollowerSettings(own_publisher=self.name, refresh_seconds=30.0),
        )
        answer = partial(punts.answer, {punts.DHCP4: DhcpServer(DhcpSettings())})
        self.core = AgentCore(settings, self.apps, answer, follower, Random(cloud.random.random()), cloud.now)
        self._perform(self.core.start(cloud.now))
        self._deliver(Snapshot(tuple(self._plugged.values())))
        self._tick(self._life)

    def stop(self) -> None:
        """kill -9: the switch keeps what it holds."""
        self.core = None
        self._life += 1
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def plug(self, event: Plugged) -> None:
        """Somebody plugs an interface, or pulls it out."""
        if event.ofport is None:
            self._plugged.pop(event.name, None)
        else:
            self._plugged[event.name] = event
        self._deliver(event)

    def blink(self) -> None:
        """The configuration database restarts."""
        self._deliver(Lost("connection reset"))
        self._deliver(Snapshot(tuple(self._plugged.values())))

    def drift(self) -> None:
        """Somebody deletes one of our flows by hand."""
        ours = [key for key, value in self.switch.facts.items() if key[0] == 0 and is_ours(key, value)]
        if ours:
            self.switch._remove_flow(self._cloud.random.choice(ours))

    def hear(self, event: BusEvent) -> None:
        """From the bus."""
        self._receive(event)

    # The agent's rim ------------------------------------------------------------------------------

    def _tick(self, life: int) -> None:
        if self.core is not None and life == self._life:
            self._perform(self.core.tick(self._cloud.now))
            self._work()
            self._cloud.after(TICK_SECONDS, partial(self._tick, life))

    def _deliver(self, event: Event) -> None:
        """Hand an event to the life that is now, a little later."""
        life = self._life
        self._cloud.after(self._cloud.delay() / 50, lambda: self._receive(event) if life == self._life else None)

    def _receive(self, event: Event) -> None:
        if self.core is not None:
            self._perform(self.core.receive(event, self._cloud.now))
            self._work()

    def _work(self) -> None:
        """A slice, of a length drawn from the seed; the rest later."""
        core, random = self.core, self._cloud.random
        if core is None:
            return
        self._perform(core.work(lambda: random.random() < 0.1, self._cloud.now))
        if core.busy and not self._working:
            self._working = True
            life = self._life
            self._cloud.after(0.003, lambda: self._go_on(life))

    def _go_on(self, life: int) -> None:
        if life == self._life:
            self._working = False
            self._work()

    def _perform(self, effects: Sequence[Effect]) -> None:
        life = self._life
        for effect in effects:
            if isinstance(effect, Log):
                self._cloud.log.append(f"{self._cloud.now:.3f} {self.name}/{life} {effect.level}: {effect.text}")
            else:
                self._cloud.after(self._cloud.delay(), partial(self._carry_out, effect, life))

    def _carry_out(self, effect: Effect, life: int) -> None:
        """The effect takes place now; its answer arrives later.  An agent that died meanwhile may have had it done."""
        if life != self._life and not isinstance(effect, SendBatch | WriteRecords):
            return
        for event in self._done(effect, life):
            if life == self._life:
                self._cloud.after(self._cloud.delay(), lambda event=event: self._receive_if(life, event))  # type: ignore[misc]

    def _receive_if(self, life: int, event: Event) -> None:
        if life == self._life:
            self._receive(event)

    def _done(self, effect: Effect, life: int) -> Iterator[Event]:
        match effect:
            case ReadPrefix() | CompareVersions() | GetKeys():
                yield ask(self._cloud.database.open(), effect)
            case ClaimKey():
                if self._cloud.database.available:
                    yield KeyClaimed(100 + self.number)
                else:
                    yield KeyNotClaimed("the database is cut off")
            case WriteRecords(writes):
                yield self._written(writes)
            case OpenSwitch(session) | ReadSwitch(session) | SendBatch(session):
                yield self._switched(effect, session)
            case PacketOut(frame, actions, in_port):
                if self._connection is not None:
                    self._connection.send(frame, actions, in_port)
            case FollowStore() | Log():
                pass  # The simulated cloud has one store.

    def _written(self, writes: Sequence[Write]) -> Written | NotWritten:
        try:
            outcomes = self._cloud.database.open().apply(writes)
        except Unavailable as error:
            return NotWritten(str(error))
        if self._numbering is not None:
            applied = [write for write, outcome in zip(writes, outcomes, strict=True) if outcome.applied]
            self._cloud.publish(self._numbering, applied)
        if self._cloud.faults and self._cloud.random.random() < 0.1:
            return NotWritten("the answer was lost")
        return Written(outcomes)

    def _switched(self, effect: OpenSwitch | ReadSwitch | SendBatch, session: int) -> Event:
        life = self._life
        try:
            if isinstance(effect, OpenSwitch):
                self._connection = self.switch.open(
                    self.name, self._receive, lambda why: self._lost(life, SwitchLost(session, why))
                )
                return SwitchOpened(session, self._connection.read())
            if self._connection is None:
                raise Unavailable("not connected")
            if isinstance(effect, ReadSwitch):
                return SwitchRead(session, self._connection.read())
            return BatchDone(session, effect.ticket, self._connection.apply(effect.batch))
        except Unavailable as error:
            return SwitchLost(session, str(error))

    def _lost(self, life: int, event: SwitchLost) -> None:
        self._cloud.after(self._cloud.delay(), partial(self._receive_if, life, event))

    # The verdict ----------------------------------------------------------------------------------

    def differences(self, records: Sequence[Record]) -> list[str]:
        """What this host's switch and statuses should not be, given the records of the store."""
        out: list[str] = []
        compiler = Compiler(self.apps, self.name)
        plugged = {event.port_id: event for _, event in sorted(self._plugged.items(), reverse=True)}
        interfaces = [Interface(id=id, version=0, ofport=event.ofport or 0) for id, event in plugged.items()]
        compiler.load([*(record for record in records if not isinstance(record, PortStatus)), *interfaces])
        wanted = compiler.oracle()
        ours = {key: value for key, value in self.switch.facts.items() if is_ours(key, value)}
        for key in wanted.keys() | ours.keys():
            if wanted.get(key) != ours.get(key):
                out.append(f"{self.name}: {key.hex()} is {ours.get(key)!r}, should be {wanted.get(key)!r}")
        statuses = {
            record.id: record for record in records if isinstance(record, PortStatus) and record.chassis == self.name
        }
        local = {record.id: record for record in records if isinstance(record, Port) and record.host == self.name}
        for id in statuses.keys() | local.keys():
            right = self._right(local[id], plugged, compiler) if id in local else None
            said = statuses.get(id)
            if (said and (said.port_version, said.reason, said.up)) != right:
                out.append(f"{self.name}: of port {id} the store says {said}, should say {right}")
        return out

    def _right(self, port: Port, plugged: dict[str, Plugged], compiler: Compiler) -> tuple[int, str, bool]:
        if not port.admin_state_up:
            why = ADMIN_DOWN
        elif port.id not in plugged:
            why = NO_INTERFACE
        elif compiler.get(Network, port.network_id) is None:
            why = NO_NETWORK
        else:
            why = ""
        return port.version, why, not why
