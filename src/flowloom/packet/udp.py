"""UDP over IPv4 (RFC 768), and whole frames of it."""

from __future__ import annotations

import struct
from typing import NamedTuple

from flowloom.packet import ethernet, ipv4
from flowloom.packet.malformed import Malformed

_HEADER = struct.Struct("!HHHH")
_PSEUDO = struct.Struct("!IIHH")


class Udp(NamedTuple):
    """One datagram: source port, destination port, payload."""

    sport: int
    dport: int
    payload: bytes

    def encode(self, src: int, dst: int) -> bytes:
        """Header and payload, with the checksum over the IPv4 addresses it travels between."""
        length = 8 + len(self.payload)
        if length > 0xFFFF:
            raise Malformed(f"UDP: a payload of {len(self.payload)} bytes")
        bare = _HEADER.pack(self.sport, self.dport, length, 0) + self.payload
        # A checksum of 0 would mean "none"; 0xFFFF stands for the same sum (RFC 768).
        total = ipv4.checksum(_PSEUDO.pack(src, dst, ipv4.UDP, length) + bare) or 0xFFFF
        return _HEADER.pack(self.sport, self.dport, length, total) + self.payload


def parse_udp(segment: bytes, src: int, dst: int) -> Udp:
    """Malformed for impossible lengths or a checksum (when there is one) that is wrong for `src` and `dst`."""
    if len(segment) < 8:
        raise Malformed(f"UDP: {len(segment)} bytes, at least 8 needed")
    sport, dport, length, total = _HEADER.unpack_from(segment)
    if not 8 <= length <= len(segment):
        raise Malformed(f"UDP: length {length} with {len(segment)} bytes there")
    if total and ipv4.checksum(_PSEUDO.pack(src, dst, ipv4.UDP, length) + segment[:length]):
        raise Malformed("UDP: checksum")
    return Udp(sport, dport, segment[8:length])


class Udp4Frame(NamedTuple):
    """A frame of UDP over IPv4, taken apart."""

    link: ethernet.Ethernet
    network: ipv4.Ipv4
    datagram: Udp


def parse_udp4(frame: bytes) -> Udp4Frame:
    """Take a whole frame apart.  Malformed when it is anything but one unfragmented UDP datagram over IPv4."""
    link = ethernet.parse_ethernet(frame)
    if link.ethertype != ethernet.IPV4:
        raise Malformed(f"UDP over IPv4: ethertype {link.ethertype:#06x}")
    network = ipv4.parse_ipv4(link.payload)
    if network.proto != ipv4.UDP or network.fragment & (ipv4.OFFSET | ipv4.MORE_FRAGMENTS):
        raise Malformed(f"UDP over IPv4: protocol {network.proto}, fragment {network.fragment:#06x}")
    return Udp4Frame(link, network, parse_udp(network.payload, network.src, network.dst))


def build_udp4(eth_src: int, eth_dst: int, ip_src: int, ip_dst: int, sport: int, dport: int, payload: bytes) -> bytes:
    """A whole frame with correct checksums.  Malformed when the payload does not fit one datagram."""
    segment = Udp(sport, dport, payload).encode(ip_src, ip_dst)
    packet = ipv4.Ipv4(ip_src, ip_dst, ipv4.UDP, segment).encode()
    return ethernet.Ethernet(eth_dst, eth_src, ethernet.IPV4, packet).encode()
