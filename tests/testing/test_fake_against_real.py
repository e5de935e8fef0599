"""The fake switch against a real Open vSwitch: the same facts, the same frames, the same refusals."""

from __future__ import annotations

import queue
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from flowloom.drivers.switch.openvswitch import open_switch
from flowloom.openflow import actions as a
from flowloom.openflow import facts
from flowloom.openflow import fields as f
from flowloom.openflow.fields import FIELDS
from flowloom.openflow.match import Term, encode_match
from flowloom.packet import arp, ethernet, ipv4, ipv6
from flowloom.southbound.switch import Batch, PacketIn, Refusal, Switch
from flowloom.testing import random_tables
from flowloom.testing.fake_switch import FakeSwitch
from flowloom.testing.ovs import real_ovs
from flowloom.testing.programs import PORT_TABLE
from flowloom.testing.random_flows import random_flow, random_group_facts

PORTS = random_tables.PORTS
GROUP = facts.GROUPS_FIRST
TABLES_OF_FRAMES = 250
FRAMES_EACH = 20
_PCAP_HEADER, _RECORD_HEADER = 24, 16
_MARK = b"mark"


class Bench:
    """A bridge whose ports write what leaves them to files, and a connection to it."""

    def __init__(self, directory: Path, switch: Switch, packets: queue.Queue[PacketIn]) -> None:
        self.switch = switch
        self._packets = packets
        self._files = {port: (directory / f"p{port}.pcap").open("rb") for port in PORTS}
        for file in self._files.values():
            file.seek(_PCAP_HEADER)

    def clear(self) -> None:
        """Remove every fact."""
        self.switch.apply(Batch(list(self.switch.read()), ()))

    def run(self, in_port: int, frame: bytes) -> tuple[dict[int, list[bytes]], list[PacketIn]]:
        """Let `frame` in; what left by each port, and what came up."""
        self.switch.send(frame, a.output(PORT_TABLE), in_port)
        self.switch.send(bytes(60), a.controller2(_MARK), 1)
        up: list[PacketIn] = []
        while (packet := self._packets.get(timeout=10)).userdata != _MARK:
            up.append(packet)
        return {port: self._frames(port) for port in PORTS}, up

    def close(self) -> None:
        """Close connection and files."""
        self.switch.close()
        for file in self._files.values():
            file.close()

    def _frames(self, port: int) -> list[bytes]:
        frames = []
        while record := self._files[port].read(_RECORD_HEADER):
            frames.append(self._files[port].read(struct.unpack_from("<I", record, 8)[0]))
        return frames


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="fl-") as directory, real_ovs(Path(directory)) as ovs:
        address = ovs.add_bridge("br", len(PORTS))
        for port in PORTS:
            ovs.vsctl("set", "interface", f"br-p{port}", f"options:tx_pcap={directory}/p{port}.pcap")
        packets: queue.Queue[PacketIn] = queue.Queue()
        made = Bench(Path(directory), open_switch(address, packets.put, lambda why: None), packets)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.timeout(120)
def test_random_tables_do_the_same_to_random_frames(bench: Bench) -> None:
    random = Random(20_260)
    moved = 0
    for _ in range(TABLES_OF_FRAMES):
        held = random_tables.random_facts(random)
        up: list[PacketIn] = []
        fake = FakeSwitch(PORTS, on_packet=up.append)
        bench.clear()
        assert sorted(bench.switch.apply(Batch((), held))) == sorted(fake.apply(Batch((), held)))
        assert bench.switch.read() == fake.read()
        for _ in range(FRAMES_EACH):
            in_port, frame = random.choice(PORTS), random_tables.random_frame(random)
            up.clear()
            emissions = fake.inject(in_port, frame)
            expected = {port: [one.frame for one in emissions if one.port == port] for port in PORTS}
            trace = "\n".join(map(str, fake.trace(in_port, frame)))
            assert bench.run(in_port, frame) == (expected, up), f"in {in_port}: {frame.hex()}\n{trace}"
            moved += len(emissions)
    assert moved > TABLES_OF_FRAMES  # The tables are worth comparing: frames do come out.


def test_flows_of_every_match_and_action_are_held_alike(bench: Bench) -> None:
    random = Random(7)
    groups = random_group_facts(random)
    flows = dict(made for made in (random_flow(random, number) for number in range(800)) if not _names_a_meter(made[1]))
    fake = FakeSwitch()
    bench.clear()
    batch = Batch((), [*groups, *flows.items()])
    assert sorted(bench.switch.apply(batch)) == sorted(fake.apply(batch))
    assert bench.switch.read() == fake.read()


