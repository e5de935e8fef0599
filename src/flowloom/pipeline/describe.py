"""Facts in the pipeline's own names, for people: tables, registers and groups instead of numbers."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from flowloom.openflow import actions, facts
from flowloom.openflow.fields import REGS, XREGS, Field
from flowloom.openflow.match import Term, decode_match
from flowloom.pipeline.check import group_kind
from flowloom.pipeline.layout import REGISTERS, TABLES

_REGISTER_NUMBER = {field: number for number, field in enumerate(REGS)}
_TABLE_NAMES = {table.number: table.name for table in TABLES}
_PORTS = {actions.PORT_IN: "IN_PORT", actions.PORT_LOCAL: "LOCAL", actions.PORT_CONTROLLER: "CONTROLLER"}


class FactText(NamedTuple):
    """A fact in words.  For groups and buckets `table` is the group's family and `priority` 0."""

    table: str
    priority: int
    match: str
    actions: str

    def __str__(self) -> str:
        return f"{self.table} {self.priority} {self.match or 'any'} -> {self.actions}"


def describe(key: bytes, value: bytes) -> FactText:
    """A fact of any owner in words; numbers where no name is declared.  ValueError when it is malformed."""
    if key[0] == facts.FLOW:
        table, priority, match_bytes = facts.split_flow_key(key)
        instructions = list(_instructions(value[8:]))
        return FactText(
            _table(table),
            priority,
            ", ".join(_terms(decode_match(match_bytes))),
            ", ".join(instructions) or "drop",
        )
    group_id = facts.split_group_key(key)
    kind = group_kind(group_id)
    name = kind.name if kind else "GROUP"
    label = f"key={group_id - kind.first}" if kind else f"id={group_id}"
    if key[0] == facts.GROUP:
        return FactText(name, 0, label, "all")
    return FactText(
        name, 0, f"{label}, member={facts.split_bucket_key(key)[1]}", ", ".join(_actions(actions.decode_actions(value)))
    )


def _table(number: int) -> str:
    return _TABLE_NAMES.get(number, str(number))


def _terms(terms: list[Term]) -> Iterator[str]:
    for term in terms:
        yield from _named(term.field, term.value, term.mask)


def _named(field: Field, value: int, mask: int) -> Iterator[str]:
    """One condition or assignment, split into the pipeline's quantities where registers are concerned."""
    left = mask
    for quantity in REGISTERS.declared:
        shift = quantity.offset
        if quantity.field is not field:
            register = _REGISTER_NUMBER.get(quantity.field)
            if register is None or field is not XREGS[register >> 1]:
                continue
            shift += 0 if register & 1 else 32
        bits = ((1 << quantity.bits) - 1) << shift
        if left & bits == bits:
            left &= ~bits
            yield f"{quantity.name}={(value & bits) >> shift}"
    if left == field.full:
        yield f"{field.name}={_value(field, value)}"
    elif left:
        yield f"{field.name}={_value(field, value & left)}/{_value(field, left)}"


def _value(field: Field, value: int) -> str:
    name = field.name
    if name in ("ip_src", "ip_dst", "arp_spa", "arp_tpa", "tun_src", "tun_dst"):
        return str(IPv4Address(value))
    if name in ("ip6_src", "ip6_dst", "nd_target"):
        return str(IPv6Address(value))
    if field.size == 6:
        return ":".join(f"{byte:02x}" for byte in value.to_bytes(6, "big"))
    return f"{value:#x}" if name == "eth_type" else str(value)


def _instructions(data: bytes) -> Iterator[str]:
    for instruction in actions.decode_instructions(data):
        if isinstance(instruction, actions.GotoTable):
            yield f"goto {_table(instruction.table)}"
        else:
            yield from _actions(instruction.actions)


def _actions(listed: tuple[actions.Action, ...]) -> Iterator[str]:
    for action in listed:
        yield _action(action)


def _action(action: actions.Action) -> str:
    match action:
        case actions.SetField(field=field, value=value, mask=mask):
            return ", ".join(_named(field, value, mask))
        case actions.CopyField(src=src, dst=dst):
            return f"{dst.name}={src.name}"
        case actions.Output(port=port):
            return f"output {_PORTS.get(port, port)}"
        case actions.Group(group_id=group_id):
            kind = group_kind(group_id)
            return f"group {kind.name}({group_id - kind.first})" if kind else f"group {group_id}"
        case actions.Resubmit(table=table):
            return f"look up in {_table(table)}"
        case actions.Controller(userdata=userdata):
            return f"punt({userdata.hex()})"
        case _:
            return str(action)
