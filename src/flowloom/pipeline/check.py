"""Checks of the declaration, and of facts against it.

`lint` looks at the declaration alone; `check` at one fact: nothing matched, set or done that its table
did not declare, every prerequisite present, no way back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowloom.openflow import actions, facts
from flowloom.openflow.fields import REGS, XREGS, Field
from flowloom.openflow.match import Term, decode_match
from flowloom.pipeline.framework import GroupKind, Quantity, Table
from flowloom.pipeline.layout import GROUP_KINDS, TABLES

_BY_NUMBER = {table.number: table for table in TABLES}
_BY_NAME = {table.name: table for table in TABLES}
_REGISTER_NUMBER = {field: number for number, field in enumerate(REGS)}


def lint(tables: Sequence[Table] = TABLES, groups: Sequence[GroupKind] = GROUP_KINDS) -> list[str]:
    """What is wrong with a declaration: ways back, unknown tables, a register read that nothing upstream writes."""
    problems: list[str] = []
    position = {table.name: n for n, table in enumerate(tables)}
    reach: dict[str, set[Quantity]] = {table.name: set() for table in tables}
    entered = {tables[0].name} | {name for group in groups for name in group.buckets_to}
    for table in tables:
        for name in table.next:
            if name not in position:
                problems.append(f"{table.name} goes on to {name}, which is not declared")
            elif position[name] <= position[table.name]:
                problems.append(f"{table.name} goes back to {name}")
            else:
                entered.add(name)
                reach[name] |= reach[table.name] | set(table.sets)
        if "group" in table.does:
            for group in groups:
                for name in group.buckets_to:
                    reach[name] |= reach[table.name] | set(table.sets) | set(group.buckets_set)
    for table in tables:
        if table.name not in entered:
            problems.append(f"nothing leads to {table.name}")
        for quantity in table.matches:
            if _is_register(quantity) and quantity not in reach[table.name]:
                problems.append(f"{table.name} matches {quantity.name}, which nothing upstream sets")
    return problems


def _is_register(quantity: Quantity) -> bool:
    return quantity.field in _REGISTER_NUMBER or quantity.field.name == "metadata"


def check(key: bytes, value: bytes) -> list[str]:
    """What a fact does that its table or group did not declare; empty when all is well."""
    match key[0]:
        case facts.FLOW:
            return list(_check_flow(key, value))
        case facts.GROUP:
            group = group_kind(facts.split_group_key(key))
            return [] if group is not None else ["a group outside every declared family"]
        case facts.BUCKET:
            return list(_check_bucket(key, value))
        case _:
            return [f"a fact of unknown kind {key[0]}"]


def group_kind(group_id: int) -> GroupKind | None:
    """The family a group id belongs to."""
    for group in GROUP_KINDS:
        if group.first <= group_id < group.first + 0x1000_0000:
            return group
    return None


def _check_flow(key: bytes, value: bytes) -> Iterator[str]:
    number, _, match_bytes = facts.split_flow_key(key)
    table = _BY_NUMBER.get(number)
    if table is None:
        yield f"table {number} is not declared"
        return
    terms = decode_match(match_bytes)
    for term in terms:
        if not _covered(term.field, term.mask, table.matches):
            yield f"{table.name} does not match {term.field.name}"
    yield from _prerequisites(terms)
    for instruction in actions.decode_instructions(value[8:]):
        if isinstance(instruction, actions.GotoTable):
            target = _BY_NUMBER.get(instruction.table)
            if target is None or target.name not in table.next:
                yield f"{table.name} does not go on to {target.name if target else instruction.table}"
        else:
            yield from _check_actions(table.name, instruction.actions, table.sets, table.does, ())


def _prerequisites(terms: Sequence[Term]) -> Iterator[str]:
    exact = {term.field.name: term.value for term in terms if term.mask == term.field.full}
    for term in terms:
        for name, accepted in term.field.needs:
            if exact.get(name) not in accepted:
                yield f"{term.field.name} needs {name} to be one of {', '.join(map(hex, accepted))}"


def _check_bucket(key: bytes, value: bytes) -> Iterator[str]:
    group = group_kind(facts.split_group_key(key))
    if group is None:
        yield "a bucket outside every declared family"
        return
    yield from _check_actions(
        group.name, actions.decode_actions(value), group.buckets_set, ("resubmit",), group.buckets_to
    )


def _check_actions(
    where: str,
    listed: Sequence[actions.Action],
    sets: Sequence[Quantity],
    does: Sequence[str],
    resubmits: Sequence[str],
) -> Iterator[str]:
    for action in listed:
        match action:
            case actions.SetField(field=field, mask=mask):
                if not _covered(field, mask, sets):
                    yield f"{where} does not set {field.name}"
            case actions.CopyField(dst=field):
                if "copy" not in does and not _covered(field, field.full, sets):
                    yield f"{where} does not copy into {field.name}"
            case actions.Output():
                if "output" not in does:
                    yield f"{where} does not output"
            case actions.Group(group_id=group_id):
                if "group" not in does or group_kind(group_id) is None:
                    yield f"{where} does not run group {group_id:#x}"
            case actions.Controller():
                if "controller" not in does:
                    yield f"{where} does not punt"
            case actions.Resubmit(table=number):
                target = _BY_NUMBER.get(number)
                if target is None or target.name not in resubmits:
                    yield f"{where} does not resubmit to table {number}"
            case _:
                yield f"{where} does not do {type(action).__name__}"


def _covered(field: Field, mask: int, quantities: Sequence[Quantity]) -> bool:
    """Every bit of `field` under `mask` belongs to a declared quantity."""
    left = mask
    for quantity in quantities:
        bits = ((1 << quantity.bits) - 1) << quantity.offset
        if quantity.field is field:
            left &= ~bits
        else:
            register = _REGISTER_NUMBER.get(quantity.field)
            if register is not None and field is XREGS[register >> 1]:
                left &= ~(bits if register & 1 else bits << 32)
    return not left
