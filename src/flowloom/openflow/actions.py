"""Actions and instructions as bytes, in the forms in which Open vSwitch dumps them over OpenFlow 1.5.

Numbers: OpenFlow Switch Specification 1.5.1, sections 7.2.5 and 7.2.6, and `lib/ofp-actions.c` and
`include/openflow/nicira-ext.h` of Open vSwitch.  Each function gives whole, padded bytes, so a list of
actions is `b"".join(...)`.  `openflow.decode` reads them back.
"""

from __future__ import annotations

import struct
from typing import Final

from flowloom.openflow.fields import Field

PORT_IN: Final = 0xFFFF_FFF8
PORT_NORMAL: Final = 0xFFFF_FFFA
PORT_FLOOD: Final = 0xFFFF_FFFB
PORT_CONTROLLER: Final = 0xFFFF_FFFD
PORT_LOCAL: Final = 0xFFFF_FFFE
PORT_ANY: Final = 0xFFFF_FFFF
PORT_MAX: Final = 0xFFFF_FF00

NICIRA: Final = 0x0000_2320

OUTPUT: Final = 0
PUSH_VLAN: Final = 17
POP_VLAN: Final = 18
GROUP: Final = 22
DEC_TTL: Final = 24
SET_FIELD: Final = 25
COPY_FIELD: Final = 28
METER: Final = 29
EXPERIMENTER: Final = 0xFFFF

NX_RESUBMIT_TABLE: Final = 14
NX_CONJUNCTION: Final = 34
NX_CT: Final = 35
NX_NAT: Final = 36
NX_CONTROLLER2: Final = 37

RESUBMIT_IN_PORT: Final = 0xFFF8
CT_COMMIT: Final = 1
CT_FORCE: Final = 2
CT_NO_TABLE: Final = 0xFF
NAT_SOURCE: Final = 1
NAT_DESTINATION: Final = 2
NAT_PERSISTENT: Final = 4
NAT_PROTO_HASH: Final = 8
NAT_PROTO_RANDOM: Final = 16
MAX_LEN_ALL: Final = 0xFFFF
"""Send the whole frame to the controller."""

CONTROLLER_MAX_LEN: Final = 0
CONTROLLER_USERDATA: Final = 3
CONTROLLER_METER: Final = 5

GOTO_TABLE: Final = 1
APPLY_ACTIONS: Final = 4

_output = struct.Struct("!HHIH6x").pack
_word = struct.Struct("!HHI").pack
_vlan = struct.Struct("!HHH2x").pack
_copy = struct.Struct("!HHHHH2xII").pack
_resubmit = struct.Struct("!HHIHHB3x").pack
_conjunction = struct.Struct("!HHIHBBI").pack
_ct = struct.Struct("!HHIHHIHB3xH").pack
_nat = struct.Struct("!HHIH2xHH").pack
_controller = struct.Struct("!HHIH6x").pack
_head = struct.Struct("!HH").pack
_PADS: Final = tuple(bytes(-n % 8) for n in range(8))


def output(port: int) -> bytes:
    """Send out of `port`; PORT_IN is the only way back out of the port a packet came in by."""
    return _output(OUTPUT, 16, port, 0)


def set_field(field: Field, value: int, mask: int | None = None) -> bytes:
    """Set `field`, or only its bits under `mask`."""
    tlv = field.exact(value) if mask is None else field.masked(value, mask)
    length = 4 + len(tlv)
    pad = _PADS[length & 7]
    return _head(SET_FIELD, length + len(pad)) + tlv + pad


def copy_field(src: Field, dst: Field, bits: int | None = None, src_ofs: int = 0, dst_ofs: int = 0) -> bytes:
    """Copy `bits` bits (default: all of the narrower field) from bit `src_ofs` of `src` to bit `dst_ofs` of `dst`."""
    count = min(src.bits, dst.bits) if bits is None else bits
    return _copy(COPY_FIELD, 24, count, src_ofs, dst_ofs, src.header | src.size, dst.header | dst.size) + b"\0\0\0\0"


def group(group_id: int) -> bytes:
    """Run group `group_id`."""
    return _word(GROUP, 8, group_id)


