"""L2, port security and ARP, on packets through what the compilers of several hosts make of one set of records."""

from __future__ import annotations

from random import Random

import pytest
from clouds import BROADCAST, Cloud, arp_request, icmp6, ping

from flowloom.model.records import AddressPair, FixedIP, Network, Port, Record, Subnet
from flowloom.packet.arp import Arp, parse_arp
from flowloom.packet.ethernet import ARP, Ethernet, mac_int, parse_ethernet
from flowloom.packet.ipv4 import ipv4_int
from flowloom.packet.udp import build_udp4
from flowloom.pipeline.describe import describe


def network(n: int, **more) -> list[Record]:  # type: ignore[no-untyped-def]
    fields = {"key": n, "segmentation_id": 1000 + n, **more}
    return [
        Network(id=f"n{n}", version=1, **fields),
        Subnet(id=f"s{n}", version=1, network_id=f"n{n}", cidr="10.0.0.0/24", gateway_ip="10.0.0.1"),
    ]


def port(key: int, net: int, host: str, ip: str = "", **more) -> Port:  # type: ignore[no-untyped-def]
    return Port(
        id=f"p{key}",
        version=1,
        key=key,
        network_id=f"n{net}",
        mac_address=more.pop("mac", f"fa:16:3e:00:00:{key:02x}"),
        fixed_ips=(FixedIP(f"s{net}", ip or f"10.0.0.{key}"),),
        host=host,
        **more,
    )


def two_networks() -> Cloud:
    """p11, p12 on h1, p13 on h2, p14 on h3 in n1; p21 on h1, p22 on h2 in n2, with the addresses of p11 and p13."""
    return Cloud(3, [
        *network(1), *network(2),
        port(11, 1, "h1"), port(12, 1, "h1"), port(13, 1, "h2"), port(14, 1, "h3"),
        port(21, 2, "h1", "10.0.0.11", mac="fa:16:3e:00:00:0b"), port(22, 2, "h2", "10.0.0.13", mac="fa:16:3e:00:00:0d"),
    ])  # fmt: skip


def test_unicast_reaches_its_port_on_the_same_host_and_on_another() -> None:
    cloud = two_networks()
    p11 = cloud.ports["p11"]
    for target in ("p12", "p13", "p14"):
        to = cloud.ports[target]
        assert cloud.reached("p11", ping(p11, mac_int(to.mac_address), to.fixed_ips[0].ip_address)) == [target]


def test_networks_with_the_same_addresses_never_meet() -> None:
    cloud = two_networks()
    p21 = cloud.ports["p21"]
    assert cloud.reached("p21", ping(p21, mac_int("fa:16:3e:00:00:0d"), "10.0.0.13")) == ["p22"]
    assert cloud.reached("p21", ping(p21, mac_int("fa:16:3e:00:00:0c"), "10.0.0.12")) == []
    assert cloud.reached("p21", ping(p21, BROADCAST, "10.0.0.255")) == ["p22"]


def test_broadcast_and_multicast_reach_each_other_member_once() -> None:
    cloud = two_networks()
    p11 = cloud.ports["p11"]
    assert cloud.reached("p11", ping(p11, BROADCAST, "10.0.0.255")) == ["p12", "p13", "p14"]
    assert cloud.reached("p11", ping(p11, mac_int("01:00:5e:00:00:fb"), "224.0.0.251")) == ["p12", "p13", "p14"]


def test_unknown_addresses_are_not_flooded() -> None:
    cloud = two_networks()
    assert cloud.reached("p11", ping(cloud.ports["p11"], mac_int("fa:16:3e:99:99:99"), "10.0.0.99")) == []


def test_a_stale_location_is_dropped_not_bounced() -> None:
    """h2 still believes that p12 is on h1; a packet that comes to h1 for a port it no longer has goes nowhere."""
    cloud = two_networks()
    h3_only = Cloud(3, [*network(1), port(11, 1, "h1"), port(13, 1, "h2"), port(12, 1, "h3")])
    cloud.fakes.switches["h1"].restart()
    cloud.fakes.switches["h1"].hold(h3_only.compilers["h1"].ledger.desired.items())
    frame = ping(cloud.ports["p13"], mac_int(cloud.ports["p12"].mac_address), "10.0.0.12")
    assert cloud.send("p13", frame) == []
    assert cloud.fakes.lost == []


