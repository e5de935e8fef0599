"""What is sent is what the installed Open vSwitch dumps, byte for byte, and what ovs-ofctl prints."""

from __future__ import annotations

import re
from random import Random

import pytest

from flowloom.drivers.switch.plan import read_groups
from flowloom.openflow import facts
from flowloom.openflow.actions import decode_actions, decode_instructions
from flowloom.openflow.match import decode_match, encode_match
from flowloom.openflow.text import flow_text, group_text
from flowloom.southbound.switch import Batch
from flowloom.testing.ovs import RunningOvs
from flowloom.testing.random_flows import METER_ID, random_flow, random_group, random_group_facts

FLOWS = 24_000
GROUPS = 300


@pytest.fixture
def metered(ovs: RunningOvs, bridge: str) -> str:
    ovs.ofctl("add-meter", bridge, f"meter={METER_ID},pktps,band=type=drop,rate=100")
    return bridge


def test_random_flows_and_groups_read_back_byte_for_byte_and_print_as_ovs_ofctl_prints(metered, connect, ovs) -> None:
    random = Random(20261125)
    switch = connect(metered).switch
    wanted = dict(random_group_facts(random))
    for number in range(GROUPS):
        wanted.update(random_group(random, facts.GROUPS_FIRST + 100 + number, random.randint(0, 6)))
    wanted.update(random_flow(random, number + 1) for number in range(FLOWS))

    assert switch.apply(Batch([], list(wanted.items()))) == []
    held = switch.read()
    assert held == wanted

    flows = {key: value for key, value in wanted.items() if key[0] == facts.FLOW}
    assert {flow_text(*item) for item in flows.items()} == _printed_flows(ovs, metered)
    groups = {group_text(number, one.type, one.buckets) for number, one in read_groups(held).items()}
    assert groups == {line.strip() for line in ovs.ofctl("dump-groups", metered).splitlines()[1:]}


def _printed_flows(ovs: RunningOvs, bridge: str) -> set[str]:
    printed = set()
    for line in ovs.ofctl("dump-flows", "--no-stats", bridge).splitlines():
        said = re.sub(r"^ cookie=0x[0-9a-f]+, ", "", line)
        said = said if said.startswith("table=") else f"table=0, {said}"
        printed.add(said.replace(", priority", ",priority"))
    return printed


def test_random_flows_decode_and_encode_to_the_same_match() -> None:
    random = Random(7)
    for number in range(3_000):
        key, value = random_flow(random, number)
        _, _, match = facts.split_flow_key(key)
        assert encode_match(decode_match(match)) == match
        decode_instructions(value[8:])
    for key, value in random_group_facts(random):
        if key[0] == facts.BUCKET:
            decode_actions(value)
