"""DHCPv4: a message as a client sends it, joining and splitting of options, values from text, damaged messages."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowloom.packet import dhcp, dhcp_options
from flowloom.packet.ipv4 import ipv4_int
from flowloom.packet.malformed import Malformed

HEAD = struct.pack("!BBBBIHHIIII", 1, 1, 6, 0, 0xDEADBEEF, 3, 0x8000, 0, 0, 0, 0) + bytes.fromhex("fa163e000001")
HEAD += bytes(10)
COOKIE = bytes.fromhex("63825363")
# What busybox udhcpc 1.35 sends after the cookie in a discover.
UDHCPC = bytes.fromhex("3501013d0701fa163e00000139020240370701030" + "60c0f1c2a3c0c756468637020312e33352e30ff")


def message(options: bytes, sname: bytes = b"", file: bytes = b"") -> bytes:
    """A client's message with these raw fields."""
    return HEAD + sname.ljust(64, b"\0") + file.ljust(128, b"\0") + COOKIE + options


def test_a_discover_of_udhcpc() -> None:
    found = dhcp.parse_dhcp(message(UDHCPC) + bytes(40))
    assert (found.op, found.xid, found.secs, found.flags) == (1, 0xDEADBEEF, 3, dhcp.BROADCAST_FLAG)
    assert found.kind == dhcp.DISCOVER
    assert found.chaddr == 0xFA163E000001
    assert found.options[dhcp.PARAMETER_REQUEST] == bytes([1, 3, 6, 12, 15, 28, 42])
    assert found.number(dhcp.SIZE_MAX) == 576
    assert found.options[60] == b"udhcp 1.35.0"
    assert found.number(dhcp.REQUESTED_ADDRESS) is None


def test_pads_are_skipped_and_bytes_after_the_end_ignored() -> None:
    found = dhcp.parse_dhcp(message(b"\0\0\x35\x01\x01\0\xff\x0c\xff"))
    assert found.options == {53: b"\1"}


def test_a_missing_end_is_forgiven() -> None:
    assert dhcp.parse_dhcp(message(b"\x35\x01\x01")).options == {53: b"\1"}


@pytest.mark.parametrize("options", [b"\x0c", b"\x0c\x02a", b"\x35\x01\x01\x37\xff\xff"])
def test_an_option_over_the_end_of_its_field_is_malformed(options: bytes) -> None:
    with pytest.raises(Malformed, match="runs over"):
        dhcp.parse_dhcp(message(options))


@pytest.mark.parametrize("options", [b"\x35\x00\xff", b"\x35\x02\1\1\xff", b"\x32\x03abc\xff", b"\x39\x01a\xff"])
def test_a_fixed_length_is_insisted_on(options: bytes) -> None:
    with pytest.raises(Malformed, match="needed"):
        dhcp.parse_dhcp(message(options))


def test_pieces_are_joined_in_the_order_options_file_sname() -> None:
    found = dhcp.parse_dhcp(
        message(b"\x0c\x01a\x34\x01\x03\x0c\x01b\xff", sname=b"\x0c\x01d\xff", file=b"\x0c\x01c\xff")
    )
    assert found.options == {12: b"abcd"}
    assert (found.sname, found.file) == (b"", b"")


def test_only_the_overloaded_field_is_read_as_options() -> None:
    found = dhcp.parse_dhcp(message(b"\x34\x01\x01\xff", sname=b"boot.test", file=b"\x0c\x01c\xff"))
    assert found.options == {12: b"c"}
    assert found.sname == b"boot.test"
    found = dhcp.parse_dhcp(message(b"\x34\x01\x02\xff", sname=b"\x0c\x01d\xff", file=b"pxelinux.0"))
    assert found.options == {12: b"d"}
    assert found.file == b"pxelinux.0"


@pytest.mark.parametrize("overload", [b"\x34\x01\x00", b"\x34\x01\x04", b"\x34\x02\x01\x01", b"\x34\x00"])
def test_a_wrong_overload_is_malformed(overload: bytes) -> None:
    with pytest.raises(Malformed, match="overload"):
        dhcp.parse_dhcp(message(overload + b"\xff"))


def test_an_overload_inside_an_overloaded_field_is_malformed() -> None:
    with pytest.raises(Malformed, match="overload"):
        dhcp.parse_dhcp(message(b"\x34\x01\x03\xff", file=b"\x34\x01\x01\xff"))


