"""A frame as a switch sees it: one number a match field, read once, written back with its checksums.

What Open vSwitch makes of a frame (`lib/flow.c`, miniflow_extract) is made of it here: a header that is cut
short or contradicts its lengths leaves its fields 0; a later fragment has no ports; one VLAN tag is looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from flowloom.openflow import fields as f
from flowloom.openflow.fields import FIELDS, REGS, Field
from flowloom.packet.ethernet import ARP, IPV4, IPV6, VLAN
from flowloom.packet.ipv6 import ICMPV6

VLAN_PRESENT: Final = 0x1000
FRAGMENT: Final = 1
LATER_FRAGMENT: Final = 2
TPIDS: Final = (VLAN, 0x88A8)

_ICMP, _TCP, _UDP = 1, 6, 17
_SIZE = len(FIELDS)
_NO_SNAP = 0x05FF
_ARP = struct.Struct("!HHBBH6sI6sI")
_IPV4 = struct.Struct("!BBHHHBBHII")
_IPV6 = struct.Struct("!IHBB16s16s")


class Slot(NamedTuple):
    """Where a field (by its order) stands: `size` bytes at `offset` from the network header."""

    field: int
    offset: int
    size: int


def _slots(*places: tuple[Field, int]) -> tuple[Slot, ...]:
    return tuple(Slot(field.order, offset, field.size) for field, offset in places)


_ARP_SLOTS = _slots((f.ARP_OP, 6), (f.ARP_SHA, 8), (f.ARP_SPA, 14), (f.ARP_THA, 18), (f.ARP_TPA, 24))
_IPV4_SLOTS = _slots((f.IP_TTL, 8), (f.IP_SRC, 12), (f.IP_DST, 16))
_IPV6_SLOTS = _slots((f.IP_TTL, 7), (f.IP6_SRC, 8), (f.IP6_DST, 24))
_L4: dict[int, tuple[int, int | None, tuple[tuple[Field, int], ...]]] = {
    # protocol: least bytes, offset of the checksum, fields
    _TCP: (20, 16, ((f.TCP_SRC, 0), (f.TCP_DST, 2))),
    _UDP: (8, 6, ((f.UDP_SRC, 0), (f.UDP_DST, 2))),
    _ICMP: (8, 2, ((f.ICMP_TYPE, 0), (f.ICMP_CODE, 1))),
    ICMPV6: (8, 2, ((f.ICMP6_TYPE, 0), (f.ICMP6_CODE, 1))),
}
_ND_OPTION = {135: (1, f.ND_SLL), 136: (2, f.ND_TLL)}


class Packet:
    """A frame on its way through the tables.

    values: one number a field, by `Field.order`; registers stand in the REGS, the xregs' places stay 0.
    """

    __slots__ = ("_check", "_frame", "_pseudo", "_rest", "_slots", "_tags", "changed", "values")

    def __init__(self, frame: bytes) -> None:
        """Read `frame`; ValueError when it has no Ethernet header."""
        if len(frame) < 14:
            raise ValueError("no Ethernet header")
        self.values = [0] * _SIZE
        self.changed = False
        self._frame = frame
        self._slots: tuple[Slot, ...] = ()
        self._check: tuple[int, int, int] | None = None
        self._pseudo: tuple[int, int] | None = None
        self._tags = b""
        self._read(frame)

    def copy(self) -> Packet:
        """An independent packet in the same state."""
        other: Packet = Packet.__new__(Packet)
        for name in Packet.__slots__:
            setattr(other, name, getattr(self, name))
        other.values = self.values.copy()
        return other

    def push_vlan(self, tpid: int) -> None:
        """A new outer tag with id 0 and priority 0; of the tags that are known, only two are kept."""
        self._tags = struct.pack("!HH", tpid, 0) + self._outer_tag()
        self.values[_VID], self.values[_PCP] = VLAN_PRESENT, 0
        self.changed = True

    def pop_vlan(self) -> None:
        """Without its outer tag, if it has one."""
        if self._tags:
            self._tags = self._tags[4:]
            self._read_tag()
            self.changed = True

    def encode(self) -> bytes:
        """The frame as it is now; checksums are corrected by what changed, so a wrong one stays as wrong."""
        if not self.changed:
            return self._frame
        values = self.values
        head = values[_DST].to_bytes(6, "big") + values[_SRC].to_bytes(6, "big")
        return head + self._outer_tag() + self._tags[4:] + self._rest[:2] + self._network()

    def _outer_tag(self) -> bytes:
        if not self._tags:
            return b""
        tag = self.values[_PCP] << 13 | self._tags[2] << 8 & 0x1000 | self.values[_VID] & 0xFFF
        return self._tags[:2] + tag.to_bytes(2, "big")

    def _network(self) -> bytes:
        before = self._rest[2:]
        values = self.values
        if not self._slots or not values[_AOP if values[_TYPE] == ARP else _PROTO]:
            return before  # Open vSwitch writes no network header whose protocol or operation is 0.
        body = bytearray(before)
        for index, offset, size in self._slots:
            body[offset : offset + size] = values[index].to_bytes(size, "big")
        ethertype = values[_TYPE]
        if ethertype == IPV4:
            body[1] = values[_DSCP] << 2 | body[1] & 3
            header = (body[0] & 0xF) * 4
            _correct(body, 10, before[:header], bytes(body[:header]))
        elif ethertype == IPV6:
            word = values[_DSCP] << 22 | int.from_bytes(body[:4], "big") & 0xF03F_FFFF
            body[:4] = word.to_bytes(4, "big")
        if self._check is not None:
            self._correct_transport(before, body)
        return bytes(body)

    def _correct_transport(self, before: bytes, body: bytearray) -> None:
        at, start, end = self._check or (0, 0, 0)
        old, new = before[start:end], bytes(body[start:end])
        if self._pseudo is not None:
            first, last = self._pseudo
            old, new = before[first:last] + old, bytes(body[first:last]) + new
        is_udp = self.values[_PROTO] == _UDP
        if is_udp and body[at : at + 2] == b"\0\0":
            return  # The sender wanted none.
        _correct(body, at, old, new)
        if is_udp and body[at : at + 2] == b"\0\0":
            body[at : at + 2] = b"\xff\xff"

    def _read(self, frame: bytes) -> None:
        values = self.values
        values[_DST], values[_SRC] = int.from_bytes(frame[:6], "big"), int.from_bytes(frame[6:12], "big")
        ethertype, at = int.from_bytes(frame[12:14], "big"), 12
        if ethertype in TPIDS and len(frame) >= 18:
            self._tags, at = frame[12:16], 16
            self._read_tag()
            ethertype = int.from_bytes(frame[16:18], "big")
        self._rest = frame[at:]
        body = frame[at + 2 :]
        if ethertype < 0x600:
            ethertype, body = _snap(body), b""
        values[_TYPE] = ethertype
        if ethertype == IPV4:
            self._read_ipv4(body)
        elif ethertype == IPV6:
            self._read_ipv6(body)
        elif ethertype == ARP and len(body) >= 28 and body[:6] == b"\0\1\x08\0\6\4":
            *_, op, sha, spa, tha, tpa = _ARP.unpack_from(body)
            if op > 0xFF:  # Taken for no operation.
                op = 0
            self._slots = _ARP_SLOTS
            macs = int.from_bytes(sha, "big"), int.from_bytes(tha, "big")
            values[_AOP], values[_SPA], values[_TPA] = op, spa, tpa
            values[_SHA], values[_THA] = macs

    def _read_tag(self) -> None:
        tag = int.from_bytes(self._tags[2:4], "big") if self._tags else 0
        self.values[_VID] = VLAN_PRESENT | tag & 0xFFF if self._tags else 0
        self.values[_PCP] = tag >> 13

    def _read_ipv4(self, body: bytes) -> None:
        if len(body) < 20:
            return
        first, tos, total, _, fragment, ttl, proto, _, src, dst = _IPV4.unpack_from(body)
        header = (first & 0xF) * 4
        if not 20 <= header <= total <= len(body):  # The version is not looked at, here and in IPv6.
            return
        values = self.values
        values[_IP_SRC], values[_IP_DST], values[_PROTO] = src, dst, proto
        values[_TTL], values[_DSCP] = ttl, tos >> 2
        if fragment & 0x3FFF:
            values[_FRAG] = FRAGMENT | (LATER_FRAGMENT if fragment & 0x1FFF else 0)
        self._slots = _IPV4_SLOTS
        self._read_transport(body[:total], header, None if proto == _ICMP else (12, 20))

    def _read_ipv6(self, body: bytes) -> None:
        if len(body) < 40:
            return
        first, length, proto, hop_limit, src, dst = _IPV6.unpack_from(body)
        if 40 + length > len(body):
            return
        body = body[: 40 + length]
        values = self.values
        values[_IP6_SRC], values[_IP6_DST] = int.from_bytes(src, "big"), int.from_bytes(dst, "big")
        behind = _behind_extensions(body, proto)
        if behind is None:
            return
        values[_PROTO], at, values[_FRAG] = behind
        values[_TTL], values[_DSCP] = hop_limit, first >> 22 & 0x3F
        self._slots = _IPV6_SLOTS
        self._read_transport(body, at, (8, 40))

    def _read_transport(self, body: bytes, at: int, pseudo: tuple[int, int] | None) -> None:
        proto = self.values[_PROTO]
        least, check, places = _L4.get(proto, (0, None, ()))
        wrong_family = proto == (ICMPV6 if self.values[_TYPE] == IPV4 else _ICMP)
        if check is None or wrong_family or self.values[_FRAG] & LATER_FRAGMENT or len(body) - at < least:
            return
        slots = [Slot(field.order, at + offset, field.size) for field, offset in places]
        end = at + 4 if proto in (_TCP, _UDP) else at + 2
        if proto == ICMPV6:
            slots += _discovery(body, at)
            end = len(body)
        for index, offset, size in slots:
            self.values[index] = int.from_bytes(body[offset : offset + size], "big")
        self._slots = (*self._slots, *slots)
        self._check, self._pseudo = (at + check, at, end), pseudo


def _behind_extensions(body: bytes, proto: int) -> tuple[int, int, int] | None:
    """(protocol, offset, fragment bits) behind the extension headers; None when they are cut."""
    at, fragment = 40, 0
    while proto in (0, 43, 44, 51, 60):
        if len(body) - at < 8:
            return None
        following, size = body[at], body[at + 1]
        if proto == 44:
            offset = int.from_bytes(body[at + 2 : at + 4], "big")
            if offset & 0xFFF8:
                return proto, at, FRAGMENT | LATER_FRAGMENT
            fragment = FRAGMENT if offset else fragment
            proto, at = following, at + 8
            continue
        proto, at = following, at + ((size + 2) * 4 if proto == 51 else (size + 1) * 8)
        if at > len(body):
            return None
    return proto, at, fragment


def _discovery(body: bytes, at: int) -> Iterator[Slot]:
    """Target and link-layer option of a neighbour solicitation or advertisement (RFC 4861)."""
    wanted = _ND_OPTION.get(body[at])
    if wanted is None or body[at + 1] or len(body) - at < 24:
        return
    yield Slot(f.ND_TARGET.order, at + 8, 16)
    kind, field = wanted
    option = at + 24
    while len(body) - option >= 8:
        length = body[option + 1] * 8
        if not length or option + length > len(body):
            return
        if body[option] == kind and length == 8:
            yield Slot(field.order, option + 2, 6)
        option += length


def _snap(body: bytes) -> int:
    """The ethertype of an 802.3 frame with SNAP header, or Open vSwitch's number for any other."""
    if len(body) >= 8 and body[:6] == b"\xaa\xaa\3\0\0\0":
        ethertype = int.from_bytes(body[6:8], "big")
        return ethertype if ethertype >= 0x600 else _NO_SNAP
    return _NO_SNAP


