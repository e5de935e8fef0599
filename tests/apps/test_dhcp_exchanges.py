"""RFC 2131, message by message: what a client in each state sends, and what it gets."""

from __future__ import annotations

import pytest
from dhcp_world import (
    ADDRESS,
    GATEWAY,
    MAC,
    SETTINGS,
    WORLD,
    address,
    answer,
    ask,
    framed,
    network,
    packet_in,
    port,
    request,
    subnet,
    told,
)

from flowloom.apps import punts
from flowloom.apps.dhcp_server import DhcpServer
from flowloom.apps.punts import Answer, Ignored
from flowloom.compiler.compiler import Compiler
from flowloom.model.records import AddressPair, FixedIP
from flowloom.packet import dhcp
from flowloom.packet.dhcp import BROADCAST_FLAG
from flowloom.packet.ethernet import Ethernet
from flowloom.packet.ipv4 import BROADCAST, ipv4_int
from flowloom.packet.udp import build_udp4

EVERYONE = 0xFFFF_FFFF_FFFF
OTHER = "10.0.0.77"
TWO = (network(), subnet(), port(fixed_ips=(FixedIP("s", "10.0.0.5"), FixedIP("s", "10.0.0.6"))))


def refused(*args, **kwargs) -> str:  # type: ignore[no-untyped-def]
    answered = answer(*args, **kwargs)
    assert isinstance(answered, Ignored), answered
    assert answered.why
    return answered.counter


def test_discover_is_offered_the_ports_address() -> None:
    answered = answer(request(dhcp.DISCOVER))
    frame, message = told(answered)
    assert isinstance(answered, Answer) and answered.counter == "offer" and answered.notes == ()
    assert message.kind == dhcp.OFFER
    assert (message.yiaddr, message.ciaddr, message.siaddr, message.chaddr) == (ADDRESS, 0, 0, MAC)
    assert message.number(dhcp.SERVER_IDENTIFIER) == GATEWAY
    assert (frame.link.dst, frame.network.dst, frame.datagram.dport) == (MAC, ADDRESS, 68)


def test_a_client_that_cannot_receive_unicast_is_answered_by_broadcast() -> None:
    frame, message = told(answer(request(dhcp.DISCOVER, flags=BROADCAST_FLAG)))
    assert (frame.link.dst, frame.network.dst) == (EVERYONE, BROADCAST)
    assert message.flags == BROADCAST_FLAG


def test_discover_that_wishes_for_another_ports_address_is_offered_its_own() -> None:
    assert ask(request(dhcp.DISCOVER, address(50, OTHER))).yiaddr == ADDRESS


def test_of_several_addresses_the_wished_one_is_offered_and_else_the_first() -> None:
    assert ask(request(dhcp.DISCOVER), *TWO).yiaddr == ADDRESS
    assert ask(request(dhcp.DISCOVER, address(50, "10.0.0.6")), *TWO).yiaddr == ipv4_int("10.0.0.6")


def test_request_of_the_offer_is_acknowledged() -> None:
    selecting = request(dhcp.REQUEST, address(50, "10.0.0.5") | address(54, "10.0.0.1"))
    frame, message = told(answer(selecting))
    assert message.kind == dhcp.ACK
    assert (message.yiaddr, message.ciaddr) == (ADDRESS, 0)
    assert (frame.link.dst, frame.network.dst) == (MAC, ADDRESS)


def test_request_of_another_servers_offer_is_left_to_it() -> None:
    assert refused(request(dhcp.REQUEST, address(50, "10.0.0.5") | address(54, "10.0.0.2"))) == "other_server"


def test_reboot_with_the_ports_address_is_acknowledged() -> None:
    message = ask(request(dhcp.REQUEST, address(50, "10.0.0.5")))
    assert (message.kind, message.yiaddr) == (dhcp.ACK, ADDRESS)


@pytest.mark.parametrize(("dst", "eth_dst"), [(GATEWAY, 0x020000000067), (BROADCAST, EVERYONE)])
def test_renewing_and_rebinding_are_acknowledged_by_unicast(dst: int, eth_dst: int) -> None:
    renewing = framed(request(dhcp.REQUEST, ciaddr=ADDRESS), ADDRESS, dst, eth_dst)
    frame, message = told(answer(renewing))
    assert (message.kind, message.yiaddr, message.ciaddr) == (dhcp.ACK, ADDRESS, ADDRESS)
    assert (frame.link.dst, frame.network.dst) == (MAC, ADDRESS)
    assert message.number(dhcp.LEASE_SECONDS) == 3600


def test_the_second_address_can_be_renewed_too() -> None:
    second = ipv4_int("10.0.0.6")
    assert ask(request(dhcp.REQUEST, ciaddr=second), *TWO).yiaddr == second


