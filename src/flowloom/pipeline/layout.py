"""Flowloom's pipeline.

A packet enters at CLASSIFY, from a local port or from a tunnel, and leaves at DELIVER (to a local port)
or TUNNEL (to another chassis).  It goes forward only; a group's buckets look copies up in a later table.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from flowloom.openflow import fields as of
from flowloom.openflow.facts import GROUPS_FIRST
from flowloom.pipeline.framework import GroupKind, Quantity, Registers, Table, packet_field


class Priority(IntEnum):
    """Every priority there is, lowest first.  Equal ones never overlap in one table."""

    DEFAULT = 0
    FLOOD = 50
    FLOOD_FROM_TUNNEL = 60
    TUNNEL_PORT = 90
    UNICAST = 100
    PORT = 100
    ALLOW = 100
    ANSWER = 100
    OWN_ANNOUNCEMENT = 110
    PUNT = 110
    DENY = 120
    ALLOW_NEIGHBOUR = 130
    ALLOW_ALL = 140


REGISTERS: Final = Registers()

NETWORK: Final = REGISTERS.allot("NETWORK", of.METADATA, 64, "key of the network the packet is in")
FROM_TUNNEL: Final = REGISTERS.allot("FROM_TUNNEL", of.REGS[0], 1, "1: it came from another chassis")
VIA: Final = REGISTERS.allot("VIA", of.REGS[0], 3, "type of tunnel it leaves by: 1 Geneve, 2 VXLAN, 3 GRE")
IN_KEY: Final = REGISTERS.allot("IN_KEY", of.REGS[1], 32, "key of the local port it came from")
OUT_KEY: Final = REGISTERS.allot("OUT_KEY", of.REGS[2], 32, "key of the local port it goes to")
REMOTE: Final = REGISTERS.allot("REMOTE", of.REGS[3], 32, "key of the chassis it goes to")

IN_PORT: Final = packet_field(of.IN_PORT)
ETH_SRC: Final = packet_field(of.ETH_SRC)
ETH_DST: Final = packet_field(of.ETH_DST)
ETH_TYPE: Final = packet_field(of.ETH_TYPE)
IP_SRC: Final = packet_field(of.IP_SRC)
IP_DST: Final = packet_field(of.IP_DST)
IP6_SRC: Final = packet_field(of.IP6_SRC)
IP_PROTO: Final = packet_field(of.IP_PROTO)
UDP_SRC: Final = packet_field(of.UDP_SRC)
UDP_DST: Final = packet_field(of.UDP_DST)
ICMP6_TYPE: Final = packet_field(of.ICMP6_TYPE)
ICMP6_CODE: Final = packet_field(of.ICMP6_CODE)
ND_TARGET: Final = packet_field(of.ND_TARGET)
ND_SLL: Final = packet_field(of.ND_SLL)
ND_TLL: Final = packet_field(of.ND_TLL)
ARP_OP: Final = packet_field(of.ARP_OP)
ARP_SPA: Final = packet_field(of.ARP_SPA)
ARP_TPA: Final = packet_field(of.ARP_TPA)
ARP_SHA: Final = packet_field(of.ARP_SHA)
ARP_THA: Final = packet_field(of.ARP_THA)
TUN_ID: Final = packet_field(of.TUN_ID)
TUN_DST: Final = packet_field(of.TUN_DST)

MULTICAST_BIT: Final = 0x0100_0000_0000
"""The group bit of an Ethernet address: broadcast and multicast have it."""

_tables: list[Table] = []


def _table(
    name: str,
    purpose: str,
    matches: tuple[Quantity, ...],
    sets: tuple[Quantity, ...] = (),
    does: tuple[str, ...] = (),
    next: tuple[str, ...] = (),
) -> Table:
    table = Table(name, len(_tables), purpose, matches, sets, does, next)
    _tables.append(table)
    return table


CLASSIFY: Final = _table(
    "CLASSIFY",
    "Which port, or which tunnel, the packet came from, and so which network it is in.",
    matches=(IN_PORT, TUN_ID),
    sets=(NETWORK, IN_KEY, FROM_TUNNEL),
    next=("GUARD", "LOOKUP"),
)
GUARD: Final = _table(
    "GUARD",
    "Port security: only the port's own addresses leave it.",
    matches=(
        IN_KEY, ETH_SRC, ETH_TYPE, IP_SRC, IP6_SRC, IP_PROTO, UDP_SRC, UDP_DST, IP_DST,
        ARP_SPA, ARP_SHA, ICMP6_TYPE, ICMP6_CODE, ND_TARGET, ND_SLL, ND_TLL,
    ),
    does=("controller",),
    next=("SERVICE",),
)  # fmt: skip
SERVICE: Final = _table(
    "SERVICE",
    "Answers the system gives itself: ARP by flow, DHCP by the agent.",
    matches=(NETWORK, IN_KEY, ETH_DST, ETH_TYPE, IP_PROTO, UDP_SRC, UDP_DST, IP_DST, ARP_OP, ARP_TPA),
    sets=(ETH_SRC, ARP_OP, ARP_SHA, ARP_SPA),
    does=("copy", "controller", "output"),
    next=("LOOKUP",),
)
LOOKUP: Final = _table(
    "LOOKUP",
    "Where the destination address lives: a local port, another chassis, or everywhere.",
    matches=(NETWORK, FROM_TUNNEL, ETH_DST),
    sets=(OUT_KEY, REMOTE),
    does=("group",),
    next=("DELIVER", "ENCAP"),
)
DELIVER: Final = _table(
    "DELIVER",
    "Out of the local port.",
    matches=(OUT_KEY,),
    does=("output",),
)
ENCAP: Final = _table(
    "ENCAP",
    "The network's number on the tunnel.",
    matches=(NETWORK,),
    sets=(TUN_ID, VIA),
    next=("TUNNEL",),
)
TUNNEL: Final = _table(
    "TUNNEL",
    "Out of the tunnel, to the chassis.",
    matches=(REMOTE, VIA),
    sets=(TUN_DST,),
    does=("output",),
)

TABLES: Final[tuple[Table, ...]] = tuple(_tables)

FLOOD_LOCAL: Final = GroupKind(
    "FLOOD_LOCAL", GROUPS_FIRST, "A copy to each local port of a network.", (OUT_KEY,), ("DELIVER",)
)
FLOOD_REMOTE: Final = GroupKind(
    "FLOOD_REMOTE", GROUPS_FIRST + 0x1000_0000, "A copy to each other chassis of a network.", (REMOTE,), ("ENCAP",)
)
GROUP_KINDS: Final[tuple[GroupKind, ...]] = (FLOOD_LOCAL, FLOOD_REMOTE)
