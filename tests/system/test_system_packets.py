"""Packets in a cloud of three hosts and two networks that have everything in common: subnet, addresses and MACs.

VMs `red1`.. and `blue1`.. : red1, red2 on h1; red3, red4 on h2; red5 on h3; blue likewise, without a 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address

import pytest
from system_cloud import PATIENCE_SECONDS, Cloud, Vm, eventually

from flowloom.lab.dhcp import Client
from flowloom.lab.probes import Capture
from flowloom.packet import dhcp
from flowloom.packet.arp import REPLY, REQUEST, Arp, parse_arp
from flowloom.packet.ethernet import ARP, BROADCAST, Ethernet, mac_int, parse_ethernet
from flowloom.packet.ipv4 import ipv4_int
from flowloom.packet.malformed import Malformed
from flowloom.packet.udp import build_udp4, parse_udp4

pytestmark = pytest.mark.lab

HOST_OF = {1: "h1", 2: "h1", 3: "h2", 4: "h2", 5: "h3"}
MEMBERS = {"red": (1, 2, 3, 4, 5), "blue": (1, 2, 3, 5)}
SUBNET = {
    "gateway_ip": "10.0.0.1",
    "dns_nameservers": ["192.0.2.53", "192.0.2.54"],
    "host_routes": [{"destination": "198.51.100.0/24", "nexthop": "10.0.0.254"}],
}
MTU = {"red": 1342, "blue": 1280}
OPTIONS = [
    {"opt_name": "tftp-server", "opt_value": "boot.example"},
    {"opt_name": "domain-name", "opt_value": "port.example"},
]

Vms = Mapping[str, Vm]


@pytest.fixture(scope="module")
def vms(cloud: Cloud) -> dict[str, Vm]:
    """Every VM by name, ACTIVE, with its address from a real client: udhcpc in odd ones, dhclient in even ones."""
    made = {}
    for colour, numbers in MEMBERS.items():
        network = cloud.network(colour, subnet=SUBNET, mtu=MTU[colour])
        for n in numbers:
            more = {"extra_dhcp_opts": OPTIONS} if (colour, n) == ("red", 3) else {}
            mac = f"02:00:00:00:00:{n:02x}"
            made[f"{colour}{n}"] = cloud.vm(
                f"{colour}{n}", HOST_OF[n], network, f"10.0.0.{10 + n}", mac_address=mac, **more
            )
    cloud.await_active(*made.values())
    for name, vm in made.items():
        assert cloud.lab.dhcp(name, _client(vm)).ip == vm.ip
    return made


def _client(vm: Vm) -> Client:
    return "dhclient" if int(vm.name[-1]) % 2 == 0 else "udhcpc"


def others(vms: Vms, vm: Vm) -> list[Vm]:
    """The other members of a VM's network."""
    return [other for other in vms.values() if other.name[:-1] == vm.name[:-1] and other != vm]


def count(capture: Capture, mark: bytes) -> int:
    """How many frames with `mark` in them have arrived."""
    return sum(mark in frame for frame in capture.frames())


def fence(cloud: Cloud, sender: Vm, seen: Mapping[str, Capture], at: list[Vm]) -> None:
    """Wait until a broadcast of `sender` has arrived everywhere: what was sent before it has, too, or never will."""
    mark = b"fence of " + sender.name.encode()
    cloud.lab.inject(sender.name, [sender.udp(mark)])
    for vm in at:
        seen[vm.name].await_frame(lambda frame: mark in frame, PATIENCE_SECONDS)


# Reachability and isolation


@pytest.mark.parametrize(
    ("one", "other"), [(1, 2), (1, 3), (1, 5), (3, 5)], ids=["same host", "h1-h2", "h1-h3", "h2-h3"]
)
def test_members_of_a_network_ping_each_other_both_ways(cloud: Cloud, vms: Vms, one: int, other: int) -> None:
    for colour in MEMBERS:
        a, b = vms[f"{colour}{one}"], vms[f"{colour}{other}"]
        for source, target in ((a, b), (b, a)):
            result = cloud.ping(source, target, count=10)
            assert (result.lost, result.duplicates) == (0, 0), f"{source.name} to {target.name}: {result}"


