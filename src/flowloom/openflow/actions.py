"""Actions and instructions as bytes, in the forms in which Open vSwitch dumps them over OpenFlow 1.5.

Numbers: OpenFlow Switch Specification 1.5.1, sections 7.2.5 and 7.2.6, and `lib/ofp-actions.c` and
`include/openflow/nicira-ext.h` of Open vSwitch.  Each function gives whole, padded bytes, so a list of
actions is `b"".join(...)`; `decode_actions` and `decode_instructions` read them back as frozen values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

from flowloom.openflow.fields import BY_HEADER, Field
from flowloom.openflow.match import decode_tlv

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
    # Open vSwitch counts the padding of max_len in its length, and of userdata it does not.
    body = b"" if max_len == MAX_LEN_ALL else _vlan(CONTROLLER_MAX_LEN, 8, max_len)
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


@dataclass(frozen=True, slots=True)
class Output:
    """Send out of `port`; `max_len` matters to the controller's port only."""

    port: int
    max_len: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Run group `group_id`."""

    group_id: int


@dataclass(frozen=True, slots=True)
class Meter:
    """Drop when meter `meter_id` says so."""

    meter_id: int


@dataclass(frozen=True, slots=True)
class DecTtl:
    """Decrement the IP TTL."""


@dataclass(frozen=True, slots=True)
class PushVlan:
    """Push a tag with `ethertype`."""

    ethertype: int


@dataclass(frozen=True, slots=True)
class PopVlan:
    """Pop the outer tag."""


@dataclass(frozen=True, slots=True)
class SetField:
    """Set the bits of `field` under `mask` to those of `value`."""

    field: Field
    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class CopyField:
    """Copy `bits` bits from bit `src_ofs` of `src` to bit `dst_ofs` of `dst`."""

    src: Field
    dst: Field
    bits: int
    src_ofs: int
    dst_ofs: int


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Look up in `table` and come back; `in_port` as the low 16 bits, RESUBMIT_IN_PORT: unchanged."""

    table: int
    in_port: int = RESUBMIT_IN_PORT


@dataclass(frozen=True, slots=True)
class Conjunction:
    """Clause `clause` (from 1) of `clauses` of conjunction `conj_id`."""

    conj_id: int
    clause: int
    clauses: int


@dataclass(frozen=True, slots=True)
class Controller:
    """Send to the controller."""

    userdata: bytes
    max_len: int
    meter_id: int | None


@dataclass(frozen=True, slots=True)
class Nat:
    """Translate, inside `Ct`; see `nat`."""

    flags: int
    ip4: tuple[int, int] | None
    ports: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Ct:
    """Connection tracking; see `ct`."""

    flags: int
    zone: int
    zone_from: tuple[Field, int, int] | None
    table: int | None
    alg: int
    actions: tuple[Action, ...]


Action: TypeAlias = (
    Output
    | Group
    | Meter
    | DecTtl
    | PushVlan
    | PopVlan
    | SetField
    | CopyField
    | Resubmit
    | Conjunction
    | Controller
    | Nat
    | Ct
)


@dataclass(frozen=True, slots=True)
class ApplyActions:
    """Run `actions` now, in order."""

    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class GotoTable:
    """Go on in `table`."""

    table: int


Instruction: TypeAlias = ApplyActions | GotoTable


def decode_actions(data: bytes) -> tuple[Action, ...]:
    """A list of actions; ValueError when it is malformed or holds an action or a form not made here."""
    return tuple(_decode_action(piece) for piece in _pieces(data, "action"))


def decode_instructions(data: bytes) -> tuple[Instruction, ...]:
    """A list of instructions; ValueError as `decode_actions`."""
    return tuple(_decode_instruction(piece) for piece in _pieces(data, "instruction"))


def _pieces(data: bytes, what: str) -> Iterator[bytes]:
    """Cut into (type 2, length 2, ...) pieces of multiples of 8 bytes."""
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 8 or length & 7 or at + length > len(data):
            raise ValueError(f"{what} at byte {at}: wrong length")
        yield data[at : at + length]
        at += length


def _decode_instruction(data: bytes) -> Instruction:
    kind = int.from_bytes(data[:2], "big")
    if kind == GOTO_TABLE and len(data) == 8:
        return GotoTable(data[4])
    if kind == APPLY_ACTIONS:
        return ApplyActions(decode_actions(data[8:]))
    raise ValueError(f"unknown instruction {kind}")


def _decode_action(data: bytes) -> Action:
    kind = int.from_bytes(data[:2], "big")
    decode = _DECODERS.get(kind)
    if decode is None:
        raise ValueError(f"unknown action {kind}")
    try:
        return decode(data)
    except (struct.error, IndexError) as error:
        raise ValueError(f"action {kind}: {error}") from error


def _decode_output(data: bytes) -> Action:
    _, _, port, max_len = struct.unpack("!HHIH6x", data)
    return Output(port, max_len)


def _word_of(data: bytes) -> int:
    if len(data) != 8:
        raise ValueError(f"action {int.from_bytes(data[:2], 'big')}: wrong length")
    return int.from_bytes(data[4:], "big")


