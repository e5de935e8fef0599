"""OpenFlow 1.5 messages between a controller and Open vSwitch: framing, encoders, parsers; no I/O.

Layouts: OpenFlow Switch Specification 1.5.1, section 7; Nicira's packet-in in Open vSwitch's
`include/openflow/nicira-ext.h`.  Parsers raise ValueError, and nothing else, on malformed bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from flowloom.openflow import facts
from flowloom.openflow.actions import EXPERIMENTER, NICIRA, PORT_ANY
from flowloom.openflow.errors import error_name
from flowloom.openflow.fields import BY_HEADER, IN_PORT, METADATA, REGS, XREGS
from flowloom.openflow.match import match

VERSION: Final = 6

HELLO: Final = 0
ERROR: Final = 1
ECHO_REQUEST: Final = 2
ECHO_REPLY: Final = 3
VENDOR: Final = 4
SET_CONFIG: Final = 9
PACKET_OUT: Final = 13
FLOW_MOD: Final = 14
GROUP_MOD: Final = 15
MULTIPART_REQUEST: Final = 18
MULTIPART_REPLY: Final = 19
BARRIER_REQUEST: Final = 20
BARRIER_REPLY: Final = 21
BUNDLE_CONTROL: Final = 33
BUNDLE_ADD: Final = 34

FLOW_ADD: Final = 0
FLOW_DELETE_STRICT: Final = 4

GROUP_ADD: Final = 0
GROUP_MODIFY: Final = 1
GROUP_DELETE: Final = 2
GROUP_INSERT_BUCKET: Final = 3
GROUP_REMOVE_BUCKET: Final = 5
BUCKET_LAST: Final = 0xFFFF_FFFE
BUCKET_ALL: Final = 0xFFFF_FFFF

BUNDLE_OPEN: Final = 0
BUNDLE_CLOSE: Final = 2
BUNDLE_COMMIT: Final = 4
BUNDLE_DISCARD: Final = 6
_ATOMIC_ORDERED: Final = 3

_MULTIPART_FLOW_DESC: Final = 1
_MULTIPART_GROUP_DESC: Final = 7
_MULTIPART_MORE: Final = 1
_GROUP_ALL: Final = 0xFFFF_FFFC
_NO_BUFFER: Final = 0xFFFF_FFFF
_NX_SET_PACKET_IN_FORMAT: Final = 16
_NX_PACKET_IN2: Final = 30
_PACKET_IN2_FORMAT: Final = 2

MESSAGE_MAX_BYTES: Final = 0xFFFF

_HEADER: Final = struct.Struct("!BBHI")
_BUNDLED: Final = struct.Struct("!BBHII2xHBBHIQQBBHHHIIIHH")
_BUNDLE_HEAD: Final = struct.Struct("!I2xH")
_GROUP_HEAD: Final = struct.Struct("!HBxIH2xI")
_BUCKET_HEAD: Final = struct.Struct("!HHI")
_FLOW_DESC: Final = struct.Struct("!H2xBxHHHHHQ")
_GROUP_DESC: Final = struct.Struct("!HBxIH6x")
_PAIR: Final = struct.Struct("!HH")
_SELECT_WEIGHT_ONE: Final = bytes.fromhex("0000000800010000")


class Message(NamedTuple):
    """One whole message; `body` is what follows the header."""

    kind: int
    xid: int
    body: bytes
    version: int = VERSION


class ErrorMessage(NamedTuple):
    """name: as in the specification, for example OFPBAC_BAD_OUT_PORT.  data: start of the message it is about."""

    name: str
    data: bytes


class PacketInMessage(NamedTuple):
    """A frame that a flow sent to the controller, with what the switch knew about it.

    registers: number -> value of each 32-bit register that the switch reported; it leaves out zeros.
    """

    cookie: int
    table: int
    in_port: int
    metadata: int
    registers: dict[int, int]
    userdata: bytes
    frame: bytes


class Bucket(NamedTuple):
    """One bucket of a group; `actions` are encoded."""

    bucket_id: int
    actions: bytes


def split(buffer: bytes) -> tuple[list[Message], int]:
    """The whole messages at the start of `buffer` and the number of bytes they take.

    ValueError when the bytes cannot be OpenFlow: the connection is of no use any more.
    """
    messages: list[Message] = []
    at, end = 0, len(buffer)
    while end - at >= 8:
        version, kind, length, xid = _HEADER.unpack_from(buffer, at)
        if length < 8 or (version != VERSION and kind not in (HELLO, ERROR)):
            raise ValueError(f"not OpenFlow 1.5: version {version}, type {kind}, length {length}")
        if end - at < length:
            break
        messages.append(Message(kind, xid, bytes(buffer[at + 8 : at + length]), version))
        at += length
    return messages, at


def message(kind: int, body: bytes, xid: int) -> bytes:
    """Any message."""
    return _HEADER.pack(VERSION, kind, 8 + len(body), xid) + body


def hello() -> bytes:
    """HELLO that offers OpenFlow 1.5 and nothing else."""
    return message(HELLO, struct.pack("!HHI", 1, 8, 1 << VERSION), 0)


def offers_our_version(said: Message) -> bool:
    """Whether the other side's HELLO leads to OpenFlow 1.5 (section 7.5.1 of the specification)."""
    at = 0
    while at + 8 <= len(said.body):
        kind, length = _PAIR.unpack_from(said.body, at)
        if kind == 1 and length >= 8:
            return bool(int.from_bytes(said.body[at + 4 : at + 8], "big") >> VERSION & 1)
        at += max(8, length + -length % 8)
    return said.version >= VERSION