def test_an_address_that_both_networks_have_is_always_ones_own(cloud: Cloud, vms: Vms) -> None:
    with cloud.answering(vms.values()):
        for source in vms.values():
            expected = sorted((peer.ip, peer.name) for peer in others(vms, source))
            assert cloud.who(source, len(expected), *(ip for ip, _ in expected)) == expected, f"{source.name} asks each"
            # Its own kernel delivers a broadcast to itself as well.
            expected = sorted([*expected, (source.ip, source.name)])
            assert cloud.who(source, len(expected), "10.0.0.255") == expected, f"{source.name} asks everyone"


@pytest.mark.parametrize(("sender", "bystander"), [("red1", "blue1"), ("blue3", "red3"), ("red5", "blue5")])
def test_nothing_leaks_into_the_other_network(cloud: Cloud, vms: Vms, sender: str, bystander: str) -> None:
    me, peers, strangers = vms[sender], others(vms, vms[sender]), [vms[bystander], *others(vms, vms[bystander])]
    to_all = me.udp(b"SECRET to all")
    to_a_group = me.udp(b"SECRET to a group", 0x0100_5E01_0203, "224.1.2.3")
    to_each = [me.udp(b"SECRET to one", peer.mac_int, peer.ip) for peer in peers]
    to_nobody = me.udp(b"SECRET to nobody", mac_int("02:00:00:00:00:99"), "10.0.0.99")
    asks = [me.arp_request(f"10.0.0.{n}") + b"SECRET question" for n in (11, 13, 99)]
    with cloud.captures(vms.values()) as seen:
        cloud.lab.inject(sender, [to_all, to_a_group, *to_each, to_nobody, *asks])
        fence(cloud, me, seen, peers)
        for peer in peers:
            assert count(seen[peer.name], b"SECRET to one") == 1, peer.name
        fence(cloud, vms[bystander], seen, strangers[1:])
        # Its own fence does not come back to the bystander: one of its neighbours' does.
        fence(cloud, strangers[1], seen, [vms[bystander]])
        for stranger in strangers:
            leaked = [frame for frame in seen[stranger.name].frames() if b"SECRET" in frame or frame[6:12] == b"SECRET"]
            assert not leaked, f"{stranger.name} saw {leaked[0].hex()}"
        for member in (me, *peers):
            assert count(seen[member.name], b"SECRET to nobody") == 0, member.name


@pytest.mark.parametrize(
    ("mac", "ip"), [(BROADCAST, "10.0.0.255"), (0x0100_5E01_0203, "224.1.2.3"), (0x3333_0000_0001, "10.0.0.255")],
    ids=["broadcast", "IPv4 multicast", "IPv6 multicast MAC"],
)  # fmt: skip
def test_one_frame_to_all_reaches_each_other_member_once(cloud: Cloud, vms: Vms, mac: int, ip: str) -> None:
    lab = cloud.lab
    for sender in ("red1", "red3", "red5"):
        me, peers = vms[sender], others(vms, vms[sender])
        mark = f"for everyone, by {sender}".encode()
        with cloud.captures([me, *peers]) as seen, lab.capture("underlay", lab.host(me.host).uplink) as wire:
            lab.inject(sender, [me.udp(mark, mac, ip)] * 3)
            fence(cloud, me, seen, peers)
            fence(cloud, peers[0], seen, [me])
            assert {peer.name: count(seen[peer.name], mark) for peer in peers} == dict.fromkeys(
                (peer.name for peer in peers), 3
            )
            assert count(seen[sender], mark) == 0, "it came back to its sender"
            assert count(wire, mark) == 3 * 2, "not once to each of the two other hosts"


# DHCP