def meter(meter_id: int) -> bytes:
    """Drop the packet when meter `meter_id` says so."""
    return _word(METER, 8, meter_id)


def dec_ttl() -> bytes:
    """Decrement the IP TTL; a packet whose TTL would become 0 is dropped."""
    return _word(DEC_TTL, 8, 0)


def push_vlan(ethertype: int = 0x8100) -> bytes:
    """Push a VLAN tag with id 0."""
    return _vlan(PUSH_VLAN, 8, ethertype)


def pop_vlan() -> bytes:
    """Pop the outer VLAN tag."""
    return _word(POP_VLAN, 8, 0)


def resubmit(table: int) -> bytes:
    """Look the packet up in `table` now and come back to what follows."""
    return _resubmit(EXPERIMENTER, 16, NICIRA, NX_RESUBMIT_TABLE, RESUBMIT_IN_PORT, table)


def conjunction(conj_id: int, clause: int, clauses: int) -> bytes:
    """Satisfy clause number `clause` (from 1) of the `clauses` (2 to 64) of conjunction `conj_id`."""
    return _conjunction(EXPERIMENTER, 16, NICIRA, NX_CONJUNCTION, clause - 1, clauses, conj_id)


def controller2(userdata: bytes = b"", max_len: int = MAX_LEN_ALL, meter_id: int | None = None) -> bytes:
    """Send to the controller with `userdata`, at most `max_len` bytes of the frame, under controller meter `meter_id`."""
    body = b"" if max_len == MAX_LEN_ALL else _vlan(CONTROLLER_MAX_LEN, 6, max_len)
    if userdata:
        length = 4 + len(userdata)
        body += _head(CONTROLLER_USERDATA, length) + userdata + _PADS[length & 7]
    if meter_id is not None:
        body += _word(CONTROLLER_METER, 8, meter_id)
    return _controller(EXPERIMENTER, 16 + len(body), NICIRA, NX_CONTROLLER2) + body


def ct(
    actions: bytes = b"",
    *,
    flags: int = 0,
    zone: int = 0,
    zone_from: tuple[Field, int, int] | None = None,
    table: int | None = None,
    alg: int = 0,
) -> bytes:
    """Send through connection tracking.

    actions: nested, set_field of ct_mark or ct_label and nat.  flags: CT_COMMIT, CT_FORCE.  zone: a number,
    or (field, offset, bits) to read it from.  table: where the tracked packet goes on; None: it does not.
    alg: TCP or UDP port of the protocol helper (21 FTP, 69 TFTP).
    """
    source, number = 0, zone
    if zone_from is not None:
        field, offset, bits = zone_from
        source, number = field.header | field.size, offset << 6 | bits - 1
    recirculate = CT_NO_TABLE if table is None else table
    length = 24 + len(actions)
    return _ct(EXPERIMENTER, length, NICIRA, NX_CT, flags, source, number, recirculate, alg) + actions


def nat(flags: int = 0, ip4: tuple[int, int] | None = None, ports: tuple[int, int] | None = None) -> bytes:
    """Translate, inside `ct`; without NAT_SOURCE or NAT_DESTINATION: only as the connection has it already.

    ip4, ports: first and last of the range to choose from; equal: just that one.
    """
    present, body = 0, b""
    if ip4 is not None:
        present |= 1
        body += ip4[0].to_bytes(4, "big")
        if ip4[1] != ip4[0]:
            present |= 2
            body += ip4[1].to_bytes(4, "big")
    if ports is not None:
        present |= 16
        body += ports[0].to_bytes(2, "big")
        if ports[1] != ports[0]:
            present |= 32
            body += ports[1].to_bytes(2, "big")
    body += _PADS[len(body) & 7]
    return _nat(EXPERIMENTER, 16 + len(body), NICIRA, NX_NAT, flags, present) + body


def apply_actions(*actions: bytes) -> bytes:
    """The instruction that runs `actions` now; none of them: no instruction, as the switch has it."""
    body = b"".join(actions)
    return _word(APPLY_ACTIONS, 8 + len(body), 0) + body if body else b""


def goto_table(table: int) -> bytes:
    """The instruction that goes on in `table`; stands behind apply_actions and leads forward only."""
    return _word(GOTO_TABLE, 8, table << 24)
