"""Ethernet II frames with at most one IEEE 802.1Q tag taken apart, and MAC addresses as text."""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from flowloom.packet.malformed import Malformed

IPV4: Final = 0x0800
ARP: Final = 0x0806
VLAN: Final = 0x8100
IPV6: Final = 0x86DD
BROADCAST: Final = 0xFFFF_FFFF_FFFF

_TYPES = struct.Struct("!H")
_TAGGED = struct.Struct("!HHH")
_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")


class Ethernet(NamedTuple):
    """One frame.  tag: the 802.1Q tag control information (priority, DEI, VLAN id) of the outer tag, or None."""

    dst: int
    src: int
    ethertype: int
    payload: bytes
    tag: int | None = None

    def encode(self) -> bytes:
        """The frame, without padding to Ethernet's minimum and without check sequence."""
        head = self.dst.to_bytes(6, "big") + self.src.to_bytes(6, "big")
        if self.tag is None:
            return head + _TYPES.pack(self.ethertype) + self.payload
        return head + _TAGGED.pack(VLAN, self.tag, self.ethertype) + self.payload


def parse_ethernet(frame: bytes) -> Ethernet:
    """Take a frame apart.  Malformed when it ends before its payload begins."""
    if len(frame) < 14:
        raise Malformed(f"Ethernet: {len(frame)} bytes, at least 14 needed")
    dst, src = int.from_bytes(frame[0:6], "big"), int.from_bytes(frame[6:12], "big")
    (ethertype,) = _TYPES.unpack_from(frame, 12)
    if ethertype != VLAN:
        return Ethernet(dst, src, ethertype, frame[14:])
    if len(frame) < 18:
        raise Malformed("Ethernet: cut inside the VLAN tag")
    _, tag, ethertype = _TAGGED.unpack_from(frame, 12)
    return Ethernet(dst, src, ethertype, frame[18:], tag)


def mac_text(mac: int) -> str:
    """`fa:16:3e:00:00:01`."""
    return mac.to_bytes(6, "big").hex(":")


def mac_int(text: str) -> int:
    """The number of a MAC written as six colon-separated pairs.  Malformed for any other form."""
    if not _MAC.fullmatch(text):
        raise Malformed(f"MAC: {text!r} is not six colon-separated pairs of hexadecimal digits")
    return int(text.replace(":", ""), 16)
