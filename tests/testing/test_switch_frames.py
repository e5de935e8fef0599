"""A frame read into fields and written back: unchanged when nothing is set, with good checksums when something is."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.openflow import fields as f
from flowloom.packet import ethernet, icmp, ipv4, ipv6, udp
from flowloom.testing import random_tables
from flowloom.testing.frames import Packet

quads = st.integers(0, 0xFFFF_FFFF)
words = st.integers(0, 0xFFFF)


def rewritten(frame: bytes, **values: int) -> bytes:
    """`frame` with fields set."""
    packet = Packet(frame)
    for name, value in values.items():
        packet.values[f.FIELDS[name].order] = value
    packet.changed = True
    return packet.encode()


@given(st.randoms(use_true_random=False))
def test_a_frame_written_back_is_the_same(random: Random) -> None:
    frame = random_tables.random_frame(random)
    assert rewritten(frame) == frame
    assert Packet(frame).copy().encode() == frame


@given(st.binary(min_size=14, max_size=120))
def test_any_bytes_are_a_frame(frame: bytes) -> None:
    assert rewritten(frame) == frame


def test_a_frame_without_ethernet_header_is_none() -> None:
    with pytest.raises(ValueError, match="Ethernet"):
        Packet(bytes(13))


@given(quads, quads, words, words, st.binary(max_size=30), quads, quads, words, words, st.integers(0, 255))
def test_a_rewritten_datagram_has_good_checksums(
    src: int, dst: int, sport: int, dport: int, data: bytes, src2: int, dst2: int, sport2: int, dport2: int, ttl: int
) -> None:
    frame = udp.build_udp4(1, 2, src, dst, sport, dport, data)
    changed = rewritten(
        frame, eth_dst=3, ip_src=src2, ip_dst=dst2, udp_src=sport2, udp_dst=dport2, ip_ttl=ttl, ip_dscp=ttl >> 2
    )
    link, network, datagram = udp.parse_udp4(changed)
    assert link == (3, 1, ethernet.IPV4, link.payload, None)
    assert (network.src, network.dst, network.ttl, network.tos) == (src2, dst2, ttl, ttl & 0xFC)
    assert datagram == udp.Udp(sport2, dport2, data)


def test_a_wrong_checksum_stays_wrong() -> None:
    frame = bytearray(udp.build_udp4(1, 2, 3, 4, 5, 6, b"data"))
    frame[40] ^= 1
    with pytest.raises(ValueError, match="UDP: checksum"):
        udp.parse_udp4(rewritten(bytes(frame), ip_src=9))


def test_an_echo_request_becomes_a_reply() -> None:
    frame = icmp.build_echo4(1, 2, 3, 4, icmp.Echo(icmp.ECHO_REQUEST, 7, 8, b"abc"))
    network = ipv4.parse_ipv4(rewritten(frame, icmp_type=0)[14:])
    assert icmp.parse_echo(network.payload) == icmp.Echo(icmp.ECHO_REPLY, 7, 8, b"abc")


def test_tags_are_pushed_and_popped() -> None:
    frame = ethernet.Ethernet(1, 2, 0x88B5, b"data", 0x6007).encode()
    packet = Packet(frame)
    assert (packet.values[f.VLAN_VID.order], packet.values[f.VLAN_PCP.order]) == (0x1007, 3)
    packet.push_vlan(0x88A8)
    assert packet.encode() == frame[:12] + bytes.fromhex("88a80000") + frame[12:]
    packet.pop_vlan()
    assert packet.encode() == frame
    packet.pop_vlan()
    assert packet.encode() == frame[:12] + frame[16:]
    assert packet.values[f.VLAN_VID.order] == 0


def test_a_datagram_without_checksum_gets_none_and_a_checksum_never_becomes_none() -> None:
    bare = bytearray(udp.build_udp4(1, 2, 3, 4, 5, 6, b"data"))
    bare[40:42] = b"\0\0"
    assert rewritten(bytes(bare), ip_src=9)[40:42] == b"\0\0"
    # The port that makes the sum all ones, whose complement would read as "no checksum".
    zero = udp.Udp(5, 0, b"").encode(3, 4)
    port = int.from_bytes(zero[6:8], "big")
    frame = rewritten(udp.build_udp4(1, 2, 3, 4, 5, 6, b""), udp_dst=port)
    assert frame[40:42] == b"\xff\xff"
    assert udp.parse_udp4(frame).datagram == udp.Udp(5, port, b"")


SOLICITED = 0x20010DB8 << 96 | 7


def solicitation(code: int = 0, option: bytes = b"\1\1\2\0\0\0\0\7") -> dict[str, int]:
    """What is read of a neighbour solicitation for SOLICITED with this link-layer option."""
    data = bytes((135, code, 0, 0, 0, 0, 0, 0)) + SOLICITED.to_bytes(16, "big") + option
    packet = ipv6.Ipv6(1, 2, ipv6.ICMPV6, data, 255)
    values = Packet(ethernet.Ethernet(1, 2, ethernet.IPV6, packet.encode()).encode()).values
    return {name: values[f.FIELDS[name].order] for name in ("icmp6_type", "nd_target", "nd_sll", "nd_tll")}


def test_neighbour_discovery_is_read_only_where_it_is_well_formed() -> None:
    read = {"icmp6_type": 135, "nd_target": SOLICITED, "nd_sll": 0x020000000007, "nd_tll": 0}
    assert solicitation() == read
    assert solicitation(option=b"\x0e\1" + bytes(6) + b"\1\1\2\0\0\0\0\7") == read
    assert solicitation(option=b"\1\2\2\0\0\0\0\7" + bytes(8)) == {**read, "nd_sll": 0}
    assert solicitation(option=b"\2\1\2\0\0\0\0\7") == {**read, "nd_sll": 0}
    assert solicitation(option=b"\1\0\2\0\0\0\0\7") == {**read, "nd_sll": 0}
    assert solicitation(code=1) == {**read, "nd_target": 0, "nd_sll": 0}


def test_a_later_fragment_has_no_ports_to_read() -> None:
    packet = ipv4.Ipv4(3, 4, ipv4.UDP, udp.Udp(5, 6, b"data").encode(3, 4), fragment=1)
    frame = ethernet.Ethernet(1, 2, ethernet.IPV4, packet.encode()).encode()
    values = Packet(frame).values
    assert [values[field.order] for field in (f.IP_FRAG, f.IP_PROTO, f.UDP_SRC, f.UDP_DST)] == [3, 17, 0, 0]
    assert rewritten(frame, ip_src=9)[34:] == frame[34:]
