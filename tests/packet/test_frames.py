"""Ethernet, ARP, IPv4, IPv6, UDP and ICMP: known frames, round trips, and bytes that are not what they claim."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.packet import arp, ethernet, icmp, ipv4, ipv6, udp
from flowloom.packet.malformed import Malformed

macs = st.integers(0, (1 << 48) - 1)
quads = st.integers(0, (1 << 32) - 1)
words = st.integers(0, 0xFFFF)
payloads = st.binary(max_size=80)

# The header that RFC-minded text books use to explain the checksum: 0xb861.
KNOWN_HEADER = bytes.fromhex("45000073000040004011b861c0a80001c0a800c7")
# Captured between two Linux network stacks (10.0.0.1 and 10.0.0.2) on a veth without checksum offload.
KNOWN_ARP = bytes.fromhex("ffffffffffff020000000001080600010800060400010200000000010a0000010000000000000a000002")
KNOWN_PING = bytes.fromhex(
    "0200000000020200000000010800450000249d504000400189860a0000010a0000020800114f21e900016162636400000000"
)
KNOWN_UDP = bytes.fromhex("02000000000202000000000108004500001f488240004011de490a0000010a00000200440043000b61e5686921")
PARSERS: list[Callable[[bytes], object]] = [
    ethernet.parse_ethernet,
    arp.parse_arp,
    ipv4.parse_ipv4,
    ipv6.parse_ipv6,
    lambda data: udp.parse_udp(data, 1, 2),
    udp.parse_udp4,
    icmp.parse_echo,
]
SAMPLES = [
    udp.build_udp4(1, 2, 3, 4, 68, 67, b"payload"),
    ethernet.Ethernet(1, 2, ethernet.ARP, arp.Arp(1, 2, 3, 4, 5).encode(), 0x2005).encode(),
    icmp.build_echo4(1, 2, 3, 4, icmp.Echo(icmp.ECHO_REQUEST, 7, 8, b"abc")),
    ipv4.Ipv4(1, 2, 17, udp.Udp(1, 2, b"abc").encode(1, 2)).encode(),
    ipv6.Ipv6(1, 2, 58, b"abcdefgh").encode(),
]


def test_checksum_of_a_known_header() -> None:
    assert ipv4.checksum(KNOWN_HEADER[:10] + b"\0\0" + KNOWN_HEADER[12:]) == 0xB861
    assert ipv4.checksum(KNOWN_HEADER) == 0


@given(st.binary(max_size=200))
def test_checksum_agrees_with_the_definition(data: bytes) -> None:
    padded = data + b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert ipv4.checksum(data) == 0xFFFF ^ total


def test_known_header_is_read() -> None:
    packet = ipv4.parse_ipv4(KNOWN_HEADER + bytes(0x73 - 20) + b"ethernet padding")
    assert (ipv4.ipv4_text(packet.src), ipv4.ipv4_text(packet.dst)) == ("192.168.0.1", "192.168.0.199")
    assert (packet.proto, packet.ttl, packet.fragment) == (17, 64, ipv4.DONT_FRAGMENT)
    assert packet.payload == bytes(0x73 - 20)
    assert packet.encode() == KNOWN_HEADER + bytes(0x73 - 20)


def test_known_udp_frame_is_read_and_written() -> None:
    link, network, datagram = udp.parse_udp4(KNOWN_UDP)
    assert datagram == udp.Udp(68, 67, b"hi!")
    assert network.encode() == KNOWN_UDP[14:]
    assert datagram.encode(network.src, network.dst) == KNOWN_UDP[34:]
    built = udp.build_udp4(link.src, link.dst, network.src, network.dst, 68, 67, b"hi!")
    assert ipv4.parse_ipv4(built[14:])._replace(ident=0x4882, fragment=ipv4.DONT_FRAGMENT) == network


def test_known_arp_request_is_read_and_written() -> None:
    link = ethernet.parse_ethernet(KNOWN_ARP)
    request = arp.parse_arp(link.payload)
    assert link.dst == ethernet.BROADCAST
    assert request == arp.Arp(arp.REQUEST, 0x020000000001, 0x0A000001, 0, 0x0A000002)
    assert link._replace(payload=request.encode()).encode() == KNOWN_ARP


@given(macs, macs, words, payloads, st.none() | words)
def test_ethernet_round_trip(dst: int, src: int, ethertype: int, payload: bytes, tag: int | None) -> None:
    frame = ethernet.Ethernet(dst, src, 0x0800 if ethertype == ethernet.VLAN else ethertype, payload, tag)
    assert ethernet.parse_ethernet(frame.encode()) == frame


@given(words, macs, quads, macs, quads, st.binary(max_size=18))
def test_arp_round_trip(op: int, sha: int, spa: int, tha: int, tpa: int, padding: bytes) -> None:
    message = arp.Arp(op, sha, spa, tha, tpa)
    assert arp.parse_arp(message.encode() + padding) == message


@given(quads, quads, st.integers(0, 255), payloads, words, st.binary(max_size=10), st.binary(max_size=9))
def test_ipv4_round_trip(
    src: int, dst: int, proto: int, payload: bytes, word: int, options: bytes, padding: bytes
) -> None:
    padded = options * 4
    packet = ipv4.Ipv4(src, dst, proto, payload, word & 0xFF, word >> 8, word, word, padded)
    assert ipv4.parse_ipv4(packet.encode() + padding) == packet


@given(st.integers(0, (1 << 128) - 1), st.integers(0, 255), payloads, st.integers(0, 0xFFFFF), st.binary(max_size=9))
def test_ipv6_round_trip(address: int, byte: int, payload: bytes, label: int, padding: bytes) -> None:
    packet = ipv6.Ipv6(address, address ^ 1, byte, payload, byte, byte, label)
    assert ipv6.parse_ipv6(packet.encode() + padding) == packet
    assert ipv6.ipv6_int(ipv6.ipv6_text(address)) == address


@given(macs, quads, quads, words, words, payloads, st.binary(max_size=20))
def test_udp_round_trip(mac: int, src: int, dst: int, sport: int, dport: int, payload: bytes, padding: bytes) -> None:
    found = udp.parse_udp4(udp.build_udp4(mac, mac ^ 1, src, dst, sport, dport, payload) + padding)
    assert found.datagram == udp.Udp(sport, dport, payload)
    assert (found.link.src, found.link.dst, found.network.src, found.network.dst) == (mac, mac ^ 1, src, dst)


def test_udp_without_checksum_is_accepted_and_with_a_wrong_one_refused() -> None:
    segment = udp.Udp(1, 2, b"abc").encode(3, 4)
    assert udp.parse_udp(segment[:6] + b"\0\0" + segment[8:], 3, 4) == udp.Udp(1, 2, b"abc")
    with pytest.raises(Malformed, match="checksum"):
        udp.parse_udp(segment, 3, 5)


def test_udp_checksum_of_zero_is_sent_as_all_ones() -> None:
    bare = udp.Udp(0, 0, b"").encode(0, 0)
    missing = int.from_bytes(bare[6:8], "big")
    segment = udp.Udp(0, missing, b"").encode(0, 0)
    assert segment[6:8] == b"\xff\xff"
    udp.parse_udp(segment, 0, 0)


@given(st.sampled_from([icmp.ECHO_REPLY, icmp.ECHO_REQUEST]), words, words, payloads)
def test_echo_round_trip(kind: int, ident: int, sequence: int, payload: bytes) -> None:
    echo = icmp.Echo(kind, ident, sequence, payload)
    assert icmp.parse_echo(echo.encode()) == echo


def test_known_ping_is_read() -> None:
    echo = icmp.parse_echo(ipv4.parse_ipv4(KNOWN_PING[14:]).payload)
    assert echo == icmp.Echo(icmp.ECHO_REQUEST, 0x21E9, 1, b"abcd" + bytes(4))
    assert echo.encode() == KNOWN_PING[34:]


@pytest.mark.parametrize("cut", range(13))
def test_a_cut_frame_is_malformed(cut: int) -> None:
    with pytest.raises(Malformed):
        ethernet.parse_ethernet(SAMPLES[0][:cut])


def test_a_wrong_header_checksum_is_malformed() -> None:
    with pytest.raises(Malformed, match="header checksum"):
        ipv4.parse_ipv4(KNOWN_HEADER[:8] + b"\x41" + KNOWN_HEADER[9:] + bytes(0x73 - 20))


@pytest.mark.parametrize(
    "text", ["", "fa:16:3e", "fa-16-3e-00-00-01", "fa:16:3e:00:00:0g", "fa:16:3e:00:00:001", " fa:16:3e:00:00:01"]
)
def test_other_forms_of_a_mac_are_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        ethernet.mac_int(text)


@given(macs)
def test_mac_text_round_trip(mac: int) -> None:
    assert ethernet.mac_int(ethernet.mac_text(mac)) == mac
    assert ethernet.mac_int(ethernet.mac_text(mac).upper()) == mac


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.256", "10.0.0.01", "10.0.0.1/24", "0x0a000001", "::1"])
def test_other_forms_of_an_ipv4_address_are_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        ipv4.ipv4_int(text)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good packet with some bytes changed, and cut or grown."""
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[draw(st.integers(0, 20)) : draw(st.integers(0, len(data)))]) + draw(st.binary(max_size=4))