def _correct(body: bytearray, at: int, before: bytes, after: bytes) -> None:
    """Bring the checksum at `at` from covering `before` to covering `after` (RFC 1624, eqn. 3)."""
    if before == after:
        return
    total = (0xFFFF ^ int.from_bytes(body[at : at + 2], "big")) - _sum(before) + _sum(after)
    body[at : at + 2] = (0xFFFF ^ (total % 0xFFFF or 0xFFFF)).to_bytes(2, "big")


def _sum(data: bytes) -> int:
    return int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 0xFFFF


_DST, _SRC, _TYPE, _VID, _PCP = (x.order for x in (f.ETH_DST, f.ETH_SRC, f.ETH_TYPE, f.VLAN_VID, f.VLAN_PCP))
_IP_SRC, _IP_DST, _IP6_SRC, _IP6_DST = (x.order for x in (f.IP_SRC, f.IP_DST, f.IP6_SRC, f.IP6_DST))
_PROTO, _TTL, _DSCP, _FRAG = (x.order for x in (f.IP_PROTO, f.IP_TTL, f.IP_DSCP, f.IP_FRAG))
_AOP, _SPA, _TPA, _SHA, _THA = (x.order for x in (f.ARP_OP, f.ARP_SPA, f.ARP_TPA, f.ARP_SHA, f.ARP_THA))
HEADER_FIELDS: Final = frozenset(
    {f.ETH_DST.order, f.ETH_SRC.order, f.VLAN_VID.order, f.VLAN_PCP.order, _DSCP}
    | {slot.field for slots in (_ARP_SLOTS, _IPV4_SLOTS, _IPV6_SLOTS) for slot in slots}
    | {field.order for _, _, places in _L4.values() for field, _ in places}
    | {f.ND_TARGET.order, f.ND_SLL.order, f.ND_TLL.order}
)
"""Fields that stand in the frame itself: setting one changes the frame."""
REGISTERS: Final = tuple(field.order for field in REGS)