def echo_reply(request: Message) -> bytes:
    """Answer to an echo request."""
    return message(ECHO_REPLY, request.body, request.xid)


def barrier(xid: int) -> bytes:
    """BARRIER_REQUEST."""
    return message(BARRIER_REQUEST, b"", xid)


def ask_for_packets(xid: int) -> bytes:
    """Two messages: send whole frames to this connection, and as NXT_PACKET_IN2.

    Without a miss_send_len other than 0, Open vSwitch sends nothing unasked on `<bridge>.mgmt`.
    """
    format_request = struct.pack("!III", NICIRA, _NX_SET_PACKET_IN_FORMAT, _PACKET_IN2_FORMAT)
    return message(SET_CONFIG, struct.pack("!HH", 0, 0xFFFF), xid) + message(VENDOR, format_request, xid)


def flow_add(key: bytes, value: bytes, xid: int, bundle: int) -> bytes:
    """ADD of a flow fact, inside `bundle`."""
    return _bundled_flow(key, value[:8], value[8:], FLOW_ADD, xid, bundle)


def flow_delete(key: bytes, xid: int, bundle: int) -> bytes:
    """DELETE_STRICT of a flow, whatever its cookie, inside `bundle`."""
    return _bundled_flow(key, bytes(8), b"", FLOW_DELETE_STRICT, xid, bundle)


def _bundled_flow(key: bytes, cookie: bytes, instructions: bytes, command: int, xid: int, bundle: int) -> bytes:
    length = 44 + len(key) + len(instructions)
    head = _BUNDLED.pack(
        VERSION,
        BUNDLE_ADD,
        16 + length,
        xid,
        bundle,
        _ATOMIC_ORDERED,
        VERSION,
        FLOW_MOD,
        length,
        xid,
        int.from_bytes(cookie, "big"),
        0,
        key[1],
        command,
        0,
        0,
        key[2] << 8 | key[3],
        _NO_BUFFER,
        PORT_ANY,
        PORT_ANY,
        0,
        0,
    )
    return head + key[4:] + instructions


def bucket(one: Bucket) -> bytes:
    """A bucket without properties; Open vSwitch gives one of a select group weight 1."""
    return _BUCKET_HEAD.pack(8 + len(one.actions), len(one.actions), one.bucket_id) + one.actions