@pytest.mark.parametrize("client", ["udhcpc", "dhclient"])
def test_lease_carries_what_subnet_network_configuration_and_port_say(cloud: Cloud, vms: Vms, client: Client) -> None:
    for name in ("red3", "blue3"):
        with cloud.lab.capture(name) as seen:
            lease = cloud.lab.dhcp(name, client)
            ack = next(reversed([message for message in map(_dhcp, seen.frames()) if message]))
        colour = name[:-1]
        assert (lease.interface, lease.router, lease.server) == ("10.0.0.13/24", "10.0.0.1", "10.0.0.1")
        assert lease.dns == ("192.0.2.53", "192.0.2.54")
        assert set(lease.routes) == {("198.51.100.0/24", "10.0.0.254"), ("0.0.0.0/0", "10.0.0.1")}
        assert (lease.mtu, lease.lease_seconds) == (MTU[colour], 86400)
        assert lease.domain == ("port.example" if colour == "red" else "flowloom.test")
        assert ack.kind == dhcp.ACK and ack.chaddr == vms[name].mac_int
        assert ack.sname == (b"boot.example" if colour == "red" else b"")
        assert f"mtu {MTU[colour]} " in cloud.lab.exec(name, ["ip", "link", "show", "eth0"]).stdout


def _dhcp(frame: bytes) -> dhcp.DhcpMessage | None:
    try:
        return dhcp.parse_dhcp(parse_udp4(frame).datagram.payload)
    except Malformed:
        return None


def test_largest_packet_of_the_networks_mtu_passes_through_the_tunnel(cloud: Cloud, vms: Vms) -> None:
    for name, mtu in (("red", MTU["red"]), ("blue", MTU["blue"])):
        # 28: the headers of IPv4 and ICMP.
        assert cloud.lab.ping(f"{name}1", "10.0.0.15", count=3, interval=0.02, size=mtu - 28).lost == 0


# Port security


def _spoofed(me: Vm, victim: Vm) -> Iterator[tuple[str, bytes]]:
    """Frames that must not leave, each with its own name in it."""
    someone, gateway = mac_int("02:00:00:00:00:77"), ipv4_int("10.0.0.1")

    def udp(mac: int, ip: int, to: int, port: int = 4444) -> bytes:
        return build_udp4(mac, to, ip, victim.ip_int, port, 4444, b"")

    def arp(op: int, link: int, sha: int, spa: int, tpa: int, to: int = BROADCAST) -> bytes:
        return Ethernet(to, link, ARP, Arp(op, sha, spa, 0, tpa).encode()).encode()

    frames = {
        "unknown MAC": (someone, me.ip_int), "victim's MAC": (victim.mac_int, me.ip_int),
        "unknown address": (me.mac_int, ipv4_int("10.0.0.99")), "victim's address": (me.mac_int, victim.ip_int),
        "gateway's address": (me.mac_int, gateway), "victim altogether": (victim.mac_int, victim.ip_int),
    }  # fmt: skip
    for name, (mac, ip) in frames.items():
        yield f"{name}, to all", udp(mac, ip, BROADCAST)
        yield f"{name}, to the victim", udp(mac, ip, victim.mac_int)
    yield "address inside a VLAN tag", _tagged(udp(me.mac_int, victim.ip_int, BROADCAST))
    yield "MAC inside a VLAN tag", _tagged(udp(victim.mac_int, me.ip_int, BROADCAST))
    yield "ARP for the gateway", arp(REPLY, me.mac_int, me.mac_int, gateway, victim.ip_int)
    yield (
        "ARP for the gateway, to the victim",
        arp(REPLY, me.mac_int, me.mac_int, gateway, victim.ip_int, victim.mac_int),
    )
    yield "ARP announcement of the victim's address", arp(REQUEST, me.mac_int, me.mac_int, victim.ip_int, victim.ip_int)
    yield "ARP of another's MAC", arp(REPLY, me.mac_int, someone, me.ip_int, victim.ip_int)
    yield "ARP in a frame of another's MAC", arp(REPLY, someone, me.mac_int, me.ip_int, victim.ip_int)
    yield "a DHCP server", build_udp4(me.mac_int, BROADCAST, me.ip_int, victim.ip_int, 67, 68, b"")
    yield "neither IP nor ARP", Ethernet(BROADCAST, me.mac_int, 0x88B5, b"experiment").encode()


def _tagged(frame: bytes) -> bytes:
    return frame[:12] + bytes.fromhex("81000005") + frame[12:]


