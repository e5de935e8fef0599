"""Instructions and buckets compiled to what a packet's walk runs; once per distinct bytes.

The semantics are Open vSwitch's (`ofproto/ofproto-dpif-xlate.c`, `lib/ofp-actions.c`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from flowloom.openflow import actions as a
from flowloom.openflow import fields as f
from flowloom.openflow.fields import Field
from flowloom.testing.flow_tables import FULL, Program, Run, parts, places
from flowloom.testing.frames import HEADER_FIELDS, LATER_FRAGMENT, VLAN_PRESENT

if TYPE_CHECKING:
    from flowloom.testing.datapath import Walk

PORT_TABLE: Final = 0xFFFF_FFF9
"""Output to it: start again at table 0 (packet-outs)."""

_FRAG: Final = f.IP_FRAG.order


@lru_cache(maxsize=1 << 16)
def compile_instructions(data: bytes) -> Program:
    """The program of a flow; ValueError for bytes that are no instructions."""
    actions: list[a.Action] = []
    goto: int | None = None
    for instruction in a.decode_instructions(data):
        match instruction:
            case a.ApplyActions():
                actions += instruction.actions
            case a.GotoTable():
                goto = instruction.table
    return Program(tuple(map(_compile, actions)), goto, _groups(actions))


@lru_cache(maxsize=1 << 14)
def compile_bucket(data: bytes) -> Program:
    """The program of a bucket: an action set, so its own order holds and one action only decides where to."""
    actions = a.decode_actions(data)
    return Program(tuple(map(_compile, action_set(actions))), None, _groups(actions))


@lru_cache(maxsize=1 << 10)
def compile_list(data: bytes) -> Program:
    """The program of a packet-out."""
    actions = a.decode_actions(data)
    return Program(tuple(map(_compile, actions)), None, _groups(actions))


def action_set(actions: Sequence[a.Action]) -> list[a.Action]:
    """Actions in the order of an action set (OpenFlow 1.5.1, section 5.6), as Open vSwitch reads it.

    The last pop, push and TTL decrement, then all that sets or copies in the order given, then the last
    group, or else the last output, or else the last resubmit.  Without one of those nothing happens at all.
    """
    ordered: list[a.Action] = []
    for early in (a.PopVlan, a.PushVlan, a.DecTtl):
        ordered += [one for one in actions if isinstance(one, early)][-1:]
    ordered += [one for one in actions if isinstance(one, a.SetField | a.CopyField)]
    for final in (a.Group, a.Output, a.Resubmit, a.Ct):
        last = [one for one in actions if isinstance(one, final)][-1:]
        if last:
            return ordered + last
    return []


def _groups(actions: Iterable[a.Action]) -> frozenset[int]:
    return frozenset(one.group_id for one in actions if isinstance(one, a.Group))


def _compile(action: a.Action) -> Run:
    match action:
        case a.Output():
            return _output(action.port)
        case a.Group():
            return lambda walk: walk.run_group(action.group_id)
        case a.Resubmit():
            port = None if action.in_port == a.RESUBMIT_IN_PORT else action.in_port
            return lambda walk: walk.resubmit(action.table, port)
        case a.Controller():
            return lambda walk: walk.punt(action.userdata)
        case a.SetField():
            return _set_field(action)
        case a.CopyField():
            return _copy_field(action)
        case a.DecTtl():
            return _dec_ttl
        case a.PushVlan():
            return lambda walk: walk.packet.push_vlan(action.ethertype)
        case a.PopVlan():
            return lambda walk: walk.packet.pop_vlan()
        case a.Meter() | a.Conjunction() | a.Ct() | a.Nat():
            return _missing(type(action).__name__.lower())


def _missing(name: str) -> Run:
    def run(walk: Walk) -> bool:
        raise NotImplementedError(f"{name}: this action is not simulated")

    return run


def _output(port: int) -> Run:
    if port == PORT_TABLE:
        return lambda walk: walk.resubmit(0, None)
    if port in (a.PORT_NORMAL, a.PORT_FLOOD):
        return _missing(f"output to {port:#x}")
    return lambda walk: walk.output(port)


def _present(field: Field) -> Callable[[list[int]], bool]:
    """Whether a packet has `field`."""
    needs = [(f.FIELDS[name].order, accepted) for name, accepted in field.needs]
    if field in (f.VLAN_VID, f.VLAN_PCP):
        return lambda values: bool(values[f.VLAN_VID.order] & VLAN_PRESENT)
    if field in (f.ND_TARGET, f.ND_SLL, f.ND_TLL):
        needs.append((f.ICMP6_CODE.order, (0,)))
    if field in (f.TCP_SRC, f.TCP_DST, f.UDP_SRC, f.UDP_DST):
        return lambda values: not values[_FRAG] & LATER_FRAGMENT and all(values[i] in ok for i, ok in needs)
    return lambda values: all(values[index] in accepted for index, accepted in needs)


def _kept(index: int) -> int:
    """The bits that a switch keeps of what is written to a field: of an ARP operation only 8."""
    return 0xFF if index == f.ARP_OP.order else FULL[index]


def _set_field(action: a.SetField) -> Run:
    pieces = [(i, value & mask & _kept(i), ~mask) for i, value, mask in parts(action.field, action.value, action.mask)]
    if not action.field.needs and action.field.order not in HEADER_FIELDS:

        def load(walk: Walk) -> bool:
            values = walk.packet.values
            for index, value, keep in pieces:
                values[index] = values[index] & keep | value
            return False

        return load
    present = _present(action.field)

    def rewrite(walk: Walk) -> bool:
        packet = walk.packet
        if present(packet.values):
            for index, value, keep in pieces:
                packet.values[index] = packet.values[index] & keep | value
            packet.changed = True
        return False

    return rewrite


def _copy_field(action: a.CopyField) -> Run:
    src_present, dst_present = _present(action.src), _present(action.dst)
    sources, targets = places(action.src), places(action.dst)
    ones = (1 << action.bits) - 1
    keep = ~(ones << action.dst_ofs)
    in_frame = action.dst.order in HEADER_FIELDS

    def run(walk: Walk) -> bool:
        packet = walk.packet
        values = packet.values
        if src_present(values) and dst_present(values):
            bits = _joined(values, sources) >> action.src_ofs & ones
            whole = _joined(values, targets) & keep | bits << action.dst_ofs
            for n, index in enumerate(reversed(targets)):
                values[index] = whole >> 32 * n & (0xFFFF_FFFF if len(targets) > 1 else _kept(index))
            packet.changed |= in_frame
        return False

    return run


def _joined(values: list[int], where: Sequence[int]) -> int:
    whole = 0
    for index in where:
        whole = whole << 32 | values[index]
    return whole


def _dec_ttl(walk: Walk) -> bool:
    """One less; a packet that would reach 0 ends here, in this list of actions."""
    values = walk.packet.values
    if values[f.ETH_TYPE.order] not in (0x0800, 0x86DD):
        return False
    if values[f.IP_TTL.order] <= 1:
        return True
    values[f.IP_TTL.order] -= 1
    walk.packet.changed = True
    return False