def described_bytes(group_type: int, actions: bytes) -> int:
    """Bytes that a bucket with `actions` takes in the description of its group."""
    return 8 + len(actions) + (len(_SELECT_WEIGHT_ONE) if group_type == facts.GROUP_SELECT else 0)


def group_mod(
    command: int, group_type: int, group_id: int, buckets: Sequence[bytes], xid: int, where: int = BUCKET_ALL
) -> bytes:
    """GROUP_MOD; `where` is the bucket that INSERT_BUCKET puts the new ones behind and REMOVE_BUCKET removes."""
    array = b"".join(buckets)
    return message(GROUP_MOD, _GROUP_HEAD.pack(command, group_type, group_id, len(array), where) + array, xid)


def bundle_control(bundle: int, what: int, xid: int) -> bytes:
    """BUNDLE_CONTROL of an atomic and ordered bundle."""
    return message(BUNDLE_CONTROL, struct.pack("!IHH", bundle, what, _ATOMIC_ORDERED), xid)


def bundle_add(bundle: int, inner: bytes) -> bytes:
    """`inner` as a member of `bundle`, under its own xid."""
    xid = int.from_bytes(inner[4:8], "big")
    return message(BUNDLE_ADD, _BUNDLE_HEAD.pack(bundle, _ATOMIC_ORDERED) + inner, xid)


def packet_out(frame: bytes, actions: bytes, in_port: int, xid: int) -> bytes:
    """PACKET_OUT of `frame`, as if it came in at `in_port`; ValueError when it is too long for a message."""
    body = struct.pack("!IH2x", _NO_BUFFER, len(actions)) + match([IN_PORT.exact(in_port)]) + actions + frame
    if len(body) + 8 > MESSAGE_MAX_BYTES:
        raise ValueError(f"a frame of {len(frame)} bytes does not fit into a packet-out")
    return message(PACKET_OUT, body, xid)


def flow_desc_request(xid: int) -> bytes:
    """Ask for every flow."""
    body = struct.pack("!HH4xB3xII4xQQ", _MULTIPART_FLOW_DESC, 0, 0xFF, PORT_ANY, PORT_ANY, 0, 0) + match(())
    return message(MULTIPART_REQUEST, body, xid)


def group_desc_request(xid: int) -> bytes:
    """Ask for every group with its buckets."""
    return message(MULTIPART_REQUEST, struct.pack("!HH4xI4x", _MULTIPART_GROUP_DESC, 0, _GROUP_ALL), xid)


def more_follows(reply: Message) -> bool:
    """Whether a MULTIPART_REPLY is not the last of its answer."""
    if len(reply.body) < 8:
        raise ValueError("a truncated multipart reply")
    return bool(reply.body[3] & _MULTIPART_MORE)


def parse_flow_desc(reply: Message, into: dict[bytes, bytes]) -> None:
    """Put the flows of a FLOW_DESC reply into `into`, as facts."""
    body, at, end = reply.body, 8, len(reply.body)
    head, pair = _FLOW_DESC.unpack_from, _PAIR.unpack_from
    try:
        while at < end:
            length = head(body, at)[0]
            match_at = at + 24
            match_length = pair(body, match_at)[1]
            stats_at = match_at + match_length + (-match_length & 7)
            stats_length = pair(body, stats_at)[1]
            instructions_at = stats_at + stats_length + (-stats_length & 7)
            last = at + length
            if last > end or instructions_at > last:
                raise ValueError("a truncated flow")
            key = b"\0" + body[at + 4 : at + 5] + body[at + 6 : at + 8] + body[match_at:stats_at]
            into[key] = body[at + 16 : match_at] + body[instructions_at:last]
            at = last
    except struct.error as error:
        raise ValueError(f"a truncated flow: {error}") from error