@pytest.mark.parametrize("sender", ["red1", "blue5"])
def test_spoofed_source_does_not_leave(cloud: Cloud, vms: Vms, sender: str) -> None:
    me, peers = vms[sender], others(vms, vms[sender])
    frames = [
        frame.ljust(60, b"\0") + f"SPOOF {name}!".encode() for name, frame in _spoofed(me, vms[f"{sender[:-1]}3"])
    ]
    with cloud.captures(vms.values()) as seen:
        cloud.lab.inject(sender, frames)
        fence(cloud, me, seen, peers)
        for vm in vms.values():
            got = [frame[frame.index(b"SPOOF") :] for frame in seen[vm.name].frames() if b"SPOOF" in frame]
            assert not got, f"at {vm.name}: {got}"


# Changes


def arp_answer(cloud: Cloud, asker: Vm, address: str) -> str | None:
    """The MAC that an ARP question of `asker` is answered with, None when nobody answers."""
    fence = "10.0.0.12"  # A neighbour whose address is asked for afterwards, and is always answered.
    with cloud.lab.capture(asker.name) as seen:
        cloud.lab.inject(asker.name, [asker.arp_request(address), asker.arp_request(fence)])
        seen.await_frame(lambda frame: _answers(frame, fence) is not None, PATIENCE_SECONDS)
        found = [mac for frame in seen.frames() if (mac := _answers(frame, address)) is not None]
    assert len(found) < 2, f"{address} is answered {len(found)} times"
    return found[0] if found else None


def _answers(frame: bytes, address: str) -> str | None:
    link = parse_ethernet(frame)
    if link.ethertype != ARP:
        return None
    answer = parse_arp(link.payload)
    if (answer.op, answer.spa) != (REPLY, ipv4_int(address)):
        return None
    return answer.sha.to_bytes(6, "big").hex(":")


def test_port_that_is_switched_off_neither_sends_nor_receives_and_comes_back(cloud: Cloud, vms: Vms) -> None:
    neutron = cloud.neutron
    far, near, subject = vms["red5"], vms["red1"], vms["red2"]
    cloud.await_reach(far, subject)
    cloud.await_reach(near, subject)
    neutron.update_port(subject.port_id, admin_state_up=False)
    eventually("it is unreachable", lambda: cloud.ping(far, subject, 3).received == 0)
    eventually("Neutron says DOWN", lambda: cloud.status(subject.port_id) == "DOWN")
    assert cloud.ping(near, subject).received == 0
    with cloud.captures([subject, far, near]) as seen:
        cloud.lab.inject(subject.name, [subject.udp(b"OFF to all"), subject.udp(b"OFF to one", far.mac_int, far.ip)])
        cloud.lab.inject(near.name, [near.udp(b"OFF to it", subject.mac_int, subject.ip)])
        fence(cloud, near, seen, [far])
        fence(cloud, far, seen, [near])
        assert [name for name, capture in seen.items() if count(capture, b"OFF")] == []
        assert count(seen[subject.name], b"fence") == 0
    cloud.forget_megaflows()
    neutron.update_port(subject.port_id, admin_state_up=True)
    cloud.await_active(subject)
    cloud.await_reach(far, subject)
    cloud.await_reach(subject, near)


def test_port_that_is_deleted_leaves_no_flow_anywhere(cloud: Cloud, vms: Vms) -> None:
    cloud.await_quiet()
    before = cloud.everywhere()
    made = cloud.vm("passing", "h2", cloud.neutron.get_port(vms["red1"].port_id).network_id, "10.0.0.66")
    cloud.await_active(made)
    assert cloud.lab.dhcp("passing").ip == made.ip
    cloud.await_reach(vms["red1"], made)
    eventually("every host knows it", lambda: all(now != before[host] for host, now in cloud.everywhere().items()))
    cloud.neutron.delete_port(made.port_id)
    eventually("flows are what they were", lambda: cloud.everywhere() == before)
    assert cloud.ping(vms["red1"], made).received == 0
    cloud.lab.vm_rm("passing")
    cloud.await_quiet()
    assert cloud.everywhere() == before
    cloud.assert_equal_to_oracle()


