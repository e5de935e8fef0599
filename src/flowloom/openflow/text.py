"""Flows and groups as `ovs-ofctl` writes them: for golden tests and for people.

Syntax: ovs-fields(7) and ovs-actions(7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address
from socket import AF_INET6, inet_ntop
from typing import Final, TypeAlias, assert_never

from flowloom.openflow import facts
from flowloom.openflow.actions import (
    CT_COMMIT,
    CT_FORCE,
    MAX_LEN_ALL,
    NAT_DESTINATION,
    NAT_PERSISTENT,
    NAT_PROTO_HASH,
    NAT_PROTO_RANDOM,
    NAT_SOURCE,
    Action,
    ApplyActions,
    Conjunction,
    Controller,
    CopyField,
    Ct,
    DecTtl,
    GotoTable,
    Group,
    Instruction,
    Meter,
    Nat,
    Output,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    decode_actions,
    decode_instructions,
)
from flowloom.openflow.fields import XREGS, Field
from flowloom.openflow.match import Term, decode_match

_Terms: TypeAlias = dict[str, tuple[int, int]]
"""(value, mask) by field name, xregs as registers."""

_PORTS: Final = {
    0xFFFF_FFF8: "IN_PORT",
    0xFFFF_FFF9: "TABLE",
    0xFFFF_FFFA: "NORMAL",
    0xFFFF_FFFB: "FLOOD",
    0xFFFF_FFFC: "ALL",
    0xFFFF_FFFD: "CONTROLLER",
    0xFFFF_FFFE: "LOCAL",
}
_GROUP_TYPES: Final = ("all", "select", "indirect", "fast_failover")
_CT_STATES: Final = ("new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat")
_PROTOCOLS: Final = {
    (0x0800, 1): "icmp",
    (0x0800, 6): "tcp",
    (0x0800, 17): "udp",
    (0x86DD, 6): "tcp6",
    (0x86DD, 17): "udp6",
    (0x86DD, 58): "icmp6",
}
_ETHERTYPES: Final = {0x0800: "ip", 0x0806: "arp", 0x86DD: "ipv6"}
_FRAGMENTS: Final = {
    (0, 3): "no",
    (1, 3): "first",
    (3, 3): "later",
    (1, 1): "yes",
    (0, 1): "no",
    (2, 2): "later",
    (0, 2): "not_later",
}


def flow_text(key: bytes, value: bytes) -> str:
    """A flow fact without its cookie: `table=0,priority=100,in_port=1 actions=output:2`."""
    table, priority, match = facts.split_flow_key(key)
    said = match_text(match)
    head = f"table={table},priority={priority}" + (f",{said}" if said else "")
    return f"{head} actions={instructions_text(value[8:])}"


def group_text(group_id: int, group_type: int, buckets: Mapping[int, bytes]) -> str:
    """A group with its buckets' actions, by bucket id."""
    kind = _GROUP_TYPES[group_type] if group_type < len(_GROUP_TYPES) else str(group_type)
    parts = [f"group_id={group_id},type={kind}"]
    parts += [f"bucket=bucket_id:{number},actions={actions_text(one) or 'drop'}" for number, one in buckets.items()]
    return ",".join(parts)


def match_text(match: bytes) -> str:
    """A padded ofp_match; what cannot be read stands in hexadecimal."""
    try:
        terms = _by_name(decode_match(match))
    except ValueError:
        return f"oxm={match.hex()}"
    return ",".join(_match_parts(terms))


def instructions_text(instructions: bytes) -> str:
    """What stands behind `actions=`; what cannot be read stands in hexadecimal."""
    try:
        listed = decode_instructions(instructions)
    except ValueError:
        return f"instructions={instructions.hex()}"
    return ",".join(_instruction(one) for one in listed) or "drop"


def actions_text(actions: bytes) -> str:
    """A list of actions; what cannot be read stands in hexadecimal."""
    try:
        return ",".join(_action(one) for one in decode_actions(actions))
    except ValueError:
        return f"actions={actions.hex()}"


def _by_name(terms: Sequence[Term]) -> _Terms:
    named: _Terms = {}
    for field, value, mask in terms:
        if field in XREGS:
            first = 2 * int(field.name.removeprefix("xreg"))
            named[f"reg{first}"] = value >> 32, mask >> 32
            named[f"reg{first + 1}"] = value & 0xFFFF_FFFF, mask & 0xFFFF_FFFF
        else:
            named[field.name] = value, mask
    return {name: pair for name, pair in named.items() if pair[1]}


