"""Frames between hosts: out by a tunnel here, in by a tunnel there."""

from __future__ import annotations

import pytest

from flowloom.openflow import actions as a
from flowloom.openflow import facts
from flowloom.openflow import fields as f
from flowloom.openflow.fields import FIELDS
from flowloom.openflow.match import Term, encode_match
from flowloom.packet.udp import build_udp4
from flowloom.southbound.switch import PacketIn
from flowloom.testing.datapath import Loop, TunnelMeta
from flowloom.testing.fake_cloud import TUNNEL_PORT, Delivery, FakeCloud
from flowloom.testing.fake_switch import FakeSwitch

FRAME = build_udp4(1, 2, 3, 4, 5, 6, b"data")
ADDRESSES = {"h1": 0xC0A83201, "h2": 0xC0A83202, "h3": 0xC0A83203}
KEY = 7


def flow(*then: bytes, **match: int) -> tuple[bytes, bytes]:
    """A flow of table 0."""
    terms = [Term(FIELDS[name], value, FIELDS[name].full) for name, value in match.items()]
    return facts.flow_key(0, 1, encode_match(terms)), facts.flow_value(1, a.apply_actions(*then))


def to(host: str) -> bytes:
    """Send through the tunnel to a host."""
    address = ADDRESSES.get(host, 0x01010101)
    return a.set_field(f.TUN_ID, KEY) + a.set_field(f.TUN_DST, address) + a.output(TUNNEL_PORT)


@pytest.fixture
def cloud() -> FakeCloud:
    made = FakeCloud(ADDRESSES)
    made.switches["h1"].hold([flow(to("h2"), to("h3"), a.output(5), in_port=1)])
    for host in ("h2", "h3"):
        made.switches[host].hold([flow(a.output(8), in_port=TUNNEL_PORT, tun_id=KEY, tun_src=ADDRESSES["h1"])])
    return made


def test_a_frame_in_at_one_host_comes_out_at_the_others(cloud: FakeCloud) -> None:
    assert sorted(cloud.inject("h1", 1, FRAME)) == [
        Delivery("h1", 5, FRAME),
        Delivery("h2", 8, FRAME),
        Delivery("h3", 8, FRAME),
    ]


def test_a_cut_way_loses_and_tells(cloud: FakeCloud) -> None:
    cloud.cut.add(("h1", "h2"))
    assert sorted(one.host for one in cloud.inject("h1", 1, FRAME)) == ["h1", "h3"]
    assert cloud.lost == [("h1", TunnelMeta(KEY, ADDRESSES["h1"], ADDRESSES["h2"]))]


def test_an_address_that_no_host_has_loses_and_tells(cloud: FakeCloud) -> None:
    cloud.switches["h2"].hold([flow(to("nobody"), in_port=3)])
    assert cloud.inject("h2", 3, FRAME) == []
    assert [tunnel.dst for _, tunnel in cloud.lost] == [0x01010101]


def test_what_a_controller_answers_travels_with_the_frame() -> None:
    answering = FakeSwitch(tunnels={TUNNEL_PORT: ADDRESSES["h2"]})

    def answer(packet: PacketIn) -> None:
        answering.send(packet.frame, to("h1") + a.output(2), packet.in_port)

    answering.open("", answer, lambda why: None)
    answering.hold([flow(a.controller2(b"x"), in_port=3)])
    cloud = FakeCloud(ADDRESSES, {"h2": answering})
    cloud.switches["h1"].hold([flow(a.output(4), in_port=TUNNEL_PORT)])
    assert sorted(cloud.inject("h2", 3, FRAME)) == [
        Delivery("h1", 4, FRAME),
        Delivery("h2", 2, FRAME),
        Delivery("h2", a.PORT_CONTROLLER, FRAME),
    ]
    answering.send(FRAME, a.output(6), 1)
    assert cloud.collect() == [Delivery("h2", 6, FRAME)]
    assert cloud.collect() == []


def test_hosts_that_send_to_and_fro_are_an_error() -> None:
    # Out by IN_PORT: what came by the tunnel goes back into it.
    def back(host: str) -> bytes:
        return a.set_field(f.TUN_DST, ADDRESSES[host]) + a.output(a.PORT_IN)

    cloud = FakeCloud(ADDRESSES)
    cloud.switches["h1"].hold([flow(to("h2"), in_port=1), flow(back("h2"), in_port=TUNNEL_PORT)])
    cloud.switches["h2"].hold([flow(back("h1"), in_port=TUNNEL_PORT)])
    with pytest.raises(Loop):
        cloud.inject("h1", 1, FRAME)
