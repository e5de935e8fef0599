"""IPv4 headers (RFC 791), the Internet checksum (RFC 1071), and addresses as text."""

from __future__ import annotations

import struct
from ipaddress import AddressValueError, IPv4Address
from typing import Final, NamedTuple

from flowloom.packet.malformed import Malformed

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
BROADCAST: Final = 0xFFFF_FFFF

DONT_FRAGMENT: Final = 0x4000
MORE_FRAGMENTS: Final = 0x2000
OFFSET: Final = 0x1FFF

_HEADER = struct.Struct("!BBHHHBBHII")


class Ipv4(NamedTuple):
    """One datagram.  fragment: flags and offset (in units of 8 bytes) as on the wire.  options: padded to 32 bits."""

    src: int
    dst: int
    proto: int
    payload: bytes
    ttl: int = 64
    tos: int = 0
    ident: int = 0
    fragment: int = 0
    options: bytes = b""

    @property
    def is_later_fragment(self) -> bool:
        """Whether the payload starts in the middle, so that no transport header is in it."""
        return bool(self.fragment & OFFSET)

    def encode(self) -> bytes:
        """Header with its checksum, then the payload.  Malformed when it does not fit one datagram."""
        header_length = 20 + len(self.options)
        length = header_length + len(self.payload)
        if length > 0xFFFF or len(self.options) > 40 or len(self.options) % 4:
            raise Malformed(f"IPv4: {length} bytes with {len(self.options)} bytes of options do not make a datagram")
        fields = (0x40 | header_length // 4, self.tos, length, self.ident, self.fragment, self.ttl, self.proto)
        total = checksum(_HEADER.pack(*fields, 0, self.src, self.dst) + self.options)
        return _HEADER.pack(*fields, total, self.src, self.dst) + self.options + self.payload


def parse_ipv4(packet: bytes) -> Ipv4:
    """Malformed for another version, impossible lengths or a wrong checksum; padding behind is cut off."""
    if len(packet) < 20:
        raise Malformed(f"IPv4: {len(packet)} bytes, at least 20 needed")
    first, tos, length, ident, fragment, ttl, proto, _, src, dst = _HEADER.unpack_from(packet)
    header_length = (first & 0xF) * 4
    if first >> 4 != 4 or header_length < 20:
        raise Malformed(f"IPv4: version {first >> 4}, header of {header_length} bytes")
    if not header_length <= length <= len(packet):
        raise Malformed(f"IPv4: total length {length} with {len(packet)} bytes there")
    if checksum(packet[:header_length]):
        raise Malformed("IPv4: header checksum")
    options, payload = packet[20:header_length], packet[header_length:length]
    return Ipv4(src, dst, proto, payload, ttl, tos, ident, fragment, options)


def checksum(data: bytes) -> int:
    """The Internet checksum of `data`; 0 when `data` holds its own correct checksum."""
    if len(data) % 2:
        data += b"\0"
    # One's-complement addition is addition modulo 0xFFFF (RFC 1071, 2.1), with 0xFFFF for a sum that is not 0.
    total = int.from_bytes(data, "big")
    return 0xFFFF ^ (total % 0xFFFF or (0xFFFF if total else 0))


def ipv4_text(address: int) -> str:
    """`10.0.0.1`."""
    return str(IPv4Address(address))


def ipv4_int(text: str) -> int:
    """The number of a dotted quad.  Malformed for any other form."""
    try:
        return int(IPv4Address(text))
    except AddressValueError as wrong:
        raise Malformed(f"IPv4 address: {wrong}") from wrong
