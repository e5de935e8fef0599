"""DHCPv4 messages (RFC 2131) with their options (RFC 2132) as one mapping.

Reading joins what the sender split: options in the `file` and `sname` fields (overload, RFC 2132 section 9.3)
and long options in several pieces (RFC 3396).  Writing splits again where it must.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from flowloom.packet.malformed import Malformed

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68

REQUEST_OP: Final = 1
REPLY_OP: Final = 2
BROADCAST_FLAG: Final = 0x8000

DISCOVER: Final = 1
OFFER: Final = 2
REQUEST: Final = 3
DECLINE: Final = 4
ACK: Final = 5
NAK: Final = 6
RELEASE: Final = 7
INFORM: Final = 8

PAD: Final = 0
SUBNET_MASK: Final = 1
ROUTER: Final = 3
DNS_SERVERS: Final = 6
HOST_NAME: Final = 12
DOMAIN_NAME: Final = 15
MTU: Final = 26
BROADCAST_ADDRESS: Final = 28
REQUESTED_ADDRESS: Final = 50
LEASE_SECONDS: Final = 51
OVERLOAD: Final = 52
MESSAGE_TYPE: Final = 53
SERVER_IDENTIFIER: Final = 54
PARAMETER_REQUEST: Final = 55
MESSAGE: Final = 56
SIZE_MAX: Final = 57
RENEWAL_SECONDS: Final = 58
REBINDING_SECONDS: Final = 59
CLIENT_IDENTIFIER: Final = 61
RELAY_AGENT: Final = 82
CLASSLESS_ROUTES: Final = 121
END: Final = 255

SIZE_MIN: Final = 300
"""Bytes a message is padded to: what BOOTP clients and relays may insist on (RFC 1542 section 2.1)."""

SIZE_MAX_DEFAULT: Final = 548
"""Bytes that every client accepts: a datagram of 576 without its IP and UDP headers (RFC 2131 section 2)."""

_HEADER = struct.Struct("!BBBBIHHIIII16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
_ETHERNET = (1, 6)
_LENGTHS = {1: 4, 50: 4, 51: 4, 52: 1, 53: 1, 54: 4, 57: 2, 58: 4, 59: 4}
_FILE_BIT, _SNAME_BIT = 1, 2


class DhcpMessage(NamedTuple):
    """One message of an Ethernet client.

    chaddr: the client's MAC.  file, sname: the fields' text, without trailing zeros; empty when they carry options.
    options: number -> value, joined, without pad, end and overload; on writing, the first are the most important.
    """

    op: int
    xid: int
    secs: int
    flags: int
    ciaddr: int
    yiaddr: int
    siaddr: int
    giaddr: int
    chaddr: int
    options: Mapping[int, bytes]
    hops: int = 0
    sname: bytes = b""
    file: bytes = b""

    @property
    def kind(self) -> int | None:
        """The DHCP message type; None for plain BOOTP."""
        return self.number(MESSAGE_TYPE)

    def number(self, option: int) -> int | None:
        """An option's value as a big-endian number (an address is one); None when absent."""
        value = self.options.get(option)
        return None if value is None else int.from_bytes(value, "big")

    def encode(self, size_max: int = SIZE_MAX_DEFAULT) -> bytes:
        """The message, at least SIZE_MIN and at most `size_max` (>= SIZE_MIN) bytes.

        Options that do not fit go to `file` and `sname` if those are empty; what still finds no room is
        left out, so the order of `options` decides what stays.  Malformed when a text field is too long.
        """
        if len(self.sname) > 63 or len(self.file) > 127:
            raise Malformed("DHCP: sname or file too long")
        options, file, sname = self._placed(max(size_max, SIZE_MIN))
        chaddr = self.chaddr.to_bytes(6, "big")
        head = (self.op, *_ETHERNET, self.hops, self.xid, self.secs, self.flags)
        addresses = (self.ciaddr, self.yiaddr, self.siaddr, self.giaddr)
        whole = _HEADER.pack(*head, *addresses, chaddr, sname, file, _COOKIE) + options
        return whole.ljust(SIZE_MIN, b"\0")

    def _placed(self, size_max: int) -> tuple[bytes, bytes, bytes]:
        """The options field, `file` and `sname`, each option whole in the first of them that has room."""
        pieces = [_pieces(number, value) for number, value in self.options.items()]
        room = size_max - _HEADER.size - 1
        if sum(map(len, pieces)) <= room:
            return b"".join(pieces) + b"\xff", self.file, self.sname
        fields = [bytearray(), bytearray(), bytearray()]
        rooms = [room - 3, 0 if self.file else 127, 0 if self.sname else 63]
        for piece in pieces:
            for field, most in zip(fields, rooms, strict=True):
                if len(field) + len(piece) <= most:
                    field += piece
                    break
        options, file, sname = map(bytes, fields)
        used = (_FILE_BIT if file else 0) | (_SNAME_BIT if sname else 0)
        if used:
            options += bytes((OVERLOAD, 1, used))
        return options + b"\xff", file + b"\xff" if file else self.file, sname + b"\xff" if sname else self.sname