def _match_parts(terms: _Terms) -> Iterator[str]:
    """The terms in the order in which Open vSwitch prints them, which is not the order of the bytes."""
    yield from _fields(terms, _BEFORE_PROTOCOL)
    ethertype = terms.get("eth_type", (None, 0))[0]
    protocol = terms.get("ip_proto", (None, 0))[0]
    word = _PROTOCOLS.get((ethertype or 0, protocol or 0))
    if word is not None:
        yield word
    elif ethertype in _ETHERTYPES:
        yield _ETHERTYPES[ethertype]
    yield from _fields(terms, _METADATA)
    yield from _vlan(terms)
    yield from _fields(terms, _ETHERNET)
    if ethertype is not None and ethertype not in _ETHERTYPES:
        yield f"dl_type=0x{ethertype:04x}"
    yield from _fields(terms, _ADDRESSES)
    if protocol is not None and word is None:
        yield f"nw_proto={protocol}"
    yield from _fields(terms, _REST)


def _fields(terms: _Terms, order: Mapping[str, tuple[str, _Format]]) -> Iterator[str]:
    for name, (shown, form) in order.items():
        if name in terms:
            yield f"{shown}={form(*terms[name])}"


def _vlan(terms: _Terms) -> Iterator[str]:
    vid, vid_mask = terms.get("vlan_vid", (0, 0))
    pcp, pcp_mask = terms.get("vlan_pcp", (0, 0))
    tci, mask = vid | pcp << 13, vid_mask | pcp_mask << 13
    if not mask:
        return
    if tci & mask & 0x1000 and mask & 0xFFF in (0, 0xFFF) and mask != 0x1000:
        if mask & 0xFFF:
            yield f"dl_vlan={tci & 0xFFF}"
        if pcp_mask:
            yield f"dl_vlan_pcp={pcp}"
    elif mask == 0xFFFF:
        yield f"vlan_tci=0x{tci:04x}"
    else:
        yield f"vlan_tci=0x{tci:04x}/0x{mask:04x}"


_Format: TypeAlias = Callable[[int, int], str]


def _hex(value: int, mask: int, bits: int = 32) -> str:
    said = hex(value) if value else "0"
    return said if mask == (1 << bits) - 1 else f"{said}/{mask:#x}"


_hex64: Final = partial(_hex, bits=64)
_hex128: Final = partial(_hex, bits=128)


def _decimal(value: int, mask: int) -> str:
    return str(value)


def _port(value: int, mask: int) -> str:
    return _PORTS.get(value, str(value))


def _transport(value: int, mask: int) -> str:
    return str(value) if mask == 0xFFFF else f"{value:#x}/{mask:#x}"


def _written_port(value: int, mask: int) -> str:
    return str(value) if mask == 0xFFFF else f"{value}/{mask:#x}"


def _mac(value: int, mask: int) -> str:
    said = value.to_bytes(6, "big").hex(":")
    return said if mask == 0xFFFF_FFFF_FFFF else f"{said}/{mask.to_bytes(6, 'big').hex(':')}"


def _ip4(value: int, mask: int) -> str:
    return _address(str(IPv4Address(value)), mask, 32, str(IPv4Address(mask)))


def _ip6(value: int, mask: int) -> str:
    said, mask_said = (inet_ntop(AF_INET6, part.to_bytes(16, "big")) for part in (value, mask))
    return _address(said, mask, 128, mask_said)


def _address(said: str, mask: int, bits: int, mask_said: str) -> str:
    full = (1 << bits) - 1
    if mask == full:
        return said
    host = mask ^ full
    return f"{said}/{mask_said if host & (host + 1) else bits - host.bit_length()}"


def _state(value: int, mask: int) -> str:
    if mask == 0xFF:
        return "|".join(name for bit, name in enumerate(_CT_STATES) if value >> bit & 1) or "0"
    return "".join(("+" if value >> bit & 1 else "-") + name for bit, name in enumerate(_CT_STATES) if mask >> bit & 1)


def _fragment(value: int, mask: int) -> str:
    return _FRAGMENTS.get((value, mask), "<error>")


def _dscp(value: int, mask: int) -> str:
    return str(value << 2)


