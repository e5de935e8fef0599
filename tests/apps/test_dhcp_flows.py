"""DHCP's flows: which ports are punted, who answers ARP for the server, and packets through both."""

from __future__ import annotations

from random import Random

import pytest
from dhcp_world import ADDRESS, GATEWAY, MAC, SETTINGS, WORLD, framed, network, port, request, subnet

from flowloom.apps import punts
from flowloom.apps.dhcp import SERVER_MAC, DhcpSettings, dhcp_app
from flowloom.apps.dhcp_server import DhcpServer
from flowloom.apps.punts import DHCP4, Answer
from flowloom.apps.release import AppSettings, apps
from flowloom.compiler.compiler import Compiler
from flowloom.model.records import FixedIP, Interface, Network, Port, Record, Subnet
from flowloom.openflow import facts
from flowloom.openflow.text import flow_text
from flowloom.packet import arp, dhcp
from flowloom.packet.arp import Arp
from flowloom.packet.dhcp import parse_dhcp
from flowloom.packet.ethernet import ARP, BROADCAST, Ethernet, parse_ethernet
from flowloom.packet.udp import parse_udp4
from flowloom.pipeline.check import check
from flowloom.pipeline.describe import describe
from flowloom.southbound.switch import Batch, PacketIn
from flowloom.testing.fake_switch import FakeSwitch

PUNT = "SERVICE 110 eth_type=0x800, ip_proto=17, udp_src=68, udp_dst=67, IN_KEY=9 -> punt(0170)"
FROM_ANY_SOURCE = (
    "GUARD 110 eth_src=fa:16:3e:00:00:01, eth_type=0x800, ip_proto=17, udp_src=68, udp_dst=67, IN_KEY=9 -> punt(0170)"
)
ANSWER = (
    "SERVICE 100 eth_type=0x806, arp_op=1, arp_tpa=10.0.0.1, NETWORK=7 -> eth_dst=eth_src, eth_src=02:00:00:00:00:67, "
    "arp_op=2, arp_tha=arp_sha, arp_tpa=arp_spa, arp_sha=02:00:00:00:00:67, arp_spa=10.0.0.1, output IN_PORT"
)
TWO = (FixedIP("s", "10.0.0.5"), FixedIP("s", "10.0.0.6"))
OVER_IPV6 = subnet(cidr="fd00::/64", ip_version=6, gateway_ip="fd00::1")
OWNER = port(id="r", key=11, mac_address="fa:16:3e:00:00:99", fixed_ips=(FixedIP("s", "10.0.0.1"),), host="h2")


def compiled(*records: Record) -> Compiler:
    made = Compiler((dhcp_app(DhcpSettings()),), "h1")
    made.load(records)
    made.work()
    agree(made)
    return made


def agree(made: Compiler) -> None:
    assert made.backlog == 0 and made.failures == {}
    assert made.ledger.desired == made.oracle()
    assert made.noted() == made.questions()
    for key, value in made.ledger.desired.items():
        assert check(key, value) == []


def flows(made: Compiler) -> list[str]:
    return sorted(str(describe(key, value)) for key, value in made.ledger.desired.items())


def test_a_local_port_is_punted_and_arp_for_its_server_answered() -> None:
    assert flows(compiled(*WORLD)) == [FROM_ANY_SOURCE, ANSWER, PUNT]


def test_the_same_as_the_switch_writes_it() -> None:
    made = compiled(*WORLD)
    written = {flow_text(key, value).split(",", 1)[1] for key, value in made.ledger.desired.items()}
    assert written == {
        "priority=110,udp,reg1=0x9,dl_src=fa:16:3e:00:00:01,tp_src=68,tp_dst=67 actions=controller(userdata=01.70)",
        "priority=110,udp,reg1=0x9,tp_src=68,tp_dst=67 actions=controller(userdata=01.70)",
        "priority=100,arp,metadata=0x7,arp_tpa=10.0.0.1,arp_op=1 actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],"
        "set_field:02:00:00:00:00:67->eth_src,set_field:2->arp_op,move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],"
        "move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],set_field:02:00:00:00:00:67->arp_sha,set_field:10.0.0.1->arp_spa,"
        "IN_PORT",
    }


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ((network(), subnet(), port(fixed_ips=TWO)), [FROM_ANY_SOURCE, ANSWER, PUNT]),
        ((network(), subnet(enable_dhcp=False), port()), []),
        ((network(), subnet(), port(admin_state_up=False)), [ANSWER]),
        ((network(), subnet(gateway_ip=None), port()), [FROM_ANY_SOURCE, PUNT]),
        ((network(), port()), []),
        ((network(), subnet(), port(fixed_ips=())), [ANSWER]),
        ((network(), OVER_IPV6, port(fixed_ips=(FixedIP("s", "fd00::5"),))), []),
        ((network(), subnet(), port(host="h2")), []),
        ((network(), subnet(), port(), OWNER), [FROM_ANY_SOURCE, PUNT]),
        ((subnet(), port()), [FROM_ANY_SOURCE, PUNT]),
        ((network(), subnet(), port(port_security_enabled=False)), [ANSWER, PUNT]),
    ],
    ids=[
        "two addresses", "subnet without DHCP", "port down", "no gateway", "unknown subnet", "no address", "IPv6",
        "port elsewhere", "gateway owned by a port", "unknown network",
        "no port security",
    ],
)  # fmt: skip
def test_who_gets_which_flows(records: tuple[Record, ...], expected: list[str]) -> None:
    assert flows(compiled(*records)) == expected


