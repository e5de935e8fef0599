"""The agent's core: events in, effects out.  No I/O, no threads, no clock of its own.

    replica -> compiler -> ledger -> switch

`receive` takes a fact in, `work` gets on with what is undone for as long as its caller allows, `tick` is
for what only time brings about.  Flows are computed once the records are in sync *and* the interfaces
are known; the difference to the switch is sent once all of it is compiled; from then on every change is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, assert_never

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
from flowloom.agent.faults import Faults
from flowloom.agent.inlet import READ, Inlet
from flowloom.agent.installing import Installing
from flowloom.agent.own import OwnRecords
from flowloom.agent.ports import LocalPorts
from flowloom.apps.punts import Answer, Ignored
from flowloom.compiler.compiler import Compiler
from flowloom.compiler.unit import App
from flowloom.compiler.view import View
from flowloom.kernel.backoff import Backoff
from flowloom.kernel.errors import Unavailable
from flowloom.model.keys import NO_PROJECT, key_of
from flowloom.model.records import Chassis, Interface, Network, Port, PortStatus, Record, node_version
from flowloom.northbound.bus import BusEvent, Gone, Heartbeat, Notice
from flowloom.northbound.follower import Follower, Step
from flowloom.northbound.requests import Answer as StoreAnswer
from flowloom.northbound.requests import Request
from flowloom.northbound.store import Changes
from flowloom.southbound.interfaces import Lost as InterfacesLost
from flowloom.southbound.interfaces import Plugged, Snapshot
from flowloom.southbound.switch import PacketIn

MERGE_MAX: Final = 256
"""Records merged between two looks at the clock: about 2 ms."""


NOTES_MAX: Final = 1000
"""Sentences about records that packet answers could not use; each is logged once."""


@dataclass(frozen=True)
class CoreSettings:
    """chassis: own id.  epoch: seconds of wall clock at the start of this life, greater than every former one's.

    audit_seconds: between two comparisons of the whole switch with what it should hold.
    grace_seconds: how long a port may wait for its switch before that is reported.
    """

    deployment: str
    chassis: str
    tunnel_ip: str
    tunnel_types: tuple[str, ...]
    epoch: int
    audit_seconds: float = 60.0
    grace_seconds: float = 3.0


Answers = Callable[[PacketIn, View], Answer | Ignored]
"""What the apps say to a frame that a flow sent up: `punts.answer`, given the apps that punt."""

Event = (
    Plugged
    | Snapshot
    | InterfacesLost
    | SwitchOpened
    | SwitchLost
    | SwitchRead
    | BatchDone
    | PacketIn
    | Written
    | NotWritten
    | KeyClaimed
    | KeyNotClaimed
    | BusEvent
    | Changes
    | StoreAnswer
)
Effect = Request | OpenSwitch | ReadSwitch | SendBatch | PacketOut | WriteRecords | ClaimKey | FollowStore | Log


class AgentCore:
    """One host's agent.  Its owner calls it from one thread and carries out what it returns, in order.

    After any call, call `work` as long as `busy`.
    """

    def __init__(
        self,
        settings: CoreSettings,
        apps: Sequence[App],
        answer: Answers,
        follower: Follower,
        random: Random,
        now: float,
    ) -> None:
        self.settings = settings
        self.follower = follower
        self.compiler = Compiler(apps, settings.chassis)
        self.installing = Installing(self.compiler.ledger, random, settings.audit_seconds, now)
        self.ports = LocalPorts(settings.chassis, settings.grace_seconds)
        self.own = OwnRecords(node_version(settings.epoch, 0), random)
        self.faults = Faults(self.compiler, self.ports)
        self.inlet = Inlet(settings.deployment, settings.chassis)
        self.packets: Counter[str] = Counter()
        self.interfaces_why = "not read yet"
        self.store_why = "not asked yet"
        self.store_heard_at: float | None = None
        self.bus_heard_at: float | None = None
        self.loaded = False
        self._answer = answer
        self._mark = 0
        self._settled = 0
        self._unmerged: dict[tuple[type[Record], str], Record | None] = {}
        self._stale: dict[str, None] = {}
        self._interfaces_known = False
        self._was_in_sync = False
        self._epoch = ""
        self._former: dict[str, PortStatus | None] = {}
        self._noted: set[str] = set()
        self._former_chassis: Chassis | None = None
        self._contest_told = False
        self._claiming = False
        self._claimed = False
        self._claim_at = now
        self._claim_backoff = Backoff(random)
        self._checks: list[Callable[[Mapping[bytes, bytes] | None], None]] = []

    # Events ---------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """The first effects."""
        return [*self._step(self.follower.start(now), now), *self.tick(now)]

    def receive(self, event: Event, now: float) -> list[Effect]:
        """Take one event in."""
        match event:
            case Plugged():
                return self._plugged(self.ports.plug(event))
            case Snapshot():
                return self._snapshot(event)
            case InterfacesLost():
                self.interfaces_why = event.why
                return [Log("warning", f"interfaces: {event.why}; going on with what is known")]
            case SwitchOpened():
                return self._opened(event, now)
            case SwitchLost():
                return self._lost(event, now)
            case SwitchRead():
                return self._read(event, now)
            case BatchDone():
                return self._batch_done(event)
            case PacketIn():
                return self._packet(event)
            case Written() | NotWritten():
                return self._written(event, now)
            case KeyClaimed() | KeyNotClaimed():
                return self._claim(event, now)
            case Notice() | Heartbeat() | Gone():
                self.bus_heard_at = now
                return self._step(self.follower.receive(event, now), now)
            case Changes():
                return [*self._store_says("", now), *self._step(self.follower.receive(event, now), now)]
            case StoreAnswer(_, result):
                why = str(result) if isinstance(result, Unavailable) else ""
                return [*self._store_says(why, now), *self._step(self.follower.receive(event, now), now)]
            case _:
                assert_never(event)

    def tick(self, now: float) -> list[Effect]:
        """What time brings about: retries, audits, waits that have become too long."""
        effects: list[Effect] = []
        if not self._claimed and not self._claiming and now >= self._claim_at:
            self._claiming = True
            effects.append(ClaimKey())
        effects += self._step(self.follower.tick(now), now)
        effects += self.installing.tick(now)
        if self.loaded:
            lost_at = self.installing.lost_at
            lost = lost_at is not None and now - lost_at >= self.settings.grace_seconds
            self._say_of(self.ports.ids() if lost else self.ports.late(now), now)
        return effects + self._report(now)

    @property
    def backlog(self) -> int:
        """Records received and not merged, and units marked and not run; at 0 the desired facts are exact."""
        return len(self._unmerged) + self.compiler.backlog

    def record(self, kind_name: str, id: str, key: str) -> Record | None:
        """What this node holds of an object: in the replica or on its way there; of its own status records, what
        it knows the store to hold.  None: nothing."""
        kind = READ.get(kind_name)
        if kind is None:
            return None
        if kind is PortStatus:
            return self.own.holds(key)
        if (kind, id) in self._unmerged:
            return self._unmerged[kind, id]
        return self.compiler.get(kind, id)

    @property
    def primed(self) -> bool:
        """The cold start is behind: everything known was compiled once."""
        return self.loaded and self.installing.primed

    @property
    def busy(self) -> bool:
        """There is work that needs no event."""
        return self.loaded and bool(self._unmerged or self.compiler.backlog)

    def work(self, until: Callable[[], bool], now: float) -> list[Effect]:
        """Merge and compile until `until()`, then send and report what can be."""
        effects = self._load(now)
        if self.loaded:
            while self._unmerged:
                self._merge(now)
                if until():
                    break
            if self.compiler.backlog:
                self.compiler.work(until)
            exact = not self._unmerged and not self.compiler.backlog
            effects += self.installing.send(exact, self._mark)
            self._settle(now)
        return effects + self._report(now)

    # Records and interfaces -----------------------------------------------------------------------

    def _step(self, step: Step, now: float) -> list[Effect]:
        for kind, id, record, _ in self.inlet.changes(step.changes):
            if kind is PortStatus:
                self._found_status(id, record)  # type: ignore[arg-type]
                continue
            if kind is Chassis and id == self.settings.chassis:
                self._found_chassis(record)  # type: ignore[arg-type]
            self._unmerged[kind, id] = record
        effects: list[Effect] = list(step.requests)
        if (pointer := self.inlet.pointer(step.changes)) is not None:
            effects.append(FollowStore(pointer))
        if self.follower.epoch != self._epoch:
            if self._epoch:
                # Wiped or restored: what this node alone can write, nobody else brings back; its number may be free.
                self.own.doubt_all()
                self._claimed = False
                effects.append(Log("warning", "records: the store is another one; writing the own records again"))
            self._epoch = self.follower.epoch
        if self.follower.in_sync != self._was_in_sync:
            self._was_in_sync = self.follower.in_sync
            text = (
                "records: in sync" if self._was_in_sync else "records: no longer in sync; going on with what is known"
            )
            effects.append(Log("info" if self._was_in_sync else "warning", text))
        return effects

    def _snapshot(self, event: Snapshot) -> list[Effect]:
        news = bool(self.interfaces_why)
        self._interfaces_known, self.interfaces_why = True, ""
        self._plugged(self.ports.snapshot(event.plugged))
        return [Log("info", f"interfaces: {len(event.plugged)} plugged")] if news else []

    def _plugged(self, port_ids: Iterable[str]) -> list[Effect]:
        for port_id in port_ids:
            self._unmerged[Interface, port_id] = self.ports.interface(port_id)
            self._stale[port_id] = None
        return []

    def _load(self, now: float) -> list[Effect]:
        """Begin, once both halves of the world are known."""
        if self.loaded or not (self._interfaces_known and self.follower.in_sync):
            return []
        self.loaded = True
        self._mark += 1
        records = [record for record in self._unmerged.values() if record is not None]
        self._unmerged = {}
        for record in records:
            if isinstance(record, Port):
                self.ports.changed(record.id, record, self._mark, now)
        self.compiler.load(records)
        former, self._former = self._former, {}
        for id, status in former.items():
            self._found_status(id, status)
        return [Log("info", f"{len(records)} records loaded, {len(self.ports.ids())} ports are bound here")]

    def _merge(self, now: float) -> None:
        """Take a bounded part of what arrived into the replica."""
        self._mark += 1
        taken = list(self._unmerged.items())[:MERGE_MAX]
        for (kind, id), record in taken:
            del self._unmerged[kind, id]
            if kind is Port:
                assert record is None or isinstance(record, Port)
                if self.ports.changed(id, record, self._mark, now):
                    self._stale[id] = None
            elif kind is Interface:
                self.ports.touch(id, self._mark, now)
                self._stale[id] = None
            elif kind is Network and (record is None) != (self.compiler.get(Network, id) is None):
                for port_id in self.ports.of_network(id):
                    self.ports.touch(port_id, self._mark, now)
                    self._stale[port_id] = None
        self.compiler.merge((kind, id, record) for (kind, id), record in taken)

    # Switch ---------------------------------------------------------------------------------------

    def _opened(self, event: SwitchOpened, now: float) -> list[Effect]:
        effects = self.installing.opened(event, now)
        if effects:
            # Whatever was confirmed on the former connection may be gone with a restart of the switch.
            self._mark += 1
            for id in self.ports.ids():
                self.ports.touch(id, self._mark, now)
        return list(effects)

    def _read(self, event: SwitchRead, now: float) -> list[Effect]:
        checks, self._checks = self._checks, []
        for check in checks:
            check(event.held)
        return list(self.installing.read(event, now, repair=not checks))

    def check(self, then: Callable[[Mapping[bytes, bytes] | None], None]) -> None:
        """Have the switch read, changing nothing, and `then` called with what it holds; None: it is not connected."""
        if not self.installing.connected:
            then(None)
            return
        self._checks.append(then)
        self.installing.ask_read()

    def _lost(self, event: SwitchLost, now: float) -> list[Effect]:
        effects = self.installing.lost(event, now)
        if not self.installing.connected:
            checks, self._checks = self._checks, []
            for check in checks:
                check(None)
        return list(effects)

    def _batch_done(self, event: BatchDone) -> list[Effect]:
        refusals = self.installing.done(event)
        return [Log("error", f"flow refused: {self.faults.refusal(*refusal)}") for refusal in refusals]

    def _settle(self, now: float) -> None:
        """Confirm what the switch has, and look again at ports whose standing may have moved by it."""
        reached = self.installing.confirmed
        for id in self.ports.confirm(reached):
            self._stale[id] = None
        # While what was refused is being tried again, it is not yet known to be well.
        if reached > self._settled or (reached == self._mark and not self.compiler.ledger.in_flight):
            self._settled = reached
            self._stale.update(dict.fromkeys(self.ports.fault(self.faults.now())))
        stale, self._stale = self._stale, {}
        self._say_of(stale, now)

    # Own records ----------------------------------------------------------------------------------

    def _say_of(self, port_ids: Iterable[str], now: float) -> None:
        """Bring what this node says of these ports up to date."""
        for id in port_ids:
            key = self._status_key(id)
            if not self.ports.is_local(id):
                self.own.want(key, None)
                continue
            network = self.compiler.get(Network, self.ports.network_id(id))
            status = self.ports.status(id, network, self.installing.lost_at, now)
            if status is not None:
                self.own.want(key, status)

    def _found_status(self, id: str, status: PortStatus | None) -> None:
        """The store's word on a port of ours: of a former life, or an echo.  Before all is loaded it only stands by."""
        if not self.loaded:
            self._former[id] = status
            return
        key = self._status_key(id)
        if status is None:
            self.own.gone(key)
            return
        if self.ports.is_local(id) and not self.own.wants(key):
            self.own.want(key, status)  # It stands until this life knows better.
        self.own.found(key, status)

    def _claim(self, event: KeyClaimed | KeyNotClaimed, now: float) -> list[Effect]:
        self._claiming = False
        if isinstance(event, KeyNotClaimed):
            self._claim_at = now + self._claim_backoff.next_delay()
            return self._store_says(event.why, now)
        settings = self.settings
        chassis = Chassis(
            id=settings.chassis,
            version=0,
            key=event.key,
            tunnel_ip=settings.tunnel_ip,
            tunnel_types=settings.tunnel_types,
            started_at=float(settings.epoch),
        )
        self._claimed = True
        key = self._chassis_key()
        self.own.want(key, chassis)
        if self._former_chassis is not None:
            self.own.found(key, self._former_chassis)
        return [*self._store_says("", now), Log("info", f"chassis {settings.chassis} has key {event.key}")]

    def _found_chassis(self, record: Chassis | None) -> None:
        self._former_chassis = record
        if not self._claimed:
            return
        if record is None:
            self.own.gone(self._chassis_key())
        else:
            self.own.found(self._chassis_key(), record)

    def _written(self, event: Written | NotWritten, now: float) -> list[Effect]:
        if isinstance(event, NotWritten):
            self.own.not_written(now)
            return self._store_says(event.why, now)
        stale = self.own.written(event.outcomes)
        effects: list[Effect] = [Log("warning", f"{key} held a newer version of a former life") for key in stale]
        return effects + self._store_says("", now)

    def _store_says(self, why: str, now: float) -> list[Effect]:
        was, self.store_why = self.store_why, why
        if not why:
            self.store_heard_at = now
        if bool(was) == bool(why):
            return []
        return [Log("warning", f"store: {why}") if why else Log("info", "store: answers")]

    def _report(self, now: float) -> list[Effect]:
        writes = self.own.due(now)
        effects: list[Effect] = [WriteRecords(writes)] if writes else []
        if self.own.contests > 1 and not self._contest_told:
            self._contest_told = True
            who = self.settings.chassis
            effects.append(
                Log("error", f"another agent writes the records of chassis {who}: stop one of the two, or name it anew")
            )
        return effects

    def _status_key(self, port_id: str) -> str:
        return key_of(self.settings.deployment, NO_PROJECT, self.settings.chassis, PortStatus.kind, port_id)

    def _chassis_key(self) -> str:
        return key_of(self.settings.deployment, NO_PROJECT, self.settings.chassis, Chassis.kind, self.settings.chassis)

    # Packets --------------------------------------------------------------------------------------

    def _packet(self, packet: PacketIn) -> list[Effect]:
        self.packets["received"] += 1
        said = self._answer(packet, self.compiler.view())
        self.packets[said.counter or "answered"] += 1
        if isinstance(said, Ignored):
            return []
        effects: list[Effect] = [PacketOut(said.frame, said.actions, said.in_port)]
        for note in said.notes:
            if note not in self._noted and len(self._noted) < NOTES_MAX:
                self._noted.add(note)
                effects.append(Log("warning", note))
        return effects