def test_changed_address_is_what_is_allowed_and_answered(cloud: Cloud, vms: Vms) -> None:
    subject, far, near = vms["blue3"], vms["blue1"], vms["blue5"]
    old, new = subject.ip, "10.0.0.33"
    assert cloud.lab.dhcp(subject.name, "udhcpc").ip == old
    assert arp_answer(cloud, far, old) == subject.mac
    subnet = cloud.neutron.get_port(subject.port_id).fixed_ips[0]["subnet_id"]
    try:
        cloud.neutron.update_port(subject.port_id, fixed_ips=[{"subnet_id": subnet, "ip_address": new}])
        for asker in (far, near):
            eventually("the new one is answered", lambda asker=asker: arp_answer(cloud, asker, new) == subject.mac)  # type: ignore[misc]
            eventually("the old one is not", lambda asker=asker: arp_answer(cloud, asker, old) is None)  # type: ignore[misc]
        cloud.await_active(subject)
        moved = Vm(subject.name, subject.host, subject.port_id, new, subject.mac)
        with cloud.captures([far, near]) as seen:
            cloud.lab.inject(subject.name, [subject.udp(b"from the old address"), moved.udp(b"from the new address")])
            for capture in seen.values():
                capture.await_frame(lambda frame: b"from the new address" in frame, PATIENCE_SECONDS)
                assert count(capture, b"from the old address") == 0
        # The client has the old address still.  Asked whether it may keep it, the server says no.
        with cloud.lab.capture(subject.name) as here:
            cloud.lab.inject(subject.name, [_may_i_keep(subject.mac_int, old), _may_i_keep(subject.mac_int, new)])
            here.await_frame(lambda frame: _kind(frame) == dhcp.ACK, PATIENCE_SECONDS)
            assert [kind for kind in map(_kind, here.frames()) if kind] == [dhcp.NAK, dhcp.ACK]
        cloud.lab.dhcp_renew(subject.name)
        eventually("the client moves", lambda: _current(cloud, subject.name) == new)
        cloud.await_reach(far, moved)
        cloud.await_reach(moved, near)
    finally:
        cloud.neutron.update_port(subject.port_id, fixed_ips=[{"subnet_id": subnet, "ip_address": old}])
    eventually("the old one is answered again", lambda: arp_answer(cloud, far, old) == subject.mac)
    assert cloud.lab.dhcp(subject.name).ip == old


def _may_i_keep(mac: int, address: str) -> bytes:
    """What a client that restarts asks (RFC 2131, section 4.3.2: INIT-REBOOT)."""
    options = {dhcp.MESSAGE_TYPE: bytes((dhcp.REQUEST,)), dhcp.REQUESTED_ADDRESS: ipv4_int(address).to_bytes(4, "big")}
    message = dhcp.DhcpMessage(dhcp.REQUEST_OP, ipv4_int(address), 0, 0, 0, 0, 0, 0, mac, options)
    return build_udp4(mac, BROADCAST, 0, 0xFFFF_FFFF, dhcp.CLIENT_PORT, dhcp.SERVER_PORT, message.encode())


def _kind(frame: bytes) -> int | None:
    message = _dhcp(frame)
    return message.kind if message else None


def _current(cloud: Cloud, vm: str) -> str:
    leases = [event.lease for event in cloud.lab.dhcp_events(vm) if event.lease]
    return str(IPv4Address(leases[-1].ip)) if leases else ""


def test_vm_that_moves_to_another_host_is_found_there(cloud: Cloud, vms: Vms) -> None:
    subject = vms["red4"]
    cloud.lab.vm_rm(subject.name)
    moved = cloud.plug(subject.name, "h3", cloud.neutron.get_port(subject.port_id))
    try:
        cloud.await_active(moved)
        cloud.address(moved)
        for peer in ("red1", "red3", "red5"):
            cloud.await_reach(vms[peer], moved)
        cloud.await_quiet()
        cloud.assert_equal_to_oracle()
    finally:
        cloud.lab.vm_rm(subject.name)
        cloud.plug(subject.name, subject.host, cloud.neutron.get_port(subject.port_id))
    cloud.await_active(subject)
    cloud.address(subject)
    cloud.await_reach(vms["red5"], subject)
