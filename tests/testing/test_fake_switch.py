"""What the fake switch promises by itself: the contract, its faults, and the ways of a packet."""

from __future__ import annotations

import pytest

from flowloom.kernel.clock import ManualClock
from flowloom.kernel.errors import Unavailable
from flowloom.openflow import actions as a
from flowloom.openflow import facts
from flowloom.openflow import fields as f
from flowloom.openflow.fields import FIELDS
from flowloom.openflow.match import Term, encode_match
from flowloom.packet.arp import Arp, parse_arp
from flowloom.packet.ethernet import ARP, Ethernet
from flowloom.packet.udp import build_udp4, parse_udp4
from flowloom.southbound.switch import Batch, PacketIn, Refusal
from flowloom.testing.datapath import NO_COOKIE
from flowloom.testing.fake_switch import Ambiguous, Emission, FakeSwitch, Loop, TunnelMeta

Fact = tuple[bytes, bytes]
FRAME = build_udp4(0x020000000001, 0x020000000002, 0x0A000001, 0x0A000002, 68, 67, b"data")
GROUP = facts.GROUPS_FIRST
IPV4 = {"eth_type": 0x800}


def flow(table: int, *then: bytes, goto: int | None = None, priority: int = 1, cookie: int = 5, **match: int) -> Fact:
    """A flow; `match` are exact terms."""
    terms = [Term(FIELDS[name], value, FIELDS[name].full) for name, value in match.items()]
    instructions = a.apply_actions(*then) + (a.goto_table(goto) if goto is not None else b"")
    return facts.flow_key(table, priority, encode_match(terms)), facts.flow_value(cookie, instructions)


def group(number: int, *buckets: bytes, kind: int = facts.GROUP_ALL) -> list[Fact]:
    """A group with buckets 0…"""
    made = [(facts.group_key(GROUP + number), bytes((kind,)))]
    return made + [(facts.bucket_key(GROUP + number, n), actions) for n, actions in enumerate(buckets)]


def switch(*held: Fact, ports: tuple[int, ...] | None = None, tunnels: dict[int, int] | None = None) -> FakeSwitch:
    """A switch that holds these facts."""
    made = FakeSwitch(ports, tunnels)
    made.hold(held)
    return made


def out(emissions: list[Emission]) -> list[int]:
    """Ports by which frames left."""
    return [one.port for one in emissions]


def test_nothing_matches_nothing_leaves() -> None:
    assert switch().inject(1, FRAME) == []


def test_the_highest_priority_wins_whatever_the_masks() -> None:
    low = flow(0, a.output(2), priority=1, in_port=1)
    middle = flow(0, a.output(3), priority=5, **IPV4)
    high = flow(0, a.output(4), priority=9, in_port=1, **IPV4)
    assert out(switch(low, middle, high).inject(1, FRAME)) == [4]
    assert out(switch(low, middle).inject(1, FRAME)) == [3]
    assert out(switch(high, middle, low).inject(7, FRAME)) == [3]


def test_two_flows_of_one_priority_that_differ_are_an_error() -> None:
    one, other = flow(0, a.output(2), in_port=1), flow(0, a.output(3), **IPV4)
    with pytest.raises(Ambiguous, match="in_port=0x1"):
        switch(one, other).inject(1, FRAME)
    same = flow(0, a.output(2), **IPV4)
    assert out(switch(one, same).inject(1, FRAME)) == [2]


def test_a_replaced_flow_leaves_no_trace_of_the_old_one() -> None:
    made = switch(flow(0, a.output(2), in_port=1))
    made.hold([flow(0, a.output(3), in_port=1)])
    assert out(made.inject(1, FRAME)) == [3]
    made.apply(Batch([flow(0, in_port=1)[0]], ()))
    assert made.inject(1, FRAME) == []
    assert made.read() == {}


def test_never_out_by_the_port_it_came_in_but_on_purpose() -> None:
    made = switch(flow(0, a.output(1), a.output(2), a.output(a.PORT_IN)))
    assert out(made.inject(1, FRAME)) == [2, 1]
    assert out(made.inject(2, FRAME)) == [1, 2]


