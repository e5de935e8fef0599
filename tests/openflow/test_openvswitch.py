"""The driver against a real Open vSwitch."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from random import Random

import pytest

from flowloom.kernel.errors import Unavailable
from flowloom.openflow import actions, facts
from flowloom.openflow.fields import ARP_OP, IN_PORT, METADATA, REGS, TCP_DST
from flowloom.openflow.match import match
from flowloom.southbound.switch import Batch, PacketIn, Refusal
from flowloom.testing.ovs import RunningOvs, real_ovs
from flowloom.testing.random_flows import random_bucket

GROUP = facts.GROUPS_FIRST
FRAME = bytes.fromhex("ffffffffffff 020000000001 88b5") + bytes(46)
SECONDS = 10.0


def flow(number: int, *done: bytes, cookie: int = 1, table: int = 7) -> tuple[bytes, bytes]:
    return facts.flow_key(table, 5, match([METADATA.exact(number)])), facts.flow_value(
        cookie, actions.apply_actions(*done)
    )


def group(number: int, kind: int = facts.GROUP_ALL) -> tuple[bytes, bytes]:
    return facts.group_key(number), bytes((kind,))


def bucket(group_id: int, number: int, port: int) -> tuple[bytes, bytes]:
    return facts.bucket_key(group_id, number), actions.output(port)


NEEDS_TCP = actions.set_field(TCP_DST, 80)
"""Refused in a flow that does not match TCP."""


def test_what_is_put_is_read_and_what_is_deleted_is_not(bridge, connect) -> None:
    switch = connect(bridge).switch
    puts = [flow(1, actions.output(1)), flow(2), group(GROUP), bucket(GROUP, 1, 2)]
    assert switch.apply(Batch([], puts)) == []
    assert switch.read() == dict(puts)
    assert switch.apply(Batch([puts[0][0], puts[2][0], puts[3][0]], [flow(2, cookie=5)])) == []
    assert switch.read() == dict([flow(2, cookie=5)])


def test_repeating_a_batch_changes_nothing(bridge, connect) -> None:
    switch = connect(bridge).switch
    batch = Batch(
        [flow(9)[0], bucket(GROUP, 9, 1)[0], facts.group_key(GROUP + 9)],
        [flow(1, actions.output(1)), group(GROUP), bucket(GROUP, 1, 2)],
    )
    for _ in range(3):
        assert switch.apply(batch) == []
        assert switch.read() == dict(batch.puts)


def test_an_empty_batch_is_no_change(bridge, connect) -> None:
    assert connect(bridge).switch.apply(Batch([], [])) == []


def test_refused_members_are_named_and_the_rest_is_installed(bridge, connect) -> None:
    switch = connect(bridge).switch
    good = [flow(number, actions.output(1)) for number in range(1, 50)]
    early = flow(100, NEEDS_TCP)  # refused when it is added to the bundle
    late = [flow(number, actions.group(GROUP + 7)) for number in range(101, 140)]  # refused when it is committed
    orphans = [bucket(GROUP + 8, number, 1) for number in range(20)]
    refused = switch.apply(Batch([], [*late, *good, early, *orphans]))
    assert sorted(refused) == sorted(
        [
            Refusal(early[0], "OFPBAC_MATCH_INCONSISTENT"),
            *(Refusal(key, "OFPBAC_BAD_OUT_GROUP") for key, _ in late),
            *(Refusal(key, "OFPGMFC_UNKNOWN_GROUP") for key, _ in orphans),
        ]
    )
    assert switch.read() == dict(good)


def test_a_refused_bucket_is_named_and_its_group_is_installed_without_it(bridge, connect) -> None:
    switch = connect(bridge).switch
    bad = (facts.bucket_key(GROUP, 2), actions.set_field(ARP_OP, 0x1FF))
    puts = [group(GROUP), bucket(GROUP, 1, 1), bad, bucket(GROUP, 3, 3), flow(1, actions.group(GROUP))]
    for batch in (Batch([], puts), Batch([], [*puts, bucket(GROUP, 4, 4), (bad[0], bad[1] + actions.output(1))])):
        assert switch.apply(batch) == [Refusal(bad[0], "OFPBAC_BAD_SET_ARGUMENT")]
        assert switch.read() == dict(one for one in batch.puts if one[0] != bad[0])
    replaced = [(bucket(GROUP, 1, 1)[0], bad[1]), bucket(GROUP, 3, 9)]
    assert switch.apply(Batch([], replaced)) == [Refusal(replaced[0][0], "OFPBAC_BAD_SET_ARGUMENT")]
    assert switch.read() == dict(one for one in [*batch.puts, replaced[1]] if one[0] != bad[0])


def test_a_refused_group_takes_its_buckets_and_the_flows_to_it_along(bridge, connect) -> None:
    switch = connect(bridge).switch
    puts = [
        group(GROUP, 9),  # no such type
        *(bucket(GROUP, number, 1) for number in range(1, 4)),
        flow(1, actions.group(GROUP)),
        flow(2, actions.output(1)),
        flow(3, actions.group(GROUP)),
    ]
    refused = switch.apply(Batch([], puts))
    assert {refusal.key for refusal in refused} == {key for key, _ in puts} - {puts[5][0]}
    assert {refusal.error for refusal in refused if refusal.key[0] != facts.FLOW} == {"OFPGMFC_BAD_TYPE"}
    assert switch.read() == dict([puts[5]])


def test_a_batch_is_one_step_for_who_looks_meanwhile_even_with_refusals(bridge, connect) -> None:
    writer, reader = connect(bridge).switch, connect(bridge).switch
    seen: list[set[int]] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.append({facts.cookie_of(value) for value in reader.read().values()})

    watching = threading.Thread(target=look)
    watching.start()
    try:
        for cookie in range(1, 40):
            puts = [flow(number, actions.output(1), cookie=cookie) for number in range(1, 300)]
            puts += [flow(400, NEEDS_TCP), flow(401, actions.group(GROUP + 7))]
            assert len(writer.apply(Batch([], puts))) == 2
    finally:
        done.set()
        watching.join(SECONDS)
    assert len(seen) > 3
    assert all(len(cookies) <= 1 for cookies in seen)


def test_random_changes_of_groups_leave_what_was_asked_for(bridge, connect) -> None:
    random = Random(3)
    switch = connect(bridge).switch
    wanted: dict[bytes, bytes] = {}
    for step in range(250):
        before = dict(wanted)
        for _ in range(random.randint(1, 6)):
            _change_groups(random, wanted)
        deletes = [key for key in before if key not in wanted]
        puts = [item for item in wanted.items() if before.get(item[0]) != item[1]]
        random.shuffle(deletes)
        random.shuffle(puts)
        assert switch.apply(Batch(deletes, puts)) == []
        if step % 10 == 0:
            assert switch.read() == wanted
    assert switch.read() == wanted


def _change_groups(random: Random, wanted: dict[bytes, bytes]) -> None:
    """Add, delete or retype a group; add, replace or delete a bucket; keep no bucket without its group."""
    number = GROUP + random.randrange(4)
    key = facts.group_key(number)
    match random.randrange(8):
        case 0:
            wanted[key] = bytes((random.choice((facts.GROUP_ALL, facts.GROUP_SELECT)),))
        case 1 if key in wanted:
            for one in [one for one in wanted if facts.split_group_key(one) == number]:
                del wanted[one]
        case 2:
            wanted.pop(facts.bucket_key(number, random.randrange(8)), None)
        case _ if key in wanted:
            wanted[facts.bucket_key(number, random.randrange(8))] = random_bucket_without_groups(random)
        case _:
            return


def random_bucket_without_groups(random: Random) -> bytes:
    while b"\x00\x1d\x00\x08" in (made := random_bucket(random)) or b"\x00\x05\x00\x08" in made:
        continue  # A meter, which this switch does not have.
    return made


def test_a_group_takes_as_many_buckets_as_the_switch_can_describe_and_no_more(bridge, connect) -> None:
    switch = connect(bridge).switch
    puts = [group(GROUP), *(bucket(GROUP, number, 1 + number % 3) for number in range(2_729))]
    assert switch.apply(Batch([], puts)) == []
    assert switch.read() == dict(puts)
    too_many = [bucket(GROUP, 5_000, 1), bucket(GROUP, 5_001, 1)]
    assert switch.apply(Batch([], too_many)) == [Refusal(key, "OFPGMFC_OUT_OF_BUCKETS") for key, _ in too_many]
    assert switch.apply(Batch([puts[1][0]], too_many)) == [Refusal(too_many[1][0], "OFPGMFC_OUT_OF_BUCKETS")]
    assert switch.read() == dict([puts[0], *puts[2:], too_many[0]])


def test_facts_that_fit_into_no_message_are_refused(bridge, connect) -> None:
    switch = connect(bridge).switch
    long = actions.output(1) * 4_090
    puts = [flow(1, long), flow(2), group(GROUP), (facts.bucket_key(GROUP, 1), long), bucket(GROUP, 2, 1)]
    assert sorted(switch.apply(Batch([], puts))) == sorted(
        Refusal(key, "OFPBAC_BAD_LEN") for key in (puts[0][0], puts[3][0])
    )
    assert switch.read() == dict([puts[1], puts[2], puts[4]])


def test_groups_that_somebody_else_changed_are_looked_at_again(bridge, connect) -> None:
    ours, other = connect(bridge).switch, connect(bridge).switch
    assert ours.apply(Batch([], [group(GROUP), bucket(GROUP, 1, 1), bucket(GROUP, 2, 1)])) == []
    assert other.apply(Batch([facts.bucket_key(GROUP, 1)], [bucket(GROUP, 3, 3), group(GROUP + 1)])) == []
    assert ours.apply(Batch([], [bucket(GROUP, 1, 2), bucket(GROUP, 3, 1), group(GROUP + 1)])) == []
    wanted = [group(GROUP), bucket(GROUP, 1, 2), bucket(GROUP, 2, 1), bucket(GROUP, 3, 1), group(GROUP + 1)]
    assert ours.read() == dict(wanted)


def test_a_hundred_thousand_flows_in_one_batch(bridge, connect) -> None:
    switch = connect(bridge).switch
    puts = [flow(number % 60_000, actions.output(1), table=number // 60_000) for number in range(100_000)]
    assert switch.apply(Batch([], puts)) == []
    assert switch.read() == dict(puts)
    assert switch.apply(Batch([key for key, _ in puts], [])) == []
    assert switch.read() == {}


def test_packet_out_comes_back_as_packet_in_with_userdata_registers_and_cookie(bridge, connect) -> None:
    opened = connect(bridge)
    punt = facts.flow_key(5, 1, match([IN_PORT.exact(2)]))
    value = facts.flow_value(77, actions.apply_actions(actions.controller2(b"\1hello")))
    assert opened.switch.apply(Batch([], [(punt, value)])) == []
    run = actions.set_field(REGS[4], 0xABCD) + actions.set_field(REGS[7], 8) + actions.set_field(METADATA, 1 << 40)
    opened.switch.send(FRAME, run + actions.resubmit(5), 2)
    packet = opened.packets.get(timeout=SECONDS)
    registers = {number: content for number, content in packet.registers.items() if content}
    assert packet._replace(registers=registers) == PacketIn(77, 5, 2, 1 << 40, {4: 0xABCD, 7: 8}, b"\1hello", FRAME)


def test_packets_come_while_a_large_batch_is_under_way(bridge, connect) -> None:
    opened = connect(bridge)
    done: list[int] = []
    puts = [flow(number % 60_000, actions.output(1), table=9 + number // 60_000) for number in range(60_000)]
    applying = threading.Thread(target=lambda: done.append(len(opened.switch.apply(Batch([], puts)))))
    applying.start()
    for number in range(50):
        opened.switch.send(FRAME, actions.controller2(bytes((number,))), 1)
    userdata = [opened.packets.get(timeout=SECONDS).userdata for _ in range(50)]
    applying.join(SECONDS)
    assert done == [0]
    assert userdata == [bytes((number,)) for number in range(50)]


def test_closing_is_no_loss_and_flows_stay(bridge, connect) -> None:
    opened = connect(bridge)
    opened.switch.apply(Batch([], [flow(1)]))
    opened.switch.close()
    opened.switch.close()
    for call in (opened.switch.read, lambda: opened.switch.send(FRAME, b"", 1)):
        with pytest.raises(Unavailable):
            call()
    assert connect(bridge).switch.read() == dict([flow(1)])
    assert opened.lost.empty()


def test_nobody_at_the_address(short_dir: Path, connect) -> None:
    with pytest.raises(Unavailable, match="no switch at"):
        connect(str(short_dir / "none.mgmt"))


def test_a_bridge_that_does_not_speak_openflow_1_5(ovs: RunningOvs, bridge: str, connect) -> None:
    ovs.vsctl("set", "bridge", Path(bridge).stem, "protocols=OpenFlow13")
    with pytest.raises(Unavailable):
        connect(bridge)


@pytest.fixture
def own_ovs(short_dir: Path):
    with real_ovs(short_dir) as running:
        yield running


def test_a_killed_switch_is_noticed_by_who_waits_and_by_the_next_call_and_told_once(own_ovs, connect) -> None:
    opened = connect(own_ovs.add_bridge("br0", 1))
    assert opened.switch.apply(Batch([], [flow(1)])) == []
    own_ovs.kill_switch()
    assert opened.lost.get(timeout=SECONDS)
    for call in (opened.switch.read, lambda: opened.switch.apply(Batch([], [flow(1)]))):
        with pytest.raises(Unavailable):
            call()
    with pytest.raises(Unavailable):
        opened.switch.send(FRAME, b"", 1)
    assert opened.lost.empty()
    own_ovs.start_switch()
    assert connect(own_ovs.address("br0")).switch.read() == {}


def test_a_switch_killed_in_the_middle_of_a_batch_is_unavailable(own_ovs, connect) -> None:
    opened = connect(own_ovs.add_bridge("br0", 1))
    puts = [flow(number % 60_000, actions.output(1), table=number // 60_000) for number in range(60_000)]
    killing = threading.Timer(0.05, own_ovs.kill_switch)
    killing.start()

    def until_it_dies() -> None:
        while True:
            opened.switch.apply(Batch([], puts))

    with pytest.raises(Unavailable):
        until_it_dies()
    killing.join()
    assert opened.lost.get(timeout=SECONDS)


def test_a_switch_that_hangs_is_unavailable_after_the_deadline(own_ovs, connect) -> None:
    opened = connect(own_ovs.add_bridge("br0", 1), deadline_seconds=0.3)
    os.kill(own_ovs.switch.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="said nothing"):
            opened.switch.read()
        assert opened.lost.get(timeout=SECONDS)
        with pytest.raises(Unavailable):
            connect(own_ovs.address("br0"), deadline_seconds=0.3)
    finally:
        os.kill(own_ovs.switch.pid, signal.SIGCONT)