@pytest.mark.parametrize(
    "raw",
    [
        message(b"\xff")[:239],
        b"\3" + message(b"\xff")[1:],
        b"\1\6" + message(b"\xff")[2:],
        message(b"\xff").replace(COOKIE, bytes(4)),
    ],
)
def test_other_protocols_are_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        dhcp.parse_dhcp(raw)


numbers = st.integers(1, 254).filter(lambda n: n != dhcp.OVERLOAD and n not in dhcp._LENGTHS)
options = st.dictionaries(numbers, st.binary(max_size=300), max_size=6)
words = st.integers(0, 0xFFFF)
quads = st.integers(0, 0xFFFF_FFFF)


@given(options, words, quads, st.integers(0, (1 << 48) - 1), st.sampled_from([b"", b"host"]))
def test_what_is_written_is_read_back(found: dict[int, bytes], word: int, quad: int, mac: int, text: bytes) -> None:
    sent = dhcp.DhcpMessage(2, quad, word, word, quad, quad, quad, quad, mac, found, word & 0xFF, text, text)
    encoded = sent.encode(65_000)
    assert len(encoded) >= dhcp.SIZE_MIN
    assert dhcp.parse_dhcp(encoded) == sent


@given(options, st.integers(300, 700), st.sampled_from([b"", b"text"]))
@example({12: bytes(60), 15: bytes(120)}, 300, b"")
def test_a_message_keeps_to_its_size_and_gives_the_first_options_room(
    found: dict[int, bytes], size_max: int, text: bytes
) -> None:
    wanted = {53: b"\5", **found}
    sent = dhcp.DhcpMessage(2, 1, 0, 0, 0, 0, 0, 0, 1, wanted, file=text)
    encoded = sent.encode(size_max)
    assert len(encoded) <= size_max
    read = dhcp.parse_dhcp(encoded)
    assert read.options.items() <= wanted.items()
    assert read.kind == dhcp.ACK
    assert read.file == text


def test_options_that_do_not_fit_go_to_file_and_sname() -> None:
    wanted = {53: b"\5", 12: b"h" * 45, 15: b"d" * 120, 66: b"s" * 55, 67: b"lost" * 50}
    sent = dhcp.DhcpMessage(2, 1, 0, 0, 0, 0, 0, 0, 1, wanted)
    raw = sent.encode(300)
    assert len(raw) == 300
    assert b"d" * 120 in raw[108:236]
    assert b"s" * 55 in raw[44:108]
    assert dhcp.parse_dhcp(raw).options == {k: v for k, v in wanted.items() if k != 67}


@pytest.mark.parametrize("length", range(45, 60))
def test_the_overload_option_has_room(length: int) -> None:
    sent = dhcp.DhcpMessage(2, 1, 0, 0, 0, 0, 0, 0, 1, {53: b"\5", 12: b"h" * length, 15: b"d" * 60})
    assert len(sent.encode(300)) == 300
    assert dhcp.parse_dhcp(sent.encode(300)).options == sent.options