def test_a_port_that_is_not_there_swallows() -> None:
    assert out(switch(flow(0, a.output(2), a.output(3)), ports=(1, 3)).inject(1, FRAME)) == [3]


def test_registers_travel_and_a_resubmit_comes_back() -> None:
    held = (
        flow(0, a.set_field(f.REGS[5], 7), a.resubmit(2), a.output(3), goto=1),
        flow(1, a.output(4), reg5=8),
        flow(2, a.set_field(f.REGS[5], 8), a.output(2), reg5=7),
    )
    assert out(switch(*held).inject(1, FRAME)) == [2, 3, 4]


def test_each_bucket_has_a_packet_of_its_own() -> None:
    mark = a.set_field(f.ETH_DST, 0x0200000000FF)
    held = [*group(0, mark + a.output(2), a.output(3)), flow(0, a.group(GROUP), a.output(4))]
    emissions = switch(*held).inject(1, FRAME)
    assert [(one.port, one.frame[:6].hex()) for one in emissions] == [
        (2, "0200000000ff"),
        (3, "020000000002"),
        (4, "020000000002"),
    ]


def test_a_bucket_is_an_action_set() -> None:
    both = a.output(2) + a.set_field(f.ETH_DST, 9) + a.output(3) + a.resubmit(1)
    emissions = switch(*group(0, both), flow(0, a.group(GROUP)), flow(1, a.output(4))).inject(1, FRAME)
    assert [(one.port, one.frame[:6]) for one in emissions] == [(3, b"\0\0\0\0\0\x09")]
    assert switch(*group(0, a.set_field(f.ETH_DST, 9)), flow(0, a.group(GROUP))).inject(1, FRAME) == []


def test_a_tunnel_port_takes_key_and_destination_from_the_packet() -> None:
    load = a.set_field(f.TUN_ID, 77), a.set_field(f.TUN_DST, 0xC0A83202)
    made = switch(flow(0, a.output(10), *load, a.output(10)), tunnels={10: 0xC0A83201})
    # Without a destination a tunnel sends nothing.
    assert made.inject(1, FRAME) == [Emission(10, FRAME, TunnelMeta(77, 0xC0A83201, 0xC0A83202))]


def test_a_flow_may_choose_the_outer_source() -> None:
    load = a.set_field(f.TUN_SRC, 5), a.set_field(f.TUN_DST, 6)
    assert switch(flow(0, *load, a.output(10)), tunnels={10: 1}).inject(1, FRAME)[0].tunnel == (0, 5, 6)


def test_an_arp_operation_has_eight_bits() -> None:
    request = Ethernet(1, 2, ARP, Arp(1, 2, 3, 4, 5).encode()).encode()
    made = switch(
        flow(0, a.set_field(f.ARP_OP, 0x102), a.resubmit(1), eth_type=ARP), flow(1, a.output(2), eth_type=ARP, arp_op=2)
    )
    (emission,) = made.inject(1, request)
    assert parse_arp(emission.frame[14:]).op == 2


def test_what_came_by_a_tunnel_is_matched_by_it_and_does_not_go_back() -> None:
    made = switch(flow(0, a.output(10), a.output(2), tun_id=77, in_port=10), tunnels={10: 1})
    assert made.inject(10, FRAME, TunnelMeta(77, 2, 1)) == [Emission(2, FRAME)]
    assert made.inject(10, FRAME, TunnelMeta(78, 2, 1)) == []


def test_a_packet_in_carries_what_its_flow_knows() -> None:
    got: list[PacketIn] = []
    made = FakeSwitch(on_packet=got.append)
    other: list[PacketIn] = []
    made.open("", other.append, lambda why: None)
    load = a.set_field(f.REGS[4], 9), a.set_field(f.METADATA, 3)
    made.hold([flow(0, *load, goto=7), flow(7, a.controller2(b"\1x"), cookie=0xF100_0001_0000_0002)])
    (emission,) = made.inject(4, FRAME)
    assert emission.port == a.PORT_CONTROLLER
    assert emission.packet_in == PacketIn(0xF100_0001_0000_0002, 7, 4, 3, {4: 9, 5: 0}, b"\1x", FRAME)
    assert got == other == [emission.packet_in]


