"""A switch in memory: the southbound contract on the exact bytes, and packets through what it holds.

`FakeSwitch` is the switch and survives its connections; `open` gives a connection as a driver would.  Used
directly it is an open connection to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flowloom.kernel.clock import Clock
from flowloom.kernel.errors import Unavailable
from flowloom.openflow import actions as a
from flowloom.openflow import facts
from flowloom.openflow import fields as f
from flowloom.southbound.switch import Batch, PacketIn, Refusal
from flowloom.testing.datapath import Emission, Loop, Step, TunnelMeta, Walk
from flowloom.testing.flow_tables import Ambiguous, Flow, Tables
from flowloom.testing.frames import Packet
from flowloom.testing.programs import compile_bucket, compile_instructions, compile_list
from flowloom.testing.refusals import check_actions, check_flow

__all__ = ["Ambiguous", "Emission", "FakeConnection", "FakeSwitch", "Loop", "Step", "TunnelMeta"]


class FakeSwitch:
    """One switch.

    ports: numbers of its ports; None: every number is a port.  tunnels: tunnel port -> own outer IPv4 address
    (its destination is taken from the packet's tun_dst).  on_packet: gets packet-ins besides the open connections.

    Faults: `refuse` maps keys to the error to answer them with; `delay_seconds` passes on `clock` before each
    `apply`; `lose` ends the connections; `lose_in_apply` (True: after the change, False: before) ends them in
    the next one; `restart` forgets everything.  `sent` collects what packet-outs let out.
    """

    def __init__(
        self,
        ports: Iterable[int] | None = None,
        tunnels: Mapping[int, int] | None = None,
        on_packet: Callable[[PacketIn], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.facts: dict[bytes, bytes] = {}
        self.refuse: dict[bytes, str] = {}
        self.delay_seconds = 0.0
        self.lose_in_apply: bool | None = None
        self.answers = True
        self.sent: list[Emission] = []
        self._ports = None if ports is None else frozenset(ports)
        self._tunnels = dict(tunnels or {})
        self._on_packet = on_packet
        self._clock = clock
        self._connections: list[FakeConnection] = []
        self._tables = Tables()
        self._users: dict[int, set[bytes]] = {}

    def open(
        self, address: str, on_packet: Callable[[PacketIn], None], on_lost: Callable[[str], None]
    ) -> FakeConnection:
        """A connection.  Unavailable while `answers` is False."""
        if not self.answers:
            raise Unavailable(f"{address}: nobody answers")
        connection = FakeConnection(self, on_packet, on_lost)
        self._connections.append(connection)
        return connection

    def lose(self, why: str = "connection reset") -> None:
        """End every connection; what is held stays."""
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.cut(why)

    def restart(self) -> None:
        """End every connection and forget every fact, as a switch that starts again."""
        self.lose("switch restarted")
        self.facts.clear()
        self._tables = Tables()
        self._users.clear()

    def read(self) -> dict[bytes, bytes]:
        """Every fact, other owners' included."""
        return dict(self.facts)

    def apply(self, batch: Batch) -> list[Refusal]:
        """Make the change in the order of the driver's bundle: what comes before what goes."""
        if self._clock is not None and self.delay_seconds:
            self._clock.sleep(self.delay_seconds)
        if self.lose_in_apply is False:
            self._lose_now()
        refusals = self._change(batch)
        if self.lose_in_apply:
            self._lose_now()
        return refusals

    def hold(self, held: Iterable[tuple[bytes, bytes]]) -> None:
        """Take facts as another owner would put them; ValueError when the switch refuses one."""
        refusals = self._change(Batch((), tuple(held)))
        if refusals:
            raise ValueError(f"refused: {refusals}")

    def send(self, frame: bytes, actions: bytes, in_port: int) -> None:
        """Packet-out; what leaves the switch is appended to `sent`, what comes up goes to the connections."""
        walk = self._walk(in_port, frame, None)
        walk.run(compile_list(actions).runs)
        self.sent += self._delivered(walk)

    def close(self) -> None:
        """Nothing to close: the switch itself stays."""

    def inject(self, in_port: int, frame: bytes, tunnel: TunnelMeta | None = None) -> list[Emission]:
        """Let a frame in at `in_port`; what leaves, in order.  Packet-ins go to the connections, too."""
        walk = self._walk(in_port, frame, tunnel)
        walk.look_up(0)
        return self._delivered(walk)

    def trace(self, in_port: int, frame: bytes, tunnel: TunnelMeta | None = None) -> list[Step]:
        """The look-ups that `inject` would make, each with the flow it finds; nothing leaves."""
        walk = self._walk(in_port, frame, tunnel)
        walk.steps = []
        walk.look_up(0)
        return walk.steps

    def deliver_packet_in(self, packet: PacketIn) -> None:
        """Hand a packet-in to whoever listens."""
        if self._on_packet is not None:
            self._on_packet(packet)
        for connection in list(self._connections):
            connection.on_packet(packet)

    def _lose_now(self) -> None:
        self.lose_in_apply = None
        self.lose("connection lost in apply")
        raise Unavailable("connection lost in apply")

    def _walk(self, in_port: int, frame: bytes, tunnel: TunnelMeta | None) -> Walk:
        packet = Packet(frame)
        values = packet.values
        values[f.IN_PORT.order] = in_port
        if tunnel is not None:
            values[f.TUN_ID.order], values[f.TUN_SRC.order], values[f.TUN_DST.order] = tunnel
        return Walk(self._tables, packet, self._tunnels, self._ports)

    def _delivered(self, walk: Walk) -> list[Emission]:
        for emission in walk.emissions:
            if emission.packet_in is not None:
                self.deliver_packet_in(emission.packet_in)
        return walk.emissions

    def _change(self, batch: Batch) -> list[Refusal]:
        refusals: list[Refusal] = []
        _check_batch(batch)
        for kind in (facts.GROUP, facts.BUCKET):
            for key, value in batch.puts:
                if key[0] == kind:
                    self._try(refusals, key, lambda key=key, value=value: self._put_group_part(key, value))  # type: ignore[misc]
        for key in batch.deletes:
            if key[0] == facts.FLOW:
                self._try(refusals, key, lambda key=key: self._remove_flow(key))  # type: ignore[misc]
        for key, value in batch.puts:
            if key[0] == facts.FLOW:
                self._try(refusals, key, lambda key=key, value=value: self._put_flow(key, value))  # type: ignore[misc]
        for kind in (facts.BUCKET, facts.GROUP):
            for key in batch.deletes:
                if key[0] == kind:
                    self._try(refusals, key, lambda key=key: self._remove_group_part(key))  # type: ignore[misc]
        return refusals

    def _try(self, refusals: list[Refusal], key: bytes, change: Callable[[], str | None]) -> None:
        error = self.refuse.get(key) or change()
        if error is not None:
            refusals.append(Refusal(key, error))

    def _put_flow(self, key: bytes, value: bytes) -> str | None:
        if self.facts.get(key) == value:
            return None
        table, priority, match = facts.split_flow_key(key)
        program = compile_instructions(value[8:])
        error = check_flow(table, match, value[8:], program.groups.difference(self._tables.groups))
        if error is not None:
            return error
        self._remove_flow(key)
        flow = Flow(key, value, table, priority, facts.cookie_of(value), program)
        self.facts[key] = value
        self._tables.put_flow(flow)
        for group_id in program.groups:
            self._users.setdefault(group_id, set()).add(key)
        return None

    def _remove_flow(self, key: bytes) -> None:
        value = self.facts.pop(key, None)
        if value is None:
            return
        self._tables.remove_flow(key)
        for group_id in compile_instructions(value[8:]).groups:
            self._users[group_id].discard(key)

    def _put_group_part(self, key: bytes, value: bytes) -> str | None:
        groups = self._tables.groups
        if key[0] == facts.GROUP:
            group_id = facts.split_group_key(key)
            groups[group_id] = (value[0], groups[group_id][1] if group_id in groups else {})
        else:
            group_id, bucket_id = facts.split_bucket_key(key)
            if group_id not in groups:
                return "OFPGMFC_UNKNOWN_GROUP"
            program = compile_bucket(value)
            error = check_actions(a.decode_actions(value), None)
            if error is not None:
                return error
            if self.facts.get(key) != value:
                groups[group_id][1].pop(bucket_id, None)
                groups[group_id][1][bucket_id] = program
        self.facts[key] = value
        return None

    def _remove_group_part(self, key: bytes) -> None:
        if key not in self.facts:
            return
        del self.facts[key]
        if key[0] == facts.BUCKET:
            group_id, bucket_id = facts.split_bucket_key(key)
            del self._tables.groups[group_id][1][bucket_id]
            return
        group_id = facts.split_group_key(key)
        _, buckets = self._tables.groups.pop(group_id)
        for bucket_id in buckets:
            del self.facts[facts.bucket_key(group_id, bucket_id)]
        for flow in list(self._users.get(group_id, ())):
            self._remove_flow(flow)


class FakeConnection:
    """A connection to a FakeSwitch, as the driver would hold it."""

    def __init__(
        self, switch: FakeSwitch, on_packet: Callable[[PacketIn], None], on_lost: Callable[[str], None]
    ) -> None:
        self.on_packet = on_packet
        self._on_lost = on_lost
        self._switch: FakeSwitch | None = switch

    def read(self) -> dict[bytes, bytes]:
        """Every fact the switch holds."""
        return self._live().read()

    def apply(self, batch: Batch) -> list[Refusal]:
        """Make the change in one step."""
        return self._live().apply(batch)

    def send(self, frame: bytes, actions: bytes, in_port: int) -> None:
        """Packet-out."""
        self._live().send(frame, actions, in_port)

    def close(self) -> None:
        """Close; flows stay."""
        if self._switch is not None:
            self._switch._connections.remove(self)
            self._switch = None

    def cut(self, why: str) -> None:
        """What a lost connection does."""
        self._switch = None
        self._on_lost(why)

    def _live(self) -> FakeSwitch:
        if self._switch is None:
            raise Unavailable("the connection is closed")
        return self._switch


def _check_batch(batch: Batch) -> None:
    keys = [*batch.deletes, *(key for key, _ in batch.puts)]
    if len(set(keys)) != len(keys):
        raise ValueError("a key stands twice in a batch")
