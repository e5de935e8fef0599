"""Random flow tables, groups and frames over a few values, so that frames hit flows and go deep."""

from __future__ import annotations

import struct
from random import Random
from typing import Final

from flowloom.openflow import actions as a
from flowloom.openflow import facts
from flowloom.openflow import fields as f
from flowloom.openflow.fields import FIELDS, Field
from flowloom.openflow.match import Term, encode_match
from flowloom.packet import arp, ethernet, icmp, ipv4, ipv6, udp

PORTS: Final = (1, 2, 3, 4)
TABLES: Final = 5
GROUPS: Final = tuple(range(facts.GROUPS_FIRST, facts.GROUPS_FIRST + 3))

MACS: Final = (0x020000000001, 0x020000000002, 0xFA163E000003, ethernet.BROADCAST, 0x01005E000001)
IPS: Final = (0x0A000001, 0x0A000002, 0xC0A80003, 0xFFFFFFFF)
IPS6: Final = (0x20010DB8 << 96 | 1, 0xFE80 << 112 | 2)
L4: Final = (67, 68, 53, 4000)
VIDS: Final = (0, 5, 7)
TTLS: Final = (0, 1, 2, 64)
SMALL: Final = (0, 1, 2, 7)

LATER_FRAGMENT_MAX: Final = 7
"""Bytes in which Open vSwitch 3.1 finds no place to write a checksum to, when it rewrites a later fragment."""

POOLS: Final[dict[str, tuple[int, ...]]] = {
    **dict.fromkeys(("eth_src", "eth_dst", "arp_sha", "arp_tha", "nd_sll", "nd_tll"), MACS),
    **dict.fromkeys(("ip_src", "ip_dst", "arp_spa", "arp_tpa", "tun_dst", "tun_src"), IPS),
    **dict.fromkeys(("ip6_src", "ip6_dst", "nd_target"), IPS6),
    **dict.fromkeys(("udp_src", "udp_dst", "tcp_src", "tcp_dst"), L4),
    "ip_ttl": TTLS,
    "arp_op": (1, 2),
    "icmp_type": (0, 8),
    "icmp6_type": (128, 135, 136),
    "ip_frag": (0, 1, 3),
    "vlan_pcp": (0, 3),
}
KINDS: Final[tuple[tuple[dict[str, int], str], ...]] = (
    ({}, ""),
    ({"eth_type": 0x05FF}, ""),
    ({"eth_type": 0x88CC}, ""),
    ({"eth_type": 0x0806}, "arp_op arp_spa arp_tpa arp_sha arp_tha"),
    ({"eth_type": 0x0800}, "ip_src ip_dst ip_ttl ip_dscp ip_frag"),
    ({"eth_type": 0x0800, "ip_proto": 17}, "ip_src ip_dst ip_ttl udp_src udp_dst"),
    ({"eth_type": 0x0800, "ip_proto": 6}, "ip_src ip_dst ip_dscp tcp_src tcp_dst"),
    ({"eth_type": 0x0800, "ip_proto": 1}, "ip_src ip_dst icmp_type icmp_code"),
    ({"eth_type": 0x86DD}, "ip6_src ip6_dst ip_ttl ip_dscp ip_frag"),
    ({"eth_type": 0x86DD, "ip_proto": 17}, "ip6_src ip6_dst udp_src udp_dst"),
    ({"eth_type": 0x86DD, "ip_proto": 58}, "ip6_src ip6_dst icmp6_type icmp6_code"),
    ({"eth_type": 0x86DD, "ip_proto": 58, "icmp6_type": 135}, "nd_target nd_sll ip6_src"),
)
ANYWHERE: Final = [
    "in_port",
    "eth_src",
    "eth_dst",
    "metadata",
    "reg0",
    "reg1",
    "reg2",
    "reg3",
    "xreg1",
    "vlan_vid",
    "vlan_vid",
    "tun_id",
]
WRITABLE: Final = [
    "eth_src",
    "eth_dst",
    "metadata",
    "reg0",
    "reg1",
    "reg2",
    "reg3",
    "xreg0",
    "xreg1",
    "xxreg0",
    "tun_id",
    "tun_dst",
]
READ_ONLY: Final = frozenset(["eth_type", "ip_proto", "ip_frag"])


def random_facts(random: Random, flows: int = 40) -> list[tuple[bytes, bytes]]:
    """Groups, buckets and flows; every table has a flow that matches all, no two flows of a table share a priority."""
    made = []
    for n, group_id in enumerate(GROUPS):
        made.append((facts.group_key(group_id), bytes((facts.GROUP_ALL,))))
        for bucket_id in range(random.randint(0, 3)):
            # A bucket may work on fields that a packet does not have; then it does nothing with them.
            supposed, _ = random.choice(KINDS)
            actions = b"".join(_actions(random, supposed, TABLES - 2, GROUPS[n + 1 :], random.randint(0, 3)))
            final = random.choice((_output(random), a.resubmit(TABLES - 1)))
            made.append((facts.bucket_key(group_id, bucket_id), actions + final))
    for number in range(flows):
        table = number % TABLES
        made.append(_flow(random, table, 0 if number < TABLES else number))
    return made