def test_a_packet_out_runs_its_actions_or_the_tables() -> None:
    made = switch(flow(0, a.output(2)), flow(9, a.output(3)))
    made.send(FRAME, a.output(5) + a.output(8) + a.resubmit(9), 8)
    made.send(FRAME, a.output(0xFFFF_FFF9), a.PORT_CONTROLLER)
    assert out(made.sent) == [5, 3, 2]
    got: list[PacketIn] = []
    made = FakeSwitch(on_packet=got.append)
    made.send(FRAME, a.controller2(b"up"), 3)
    assert [(one.cookie, one.in_port) for one in got] == [(NO_COOKIE, 3)]


def test_dec_ttl_ends_the_list_of_a_packet_that_would_die() -> None:
    made = switch(flow(0, a.resubmit(1), a.output(3)), flow(1, a.dec_ttl(), a.output(2), eth_type=0x800))
    first, _ = made.inject(1, FRAME)
    assert parse_udp4(first.frame).network.ttl == 63
    dying = bytearray(FRAME)
    dying[22:26] = b"\1\x11\0\0"
    assert out(made.inject(1, bytes(dying))) == [3]


def test_fragments_have_no_ports() -> None:
    made = switch(flow(0, a.output(2), eth_type=0x800, ip_proto=17, udp_dst=67))
    first_fragment = bytearray(FRAME)
    first_fragment[20] |= 0x20
    assert out(made.inject(1, FRAME)) == [2]
    assert made.inject(1, bytes(first_fragment)) == []


def test_going_round_is_an_error() -> None:
    with pytest.raises(Loop):
        switch(flow(0, a.resubmit(0))).inject(1, FRAME)
    wide = [flow(n, *[a.resubmit(n + 1)] * 9) for n in range(5)]
    with pytest.raises(Loop):
        switch(*wide).inject(1, FRAME)


@pytest.mark.parametrize(
    ("action", "name"),
    [
        (a.ct(), "ct"),
        (a.meter(1), "meter"),
        (a.conjunction(1, 1, 2), "conjunction"),
        (a.output(a.PORT_FLOOD), "output"),
    ],
)
def test_what_is_not_simulated_says_so_when_a_packet_meets_it(action: bytes, name: str) -> None:
    made = switch(flow(0, action, eth_type=0x800))
    with pytest.raises(NotImplementedError, match=name):
        made.inject(1, FRAME)
    with pytest.raises(NotImplementedError, match="type 1"):
        switch(*group(0, kind=facts.GROUP_SELECT), flow(0, a.group(GROUP))).inject(1, FRAME)


def test_a_trace_tells_each_look_up() -> None:
    held = [flow(0, a.set_field(f.REGS[0], 3), a.group(GROUP), goto=4, in_port=1), *group(0, a.resubmit(9))]
    nine = flow(9, reg0=3)
    made = switch(*held, nine)
    steps = made.trace(1, FRAME)
    assert [(step.depth, step.table, step.key) for step in steps] == [(0, 0, held[0][0]), (2, 9, nine[0]), (0, 4, None)]
    assert "in_port=0x1" in str(steps[0]) and "Group" in str(steps[0])
    assert "drop" in str(steps[2])


def test_a_refusal_leaves_the_rest_in_force() -> None:
    made = FakeSwitch()
    good, bad = flow(0, a.output(2)), flow(0, ip_src=1, priority=3)
    assert made.apply(Batch((), [bad, good])) == [Refusal(bad[0], "OFPBMC_BAD_PREREQ")]
    assert made.read() == dict([good])


def test_a_refused_group_takes_its_buckets_and_flows_along() -> None:
    made = FakeSwitch()
    held = [*group(0, a.output(2)), flow(0, a.group(GROUP))]
    made.refuse[held[0][0]] = "OFPGMFC_OUT_OF_GROUPS"
    assert [refusal.error for refusal in made.apply(Batch((), held))] == [
        "OFPGMFC_OUT_OF_GROUPS",
        "OFPGMFC_UNKNOWN_GROUP",
        "OFPBAC_BAD_OUT_GROUP",
    ]
    made.refuse.clear()
    assert made.apply(Batch((), held)) == []
    made.refuse[held[2][0]] = "OFPBRC_EPERM"
    assert made.apply(Batch([held[2][0]], ())) == [Refusal(held[2][0], "OFPBRC_EPERM")]
    assert made.read() == dict(held)