def _decode_set_field(data: bytes) -> Action:
    term, end = decode_tlv(data, 4, len(data))
    if len(data) != end + -end % 8 or any(data[end:]):
        raise ValueError("set_field: wrong length or padding")
    return SetField(*term)


def _decode_copy_field(data: bytes) -> Action:
    _, _, bits, src_ofs, dst_ofs, src, dst, _ = struct.unpack("!HHHHH2xIII", data)
    return CopyField(_field(src), _field(dst), bits, src_ofs, dst_ofs)


def _field(header: int) -> Field:
    field = BY_HEADER.get(header & 0xFFFF_FE00)
    if field is None or header & 0x1FF != field.size:
        raise ValueError(f"unknown field {header:#010x}")
    return field


def _decode_experimenter(data: bytes) -> Action:
    _, _, vendor, subtype = struct.unpack_from("!HHIH", data)
    decode = _NICIRA_DECODERS.get(subtype)
    if vendor != NICIRA or decode is None:
        raise ValueError(f"unknown action {vendor:#x}/{subtype}")
    return decode(data)


def _decode_resubmit(data: bytes) -> Action:
    _, _, _, _, in_port, table = struct.unpack("!HHIHHB3x", data)
    return Resubmit(table, in_port)


def _decode_conjunction(data: bytes) -> Action:
    _, _, _, _, clause, clauses, conj_id = struct.unpack("!HHIHBBI", data)
    return Conjunction(conj_id, clause + 1, clauses)


def _decode_controller(data: bytes) -> Action:
    userdata, max_len, meter_id, at = b"", MAX_LEN_ALL, None, 16
    while at < len(data):
        kind, length = struct.unpack_from("!HH", data, at)
        body = data[at + 4 : at + length]
        if length < 4 or len(body) != length - 4:
            raise ValueError("controller: wrong property length")
        if kind == CONTROLLER_MAX_LEN and length in (6, 8):
            max_len = int.from_bytes(body[:2], "big")
        elif kind == CONTROLLER_USERDATA:
            userdata = body
        elif kind == CONTROLLER_METER and length == 8:
            meter_id = int.from_bytes(body, "big")
        else:
            raise ValueError(f"controller: unknown property {kind}")
        at += length + -length % 8
    return Controller(userdata, max_len, meter_id)


def _decode_ct(data: bytes) -> Action:
    _, _, _, _, flags, source, number, table, alg = struct.unpack_from("!HHIHHIHB3xH", data)
    zone_from = (_field(source), number >> 6, (number & 63) + 1) if source else None
    nested = data[24:]
    if any(piece[:2] == b"\xff\xff" and piece[8:10] == data[8:10] for piece in _pieces(nested, "action")):
        raise ValueError("ct: ct inside ct")
    return Ct(
        flags,
        0 if source else number,
        zone_from,
        None if table == CT_NO_TABLE else table,
        alg,
        decode_actions(nested),
    )


def _decode_nat(data: bytes) -> Action:
    _, _, _, _, flags, present = struct.unpack_from("!HHIH2xHH", data)
    if present & ~0b110011 or present & 3 == 2 or present & 48 == 32:
        raise ValueError("nat: unknown range")
    numbers: list[int] = []
    at = 16
    for bit, size in ((1, 4), (2, 4), (16, 2), (32, 2)):
        if present & bit:
            numbers.append(int.from_bytes(data[at : at + size], "big"))
            at += size
    if len(data) != at + -at % 8 or any(data[at:]):
        raise ValueError("nat: wrong length or padding")
    ip4 = (numbers[0], numbers[1] if present & 2 else numbers[0]) if present & 1 else None
    ports = (numbers[-2] if present & 32 else numbers[-1], numbers[-1]) if present & 16 else None
    return Nat(flags, ip4, ports)


_DECODERS: Final[dict[int, Callable[[bytes], Action]]] = {
    OUTPUT: _decode_output,
    GROUP: lambda data: Group(_word_of(data)),
    METER: lambda data: Meter(_word_of(data)),
    DEC_TTL: lambda data: DecTtl() if _word_of(data) == 0 else _malformed("dec_ttl"),
    PUSH_VLAN: lambda data: PushVlan(_word_of(data) >> 16),
    POP_VLAN: lambda data: PopVlan() if _word_of(data) == 0 else _malformed("pop_vlan"),
    SET_FIELD: _decode_set_field,
    COPY_FIELD: _decode_copy_field,
    EXPERIMENTER: _decode_experimenter,
}
_NICIRA_DECODERS: Final[dict[int, Callable[[bytes], Action]]] = {
    NX_RESUBMIT_TABLE: _decode_resubmit,
    NX_CONJUNCTION: _decode_conjunction,
    NX_CT: _decode_ct,
    NX_NAT: _decode_nat,
    NX_CONTROLLER2: _decode_controller,
}


def _malformed(what: str) -> NoReturn:
    raise ValueError(f"{what}: malformed")
