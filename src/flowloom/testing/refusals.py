"""What Open vSwitch refuses, by OpenFlow's names (`lib/ofp-actions.c`, `lib/nx-match.c`, `ofproto/ofproto.c`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from flowloom.openflow import actions as a
from flowloom.openflow import fields as f
from flowloom.openflow.match import Term, decode_match, encode_match
from flowloom.testing.frames import TPIDS, VLAN_PRESENT

TABLES: Final = 254
"""Tables 0 to 253 are for flows; Open vSwitch keeps 254 to itself."""

TAGS_MAX: Final = 2
"""VLAN tags of a packet that Open vSwitch keeps track of."""


_DISCOVERY = (f.ND_TARGET, f.ND_SLL, f.ND_TLL)


@lru_cache(maxsize=1 << 16)
def check_flow(table: int, match: bytes, instructions: bytes, missing: frozenset[int]) -> str | None:
    """OpenFlow's name for why Open vSwitch would refuse a flow; None when it would not.

    missing: the groups it names that do not exist.
    ValueError for bytes that are not canonical: a switch would not read back what it was sent.
    """
    terms = decode_match(match)
    if encode_match(terms) != match:
        raise ValueError(f"the match is not canonical: {terms}")
    if table >= TABLES:
        return "OFPFMFC_BAD_TABLE_ID" if table == 0xFF else "OFPBRC_EPERM"
    exact = {term.field.name: term.value for term in terms if term.mask == term.field.full}
    if not all(_met(term.field, exact) for term in terms):
        return "OFPBMC_BAD_PREREQ"
    for instruction in a.decode_instructions(instructions):
        if isinstance(instruction, a.GotoTable):
            if instruction.table <= table:
                return "OFPBIC_BAD_TABLE_ID"
        else:
            error = check_actions(instruction.actions, terms, missing)
            if error is not None:
                return error
    return None


def check_actions(
    actions: Sequence[a.Action], terms: Sequence[Term] | None, missing: frozenset[int] = frozenset()
) -> str | None:
    """OpenFlow's name for why Open vSwitch would refuse actions; terms: of the flow's match, None in a bucket.

    Of a bucket Open vSwitch asks neither that the fields are there nor that the groups are.
    """
    exact = {term.field.name: term.value for term in terms or () if term.mask == term.field.full}
    tags = int(any(term.field is f.VLAN_VID and term.value & VLAN_PRESENT for term in terms or ()))
    for action in actions:
        error = _check_form(action)
        if error is None and terms is not None:
            error = _check_use(action, exact, tags, missing)
        if error is not None:
            return error
        tags += isinstance(action, a.PushVlan) - isinstance(action, a.PopVlan)
    return None


def _check_form(action: a.Action) -> str | None:
    match action:
        case a.Output() if not (action.port < a.PORT_MAX or 0xFFFF_FFF8 <= action.port <= a.PORT_LOCAL):
            return "OFPBAC_BAD_OUT_PORT"
        case a.PushVlan() if action.ethertype not in TPIDS:
            return "OFPBAC_BAD_ARGUMENT"
        case _:
            return None


def _check_use(action: a.Action, exact: Mapping[str, int], tags: int, missing: frozenset[int]) -> str | None:
    match action:
        case a.Group() if action.group_id in missing:
            return "OFPBAC_BAD_OUT_GROUP"
        case a.PushVlan() if tags >= TAGS_MAX:
            return "OFPBAC_BAD_TAG"
        case _:
            return None if _consistent(action, exact, tags) else "OFPBAC_MATCH_INCONSISTENT"


def _consistent(action: a.Action, exact: Mapping[str, int], tags: int) -> bool:
    """Whether every packet of the match has what the action works on."""
    match action:
        case a.SetField() if action.field in (f.VLAN_VID, f.VLAN_PCP):
            return tags > 0
        case a.SetField():
            return _met(action.field, exact)
        case a.CopyField():
            return _met(action.src, exact) and _met(action.dst, exact)
        case a.DecTtl():
            return exact.get("eth_type") in (0x0800, 0x86DD)
        case a.PopVlan():
            return tags > 0
        case _:
            return True


def _met(field: f.Field, exact: Mapping[str, int]) -> bool:
    if field in _DISCOVERY and exact.get("icmp6_code"):
        return False
    return all(exact.get(name) in accepted for name, accepted in field.needs)
