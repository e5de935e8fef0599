"""One packet on its way through flow tables and groups, as Open vSwitch takes it (`ofproto/ofproto-dpif-xlate.c`).

Meters let everything pass in controller actions; connection tracking, conjunctions, meter actions and groups
other than `all` and `indirect` raise NotImplementedError with their name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from flowloom.openflow import actions as a
from flowloom.openflow import facts
from flowloom.openflow import fields as f
from flowloom.southbound.switch import PacketIn
from flowloom.testing.flow_tables import Flow, Run, Tables, flow_text
from flowloom.testing.frames import REGISTERS, Packet

DEPTH_MAX: Final = 64
LOOKUPS_MAX: Final = 4096
"""Open vSwitch's own bounds on nested and on all resubmits of one packet."""

NO_COOKIE: Final = 0xFFFF_FFFF_FFFF_FFFF


class Loop(AssertionError):
    """A packet was resubmitted too deep or too often; Open vSwitch would drop it."""


class TunnelMeta(NamedTuple):
    """What a tunnel port adds to a frame: key, outer source and outer destination address (IPv4)."""

    tun_id: int
    src: int
    dst: int


class Emission(NamedTuple):
    """A frame that left: by `port`, in a tunnel when `tunnel`; or to the controller, as `packet_in`."""

    port: int
    frame: bytes
    tunnel: TunnelMeta | None = None
    packet_in: PacketIn | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One look-up of a trace.  key: of the flow that matched, None for a miss; depth: of resubmits and groups."""

    depth: int
    table: int
    key: bytes | None
    cookie: int = 0
    instructions: tuple[a.Instruction, ...] = ()

    def __str__(self) -> str:
        indent = "  " * self.depth
        if self.key is None:
            return f"{indent}table {self.table} no match, drop"
        return f"{indent}{flow_text(self.key)} -> {', '.join(map(str, self.instructions)) or 'drop'}"


@dataclass(slots=True)
class Walk:
    """One packet on its way.  tunnels: tunnel port -> own outer address."""

    tables: Tables
    packet: Packet
    tunnels: Mapping[int, int]
    ports: frozenset[int] | None
    emissions: list[Emission] = field(default_factory=list)
    steps: list[Step] | None = None
    table: int = 0
    cookie: int = NO_COOKIE
    depth: int = 0
    lookups: int = 0

    def look_up(self, table_id: int | None) -> None:
        """Run the packet through `table_id` and where that leads."""
        before = self.table, self.cookie
        while table_id is not None:
            self.lookups += 1
            if self.lookups > LOOKUPS_MAX:
                raise Loop(f"{LOOKUPS_MAX} look-ups, the last in table {table_id}")
            table = self.tables.tables.get(table_id)
            flow = table.find(_seen(self.packet.values)) if table is not None else None
            if self.steps is not None:
                self.steps.append(_step(self.depth, table_id, flow))
            if flow is None:
                break
            self.table, self.cookie = table_id, flow.cookie
            table_id = flow.program.goto
            if self.run(flow.program.runs):
                break
        self.table, self.cookie = before

    def run(self, runs: Iterable[Run]) -> bool:
        """Run compiled actions; True when one of them ended the list."""
        return any(run(self) for run in runs)

    def resubmit(self, table_id: int, in_port: int | None) -> None:
        """Look up in `table_id` and come back."""
        values = self.packet.values
        before = values[_IN_PORT]
        if in_port is not None:
            values[_IN_PORT] = in_port
        self._nested(lambda: self.look_up(self.table if table_id == 0xFF else table_id))
        self.packet.values[_IN_PORT] = before

    def run_group(self, group_id: int) -> None:
        """Give each bucket a copy of the packet."""
        kind, buckets = self.tables.groups.get(group_id, (facts.GROUP_ALL, {}))
        if kind not in (facts.GROUP_ALL, facts.GROUP_INDIRECT):
            raise NotImplementedError(f"group {group_id} of type {kind}: only all and indirect are simulated")
        packet = self.packet
        for program in buckets.values():
            self.packet = packet.copy()
            self._nested(lambda program=program: self.run(program.runs))  # type: ignore[misc]
        self.packet = packet

    def output(self, port: int) -> None:
        """Let the packet out."""
        values = self.packet.values
        if port == a.PORT_IN:
            port = values[_IN_PORT]
        elif port == values[_IN_PORT]:
            return  # Never back by accident (OpenFlow 1.5.1, section 4.5).
        if port == a.PORT_CONTROLLER:
            self.punt(b"")
        elif port in self.tunnels:
            if values[_TUN_DST]:
                tunnel = TunnelMeta(values[_TUN_ID], values[_TUN_SRC] or self.tunnels[port], values[_TUN_DST])
                self.emissions.append(Emission(port, self.packet.encode(), tunnel))
        elif self.ports is None or port in self.ports:
            self.emissions.append(Emission(port, self.packet.encode()))

    def punt(self, userdata: bytes) -> None:
        """Send the packet to the controller."""
        values, frame = self.packet.values, self.packet.encode()
        # Reported as 64-bit registers: a half that is 0 comes with one that is not.
        registers = {n: values[i] for n, i in enumerate(REGISTERS) if values[i] or values[REGISTERS[n ^ 1]]}
        packet_in = PacketIn(self.cookie, self.table, values[_IN_PORT], values[_METADATA], registers, userdata, frame)
        self.emissions.append(Emission(a.PORT_CONTROLLER, frame, None, packet_in))

    def _nested(self, what: Callable[[], object]) -> None:
        if self.depth >= DEPTH_MAX:
            raise Loop(f"nested {DEPTH_MAX} deep in table {self.table}")
        self.depth += 1
        what()
        self.depth -= 1


def _seen(values: list[int]) -> list[int]:
    """What a look-up sees: of a fragment, the first one too, no ports (Open vSwitch's "normal" fragment handling)."""
    if values[_FRAG]:
        values = values.copy()
        for index in _TRANSPORT:
            values[index] = 0
    return values


def _step(depth: int, table_id: int, flow: Flow | None) -> Step:
    if flow is None:
        return Step(depth, table_id, None)
    return Step(depth, table_id, flow.key, flow.cookie, a.decode_instructions(flow.value[8:]))


_IN_PORT, _METADATA, _FRAG = f.IN_PORT.order, f.METADATA.order, f.IP_FRAG.order
_TRANSPORT: Final = tuple(
    field.order
    for field in (f.TCP_SRC, f.TCP_DST, f.UDP_SRC, f.UDP_DST, f.ICMP_TYPE, f.ICMP_CODE, f.ICMP6_TYPE, f.ICMP6_CODE)
)
_TUN_ID, _TUN_SRC, _TUN_DST = f.TUN_ID.order, f.TUN_SRC.order, f.TUN_DST.order