_BEFORE_PROTOCOL: Final[dict[str, tuple[str, _Format]]] = {
    "pkt_mark": ("pkt_mark", _hex),
    "conj_id": ("conj_id", _decimal),
    "ct_state": ("ct_state", _state),
    "ct_zone": ("ct_zone", _decimal),
    "ct_mark": ("ct_mark", _hex),
    "ct_label": ("ct_label", _hex128),
}
_METADATA: Final[dict[str, tuple[str, _Format]]] = {
    **{f"reg{index}": (f"reg{index}", _hex) for index in range(16)},
    "tun_id": ("tun_id", _hex64),
    "tun_src": ("tun_src", _ip4),
    "tun_dst": ("tun_dst", _ip4),
    "metadata": ("metadata", _hex64),
    "in_port": ("in_port", _port),
}
_ETHERNET: Final[dict[str, tuple[str, _Format]]] = {"eth_src": ("dl_src", _mac), "eth_dst": ("dl_dst", _mac)}
_ADDRESSES: Final[dict[str, tuple[str, _Format]]] = {
    "ip_src": ("nw_src", _ip4),
    "ip_dst": ("nw_dst", _ip4),
    "ip6_src": ("ipv6_src", _ip6),
    "ip6_dst": ("ipv6_dst", _ip6),
    "arp_spa": ("arp_spa", _ip4),
    "arp_tpa": ("arp_tpa", _ip4),
}
_REST: Final[dict[str, tuple[str, _Format]]] = {
    "arp_op": ("arp_op", _decimal),
    "arp_sha": ("arp_sha", _mac),
    "arp_tha": ("arp_tha", _mac),
    "ip_dscp": ("nw_tos", _dscp),
    "ip_ttl": ("nw_ttl", _decimal),
    "ip_frag": ("nw_frag", _fragment),
    "icmp_type": ("icmp_type", _decimal),
    "icmp_code": ("icmp_code", _decimal),
    "icmp6_type": ("icmp_type", _decimal),
    "icmp6_code": ("icmp_code", _decimal),
    "tcp_src": ("tp_src", _transport),
    "udp_src": ("tp_src", _transport),
    "tcp_dst": ("tp_dst", _transport),
    "udp_dst": ("tp_dst", _transport),
    "nd_target": ("nd_target", _ip6),
    "nd_sll": ("nd_sll", _mac),
    "nd_tll": ("nd_tll", _mac),
}
_FORMATS: Final[dict[str, _Format]] = {
    name: form
    for order in (_BEFORE_PROTOCOL, _METADATA, _ETHERNET, _ADDRESSES, _REST)
    for name, (_, form) in order.items()
}
_SET_FORMATS: Final[dict[str, _Format]] = {
    **_FORMATS,
    "ip_dscp": _decimal,
    "vlan_vid": _decimal,
    **dict.fromkeys(("tcp_src", "tcp_dst", "udp_src", "udp_dst"), _written_port),
    "vlan_pcp": _decimal,
    **{f"xreg{index}": _hex64 for index in range(8)},
    **{f"xxreg{index}": _hex128 for index in range(4)},
}
_SHOWN_WHEN_SET: Final = {
    "ip6_src": "ipv6_src",
    "ip6_dst": "ipv6_dst",
    "ip_ttl": "nw_ttl",
    "icmp6_type": "icmpv6_type",
    "icmp6_code": "icmpv6_code",
}


def _instruction(one: Instruction) -> str:
    match one:
        case ApplyActions(listed):
            return ",".join(_action(action) for action in listed)
        case GotoTable(table):
            return f"goto_table:{table}"
        case _:
            assert_never(one)


def _action(one: Action) -> str:
    match one:
        case Output(port, max_len):
            return f"{_PORTS[port]}:{max_len}" if port == 0xFFFF_FFFD else _PORTS.get(port, f"output:{port}")
        case Group(group_id):
            return f"group:{group_id}"
        case Meter(meter_id):
            return f"meter:{meter_id}"
        case DecTtl():
            return "dec_ttl"
        case PushVlan(ethertype):
            return f"push_vlan:0x{ethertype:04x}"
        case PopVlan():
            return "pop_vlan"
        case SetField(field, value, mask):
            form = _SET_FORMATS.get(field.name, partial(_hex, bits=field.bits))
            return f"set_field:{form(value, mask)}->{_SHOWN_WHEN_SET.get(field.name, field.name)}"
        case CopyField(src, dst, bits, src_ofs, dst_ofs):
            return f"move:{_bits(src, src_ofs, bits)}->{_bits(dst, dst_ofs, bits)}"
        case Resubmit(table, in_port):
            return f"resubmit({'' if in_port == 0xFFF8 else in_port},{table})"
        case Conjunction(conj_id, clause, clauses):
            return f"conjunction({conj_id},{clause}/{clauses})"
        case Controller():
            return _controller(one)
        case Nat():
            return _nat(one)
        case Ct():
            return _ct(one)
        case _:
            assert_never(one)