def test_a_file_name_keeps_options_out_of_its_field() -> None:
    wanted = {53: b"\5", 15: b"d" * 120}
    sent = dhcp.DhcpMessage(2, 1, 0, 0, 0, 0, 0, 0, 1, wanted, file=b"pxelinux.0")
    read = dhcp.parse_dhcp(sent.encode(300))
    assert (read.file, read.options) == (b"pxelinux.0", {53: b"\5"})


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good message with some bytes changed, mostly among the options, and cut."""
    raw = bytearray(message(b"\x34\x01\x03" + UDHCPC, sname=b"\x0c\x02ab\xff", file=b"\x0f\x05abcde\xff"))
    for _ in range(draw(st.integers(0, 6))):
        raw[draw(st.integers(240, len(raw) - 1) | st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.integers(230, len(raw)))])


@given(st.binary(max_size=400) | st.binary(max_size=300).map(message) | damaged())
def test_no_bytes_raise_anything_but_malformed(raw: bytes) -> None:
    try:
        found = dhcp.parse_dhcp(raw)
    except Malformed:
        return
    assert dhcp.parse_dhcp(found.encode(65_000)) == found


@pytest.mark.parametrize(
    ("name", "value", "number", "encoded"),
    [
        ("bootfile-name", "pxelinux.0", 67, b"pxelinux.0"),
        ("tftp-server", "192.0.2.1", 66, b"192.0.2.1"),
        ("150", "192.0.2.1", 150, bytes([192, 0, 2, 1])),
        ("router", "10.0.0.1, 10.0.0.2", 3, bytes([10, 0, 0, 1, 10, 0, 0, 2])),
        ("option:ntp-server", "10.0.0.1", 42, bytes([10, 0, 0, 1])),
        ("mtu", "1400", 26, b"\x05\x78"),
        ("26", "1400", 26, b"\x05\x78"),
        ("T1", "3600", 58, b"\x00\x00\x0e\x10"),
        ("default-ttl", "64", 23, b"\x40"),
        ("ip-forward-enable", "true", 19, b"\x01"),
        ("domain-name", "example.test", 15, b"example.test"),
        ("domain-search", "a.test,b.c.test.", 119, b"\x01a\x04test\x00\x01b\x01c\x04test\x00"),
        ("sip-server", "10.0.0.1", 120, bytes([1, 10, 0, 0, 1])),
        ("sip-server", "sip.test", 120, b"\x00\x03sip\x04test\x00"),
        ("vendor-encap", "06:01:08", 43, b"\x06\x01\x08"),
        ("config-file", "pxe.cfg", 209, b"pxe.cfg"),
        ("224", "10.0.0.1", 224, bytes([10, 0, 0, 1])),
        ("224", "0xabcd", 224, b"\xab\xcd"),
        ("224", "abcd", 224, b"abcd"),
        # The examples of RFC 3442: 10.27.129/24, 0/0, 10.229.0.128/25.
        ("classless-static-route", "10.27.129.77/24,10.0.0.1", 121, bytes([24, 10, 27, 129, 10, 0, 0, 1])),
        ("121", "0.0.0.0/0,10.0.0.1 10.229.0.128/25,10.0.0.2", 121,
         bytes([0, 10, 0, 0, 1, 25, 10, 229, 0, 128, 10, 0, 0, 2])),
    ],
)  # fmt: skip
def test_option_values(name: str, value: str, number: int, encoded: bytes) -> None:
    assert dhcp_options.encode_option(name, value) == (number, encoded)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no-such-option", "1"),
        ("0", "1"),
        ("255", "1"),
        ("server-ip-address", "10.0.0.1"),  # A header field: see SERVER_ADDRESS.
        ("mtu", "65536"),
        ("mtu", "-1"),
        ("mtu", "\u00b2"),
        ("mtu", ""),
        ("router", "10.0.0"),
        ("router", ""),
        ("static-route", "10.0.0.1"),
        ("classless-static-route", "10.0.0.0/33,10.0.0.1"),
        ("classless-static-route", "10.0.0.0/24"),
        ("domain-search", "a..test"),
        ("domain-search", "a" * 64),
        ("bootfile-name", ""),
        ("hostname", "a\0b"),
    ],
)
def test_wrong_option_values_are_malformed(name: str, value: str) -> None:
    with pytest.raises(Malformed, match=name):
        dhcp_options.encode_option(name, value)


@given(st.sampled_from(sorted(dhcp_options.OPTION_NUMBERS)) | st.text(max_size=4), st.text(max_size=40))
def test_no_option_text_raises_anything_but_malformed(name: str, value: str) -> None:
    with contextlib.suppress(Malformed):
        dhcp_options.encode_option(name, value)


@given(quads, st.integers(0, 32), quads)
def test_routes_hold_only_significant_octets(destination: int, length: int, gateway: int) -> None:
    encoded = dhcp_options.routes([(destination, length, gateway)])
    octets = -(-length // 8)
    assert encoded[0] == length
    assert len(encoded) == 5 + octets
    mask = (0xFFFF_FFFF << (32 - length)) & 0xFFFF_FFFF
    assert encoded[1 : 1 + octets] == (destination & mask).to_bytes(4, "big")[:octets]
    assert encoded[-4:] == gateway.to_bytes(4, "big")


def test_addresses_are_four_bytes_each() -> None:
    assert dhcp_options.addresses([ipv4_int("10.0.0.1"), ipv4_int("8.8.8.8")]) == bytes([10, 0, 0, 1, 8, 8, 8, 8])