def test_a_port_with_one_subnet_with_dhcp_and_one_without_is_punted_once() -> None:
    both = port(fixed_ips=(FixedIP("t", "10.1.0.5"), FixedIP("s", "10.0.0.5")))
    other = subnet(id="t", cidr="10.1.0.0/24", gateway_ip="10.1.0.1", enable_dhcp=False)
    assert flows(compiled(network(), subnet(), other, both)) == [FROM_ANY_SOURCE, ANSWER, PUNT]


def test_records_that_come_and_go_leave_what_a_fresh_start_makes() -> None:
    random = Random(4)
    choices: list[tuple[type[Record], str, list[Record | None]]] = [
        (Network, "n", [network(), network(mtu=1500), None]),
        (Subnet, "s", [subnet(), subnet(enable_dhcp=False), subnet(gateway_ip=None), None]),
        (Port, "p", [port(), port(admin_state_up=False), port(host="h2"), port(fixed_ips=TWO), None]),
        (Port, "r", [OWNER, None]),
    ]
    made = Compiler((dhcp_app(DhcpSettings()),), "h1")
    seen = set()
    for _ in range(400):
        kind, id, records = random.choice(choices)
        made.merge([(kind, id, random.choice(records))])
        made.work()
        agree(made)
        seen.add(tuple(flows(made)))
    asked = (FROM_ANY_SOURCE, PUNT)
    assert {(), asked, (ANSWER,), (FROM_ANY_SOURCE, ANSWER, PUNT)} <= seen


def test_a_changed_name_server_or_mtu_runs_no_rule_of_a_port() -> None:
    made = compiled(*WORLD)
    before = made.runs
    made.merge([(Subnet, "s", subnet(dns_nameservers=("192.0.2.1",))), (Network, "n", network(mtu=1400))])
    made.work()
    assert made.runs - before == 1  # The subnet's own.


@pytest.mark.parametrize("ports", [10, 100])
def test_one_port_more_runs_its_own_rule_alone(ports: int) -> None:
    many = [port(id=f"p{n}", key=100 + n, fixed_ips=(FixedIP("s", f"10.0.0.{n + 100}"),)) for n in range(ports)]
    made = compiled(network(), subnet(), *many)
    before = made.runs
    made.merge([(Port, "p", port())])
    made.work()
    assert made.runs - before == 1


class Host:
    """All apps of the release over a fake switch with one VM at port 5, its punts answered."""

    def __init__(self, *records: Record) -> None:
        self.compiler = Compiler(apps(AppSettings("h1", dhcp=SETTINGS)), "h1")
        self.compiler.load([*records, Interface(id="p", ofport=5)])
        self.compiler.work()
        self.answers = {DHCP4: DhcpServer(SETTINGS)}
        self.switch = FakeSwitch(on_packet=self._punted)
        assert self.switch.apply(Batch((), tuple(self.compiler.ledger.desired.items()))) == []

    def _punted(self, packet: PacketIn) -> None:
        answered = punts.answer(self.answers, packet, self.compiler.view())
        if isinstance(answered, Answer):
            self.switch.send(answered.frame, answered.actions, answered.in_port)

    def from_vm(self, frame: bytes) -> list[bytes]:
        """What comes back to the VM; nothing may leave elsewhere."""
        self.switch.sent.clear()
        out = [one for one in self.switch.inject(5, frame) if one.packet_in is None] + self.switch.sent
        assert {one.port for one in out} <= {5}
        return [one.frame for one in out]


def test_discover_request_and_renewal_through_the_switch() -> None:
    host = Host(*WORLD)
    (offer,) = host.from_vm(framed(request(dhcp.DISCOVER)))
    assert parse_dhcp(parse_udp4(offer).datagram.payload).kind == dhcp.OFFER
    asked = Arp(arp.REQUEST, MAC, ADDRESS, 0, GATEWAY)
    (told,) = host.from_vm(Ethernet(BROADCAST, MAC, ARP, asked.encode()).encode())
    link = parse_ethernet(told)
    assert (link.dst, link.src) == (MAC, SERVER_MAC)
    assert arp.parse_arp(link.payload) == Arp(arp.REPLY, SERVER_MAC, GATEWAY, MAC, ADDRESS)
    (ack,) = host.from_vm(framed(request(dhcp.REQUEST, ciaddr=ADDRESS), ADDRESS, GATEWAY, SERVER_MAC))
    assert parse_dhcp(parse_udp4(ack).datagram.payload).kind == dhcp.ACK


def test_renewal_is_answered_where_a_router_owns_the_gateway() -> None:
    host = Host(*WORLD, OWNER)
    (ack,) = host.from_vm(framed(request(dhcp.REQUEST, ciaddr=ADDRESS), ADDRESS, GATEWAY, 0xFA163E000099))
    assert parse_dhcp(parse_udp4(ack).datagram.payload).kind == dhcp.ACK


def test_renewal_from_an_address_that_was_taken_away_is_refused_and_goes_nowhere() -> None:
    host = Host(*WORLD)
    renewal = framed(request(dhcp.REQUEST, ciaddr=ADDRESS + 77), ADDRESS + 77, GATEWAY, SERVER_MAC)
    (answer,) = host.from_vm(renewal)
    assert parse_dhcp(parse_udp4(answer).datagram.payload).kind == dhcp.NAK


def test_a_request_with_a_foreign_mac_is_not_even_punted() -> None:
    host = Host(*WORLD)
    assert host.from_vm(framed(request(dhcp.DISCOVER, chaddr=MAC + 1))) == []


def test_every_flow_is_owned_by_its_rule() -> None:
    for key, value in compiled(*WORLD).oracle().items():
        assert facts.is_ours(key, value)
        assert facts.cookie_of(value) >> 32 & 0xFFFF in (40, 41)