@pytest.mark.parametrize(
    ("change", "why"),
    [({"admin_state_up": False}, "network down"), ({"segmentation_id": None}, "no number"), ({"network_type": "gre"}, "no such tunnel")],
)  # fmt: skip
def test_what_cannot_be_carried_fails_closed(change: dict, why: str) -> None:
    cloud = Cloud(2, [*network(1, **change), port(11, 1, "h1"), port(13, 1, "h2")])
    assert cloud.reached("p11", ping(cloud.ports["p11"], BROADCAST, "10.0.0.255")) == [], why
    assert cloud.reached("p11", ping(cloud.ports["p11"], mac_int("fa:16:3e:00:00:0d"), "10.0.0.13")) == [], why


def test_a_port_that_is_down_neither_sends_nor_receives() -> None:
    cloud = Cloud(1, [*network(1), port(11, 1, "h1", admin_state_up=False), port(12, 1, "h1")])
    assert cloud.send("p11", ping(cloud.ports["p11"], mac_int("fa:16:3e:00:00:0c"), "10.0.0.12")) == []
    assert cloud.send("p12", ping(cloud.ports["p12"], mac_int("fa:16:3e:00:00:0b"), "10.0.0.11")) == []


def test_a_port_of_an_unknown_network_receives_and_sends_nothing() -> None:
    cloud = Cloud(1, [*network(1), port(11, 1, "h1"), port(31, 3, "h1")])
    assert cloud.send("p31", ping(cloud.ports["p31"], BROADCAST, "10.0.0.255")) == []
    assert cloud.reached("p11", ping(cloud.ports["p11"], BROADCAST, "10.0.0.255")) == []


P11 = "fa:16:3e:00:00:0b"
OTHER = "fa:16:3e:99:00:01"


def spoofs(cloud: Cloud) -> dict[str, bytes]:
    p11 = cloud.ports["p11"]
    to = mac_int("fa:16:3e:00:00:0c")
    return {
        "another MAC": ping(p11, to, "10.0.0.12", eth_src=OTHER),
        "another address": ping(p11, to, "10.0.0.12", ip_src="10.0.0.77"),
        "ARP: another Ethernet source": arp_request(p11, "10.0.0.200", eth_src=OTHER),
        "ARP: another sender MAC": arp_request(p11, "10.0.0.200", sha=OTHER),
        "ARP: another sender address": arp_request(p11, "10.0.0.200", spa="10.0.0.13"),
        "ARP reply for another": Ethernet(
            to, mac_int(P11), ARP, Arp(2, mac_int(P11), ipv4_int("10.0.0.13"), to, ipv4_int("10.0.0.12")).encode()
        ).encode(),
        "DHCP server": build_udp4(mac_int(P11), to, ipv4_int("10.0.0.11"), ipv4_int("10.0.0.12"), 67, 68, b"x"),
        "IPv6: another source": icmp6(P11, "fe80::1", "ff02::1", b"\x80\0\0\0"),
        "router advertisement": icmp6(P11, "fe80::f816:3eff:fe00:b", "ff02::1", b"\x86\0\0\0" + bytes(12)),
        "redirect": icmp6(P11, "fe80::f816:3eff:fe00:b", "ff02::1", b"\x89\0\0\0" + bytes(36)),
        "neighbour advertisement for another": icmp6(
            P11, "fe80::f816:3eff:fe00:b", "ff02::1", b"\x88\0\0\0\x20\0\0\0" + bytes(15) + b"\x01"
        ),
        "solicitation that tells another MAC": icmp6(
            P11, "fe80::f816:3eff:fe00:b", "ff02::1", b"\x87\0\0\0\0\0\0\0" + bytes(16) + b"\x01\x01" + b"\xfa" * 6
        ),
        "an EtherType that is none of these": Ethernet(BROADCAST, mac_int(P11), 0x88CC, b"lldp").encode(),
    }