def _flow(random: Random, table: int, priority: int) -> tuple[bytes, bytes]:
    needs, names = random.choice(KINDS) if priority else ({}, "")
    terms = {name: _term(random, FIELDS[name], value) for name, value in needs.items()}
    for name in random.sample([*names.split(), *ANYWHERE], random.choice((0, 0, 1, 2, 3))) if priority else ():
        terms.setdefault(name, _term(random, FIELDS[name]))
    if "xreg1" in terms:
        terms = {name: term for name, term in terms.items() if name not in ("reg2", "reg3")}
    exact = {name: term.value for name, term in terms.items() if term.mask == term.field.full}
    groups = GROUPS if table < TABLES - 1 else ()  # Groups lead to the last table, which ends every way.
    body = a.apply_actions(*_actions(random, exact, table, groups, random.randint(0, 5)))
    goto = a.goto_table(random.randint(table + 1, TABLES - 1)) if table < TABLES - 1 and random.random() < 0.6 else b""
    key = facts.flow_key(table, priority, encode_match(terms.values()))
    return key, facts.flow_value(facts.make_cookie(table, priority), body + goto)


def _term(random: Random, field: Field, value: int | None = None) -> Term:
    if value is not None:
        return Term(field, value, field.full)
    if field is f.VLAN_VID:
        vid = random.choice(VIDS)
        return random.choice((Term(field, 0, 0x1FFF), Term(field, 0x1000, 0x1000), Term(field, 0x1000 | vid, 0x1FFF)))
    value = _value(random, field)
    if not field.maskable or random.random() < 0.6:
        return Term(field, value, field.full)
    mask = random.choice((1, 3, field.full - 1, field.full ^ 0xFF & field.full, (1 << field.bits) >> 8))
    return Term(field, value & (mask or 1), mask or 1)


def _value(random: Random, field: Field) -> int:
    if field.name == "in_port":
        return random.choice(PORTS)
    return random.choice(POOLS.get(field.name, SMALL))


def _actions(random: Random, exact: dict[str, int], table: int, groups: tuple[int, ...], count: int) -> list[bytes]:
    ethertype = exact.get("eth_type")
    written = [*WRITABLE, *(field.name for field in FIELDS.values() if _promised(field, exact))]
    made = []
    forks = 2
    for _ in range(count):
        kind = random.randrange(13)
        if kind < 4:
            made.append(_set_field(random, FIELDS[random.choice(written)]))
        elif kind < 6:
            made.append(_copy_field(random, [FIELDS[name] for name in written]))
        elif kind < 8:
            made.append(_output(random))
        elif kind == 8:
            made.append(a.controller2(random.randbytes(random.randint(0, 5))))
        elif kind == 9 and ethertype in (0x0800, 0x86DD):
            made.append(a.dec_ttl())
        elif kind == 10 and exact.get("vlan_vid") == 0:
            # One tag at most: with two of them Open vSwitch 3.1 may write later changes four bytes too early.
            vid = 0x1000 | random.choice(VIDS)
            made.append(a.push_vlan() + a.set_field(f.VLAN_VID, vid))
            exact = {**exact, "vlan_vid": vid}
        elif kind == 11 and exact.get("vlan_vid", 0) & 0x1000:
            made.append(a.pop_vlan())
            exact = {name: value for name, value in exact.items() if name != "vlan_vid"}
        elif kind == 12 and forks:
            forks -= 1
            if groups and random.random() < 0.5:
                made.append(a.group(random.choice(groups)))
            elif table < TABLES - 1:
                made.append(a.resubmit(random.randint(table + 1, TABLES - 1)))
    return made


def _promised(field: Field, exact: dict[str, int]) -> bool:
    """Whether every packet of the match has this field in its headers, and it may be written."""
    if not field.needs or field.name in READ_ONLY:
        return False
    return all(exact.get(name) in accepted for name, accepted in field.needs)


def _output(random: Random) -> bytes:
    return a.output(random.choice((*PORTS, *PORTS, a.PORT_IN, 77)))


def _set_field(random: Random, field: Field) -> bytes:
    value = _value(random, field)
    if field.maskable and random.random() < 0.3:
        return a.set_field(field, value, random.choice((1, 0xFE & field.full, field.full - 1)))
    return a.set_field(field, value)


def _copy_field(random: Random, fields: list[Field]) -> bytes:
    src, dst = random.choice(fields), random.choice([field for field in fields if field is not f.ARP_OP])
    bits = random.randint(1, min(src.bits, dst.bits))
    return a.copy_field(src, dst, bits, random.randint(0, src.bits - bits), random.randint(0, dst.bits - bits))


