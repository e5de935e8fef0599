"""Match fields: their OXM numbers, widths, prerequisites, and the order in which Open vSwitch writes them.

Numbers: OpenFlow Switch Specification 1.5.1, section 7.2.3.7, and Open vSwitch's
`include/openvswitch/meta-flow.h`.  When TLVs stand in this order and in OpenFlow 1.5's forms
(a 32-bit register as a masked half of its 64-bit xreg), Open vSwitch dumps the bytes it was sent.
"""

from __future__ import annotations

from typing import Final, NamedTuple

BASIC: Final = 0x8000
NXM_1: Final = 0x0001
PACKET_REGS: Final = 0x8001


class Field(NamedTuple):
    """One match field.

    header: OXM class and number in place, has-mask bit and length clear.
    size: bytes of the value; bits: how many of them are meaningful.
    order: rank in Open vSwitch's own order.
    needs: (field name, accepted values): prerequisites of which each must be matched exactly.
    maskable: a mask other than all ones is accepted.
    """

    name: str
    header: int
    size: int
    bits: int
    order: int
    needs: tuple[tuple[str, tuple[int, ...]], ...]
    maskable: bool

    @property
    def full(self) -> int:
        """The mask that covers the whole value."""
        return (1 << self.bits) - 1

    def exact(self, value: int) -> bytes:
        """The TLV that matches `value` exactly."""
        return (self.header | self.size).to_bytes(4, "big") + value.to_bytes(self.size, "big")

    def masked(self, value: int, mask: int) -> bytes:
        """The TLV that matches `value` under `mask`; a full mask gives the exact form, as the switch would."""
        if mask == self.full:
            return self.exact(value)
        return (
            (self.header | 0x100 | self.size * 2).to_bytes(4, "big")
            + (value & mask).to_bytes(self.size, "big")
            + mask.to_bytes(self.size, "big")
        )


FIELDS: dict[str, Field] = {}
"""Every field by name, in canonical order."""

_ETH_IP = (("eth_type", (0x0800, 0x86DD)),)
_IP4 = (("eth_type", (0x0800,)),)
_IP6 = (("eth_type", (0x86DD,)),)
_ARP = (("eth_type", (0x0806,)),)
_TCP = (*_ETH_IP, ("ip_proto", (6,)))
_UDP = (*_ETH_IP, ("ip_proto", (17,)))
_ICMP = (*_IP4, ("ip_proto", (1,)))
_ICMP6 = (*_IP6, ("ip_proto", (58,)))
_ND_SOL = (*_ICMP6, ("icmp6_type", (135,)))
_ND_ADV = (*_ICMP6, ("icmp6_type", (136,)))
_ND = (*_ICMP6, ("icmp6_type", (135, 136)))


def _declare(
    name: str,
    oxm_class: int,
    number: int,
    size: int,
    bits: int = 0,
    needs: tuple[tuple[str, tuple[int, ...]], ...] = (),
    maskable: bool = True,
) -> Field:
    field = Field(name, oxm_class << 16 | number << 9, size, bits or size * 8, len(FIELDS), needs, maskable)
    FIELDS[name] = field
    return field


CONJ_ID = _declare("conj_id", NXM_1, 37, 4, maskable=False)
IN_PORT = _declare("in_port", BASIC, 0, 4, maskable=False)
ETH_SRC = _declare("eth_src", BASIC, 4, 6)
ETH_DST = _declare("eth_dst", BASIC, 3, 6)
ETH_TYPE = _declare("eth_type", BASIC, 5, 2, maskable=False)
VLAN_VID = _declare("vlan_vid", BASIC, 6, 2, 13)
VLAN_PCP = _declare("vlan_pcp", BASIC, 7, 1, 3, maskable=False)
IP_SRC = _declare("ip_src", BASIC, 11, 4, needs=_IP4)
IP_DST = _declare("ip_dst", BASIC, 12, 4, needs=_IP4)
IP6_SRC = _declare("ip6_src", BASIC, 26, 16, needs=_IP6)
IP6_DST = _declare("ip6_dst", BASIC, 27, 16, needs=_IP6)
IP_FRAG = _declare("ip_frag", NXM_1, 26, 1, 2, needs=_ETH_IP)
IP_DSCP = _declare("ip_dscp", BASIC, 8, 1, 6, needs=_ETH_IP, maskable=False)
IP_TTL = _declare("ip_ttl", NXM_1, 29, 1, needs=_ETH_IP, maskable=False)
IP_PROTO = _declare("ip_proto", BASIC, 10, 1, needs=_ETH_IP, maskable=False)
TCP_SRC = _declare("tcp_src", BASIC, 13, 2, needs=_TCP)
TCP_DST = _declare("tcp_dst", BASIC, 14, 2, needs=_TCP)
UDP_SRC = _declare("udp_src", BASIC, 15, 2, needs=_UDP)
UDP_DST = _declare("udp_dst", BASIC, 16, 2, needs=_UDP)
ICMP_TYPE = _declare("icmp_type", BASIC, 19, 1, needs=_ICMP, maskable=False)
ICMP_CODE = _declare("icmp_code", BASIC, 20, 1, needs=_ICMP, maskable=False)
ICMP6_TYPE = _declare("icmp6_type", BASIC, 29, 1, needs=_ICMP6, maskable=False)
ICMP6_CODE = _declare("icmp6_code", BASIC, 30, 1, needs=_ICMP6, maskable=False)
ND_TARGET = _declare("nd_target", BASIC, 31, 16, needs=_ND)
ND_SLL = _declare("nd_sll", BASIC, 32, 6, needs=_ND_SOL)
ND_TLL = _declare("nd_tll", BASIC, 33, 6, needs=_ND_ADV)
ARP_OP = _declare("arp_op", BASIC, 21, 2, needs=_ARP, maskable=False)
ARP_SPA = _declare("arp_spa", BASIC, 22, 4, needs=_ARP)
ARP_TPA = _declare("arp_tpa", BASIC, 23, 4, needs=_ARP)
ARP_SHA = _declare("arp_sha", BASIC, 24, 6, needs=_ARP)
ARP_THA = _declare("arp_tha", BASIC, 25, 6, needs=_ARP)
TUN_ID = _declare("tun_id", BASIC, 38, 8)
TUN_SRC = _declare("tun_src", NXM_1, 31, 4)
TUN_DST = _declare("tun_dst", NXM_1, 32, 4)
REGS = tuple(_declare(f"reg{i}", NXM_1, i, 4) for i in range(16))
XXREGS = tuple(_declare(f"xxreg{i}", NXM_1, 111 + i, 16) for i in range(4))
XREGS = tuple(_declare(f"xreg{i}", PACKET_REGS, i, 8) for i in range(8))
PKT_MARK = _declare("pkt_mark", NXM_1, 33, 4)
CT_STATE = _declare("ct_state", NXM_1, 105, 4)
CT_ZONE = _declare("ct_zone", NXM_1, 106, 2, maskable=False)
CT_MARK = _declare("ct_mark", NXM_1, 107, 4)
CT_LABEL = _declare("ct_label", NXM_1, 108, 16)
METADATA = _declare("metadata", BASIC, 2, 8)

BY_HEADER: dict[int, Field] = {field.header: field for field in FIELDS.values()}
"""Field by its OXM header with has-mask and length cleared."""
