"""ICMP echo (RFC 792): the ping of the tests."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from flowloom.packet import ethernet, ipv4
from flowloom.packet.malformed import Malformed

ECHO_REPLY: Final = 0
ECHO_REQUEST: Final = 8

_HEADER = struct.Struct("!BBHHH")


class Echo(NamedTuple):
    """kind: ECHO_REQUEST or ECHO_REPLY."""

    kind: int
    ident: int
    sequence: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """Header with its checksum, then the payload."""
        total = ipv4.checksum(_HEADER.pack(self.kind, 0, 0, self.ident, self.sequence) + self.payload)
        return _HEADER.pack(self.kind, 0, total, self.ident, self.sequence) + self.payload


def parse_echo(message: bytes) -> Echo:
    """Malformed when cut short, of another type, or with a wrong checksum."""
    if len(message) < 8:
        raise Malformed(f"ICMP: {len(message)} bytes, at least 8 needed")
    kind, code, _, ident, sequence = _HEADER.unpack_from(message)
    if kind not in (ECHO_REPLY, ECHO_REQUEST) or code:
        raise Malformed(f"ICMP: type {kind}, code {code} is not an echo")
    if ipv4.checksum(message):
        raise Malformed("ICMP: checksum")
    return Echo(kind, ident, sequence, message[8:])


def build_echo4(eth_src: int, eth_dst: int, ip_src: int, ip_dst: int, echo: Echo) -> bytes:
    """A whole frame with correct checksums."""
    packet = ipv4.Ipv4(ip_src, ip_dst, ipv4.ICMP, echo.encode()).encode()
    return ethernet.Ethernet(eth_dst, eth_src, ethernet.IPV4, packet).encode()