def _names_a_meter(value: bytes) -> bool:
    """Meters are not facts, so the bench has none."""
    return "meter" in str(a.decode_instructions(value[8:])).lower().replace("meter_id=none", "")


def flow(
    table: int, then: bytes = b"", goto: int | None = None, priority: int = 1, **match: int
) -> tuple[bytes, bytes]:
    """A flow; `match` are exact terms."""
    terms = [Term(FIELDS[name], value, FIELDS[name].full) for name, value in match.items()]
    instructions = a.apply_actions(then) + (a.goto_table(goto) if goto is not None else b"")
    return facts.flow_key(table, priority, encode_match(terms)), facts.flow_value(1, instructions)


def group(number: int, **buckets: bytes) -> list[tuple[bytes, bytes]]:
    """A group of type all; buckets by name b<id>."""
    made = [(facts.group_key(GROUP + number), bytes((facts.GROUP_ALL,)))]
    return made + [(facts.bucket_key(GROUP + number, int(name[1:])), value) for name, value in buckets.items()]


GOOD = flow(0, a.output(1))
SOLICITATION = {"eth_type": 0x86DD, "ip_proto": 58, "icmp6_type": 135}
CASES: dict[str, list[Batch]] = {
    "address without ethertype": [Batch((), [GOOD, flow(0, ip_src=1)])],
    "port without protocol": [Batch((), [GOOD, flow(0, eth_type=0x800, udp_dst=67)])],
    "port of another protocol": [Batch((), [flow(0, eth_type=0x800, ip_proto=6, udp_dst=67)])],
    "arp field of ip": [Batch((), [flow(0, eth_type=0x800, arp_op=1)])],
    "target of a solicitation": [
        Batch((), [flow(n, b"", **SOLICITATION, icmp6_code=n, nd_target=7) for n in (0, 1)]),
        Batch((), [flow(n, a.set_field(f.ND_SLL, 7), **SOLICITATION, icmp6_code=n) for n in (0, 1)]),
    ],
    "goto back": [Batch((), [GOOD, flow(5, goto=4)])],
    "goto itself": [Batch((), [GOOD, flow(5, goto=5)])],
    "goto last table": [Batch((), [flow(5, goto=254)])],
    "goto no table": [Batch((), [flow(5, goto=255)])],
    "flow in the last table": [Batch((), [flow(253, a.output(1)), flow(254, a.output(1)), GOOD])],
    "resubmit to any table": [Batch((), [flow(5, a.resubmit(n), priority=n + 1) for n in (0, 5, 253, 254, 255)])],
    "output to no port": [Batch((), [flow(0, a.output(port), priority=port & 0xFF) for port in (0, 0xFFFF_FF01)])],
    "output to reserved ports": [
        Batch((), [flow(0, a.output(port), priority=port & 0xFF) for port in range(0xFFFF_FFF7, 0x1_0000_0000)])
    ],
    "set a field the match does not promise": [
        Batch((), [flow(0, a.set_field(f.IP_SRC, 1)), flow(1, a.set_field(f.IP_SRC, 1), eth_type=0x800)])
    ],
    "set arp of ip": [Batch((), [flow(0, a.set_field(f.ARP_OP, 1), eth_type=0x800)])],
    "copy from a field the match does not promise": [
        Batch((), [flow(0, a.copy_field(f.IP_SRC, f.REGS[0])), flow(1, a.copy_field(f.REGS[0], f.UDP_DST))])
    ],
    "ttl of anything": [Batch((), [flow(0, a.dec_ttl()), flow(0, a.dec_ttl(), eth_type=0x86DD)])],
    "pop no tag": [Batch((), [flow(0, a.pop_vlan()), flow(1, a.pop_vlan(), vlan_vid=0x1001)])],
    "pop twice": [Batch((), [flow(1, a.pop_vlan() + a.pop_vlan(), vlan_vid=0x1001)])],
    "tag nothing": [Batch((), [flow(0, a.set_field(f.VLAN_VID, 0x1001)), flow(1, a.set_field(f.VLAN_PCP, 1))])],
    "tag what is pushed": [Batch((), [flow(0, a.push_vlan() + a.set_field(f.VLAN_VID, 0x1001))])],
    "push three tags": [Batch((), [flow(0, a.push_vlan() * 2), flow(1, a.push_vlan() * 3)])],
    "push something else": [Batch((), [flow(0, a.push_vlan(0x88A8)), flow(1, a.push_vlan(0x800))])],
    "flow to no group": [Batch((), [GOOD, flow(1, a.group(GROUP))])],
    "bucket of no group": [Batch((), [GOOD, (facts.bucket_key(GROUP, 1), a.output(1))])],
    "bucket to no group": [Batch((), group(0, b1=a.group(GROUP + 1), b2=a.output(2)))],
    "bucket of what a flow may not": [
        Batch((), group(0, b1=a.output(0), b2=a.push_vlan(0x800), b3=a.push_vlan() * 3, b4=a.pop_vlan())),
        Batch((), group(1, b1=a.set_field(f.IP_SRC, 1), b2=a.dec_ttl(), b3=b"", b4=a.resubmit(0))),
        Batch((), group(2, b1=a.output(a.PORT_ANY), b2=a.output(0xFFFF_FF01), b3=a.output(a.PORT_CONTROLLER))),
    ],
    "group and its flow at once": [Batch((), [flow(1, a.group(GROUP)), *group(0, b1=a.output(2))])],
    "deleted group takes its flows": [
        Batch((), [*group(0, b1=a.output(2)), *group(1), GOOD, flow(1, a.group(GROUP)), flow(2, a.group(GROUP + 1))]),
        Batch([facts.group_key(GROUP)], ()),
    ],
    "deleted group spares flows that leave it": [
        Batch((), [*group(0, b1=a.output(2)), flow(1, a.group(GROUP)), flow(2, a.group(GROUP))]),
        Batch([facts.group_key(GROUP), facts.bucket_key(GROUP, 1)], [flow(1, a.output(3))]),
    ],
    "bucket replaced and bucket removed": [
        Batch((), group(0, b1=a.output(1), b2=a.output(2), b3=a.output(3))),
        Batch([facts.bucket_key(GROUP, 3)], [(facts.bucket_key(GROUP, 1), a.output(4))]),
    ],
    "group changes its type": [
        Batch((), group(0, b1=a.output(1), b2=a.output(2))),
        Batch((), [(facts.group_key(GROUP), bytes((facts.GROUP_SELECT,)))]),
    ],
    "refused put leaves what was there": [
        Batch((), [flow(5, a.output(1))]),
        Batch((), [flow(5, a.output(2), goto=4), GOOD]),
    ],
    "flow put again with another value": [Batch((), [GOOD]), Batch((), [flow(0, a.output(2))])],
    "delete what is not there": [Batch([GOOD[0], facts.group_key(GROUP), facts.bucket_key(GROUP, 2)], ())],
}


