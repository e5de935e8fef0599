"""IPv6 headers (RFC 8200); extension headers stay in the payload."""

from __future__ import annotations

import struct
from ipaddress import AddressValueError, IPv6Address
from typing import Final, NamedTuple

from flowloom.packet.malformed import Malformed

ICMPV6: Final = 58

_HEADER = struct.Struct("!IHBB16s16s")


class Ipv6(NamedTuple):
    """One datagram.  proto: the next header after the fixed one."""

    src: int
    dst: int
    proto: int
    payload: bytes
    hop_limit: int = 64
    traffic_class: int = 0
    flow_label: int = 0

    def encode(self) -> bytes:
        """Header and payload.  Malformed when the payload does not fit one datagram."""
        if len(self.payload) > 0xFFFF:
            raise Malformed(f"IPv6: a payload of {len(self.payload)} bytes")
        first = 6 << 28 | self.traffic_class << 20 | self.flow_label
        src, dst = self.src.to_bytes(16, "big"), self.dst.to_bytes(16, "big")
        return _HEADER.pack(first, len(self.payload), self.proto, self.hop_limit, src, dst) + self.payload


def parse_ipv6(packet: bytes) -> Ipv6:
    """Malformed for another version or a length beyond what is there; padding behind is cut off."""
    if len(packet) < _HEADER.size:
        raise Malformed(f"IPv6: {len(packet)} bytes, at least {_HEADER.size} needed")
    first, length, proto, hop_limit, src, dst = _HEADER.unpack_from(packet)
    if first >> 28 != 6:
        raise Malformed(f"IPv6: version {first >> 28}")
    payload = packet[40 : 40 + length]
    if len(payload) < length:
        raise Malformed(f"IPv6: payload length {length} with {len(payload)} bytes there")
    addresses = int.from_bytes(src, "big"), int.from_bytes(dst, "big")
    return Ipv6(*addresses, proto, payload, hop_limit, first >> 20 & 0xFF, first & 0xFFFFF)


def ipv6_text(address: int) -> str:
    """`2001:db8::1`."""
    return str(IPv6Address(address))


def ipv6_int(text: str) -> int:
    """The number of an IPv6 address without zone.  Malformed for any other form."""
    if "%" in text:
        raise Malformed(f"IPv6 address: {text!r} names a zone")
    try:
        return int(IPv6Address(text))
    except AddressValueError as wrong:
        raise Malformed(f"IPv6 address: {wrong}") from wrong