def _bits(field: Field, offset: int, bits: int) -> str:
    if bits == field.bits:
        return f"{_nxm_name(field)}[]"
    return f"{_nxm_name(field)}[{offset}]" if bits == 1 else f"{_nxm_name(field)}[{offset}..{offset + bits - 1}]"


def _controller(one: Controller) -> str:
    if not one.userdata and one.meter_id is None:
        return f"CONTROLLER:{one.max_len}"
    parts = [f"max_len={one.max_len}"] if one.max_len != MAX_LEN_ALL else []
    parts += [f"userdata={one.userdata.hex('.')}"] if one.userdata else []
    parts += [f"meter_id={one.meter_id}"] if one.meter_id is not None else []
    return f"controller({','.join(parts)})"


def _ct(one: Ct) -> str:
    parts = ["commit"] if one.flags & CT_COMMIT else []
    parts += ["force"] if one.flags & CT_FORCE else []
    parts += [f"table={one.table}"] if one.table is not None else []
    if one.zone_from is not None:
        field, offset, bits = one.zone_from
        parts.append(f"zone={_bits(field, offset, bits)}")
    elif one.zone:
        parts.append(f"zone={one.zone}")
    nested = list(one.actions)
    if nested and isinstance(nested[0], Nat):
        parts.append(_nat(nested[0]))
        nested = nested[1:]
    parts += [f"exec({','.join(_action(action) for action in nested)})"] if nested else []
    parts += [f"alg={ {21: 'ftp', 69: 'tftp'}.get(one.alg, str(one.alg)) }"] if one.alg else []
    return f"ct({','.join(parts)})"


def _nat(one: Nat) -> str:
    side = "src" if one.flags & NAT_SOURCE else "dst" if one.flags & NAT_DESTINATION else ""
    if not side:
        return "nat"
    target = ""
    if one.ip4 is not None:
        first, last = (str(IPv4Address(address)) for address in one.ip4)
        target = first if first == last else f"{first}-{last}"
    if one.ports is not None:
        target += f":{one.ports[0]}" if one.ports[0] == one.ports[1] else f":{one.ports[0]}-{one.ports[1]}"
    parts = [f"{side}={target}" if target else side]
    parts += [
        name
        for flag, name in ((NAT_PERSISTENT, "persistent"), (NAT_PROTO_HASH, "hash"), (NAT_PROTO_RANDOM, "random"))
        if one.flags & flag
    ]
    return f"nat({','.join(parts)})"


_NXM_NAMES: Final = {
    "in_port": "OXM_OF_IN_PORT",
    "eth_src": "NXM_OF_ETH_SRC",
    "eth_dst": "NXM_OF_ETH_DST",
    "eth_type": "NXM_OF_ETH_TYPE",
    "vlan_vid": "OXM_OF_VLAN_VID",
    "vlan_pcp": "OXM_OF_VLAN_PCP",
    "ip_src": "NXM_OF_IP_SRC",
    "ip_dst": "NXM_OF_IP_DST",
    "ip6_src": "NXM_NX_IPV6_SRC",
    "ip6_dst": "NXM_NX_IPV6_DST",
    "ip_dscp": "OXM_OF_IP_DSCP",
    "ip_proto": "NXM_OF_IP_PROTO",
    "tcp_src": "NXM_OF_TCP_SRC",
    "tcp_dst": "NXM_OF_TCP_DST",
    "udp_src": "NXM_OF_UDP_SRC",
    "udp_dst": "NXM_OF_UDP_DST",
    "icmp_type": "NXM_OF_ICMP_TYPE",
    "icmp_code": "NXM_OF_ICMP_CODE",
    "icmp6_type": "NXM_NX_ICMPV6_TYPE",
    "icmp6_code": "NXM_NX_ICMPV6_CODE",
    "arp_op": "NXM_OF_ARP_OP",
    "arp_spa": "NXM_OF_ARP_SPA",
    "arp_tpa": "NXM_OF_ARP_TPA",
    "tun_src": "NXM_NX_TUN_IPV4_SRC",
    "tun_dst": "NXM_NX_TUN_IPV4_DST",
    "metadata": "OXM_OF_METADATA",
}


def _nxm_name(field: Field) -> str:
    """The name by which a move names a field: Nicira's where there is one."""
    if field in XREGS:
        return f"OXM_OF_PKT_REG{field.name.removeprefix('xreg')}"
    return _NXM_NAMES.get(field.name, f"NXM_NX_{field.name.upper()}")