@pytest.mark.parametrize(
    "asked",
    [
        request(dhcp.REQUEST, address(50, OTHER) | address(54, "10.0.0.1")),
        request(dhcp.REQUEST, address(50, OTHER)),
        request(dhcp.REQUEST, ciaddr=ipv4_int(OTHER)),
    ],
    ids=["selecting", "reboot", "renewing"],
)
def test_an_address_that_is_not_the_ports_is_refused_by_broadcast(asked) -> None:  # type: ignore[no-untyped-def]
    answered = answer(asked)
    frame, message = told(answered)
    assert isinstance(answered, Answer) and answered.counter == "nak"
    assert message.kind == dhcp.NAK
    assert (message.yiaddr, message.ciaddr, message.siaddr) == (0, 0, 0)
    assert (frame.link.dst, frame.network.dst) == (EVERYONE, BROADCAST)
    assert message.flags == 0
    assert set(message.options) == {dhcp.MESSAGE_TYPE, dhcp.SERVER_IDENTIFIER, dhcp.MESSAGE}


def test_what_is_asked_for_goes_before_what_the_client_has() -> None:
    assert ask(request(dhcp.REQUEST, address(50, OTHER), ciaddr=ADDRESS)).kind == dhcp.NAK


def test_an_offer_says_nothing_of_an_address_the_client_has() -> None:
    frame, message = told(answer(request(dhcp.DISCOVER, ciaddr=ADDRESS)))
    assert (message.ciaddr, message.yiaddr, frame.network.dst) == (0, ADDRESS, ADDRESS)


def test_an_address_of_a_subnet_without_dhcp_is_refused() -> None:
    two = port(fixed_ips=(FixedIP("s", "10.0.0.5"), FixedIP("t", "10.1.0.5")))
    world = (network(), subnet(), subnet(id="t", cidr="10.1.0.0/24", gateway_ip=None, enable_dhcp=False), two)
    assert ask(request(dhcp.REQUEST, address(50, "10.1.0.5")), *world).kind == dhcp.NAK


def test_a_request_for_no_address_is_malformed() -> None:
    assert refused(request(dhcp.REQUEST)) == "malformed"


def test_decline_and_release_are_counted_and_not_answered() -> None:
    assert refused(request(dhcp.DECLINE, address(50, "10.0.0.5") | address(54, "10.0.0.1"))) == "declined"
    assert refused(request(dhcp.RELEASE, address(54, "10.0.0.1"), ciaddr=ADDRESS)) == "released"


def test_inform_is_told_everything_but_a_lease() -> None:
    frame, message = told(answer(request(dhcp.INFORM, ciaddr=ADDRESS)))
    assert (message.kind, message.yiaddr, message.ciaddr) == (dhcp.ACK, 0, ADDRESS)
    assert not {dhcp.LEASE_SECONDS, dhcp.RENEWAL_SECONDS, dhcp.REBINDING_SECONDS} & set(message.options)
    assert dhcp.SUBNET_MASK in message.options
    assert (frame.link.dst, frame.network.dst) == (MAC, ADDRESS)


def test_inform_without_an_address_is_answered_by_broadcast() -> None:
    frame, _ = told(answer(request(dhcp.INFORM)))
    assert (frame.link.dst, frame.network.dst) == (EVERYONE, BROADCAST)


def test_inform_from_an_address_that_is_not_the_ports_is_told_all_the_same() -> None:
    frame, message = told(answer(request(dhcp.INFORM, ciaddr=ipv4_int(OTHER))))
    assert (message.kind, message.yiaddr, frame.network.dst) == (dhcp.ACK, 0, ipv4_int(OTHER))


def test_a_relays_option_without_a_relay_is_not_given_back() -> None:
    assert 82 not in ask(request(dhcp.DISCOVER, {82: b"\1\2ab"})).options


def test_an_ipv6_address_beside_is_no_reason_for_a_note() -> None:
    both = port(fixed_ips=(FixedIP("t", "fd00::5"), FixedIP("s", "10.0.0.5")))
    six = subnet(id="t", cidr="fd00::/64", ip_version=6, gateway_ip="fd00::1")
    answered = answer(request(dhcp.DISCOVER), network(), subnet(), six, both)
    assert isinstance(answered, Answer) and answered.notes == ()


def test_a_relay_gets_the_answer_on_the_servers_port_with_its_own_option() -> None:
    relay = ipv4_int("10.0.0.9")
    frame, message = told(answer(request(dhcp.DISCOVER, {82: b"\1\2ab"}, giaddr=relay)))
    assert (frame.link.dst, frame.network.dst, frame.datagram.dport) == (MAC, relay, 67)
    assert (message.giaddr, message.options[82]) == (relay, b"\1\2ab")
    _, nak = told(answer(request(dhcp.REQUEST, address(50, OTHER), giaddr=relay)))
    assert nak.flags == BROADCAST_FLAG