def test_repeating_a_batch_changes_nothing() -> None:
    held = [*group(0, a.output(2), a.output(3)), flow(0, a.group(GROUP))]
    made = switch(*held)
    before = made.inject(1, FRAME)
    assert made.apply(Batch([flow(3)[0], facts.group_key(GROUP + 1)], held)) == []
    assert made.inject(1, FRAME) == before
    assert made.read() == dict(held)


def test_a_key_twice_in_a_batch_breaks_the_contract() -> None:
    with pytest.raises(ValueError, match="twice"):
        FakeSwitch().apply(Batch([flow(0)[0]], [flow(0)]))


def test_a_match_that_would_not_come_back_as_it_was_sent_breaks_the_contract() -> None:
    terms = FIELDS["eth_type"].exact(0x800) + FIELDS["in_port"].exact(1)
    match = (1).to_bytes(2, "big") + (4 + len(terms)).to_bytes(2, "big") + terms
    key = facts.flow_key(0, 1, match + bytes(-len(match) % 8))
    with pytest.raises(ValueError, match="canonical"):
        FakeSwitch().apply(Batch((), [(key, facts.flow_value(1, b""))]))


def test_a_lost_connection_is_closed_and_the_switch_goes_on() -> None:
    made = switch(flow(0, a.output(2)))
    lost: list[str] = []
    connection = made.open("here", lambda packet: None, lost.append)
    made.lose("cable")
    assert lost == ["cable"]
    for call in (connection.read, lambda: connection.apply(Batch((), ())), lambda: connection.send(FRAME, b"", 1)):
        with pytest.raises(Unavailable):
            call()
    connection.close()
    assert out(made.inject(1, FRAME)) == [2]
    assert made.open("here", lambda packet: None, lost.append).read() == made.facts
    made.answers = False
    with pytest.raises(Unavailable, match="here"):
        made.open("here", lambda packet: None, lost.append)


@pytest.mark.parametrize("done", [False, True])
def test_a_connection_lost_in_apply_hides_the_outcome(done: bool) -> None:
    made = FakeSwitch()
    lost: list[str] = []
    connection = made.open("here", lambda packet: None, lost.append)
    made.lose_in_apply = done
    with pytest.raises(Unavailable):
        connection.apply(Batch((), [flow(0)]))
    assert (len(lost), len(made.facts)) == (1, int(done))
    with pytest.raises(Unavailable):
        connection.read()
    again = made.open("here", lambda packet: None, lost.append)
    assert again.apply(Batch((), [flow(0)])) == []


def test_a_restart_forgets_everything() -> None:
    made = switch(*group(0, a.output(3)), flow(0, a.group(GROUP)))
    made.restart()
    assert made.read() == {}
    assert made.inject(1, FRAME) == []
    assert made.apply(Batch((), [flow(0, a.group(GROUP))])) != []
    made.hold([*group(0), flow(0, a.output(3))])
    made.apply(Batch([facts.group_key(GROUP)], ()))
    assert out(made.inject(1, FRAME)) == [3]


def test_a_closed_connection_hears_nothing_more() -> None:
    got: list[PacketIn] = []
    made = switch(flow(0, a.controller2()))
    connection = made.open("here", got.append, lambda why: None)
    connection.close()
    connection.close()
    made.inject(1, FRAME)
    made.lose()
    assert got == []
    with pytest.raises(Unavailable):
        connection.read()


def test_apply_takes_the_time_it_is_told_to() -> None:
    clock = ManualClock()
    made = FakeSwitch(clock=clock)
    made.delay_seconds = 0.25
    made.apply(Batch((), [flow(0)]))
    assert clock.monotonic() == 0.25


def test_flows_of_another_owner_stay_and_count() -> None:
    foreign = flow(0, a.output(9), cookie=1, priority=0)
    made = switch(foreign)
    made.apply(Batch((), [flow(0, a.output(2), in_port=1)]))
    assert made.read()[foreign[0]] == foreign[1]
    assert out(made.inject(3, FRAME)) == [9]