@pytest.mark.parametrize("batches", CASES.values(), ids=CASES.keys())
def test_both_refuse_and_hold_the_same(bench: Bench, batches: list[Batch]) -> None:
    bench.clear()
    fake = FakeSwitch()
    for batch in batches:
        said: list[Refusal] = fake.apply(batch)
        assert sorted(bench.switch.apply(batch)) == sorted(said)
        assert bench.switch.read() == fake.read()


def test_a_bucket_copies_nothing_from_a_field_that_is_not_there(bench: Bench) -> None:
    fields = (f.UDP_SRC, f.IP_SRC, f.ND_TARGET, f.ICMP_TYPE)
    buckets = {f"b{n}": a.copy_field(field, f.ETH_DST) + a.output(2) for n, field in enumerate(fields)}
    fake = FakeSwitch(PORTS)
    bench.clear()
    batch = Batch((), [*group(0, **buckets), flow(0, a.group(GROUP))])
    assert bench.switch.apply(batch) == fake.apply(batch) == []
    solicited = bytes((135, 1, 0, 0)) + bytes(range(20))
    packets = (
        (ethernet.ARP, arp.Arp(1, 2, 3, 4, 5).encode()),
        (ethernet.IPV4, ipv4.Ipv4(1, 2, ipv4.UDP, b"middle", fragment=7).encode()),
        (ethernet.IPV6, ipv6.Ipv6(1, 2, ipv6.ICMPV6, solicited).encode()),
        (ethernet.IPV6, ipv6.Ipv6(1, 2, ipv6.ICMPV6, b"\x87\0" + solicited[2:]).encode()),
    )
    for ethertype, payload in packets:
        frame = ethernet.Ethernet(0x0200FFFFFFFF, 1, ethertype, payload.ljust(46, b"\0")).encode()
        left, _ = bench.run(1, frame)
        assert left[2] == [one.frame for one in fake.inject(1, frame)]
        assert len(left[2]) == len(fields)