def random_frame(random: Random) -> bytes:
    """A frame of some kind, in one of ten cases damaged somewhere behind its Ethernet addresses."""
    ethertype, payload = random.choice((_arp, _ip4, _ip4, _ip6, _other))(random)
    tag = random.choice((None, None, random.choice(VIDS) | random.choice((0, 3)) << 13))
    frame = bytearray(ethernet.Ethernet(random.choice(MACS), random.choice(MACS), ethertype, payload, tag).encode())
    # Not ARP, and no fragment offset: what Open vSwitch writes over a damaged ARP header or into the payload
    # of a later fragment is nothing to copy.
    payload_at = len(frame) - len(payload)
    frame += bytes(max(0, 60 - len(frame)))
    damaged = random.randrange(12, len(frame))
    if ethertype != 0x0806 and damaged - payload_at not in (6, 7) and random.random() < 0.1:
        frame[damaged] = random.randrange(256)
    return bytes(frame)


def _arp(random: Random) -> tuple[int, bytes]:
    macs, ips = random.choices(MACS, k=2), random.choices(IPS, k=2)
    return 0x0806, arp.Arp(random.choice((1, 2, 3, 300)), macs[0], ips[0], macs[1], ips[1]).encode()


def _ip4(random: Random) -> tuple[int, bytes]:
    src, dst = random.choices(IPS, k=2)
    proto = random.choice((1, 6, 17, 17, 47))
    fragment = random.choice((0, 0, 0, 0x4000, 0x2000, 0x2005, 3))
    tos = random.choice((0, 1, 2 << 2, 7 << 2 | 3))
    options = random.choice((b"", b"", b"\1\1\1\1"))
    data = _l4(random, proto, src, dst)
    if fragment & ipv4.OFFSET:
        data = data[:LATER_FRAGMENT_MAX]
    packet = ipv4.Ipv4(src, dst, proto, data, random.choice(TTLS), tos, 5, fragment, options)
    return 0x0800, packet.encode()


def _l4(random: Random, proto: int, src: int, dst: int) -> bytes:
    data = random.randbytes(random.randint(0, 20))
    sport, dport = random.choices(L4, k=2)
    if proto == 17:
        datagram = udp.Udp(sport, dport, data).encode(src, dst)
        return datagram if random.random() < 0.7 else datagram[:6] + b"\0\0" + datagram[8:]
    if proto == 6:
        header = struct.pack("!HHIIBBHHH", sport, dport, 1, 2, 0x50, 2, 1000, 0, 0) + data
        pseudo = struct.pack("!IIHH", src, dst, 6, len(header))
        return header[:16] + ipv4.checksum(pseudo + header).to_bytes(2, "big") + header[18:]
    if proto == 1:
        return icmp.Echo(random.choice((0, 8)), 1, 2, data).encode()
    return data


def _ip6(random: Random) -> tuple[int, bytes]:
    src, dst = random.choices(IPS6, k=2)
    proto = random.choice((17, 58, 58, 59))
    if proto == 17:
        data = struct.pack("!HHHH", *random.choices(L4, k=2), 13, 0) + b"abcde"
    elif proto == 58:
        target = random.choice(IPS6).to_bytes(16, "big")
        option = random.choice((b"\1\1", b"\2\1", b"\5\1")) + random.choice(MACS).to_bytes(6, "big")
        data = bytes((random.choice((128, 135, 136)), random.choice((0, 0, 1)), 0, 0)) + bytes(4) + target
        data += random.choice((b"", option, b"\x0e\1" + bytes(6) + option))
    else:
        data = b"x" * 8
    if proto in (17, 58):
        at = 6 if proto == 17 else 2
        pseudo = src.to_bytes(16, "big") + dst.to_bytes(16, "big") + struct.pack("!II", len(data), proto)
        data = data[:at] + ipv4.checksum(pseudo + data).to_bytes(2, "big") + data[at + 2 :]
    extension = random.choice((None, None, 0, 44, 45))
    if extension == 0:
        proto, data = 0, bytes((proto, 0)) + b"\1\4\0\0\0\0" + data
    elif extension is not None:
        offset = 1 if extension == 44 else 0x0008
        data = data if offset == 1 else data[:LATER_FRAGMENT_MAX]
        proto, data = 44, struct.pack("!BBHI", proto, 0, offset, 9) + data
    packet = ipv6.Ipv6(src, dst, proto, data, random.choice(TTLS), random.choice((0, 8, 29)), 77)
    return 0x86DD, packet.encode()


def _other(random: Random) -> tuple[int, bytes]:
    return random.choice((0x88CC, 0x0100, 0x0042)), random.choice((b"\xaa\xaa\3\0\0\0\x88\xcc", b"abc"))
