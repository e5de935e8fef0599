"""One core with a fake switch, driven by hand: what the tests of the core share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

from flowloom.agent.core import AgentCore, CoreSettings
from flowloom.agent.events import (
    BatchDone,
    ClaimKey,
    FollowStore,
    KeyClaimed,
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
from flowloom.apps import punts
from flowloom.apps.guard import guard_app
from flowloom.apps.switching import TunnelPorts, switching_app
from flowloom.compiler.unit import App
from flowloom.consistency.marks import NODE_KINDS
from flowloom.kernel.errors import Unavailable
from flowloom.model.codec import decode, encode
from flowloom.model.keys import deployment_prefix, key_of, parse_key
from flowloom.model.records import Chassis, FixedIP, Network, Port, PortStatus, Record, Subnet
from flowloom.northbound.bus import Notice
from flowloom.northbound.follower import Follower, FollowerSettings
from flowloom.northbound.requests import CompareVersions, GetKeys, ReadPrefix, ask
from flowloom.northbound.store import Entry, Write
from flowloom.southbound.interfaces import Plugged, Snapshot
from flowloom.testing.fake_store import MemoryDatabase
from flowloom.testing.fake_switch import FakeSwitch

TUNNEL = 65201


def simple_apps(site: str) -> tuple[App, ...]:
    return (switching_app(site, TunnelPorts(geneve=TUNNEL)), guard_app())


class Host:
    """A host called h1.  Effects are carried out at once, unless `hold` names their type."""

    def __init__(
        self,
        epoch: int = 1000,
        switch: FakeSwitch | None = None,
        database: MemoryDatabase | None = None,
        hold: set[type] | None = None,
    ) -> None:
        self.now = 0.0
        self.switch = switch or FakeSwitch()
        self.database = database or MemoryDatabase(Random(1))
        self.store = self.database.open()
        self.follower = Follower(
            [deployment_prefix("lab")], Random(3), FollowerSettings(own_scope="/lab/-/h1/", nodes_kinds=NODE_KINDS)
        )
        self.logs: list[str] = []
        self.followed: list[FollowStore] = []
        self.packet_outs: list[PacketOut] = []
        self.batches: list[SendBatch] = []
        self.writes = 0
        self.sequence = 0
        self.own_sequence = 0
        self.hold = hold or set()
        self.held: list[Any] = []
        self.connection: Any = None
        settings = CoreSettings("lab", "h1", "192.0.2.1", ("geneve",), epoch)
        self.core = AgentCore(
            settings, simple_apps("h1"), partial(punts.answer, {}), self.follower, Random(2), self.now
        )
        self.perform(self.core.start(self.now))

    def perform(self, effects: Sequence[Any]) -> None:
        for effect in effects:
            if type(effect) in self.hold:
                self.held.append(effect)
            else:
                self.carry_out(effect)

    def release(self) -> None:
        held, self.held, self.hold = self.held, [], set()
        for effect in held:
            self.carry_out(effect)
        self.work()

    def carry_out(self, effect: Any) -> None:
        match effect:
            case Log(_, text):
                self.logs.append(text)
            case FollowStore():
                self.followed.append(effect)
            case OpenSwitch(session):
                self._switch(session, lambda: self._open(session))
            case ReadSwitch(session):
                self._switch(session, lambda: SwitchRead(session, self.connection.read()))
            case SendBatch(session, batch, ticket):
                self.batches.append(effect)
                self._switch(session, lambda: BatchDone(session, ticket, self.connection.apply(batch)))
            case PacketOut():
                self.packet_outs.append(effect)
            case ReadPrefix() | CompareVersions() | GetKeys():
                self.event(ask(self.store, effect))
            case ClaimKey():
                self.event(KeyClaimed(101))
            case WriteRecords(writes):
                self.writes += len(writes)
                try:
                    outcomes = self.store.apply(writes)
                except Unavailable as error:
                    self.event(NotWritten(str(error)))
                    return
                self.event(Written(outcomes))
                for write, outcome in zip(writes, outcomes, strict=True):
                    if outcome.applied:
                        self.own_sequence += 1
                        self.event(Notice("h1", 1, self.own_sequence, self.own_sequence - 1, *write))

    def _open(self, session: int) -> SwitchOpened:
        self.connection = self.switch.open("", lambda packet: None, lambda why: self.event(SwitchLost(session, why)))
        return SwitchOpened(session, self.connection.read())

    def _switch(self, session: int, call: Any) -> None:
        try:
            event = call()
        except Unavailable as error:
            event = SwitchLost(session, str(error))
        self.event(event)

    def event(self, event: Any) -> None:
        self.perform(self.core.receive(event, self.now))

    def work(self) -> None:
        """Until there is nothing to do at this moment."""
        while True:
            before = len(self.batches), self.writes
            self.perform(self.core.work(lambda: False, self.now))
            if (len(self.batches), self.writes) == before and not self.core.busy:
                return

    def wait(self, seconds: float) -> None:
        """Let time pass in steps of a tenth of a second."""
        for _ in range(max(1, round(seconds * 10))):
            self.now += 0.1
            self.perform(self.core.tick(self.now))
            self.work()

    # What the world says.

    def tell(self, *records: Record) -> None:
        """Written to the store, and said over the bus."""
        self.say(*(Write(key_for(record), record.version, encode(record)) for record in records))
        self.work()

    def untell(self, record: Record, version: int) -> None:
        """Deleted."""
        self.say(Write(key_for(record), version, None))
        self.work()

    def say(self, *writes: Write) -> None:
        """Without the work that follows."""
        cut_off, self.database.available = not self.database.available, True
        self.database.open().apply(writes)
        self.database.available = not cut_off
        for write in writes:
            self.sequence += 1
            self.event(Notice("neutron", 1, self.sequence, self.sequence - 1, *write))

    def snapshot(self, *plugged: Plugged) -> None:
        self.event(Snapshot(plugged))
        self.work()

    def plug(self, port_id: str, ofport: int | None, error: str = "") -> None:
        self.event(Plugged(port_id, f"vif-{port_id}", ofport, error))
        self.work()

    # What one sees.

    def status(self, port_id: str) -> PortStatus | None:
        """What the store says of a port, None for nothing or a tombstone."""
        for entry in self.database.entries("/lab/-/h1/port_status/"):
            if parse_key(entry.key).id == port_id:
                return _status(entry)
        return None

    def exact(self) -> bool:
        """The switch holds what full recompute says, and nothing else of ours."""
        return self.switch.facts == self.core.compiler.oracle()


def _status(entry: Entry) -> PortStatus | None:
    if entry.value is None:
        return None
    record = decode(entry.key, entry.value)
    assert isinstance(record, PortStatus) and record.version == entry.version
    return record


def key_for(record: Record) -> str:
    scope = getattr(record, "network_id", getattr(record, "chassis", record.id))
    return key_of("lab", record.project_id, scope, record.kind, record.id)


def network(version: int = 1, **more: Any) -> Network:
    fields: dict[str, Any] = {"id": "n1", "version": version, "key": 1, "segmentation_id": 7}
    return Network(**(fields | more))


def subnet(version: int = 1, **more: Any) -> Subnet:
    fields: dict[str, Any] = {"id": "s1", "version": version, "network_id": "n1", "cidr": "10.0.0.0/24"}
    return Subnet(**(fields | more))


def port(n: int = 1, version: int = 1, host: str = "h1", **more: Any) -> Port:
    fields: dict[str, Any] = {
        "id": f"p{n}", "version": version, "key": n, "network_id": "n1", "mac_address": f"fa:16:3e:00:00:{n:02x}",
        "fixed_ips": (FixedIP("s1", f"10.0.0.{n}"),), "host": host,
    }  # fmt: skip
    return Port(**(fields | more))


def chassis(name: str, key: int) -> Chassis:
    return Chassis(id=name, version=1, key=key, tunnel_ip=f"192.0.2.{key}")


WORLD = (network(), subnet(), chassis("h2", 2), port(1), port(2, host="h2"))


def running(**more: Any) -> Host:
    """A host in sync with one network, a local port p1 plugged at 5, and a remote port p2 on h2."""
    host = Host(**more)
    host.tell(*WORLD)
    host.snapshot(Plugged("p1", "vif-p1", 5))
    return host