def test_the_client_identifier_is_given_back() -> None:
    assert ask(request(dhcp.DISCOVER, {61: b"\1abcdef"})).options[61] == b"\1abcdef"
    assert ask(request(dhcp.REQUEST, {61: b"\1abcdef"} | address(50, OTHER))).options[61] == b"\1abcdef"


def test_a_client_with_a_mac_that_is_not_the_ports_is_ignored() -> None:
    assert refused(request(dhcp.DISCOVER, chaddr=MAC + 1)) == "foreign_client"


def test_a_mac_of_an_allowed_address_pair_is_the_ports() -> None:
    pair = port(allowed_address_pairs=(AddressPair("10.0.0.5", "fa:16:3e:00:00:02"), AddressPair("10.0.0.8", "junk")))
    frame, message = told(answer(request(dhcp.DISCOVER, chaddr=MAC + 1), network(), subnet(), pair))
    assert (frame.link.dst, message.chaddr, message.yiaddr) == (MAC + 1, MAC + 1, ADDRESS)


def test_a_subnet_without_gateway_has_a_link_local_server() -> None:
    world = (network(), subnet(gateway_ip=None), port())
    offer = ask(request(dhcp.DISCOVER), *world)
    assert offer.number(dhcp.SERVER_IDENTIFIER) == ipv4_int("169.254.0.1")
    assert ask(request(dhcp.REQUEST, address(50, "10.0.0.5") | address(54, "169.254.0.1")), *world).kind == dhcp.ACK


def test_the_asking_port_is_known_by_the_flow_not_by_what_the_request_says() -> None:
    twin = port(id="q", key=10, fixed_ips=(FixedIP("s", "10.0.0.6"),))
    assert told(answer(request(dhcp.DISCOVER), *WORLD, twin, userdata=b"\1q"))[1].yiaddr == ipv4_int("10.0.0.6")


@pytest.mark.parametrize(
    ("records", "counter"),
    [
        ((network(), subnet()), "unknown_port"),
        ((subnet(), port()), "unknown_network"),
        ((network(), port()), "no_address"),
        ((network(), subnet(enable_dhcp=False), port()), "no_address"),
        ((network(), subnet(), port(fixed_ips=())), "no_address"),
        ((network(), subnet(cidr="10.0.0.0/99"), port()), "no_address"),
        ((network(), subnet(gateway_ip="nonsense"), port()), "no_address"),
        ((network(), subnet(cidr="fd00::/64", ip_version=6), port(fixed_ips=(FixedIP("s", "fd00::5"),))), "no_address"),
    ],
)
def test_records_that_do_not_say_what_to_answer_mean_silence(records, counter) -> None:  # type: ignore[no-untyped-def]
    assert refused(request(dhcp.DISCOVER), *records) == counter


def test_an_address_that_cannot_be_given_is_noted_and_the_others_are_given() -> None:
    two = port(fixed_ips=(FixedIP("t", "10.1.0.5"), FixedIP("s", "10.0.0.5")))
    answered = answer(request(dhcp.DISCOVER), network(), subnet(), subnet(id="t", cidr="junk"), two)
    assert told(answered)[1].yiaddr == ADDRESS
    assert isinstance(answered, Answer) and len(answered.notes) == 1 and "subnet t" in answered.notes[0]


@pytest.mark.parametrize("kind", [None, 0, dhcp.OFFER, dhcp.ACK, dhcp.NAK, 13])
def test_what_no_client_sends_is_ignored(kind: int | None) -> None:
    assert refused(request(kind)) == "unsupported"


def test_replies_other_ports_and_tagged_frames_are_not_requests() -> None:
    assert refused(request(dhcp.DISCOVER, op=2)) == "unsupported"
    asked = request(dhcp.DISCOVER)
    assert refused(build_udp4(MAC, EVERYONE, 0, BROADCAST, 68, 68, asked.encode())) == "unsupported"
    inner = framed(asked)[14:]
    assert refused(Ethernet(EVERYONE, MAC, 0x0800, inner, tag=100).encode()) == "unsupported"
    assert isinstance(answer(Ethernet(EVERYONE, MAC, 0x0800, inner, tag=0xE000).encode()), Answer)


def test_the_registry_gives_a_packet_to_the_app_its_userdata_names() -> None:
    compiler = Compiler((), "h1")
    compiler.load(WORLD)
    apps = {punts.DHCP4: DhcpServer(SETTINGS)}
    frame = framed(request(dhcp.DISCOVER))
    assert isinstance(punts.answer(apps, packet_in(frame), compiler.view()), Answer)
    for userdata in (b"", b"\0p", b"\xffp"):
        unclaimed = punts.answer(apps, packet_in(frame, userdata), compiler.view())
        assert isinstance(unclaimed, Ignored) and unclaimed.counter == punts.UNCLAIMED