@given(st.binary(max_size=120) | damaged())
def test_no_bytes_raise_anything_but_malformed(data: bytes) -> None:
    for parse in PARSERS:
        with contextlib.suppress(Malformed):
            parse(data)


@given(st.text(max_size=40))
def test_no_text_raises_anything_but_malformed(text: str) -> None:
    for parse in (ethernet.mac_int, ipv4.ipv4_int, ipv6.ipv6_int):
        with contextlib.suppress(Malformed):
            parse(text)


DATAGRAM = udp.Udp(1, 2, b"abc").encode(3, 4)


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (ethernet.parse_ethernet, bytes(12) + b"\x81\0\0\1\x08"),
        (ipv4.parse_ipv4, KNOWN_HEADER + bytes(0x73 - 21)),
        (ipv4.parse_ipv4, b"\x44" + KNOWN_HEADER[1:] + bytes(0x73 - 20)),
        (ipv4.parse_ipv4, b"\x65" + KNOWN_HEADER[1:] + bytes(0x73 - 20)),
        (ipv6.parse_ipv6, ipv6.Ipv6(1, 2, 58, b"abcdefgh").encode()[:-1]),
        (ipv6.parse_ipv6, b"\x40" + ipv6.Ipv6(1, 2, 58, b"").encode()[1:]),
        (lambda data: udp.parse_udp(data, 3, 4), DATAGRAM[:-1]),
        (lambda data: udp.parse_udp(data, 3, 4), DATAGRAM[:4] + b"\0\7\0\0" + DATAGRAM[8:]),
        (arp.parse_arp, b"\0\6" + KNOWN_ARP[16:]),
        (icmp.parse_echo, KNOWN_PING[34:-1] + b"x"),
        (icmp.parse_echo, b"\3" + KNOWN_PING[35:]),
        (udp.parse_udp4, KNOWN_PING),
        (udp.parse_udp4, KNOWN_ARP),
    ],
)
def test_what_a_packet_claims_must_hold(parse: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data)


def test_bytes_behind_a_udp_datagram_are_cut_off() -> None:
    assert udp.parse_udp(DATAGRAM + b"more", 3, 4) == udp.Udp(1, 2, b"abc")


def test_a_fragment_is_not_a_datagram() -> None:
    packet = ipv4.Ipv4(3, 4, ipv4.UDP, DATAGRAM, fragment=ipv4.MORE_FRAGMENTS)
    with pytest.raises(Malformed, match="fragment"):
        udp.parse_udp4(ethernet.Ethernet(1, 2, ethernet.IPV4, packet.encode()).encode())