def parse_group_desc(reply: Message, into: dict[bytes, bytes]) -> None:
    """Put the groups and buckets of a GROUP_DESC reply into `into`, as facts.

    A bucket's properties, other than a select bucket's weight of 1, stand behind its actions: such a
    bucket is nobody's desired one and will be replaced.
    """
    body, at, end = reply.body, 8, len(reply.body)
    try:
        while at < end:
            length, group_type, group_id, buckets_length = _GROUP_DESC.unpack_from(body, at)
            if length < 16 + buckets_length or at + length > end:
                raise ValueError("a truncated group")
            into[facts.group_key(group_id)] = bytes((group_type,))
            for one in _buckets(body[at + 16 : at + 16 + buckets_length]):
                into[facts.bucket_key(group_id, one.bucket_id)] = one.actions
            at += length
    except struct.error as error:
        raise ValueError(f"a truncated group: {error}") from error


def _buckets(array: bytes) -> Iterator[Bucket]:
    at = 0
    while at < len(array):
        length, actions_length, bucket_id = _BUCKET_HEAD.unpack_from(array, at)
        if length < 8 + actions_length or at + length > len(array):
            raise ValueError("a truncated bucket")
        properties = array[at + 8 + actions_length : at + length]
        content = array[at + 8 : at + 8 + actions_length]
        yield Bucket(bucket_id, content if properties == _SELECT_WEIGHT_ONE else content + properties)
        at += length


def parse_error(said: Message) -> ErrorMessage:
    """What an ERROR says."""
    body = said.body
    if len(body) < 4:
        raise ValueError("a truncated error")
    kind, code = _PAIR.unpack_from(body)
    if kind != EXPERIMENTER:
        return ErrorMessage(error_name(kind, code), body[4:])
    if len(body) < 8:
        raise ValueError("a truncated error")
    return ErrorMessage(error_name(kind, code, int.from_bytes(body[4:8], "big")), body[8:])


def is_packet_in(said: Message) -> bool:
    """Whether this is an NXT_PACKET_IN2."""
    return said.kind == VENDOR and said.body[:8] == struct.pack("!II", NICIRA, _NX_PACKET_IN2)


def parse_packet_in(said: Message) -> PacketInMessage:
    """What an NXT_PACKET_IN2 says; properties that nobody here asks for are passed over."""
    body, at = said.body, 8
    frame = userdata = pipeline = b""
    table = cookie = 0
    while at < len(body):
        if len(body) - at < 4:
            raise ValueError("a truncated packet-in")
        kind, length = _PAIR.unpack_from(body, at)
        if length < 4 or at + length > len(body):
            raise ValueError("a truncated packet-in")
        content = body[at + 4 : at + length]
        if kind == 0:
            frame = content
        elif kind == 3:
            table = int.from_bytes(content[:1], "big")
        elif kind == 4:
            cookie = int.from_bytes(content[-8:], "big")
        elif kind == 6:
            pipeline = content
        elif kind == 7:
            userdata = content
        at += length + (-length & 7)
    in_port, metadata, registers = _pipeline_fields(pipeline)
    return PacketInMessage(cookie, table, in_port, metadata, registers, userdata, frame)


def _pipeline_fields(tlvs: bytes) -> tuple[int, int, dict[int, int]]:
    """(in_port, metadata, registers) of the fields a packet-in reports."""
    in_port = metadata = 0
    registers: dict[int, int] = {}
    at = 0
    while len(tlvs) - at >= 4:
        header = int.from_bytes(tlvs[at : at + 4], "big")
        length = header & 0xFF
        field = BY_HEADER.get(header & 0xFFFF_FE00)
        if at + 4 + length > len(tlvs):
            raise ValueError("a truncated field")
        if field is not None:
            value = int.from_bytes(tlvs[at + 4 : at + 4 + field.size], "big")
            if field is IN_PORT:
                in_port = value
            elif field is METADATA:
                metadata = value
            elif (index := _XREG_INDEX.get(field.header)) is not None:
                registers[2 * index] = value >> 32
                registers[2 * index + 1] = value & 0xFFFF_FFFF
            elif (index := _REG_INDEX.get(field.header)) is not None:
                registers[index] = value
        at += 4 + length
    return in_port, metadata, registers


_XREG_INDEX: Final = {field.header: index for index, field in enumerate(XREGS)}
_REG_INDEX: Final = {field.header: index for index, field in enumerate(REGS)}