@pytest.mark.parametrize("what", spoofs(two_networks()))
def test_no_spoofed_source_leaves_a_port(what: str) -> None:
    cloud = two_networks()
    frame = spoofs(cloud)[what]
    assert cloud.send("p11", frame) == []


def test_the_same_frames_leave_a_port_without_port_security() -> None:
    cloud = Cloud(2, [*network(1), port(11, 1, "h1", port_security_enabled=False), port(12, 1, "h1")])
    leaves = [what for what, frame in spoofs(cloud).items() if cloud.send("p11", frame)]
    assert set(leaves) == set(spoofs(cloud))


HONEST = {
    "router solicitation": ("fe80::f816:3eff:fe00:b", b"\x85\0\0\0\0\0\0\0"),
    "duplicate address detection": ("::", b"\x87\0\0\0\0\0\0\0" + bytes(16)),
    "solicitation that tells its MAC": (
        "fe80::f816:3eff:fe00:b",
        b"\x87\0\0\0\0\0\0\0" + bytes(16) + b"\x01\x01" + bytes.fromhex("fa163e00000b"),
    ),
    "advertisement of its own address": (
        "fe80::f816:3eff:fe00:b",
        b"\x88\0\0\0\x20\0\0\0" + bytes.fromhex("fe80000000000000f8163efffe00000b") + b"\x02\x01" + bytes.fromhex("fa163e00000b"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HONEST)
def test_honest_neighbour_discovery_leaves_a_port(what: str) -> None:
    source, body = HONEST[what]
    assert two_networks().reached("p11", icmp6(P11, source, "ff02::1", body)) == ["p12", "p13", "p14"]


def test_allowed_address_pairs_may_be_used() -> None:
    pairs = (AddressPair("10.0.0.200", P11), AddressPair("192.168.0.0/16", "fa:16:3e:00:aa:aa"))
    cloud = Cloud(1, [*network(1), port(11, 1, "h1", allowed_address_pairs=pairs), port(12, 1, "h1")])
    p11, to = cloud.ports["p11"], mac_int("fa:16:3e:00:00:0c")
    assert cloud.reached("p11", ping(p11, to, "10.0.0.12", ip_src="10.0.0.200")) == ["p12"]
    assert cloud.reached("p11", ping(p11, to, "10.0.0.12", eth_src="fa:16:3e:00:aa:aa", ip_src="192.168.3.4")) == [
        "p12"
    ]
    assert cloud.send("p11", ping(p11, to, "10.0.0.12", ip_src="192.168.3.4")) == []


def test_arp_for_a_port_is_answered_where_it_is_asked() -> None:
    cloud = two_networks()
    for asked, mac in (("10.0.0.12", "0c"), ("10.0.0.13", "0d"), ("10.0.0.14", "0e")):
        (reply,) = cloud.send("p11", arp_request(cloud.ports["p11"], asked))
        assert (reply.host, reply.port) == ("h1", 111)
        frame = parse_ethernet(reply.frame)
        told = mac_int(f"fa:16:3e:00:00:{mac}")
        assert (frame.dst, frame.src) == (mac_int(P11), told)
        assert parse_arp(frame.payload) == Arp(2, told, ipv4_int(asked), mac_int(P11), ipv4_int("10.0.0.11"))


def test_arp_is_answered_within_the_askers_network() -> None:
    (reply,) = two_networks().send("p21", arp_request(two_networks().ports["p21"], "10.0.0.13"))
    assert parse_ethernet(reply.frame).src == mac_int("fa:16:3e:00:00:0d")
    assert two_networks().reached("p21", arp_request(two_networks().ports["p21"], "10.0.0.12")) == ["p22"]


def test_a_host_that_asks_for_its_own_address_is_heard_by_all() -> None:
    cloud = two_networks()
    p11 = cloud.ports["p11"]
    assert cloud.reached("p11", arp_request(p11, "10.0.0.11")) == ["p12", "p13", "p14"]
    assert cloud.reached("p11", arp_request(p11, "10.0.0.11", spa="0.0.0.0")) == ["p12", "p13", "p14"]


def test_nobody_answers_for_an_unbound_port() -> None:
    cloud = Cloud(1, [*network(1), port(11, 1, "h1"), port(12, 1, "h1")])
    cloud.ports.pop("p12")
    reserved = Cloud(1, [*network(1), port(11, 1, "h1"), port(15, 1, "")])
    assert reserved.send("p11", arp_request(reserved.ports["p11"], "10.0.0.15")) == []


@pytest.mark.parametrize("seed", range(40))
def test_who_reaches_whom_in_random_clouds(seed: int) -> None:
    """An independent rule of three lines says who must get a frame; the flows of every host agree."""
    random = Random(seed)
    records: list[Record] = [*network(1), *network(2), *network(3)]
    for key in range(11, 11 + random.randrange(2, 14)):
        net = random.randrange(1, 4)
        records.append(port(key, net, f"h{random.randrange(1, 4)}", admin_state_up=random.random() < 0.9))
    cloud = Cloud(3, records, seed)
    for src in cloud.ports.values():
        peers = [
            p for p in cloud.ports.values() if p.network_id == src.network_id and p.id != src.id and p.admin_state_up
        ]
        everyone = sorted(p.id for p in peers) if src.admin_state_up else []
        assert cloud.reached(src.id, ping(src, BROADCAST, "10.0.0.255")) == everyone
        for dst in cloud.ports.values():
            expected = [dst.id] if dst.id in everyone else []
            if dst.id != src.id:
                frame = ping(src, mac_int(dst.mac_address), dst.fixed_ips[0].ip_address)
                assert cloud.reached(src.id, frame) == expected, (src.id, dst.id)


GOLDEN_H1 = """\
CLASSIFY 100 in_port=111 -> NETWORK=1, IN_KEY=11, goto GUARD
CLASSIFY 90 in_port=10, tun_id=1001 -> NETWORK=1, FROM_TUNNEL=1, goto LOOKUP
DELIVER 100 OUT_KEY=11 -> output 111
ENCAP 100 NETWORK=1 -> tun_id=1001, VIA=1, goto TUNNEL
FLOOD_LOCAL 0 key=1 -> all
FLOOD_LOCAL 0 key=1, member=11 -> OUT_KEY=11, look up in DELIVER
FLOOD_REMOTE 0 key=1 -> all
FLOOD_REMOTE 0 key=1, member=502 -> REMOTE=502, look up in ENCAP
LOOKUP 100 eth_dst=fa:16:3e:00:00:0b, NETWORK=1 -> OUT_KEY=11, goto DELIVER
LOOKUP 100 eth_dst=fa:16:3e:00:00:0d, FROM_TUNNEL=0, NETWORK=1 -> REMOTE=502, goto ENCAP
LOOKUP 50 eth_dst=01:00:00:00:00:00/01:00:00:00:00:00, NETWORK=1 -> group FLOOD_LOCAL(1), group FLOOD_REMOTE(1)
LOOKUP 60 eth_dst=01:00:00:00:00:00/01:00:00:00:00:00, FROM_TUNNEL=1, NETWORK=1 -> group FLOOD_LOCAL(1)
TUNNEL 100 VIA=1, REMOTE=502 -> tun_dst=192.168.50.2, output 10"""


def test_the_flows_of_switching_in_the_pipelines_words() -> None:
    cloud = Cloud(2, [*network(1), port(11, 1, "h1"), port(13, 1, "h2")])
    made = cloud.compilers["h1"]
    mine = {key: value for key, value in made.ledger.desired.items() if made.why(key)[0].app == "switching"}
    assert "\n".join(sorted(str(describe(key, value)) for key, value in mine.items())) == GOLDEN_H1
