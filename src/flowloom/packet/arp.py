"""ARP for IPv4 over Ethernet (RFC 826)."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from flowloom.packet.malformed import Malformed

REQUEST: Final = 1
REPLY: Final = 2

_HEADER = struct.Struct("!HHBBH6sI6sI")
_ETHERNET_IPV4 = (1, 0x0800, 6, 4)


class Arp(NamedTuple):
    """Operation; sender's MAC and IPv4; target's MAC and IPv4."""

    op: int
    sha: int
    spa: int
    tha: int
    tpa: int

    def encode(self) -> bytes:
        """The 28 bytes after the Ethernet header."""
        sha, tha = self.sha.to_bytes(6, "big"), self.tha.to_bytes(6, "big")
        return _HEADER.pack(*_ETHERNET_IPV4, self.op, sha, self.spa, tha, self.tpa)


def parse_arp(payload: bytes) -> Arp:
    """Malformed when cut short or not about IPv4 over Ethernet; padding behind is ignored."""
    if len(payload) < _HEADER.size:
        raise Malformed(f"ARP: {len(payload)} bytes, {_HEADER.size} needed")
    hardware, protocol, hlen, plen, op, sha, spa, tha, tpa = _HEADER.unpack_from(payload)
    if (hardware, protocol, hlen, plen) != _ETHERNET_IPV4:
        raise Malformed("ARP: not IPv4 over Ethernet")
    return Arp(op, int.from_bytes(sha, "big"), spa, int.from_bytes(tha, "big"), tpa)
