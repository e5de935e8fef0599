"""Whatever a guest sends, and whatever stands in the records, there is an answer or a reason for none."""

from __future__ import annotations

from dhcp_world import ADDRESS, MAC, SETTINGS, WORLD, framed, network, packet_in, port, request, subnet, told
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.apps.dhcp_server import DhcpServer
from flowloom.apps.punts import MALFORMED, Answer, Ignored
from flowloom.compiler.compiler import Compiler
from flowloom.model.records import DhcpOption, FixedIP, HostRoute, Record
from flowloom.packet import dhcp
from flowloom.packet.ipv4 import BROADCAST
from flowloom.packet.udp import build_udp4

COUNTERS = {
    "unknown_port", "unknown_network", "no_address", "foreign_client", "other_server", "declined", "released",
    "unsupported", MALFORMED,
}  # fmt: skip


def view_of(*records: Record):  # type: ignore[no-untyped-def]
    compiler = Compiler((), "h1")
    compiler.load(records)
    return compiler.view()


VIEW = view_of(*WORLD)
SERVER = DhcpServer(SETTINGS)


def held(frame: bytes, view=VIEW, userdata: bytes = b"\1p") -> str:  # type: ignore[no-untyped-def]
    """Answer, hold what must always hold, and say what it was."""
    answered = SERVER.answer(packet_in(frame, userdata), view)
    if isinstance(answered, Ignored):
        assert answered.counter in COUNTERS and answered.why
    else:
        assert answered.counter in ("offer", "ack", "nak")
        assert answered.in_port == 5
        assert len(answered.frame) <= 14 + 20 + 8 + max(dhcp.SIZE_MAX_DEFAULT, 1442)
    return answered.counter


@settings(max_examples=3000, deadline=None)
@given(st.binary(max_size=700), st.binary(max_size=40))
def test_random_bytes(frame: bytes, userdata: bytes) -> None:
    assert held(frame, userdata=b"\1" + userdata) == MALFORMED


@settings(max_examples=3000, deadline=None)
@given(st.binary(max_size=700))
def test_random_payloads_in_whole_datagrams(payload: bytes) -> None:
    held(build_udp4(MAC, 0xFFFF_FFFF_FFFF, 0, BROADCAST, 68, 67, payload))


header = bytes.fromhex("010106004444444400000000") + bytes(16) + MAC.to_bytes(6, "big") + bytes(10 + 192)


@settings(max_examples=3000, deadline=None)
@given(st.sampled_from([b"\x35\1\1", b"\x35\1\3", b"\x35\1\x08", b""]), st.binary(max_size=400))
def test_random_options(kind: bytes, options: bytes) -> None:
    payload = header + b"\x63\x82\x53\x63" + kind + options
    held(build_udp4(MAC, 0xFFFF_FFFF_FFFF, 0, BROADCAST, 68, 67, payload))


VALID = [
    framed(request(kind, {61: b"\1abc", 55: bytes(range(1, 60)), 57: b"\5\0"} | more, ciaddr=ciaddr))
    for kind, more, ciaddr in (
        (dhcp.DISCOVER, {}, 0),
        (dhcp.REQUEST, {50: ADDRESS.to_bytes(4, "big"), 54: bytes((10, 0, 0, 1))}, 0),
        (dhcp.REQUEST, {50: bytes((10, 0, 0, 7))}, 0),
        (dhcp.REQUEST, {}, ADDRESS),
        (dhcp.DECLINE, {50: ADDRESS.to_bytes(4, "big")}, 0),
        (dhcp.RELEASE, {}, ADDRESS),
        (dhcp.INFORM, {}, ADDRESS),
    )
]


@settings(max_examples=3000, deadline=None)
@given(
    st.sampled_from(VALID),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=6),
    st.integers(0, 700) | st.none(),
    st.booleans(),
)
def test_damaged_requests(frame: bytes, bytes_at: list[tuple[int, int]], cut: int | None, sealed: bool) -> None:
    """sealed: the checksums are put right again, so that the damage reaches the message."""
    damaged = bytearray(frame)
    first = 42 if sealed else 0
    for at, byte in bytes_at:
        damaged[first + at % (len(damaged) - first)] = byte
    whole = bytes(damaged)
    if sealed:
        whole = build_udp4(MAC, 0xFFFF_FFFF_FFFF, 0, BROADCAST, 68, 67, whole[42 : None if cut is None else 42 + cut])
    elif cut is not None:
        whole = whole[:cut]
    held(whole)


texts = st.text(max_size=300) | st.sampled_from(
    ["10.0.0.7", "0.0.0.0", "0x0102", "10.0.0.0/8,10.0.0.1", "fd00::1", "1"]
)
names = st.text(max_size=20) | st.integers(-1, 300).map(str) | st.sampled_from(
    ["server-ip-address", "tftp-server", "bootfile-name", "mtu", "router", "lease-time", "classless-static-route"]
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(st.tuples(names, texts), max_size=5),
    st.lists(st.tuples(texts, texts), max_size=3),
    st.tuples(texts, texts, texts, texts, texts),
    st.integers(-5, 1 << 40),
    st.sampled_from([dhcp.DISCOVER, dhcp.INFORM]),
)
def test_records_that_hold_nonsense(extra, routes, words, mtu, kind) -> None:  # type: ignore[no-untyped-def]
    """The message still arrives whole and readable."""
    world = (
        network(mtu=mtu, dns_domain=words[0]),
        subnet(
            cidr=words[1] if len(words[1]) % 2 else "10.0.0.0/24",
            gateway_ip=words[2] if len(words[2]) % 3 else "10.0.0.1",
            dns_nameservers=(words[3],),
            host_routes=tuple(HostRoute(*each) for each in routes),
        ),
        port(
            dns_name=words[4],
            mac_address="fa:16:3e:00:00:01",
            extra_dhcp_opts=tuple(DhcpOption(*each) for each in extra),
            fixed_ips=(FixedIP("s", "10.0.0.5"), FixedIP("s", words[3])),
        ),
    )
    answered = SERVER.answer(packet_in(framed(request(kind))), view_of(*world))
    if isinstance(answered, Answer):
        assert {dhcp.SUBNET_MASK, dhcp.MTU} <= set(told(answered)[1].options)
    else:
        assert answered.counter == "no_address"