def parse_dhcp(payload: bytes) -> DhcpMessage:
    """Read the payload of a UDP datagram.

    Malformed when it is cut short, has no options cookie, is not for Ethernet, or holds an option that
    runs over its field or has not the length its RFC fixes.  A missing end option is forgiven.
    """
    if len(payload) < _HEADER.size:
        raise Malformed(f"DHCP: {len(payload)} bytes, at least {_HEADER.size} needed")
    op, htype, hlen, hops, xid, secs, flags, ci, yi, si, gi, chaddr, sname, file, cookie = _HEADER.unpack_from(payload)
    if op not in (REQUEST_OP, REPLY_OP):
        raise Malformed(f"DHCP: op {op}")
    if (htype, hlen) != _ETHERNET:
        raise Malformed(f"DHCP: hardware type {htype} with addresses of {hlen} bytes")
    if cookie != _COOKIE:
        raise Malformed("DHCP: no options cookie")
    options: dict[int, bytes] = {}
    _join(options, payload[_HEADER.size :])
    overload = options.pop(OVERLOAD, None)
    if overload is not None:
        if overload not in (b"\x01", b"\x02", b"\x03"):
            raise Malformed(f"DHCP: overload option {overload.hex()}")
        # The order of joining is fixed: options, file, sname (RFC 3396 section 5).
        file, sname = _overloaded(options, file, sname, overload[0])
    for number, length in _LENGTHS.items():
        if number in options and len(options[number]) != length:
            raise Malformed(f"DHCP: option {number} of {len(options[number])} bytes, {length} needed")
    mac = int.from_bytes(chaddr[:6], "big")
    texts = sname.split(b"\0")[0], file.split(b"\0")[0]
    return DhcpMessage(op, xid, secs, flags, ci, yi, si, gi, mac, options, hops, *texts)


def _overloaded(options: dict[int, bytes], file: bytes, sname: bytes, bits: int) -> tuple[bytes, bytes]:
    """Join the options of the overloaded fields; what is left of `file` and `sname` as text."""
    if bits & _FILE_BIT:
        _join(options, file)
        file = b""
    if bits & _SNAME_BIT:
        _join(options, sname)
        sname = b""
    if OVERLOAD in options:
        raise Malformed("DHCP: overload option inside an overloaded field")
    return file, sname


def _join(options: dict[int, bytes], field: bytes) -> None:
    """Append each option of `field` to what is known of it."""
    for number, value in _options(field):
        options[number] = options.get(number, b"") + value


def _options(field: bytes) -> Iterator[tuple[int, bytes]]:
    """Each (number, value) up to the end option or the end of `field`."""
    at = 0
    while at < len(field):
        number = field[at]
        at += 1
        if number == END:
            return
        if number == PAD:
            continue
        value = field[at + 1 : at + 1 + field[at]] if at < len(field) else b""
        if at == len(field) or len(value) < field[at]:
            raise Malformed(f"DHCP: option {number} runs over the end of its field")
        yield number, value
        at += 1 + len(value)


def _pieces(number: int, value: bytes) -> bytes:
    """One option as bytes, in pieces of at most 255."""
    starts = range(0, len(value), 255) if value else (0,)
    return b"".join(bytes((number, len(value[at : at + 255]))) + value[at : at + 255] for at in starts)
