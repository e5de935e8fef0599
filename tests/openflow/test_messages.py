"""Framing and parsers: known bytes, and ValueError for everything malformed."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.openflow import actions, facts, messages
from flowloom.openflow.errors import error_name
from flowloom.openflow.fields import IN_PORT, METADATA, REGS, TUN_SRC, XREGS
from flowloom.openflow.match import match
from flowloom.openflow.messages import Message

MESSAGES = st.lists(st.builds(messages.message, st.integers(0, 35), st.binary(max_size=40), st.integers(0, 2**32 - 1)))


@given(MESSAGES, st.integers(0, 60))
def test_a_cut_stream_splits_into_its_messages_whatever_the_cut(sent: list[bytes], cut: int) -> None:
    stream = b"".join(sent)
    first, used = messages.split(stream[:cut])
    rest, used_later = messages.split(stream[used:])
    assert used + used_later == len(stream)
    assert [messages.message(one.kind, one.body, one.xid) for one in first + rest] == sent


@pytest.mark.parametrize("garbage", [b"\6\0\0\7\0\0\0\0", b"\4\x0e\0\x08\0\0\0\0", b"GET / HTTP/1.1"])
def test_what_is_not_openflow_is_refused(garbage: bytes) -> None:
    with pytest.raises(ValueError, match="not OpenFlow"):
        messages.split(garbage)


PARSERS: list[Callable[[Message], object]] = [
    messages.parse_packet_in,
    messages.parse_error,
    messages.more_follows,
    messages.offers_our_version,
    lambda said: messages.parse_flow_desc(said, {}),
    lambda said: messages.parse_group_desc(said, {}),
]


@given(st.binary(max_size=200), st.integers(0, 64), st.integers(0, 255))
def test_parsers_of_garbage_raise_value_error_and_nothing_else(garbage: bytes, at: int, byte: int) -> None:
    damaged = bytearray(_packet_in())
    damaged[min(at, len(damaged) - 1)] = byte
    flow = bytearray(bytes(8) + _flow_desc_entry())
    flow[min(at + 8, len(flow) - 1)] = byte
    group = bytearray(bytes(8) + _group_desc_entry())
    group[min(at + 8, len(group) - 1)] = byte
    for body in (garbage, bytes(8) + garbage, bytes(damaged), bytes(flow), bytes(group)):
        for parse in PARSERS:
            try:
                parse(Message(messages.VENDOR, 0, body))
            except ValueError:
                continue
    try:
        messages.split(garbage)
    except ValueError:
        return


def _property(kind: int, content: bytes) -> bytes:
    length = 4 + len(content)
    return struct.pack("!HH", kind, length) + content + bytes(-length % 8)


def _packet_in() -> bytes:
    fields = XREGS[1].exact(7 << 32 | 8) + REGS[5].exact(9) + METADATA.exact(10) + IN_PORT.exact(11) + TUN_SRC.exact(1)
    return (
        struct.pack("!II", 0x2320, 30)
        + _property(0, b"frame")
        + _property(3, b"\4")
        + _property(4, bytes(4) + (12).to_bytes(8, "big"))
        + _property(6, fields)
        + _property(7, b"data")
        + _property(8, b"continuation")
    )


def test_a_packet_in_tells_cookie_table_port_registers_userdata_and_frame() -> None:
    said = messages.parse_packet_in(Message(messages.VENDOR, 0, _packet_in()))
    assert said == messages.PacketInMessage(12, 4, 11, 10, {2: 7, 3: 8, 5: 9}, b"data", b"frame")


def _flow_desc_entry() -> bytes:
    tail = match([IN_PORT.exact(1)]) + struct.pack("!HH4x", 0, 4) + actions.goto_table(9)
    return struct.pack("!H2xBxHHHHHQ", 24 + len(tail), 3, 100, 0, 0, 0, 0, 77) + tail


def test_a_flow_description_becomes_a_fact() -> None:
    into: dict[bytes, bytes] = {}
    messages.parse_flow_desc(Message(messages.MULTIPART_REPLY, 0, bytes(8) + _flow_desc_entry() * 2), into)
    assert into == {
        facts.flow_key(3, 100, match([IN_PORT.exact(1)])): facts.flow_value(77, actions.goto_table(9)),
    }


def test_a_description_that_was_cut_off_is_refused_wherever_it_was_cut() -> None:
    for parse, entry in (
        (messages.parse_flow_desc, _flow_desc_entry()),
        (messages.parse_group_desc, _group_desc_entry()),
    ):
        for cut in range(1, len(entry)):
            with pytest.raises(ValueError, match="truncated"):
                parse(Message(messages.MULTIPART_REPLY, 0, bytes(8) + entry[:cut]), {})


def _group_desc_entry() -> bytes:
    buckets = struct.pack("!HHI", 24, 16, 5) + actions.output(1) + struct.pack("!HHI", 32, 16, 6)
    buckets += actions.output(2) + bytes.fromhex("0000000800020000")
    return struct.pack("!HBxIH6x", 16 + len(buckets), 1, 9, len(buckets)) + buckets


def test_a_bucket_with_a_weight_nobody_asked_for_equals_no_bucket_of_ours() -> None:
    into: dict[bytes, bytes] = {}
    messages.parse_group_desc(Message(messages.MULTIPART_REPLY, 0, bytes(8) + _group_desc_entry()), into)
    assert into[facts.group_key(9)] == b"\1"
    assert into[facts.bucket_key(9, 5)] == actions.output(1)
    assert into[facts.bucket_key(9, 6)] != actions.output(2)


def test_a_bucket_shorter_than_its_actions_is_refused() -> None:
    damaged = bytearray(_group_desc_entry())
    damaged[16:18] = (16).to_bytes(2, "big")
    with pytest.raises(ValueError, match="truncated bucket"):
        messages.parse_group_desc(Message(messages.MULTIPART_REPLY, 0, bytes(8) + bytes(damaged)), {})


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        ((2, 4), "OFPBAC_BAD_OUT_PORT"),
        ((2, 9), "OFPBAC_BAD_OUT_GROUP"),
        ((4, 9), "OFPBMC_BAD_PREREQ"),
        ((5, 1), "OFPFMFC_TABLE_FULL"),
        ((6, 15), "OFPGMFC_UNKNOWN_BUCKET"),
        ((12, 2), "OFPMMFC_INVALID_METER"),
        ((17, 13), "OFPBFC_MSG_FAILED"),
        ((0xFFFF, 15, 0x2320), "NXBAC_BAD_CONJUNCTION"),
        ((99, 1), "error 99/1"),
        ((0xFFFF, 1, 5), "error 0x5/1"),
    ],
)
def test_errors_have_the_names_of_the_specification(numbers: tuple[int, ...], name: str) -> None:
    assert error_name(*numbers) == name
    kind, code, *vendor = numbers
    body = struct.pack("!HH", kind, code) + b"".join(one.to_bytes(4, "big") for one in vendor) + b"rest"
    said = messages.parse_error(Message(messages.ERROR, 0, body))
    assert said == messages.ErrorMessage(name, b"rest")


def test_hello_offers_openflow_1_5_only_and_understands_bitmaps() -> None:
    (said,), _ = messages.split(messages.hello())
    assert messages.offers_our_version(said)
    only_13 = Message(messages.HELLO, 0, struct.pack("!HHI", 1, 8, 1 << 4), 4)
    assert not messages.offers_our_version(only_13)
    without_bitmap = Message(messages.HELLO, 0, b"", 4)
    assert not messages.offers_our_version(without_bitmap)
    later = Message(messages.HELLO, 0, b"", 7)
    assert messages.offers_our_version(later)


def test_a_frame_that_does_not_fit_into_a_message_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        messages.packet_out(bytes(65_536), b"", 1, 0)
