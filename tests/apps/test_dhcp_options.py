"""What a client is told, and from which record it comes."""

from __future__ import annotations

import pytest
from dhcp_world import ADDRESS, SETTINGS, address, answer, ask, network, port, quads, request, subnet, told, wanting

from flowloom.apps.dhcp import INFINITE, DhcpSettings
from flowloom.apps.punts import Answer
from flowloom.model.records import DhcpOption, HostRoute
from flowloom.packet import dhcp
from flowloom.packet.dhcp import DhcpMessage
from flowloom.packet.ipv4 import ipv4_int

DISCOVER = request(dhcp.DISCOVER)
ROUTES = (HostRoute("10.9.0.0/16", "10.0.0.9"), HostRoute("192.0.2.7/32", "10.0.0.8"))
ROUTES_BYTES = bytes.fromhex("100a090a000009" + "20c00002070a000008")
DEFAULT_BYTES = bytes.fromhex("000a000001")


def extra(*options: tuple[str, str]) -> tuple[DhcpMessage, tuple[str, ...]]:
    """The offer to a port with these extra options, and its notes."""
    has = port(extra_dhcp_opts=tuple(DhcpOption(*each) for each in options))
    answered = answer(DISCOVER, network(), subnet(), has)
    assert isinstance(answered, Answer)
    return told(answered)[1], answered.notes


def test_a_plain_subnet() -> None:
    options = ask(DISCOVER).options
    assert options == {
        53: b"\2",
        54: bytes((10, 0, 0, 1)),
        1: bytes((255, 255, 255, 0)),
        3: bytes((10, 0, 0, 1)),
        6: bytes((9, 9, 9, 9)),
        12: b"host-10-0-0-5",
        15: b"cloud.test",
        26: (1442).to_bytes(2, "big"),
        28: bytes((10, 0, 0, 255)),
        51: (3600).to_bytes(4, "big"),
        58: (1800).to_bytes(4, "big"),
        59: (3150).to_bytes(4, "big"),
    }


def test_what_the_records_say_goes_before_the_configuration() -> None:
    world = (
        network(dns_domain="tenant.example."),
        subnet(cidr="10.0.0.0/23", dns_nameservers=("192.0.2.53", "fd00::53", "192.0.2.54")),
        port(dns_name="web-1"),
    )
    options = ask(DISCOVER, *world).options
    assert (options[12], options[15]) == (b"web-1", b"tenant.example")
    assert quads(options[6]) == ["192.0.2.53", "192.0.2.54"]
    assert (quads(options[1]), quads(options[28])) == (["255.255.254.0"], ["10.0.1.255"])


def test_a_name_server_of_all_zeros_means_none() -> None:
    assert 6 not in ask(DISCOVER, network(), subnet(dns_nameservers=("0.0.0.0",)), port()).options


def test_nothing_configured_is_nothing_told() -> None:
    options = ask(DISCOVER, settings=DhcpSettings()).options
    assert 6 not in options and 15 not in options


def test_a_subnet_without_gateway_has_no_router() -> None:
    assert 3 not in ask(DISCOVER, network(), subnet(gateway_ip=None), port()).options


def test_a_subnet_of_two_addresses_has_no_broadcast() -> None:
    assert 28 not in ask(DISCOVER, network(), subnet(cidr="10.0.0.4/31"), port()).options


def test_host_routes_come_with_the_default_route() -> None:
    options = ask(DISCOVER, network(), subnet(host_routes=ROUTES), port()).options
    assert options[121] == ROUTES_BYTES + DEFAULT_BYTES
    assert quads(options[3]) == ["10.0.0.1"]
    assert 249 not in options


def test_without_gateway_host_routes_come_alone_or_with_their_own_default() -> None:
    bare = subnet(gateway_ip=None, host_routes=ROUTES)
    assert ask(DISCOVER, network(), bare, port()).options[121] == ROUTES_BYTES
    own = subnet(gateway_ip=None, host_routes=(*ROUTES, HostRoute("0.0.0.0/0", "10.0.0.9")))
    options = ask(DISCOVER, network(), own, port()).options
    assert options[121] == ROUTES_BYTES + bytes.fromhex("000a000009")
    assert quads(options[3]) == ["10.0.0.9"]


def test_microsofts_twin_of_the_routes_is_for_who_asks() -> None:
    world = (network(), subnet(host_routes=ROUTES), port())
    options = ask(request(dhcp.DISCOVER, wanting(249)), *world).options
    assert options[249] == ROUTES_BYTES + DEFAULT_BYTES
    assert 121 not in options


def test_a_host_route_that_is_none_is_noted_and_left_out() -> None:
    routes = (HostRoute("nonsense", "10.0.0.9"), HostRoute("10.8.0.0/16", "fd00::1"), *ROUTES)
    answered = answer(DISCOVER, network(), subnet(host_routes=routes), port())
    assert isinstance(answered, Answer)
    assert told(answered)[1].options[121] == ROUTES_BYTES + DEFAULT_BYTES
    assert len(answered.notes) == 2 and all("subnet s: host route" in note for note in answered.notes)


def test_a_client_gets_what_it_lists_in_its_order_after_what_every_client_gets() -> None:
    asked = ask(request(dhcp.DISCOVER, wanting(15, 3, 99, 12)))
    assert list(asked.options) == [53, 54, 51, 1, 58, 59, 26, 15, 3, 12]


def test_an_infinite_lease_has_no_renewal() -> None:
    options = ask(DISCOVER, settings=DhcpSettings(lease_seconds=INFINITE)).options
    assert options[51] == b"\xff\xff\xff\xff" and 58 not in options and 59 not in options


@pytest.mark.parametrize(
    ("name", "value", "number", "encoded"),
    [
        ("router", "10.0.0.2", 3, bytes((10, 0, 0, 2))),
        ("option:dns-server", "1.1.1.1,8.8.8.8", 6, bytes((1, 1, 1, 1, 8, 8, 8, 8))),
        ("hostname", "other", 12, b"other"),
        ("15", "other.test", 15, b"other.test"),
        ("mtu", "9000", 26, (9000).to_bytes(2, "big")),
        ("42", "192.0.2.1", 42, bytes((192, 0, 2, 1))),
        ("domain-search", "a.test,b.test", 119, b"\1a\4test\0\1b\4test\0"),
        ("classless-static-route", "10.7.0.0/16,10.0.0.7", 121, bytes.fromhex("100a070a000007")),
        ("wpad", "http://wpad.test/", 252, b"http://wpad.test/"),
    ],
)
def test_an_extra_option_overrides(name: str, value: str, number: int, encoded: bytes) -> None:
    message, notes = extra((name, value))
    assert message.options[number] == encoded and notes == ()


def test_an_extra_option_is_sent_though_the_client_does_not_list_it() -> None:
    has = port(extra_dhcp_opts=(DhcpOption("ntp-server", "192.0.2.1"),))
    assert 42 in ask(request(dhcp.DISCOVER, wanting(3)), network(), subnet(), has).options


def test_renewal_follows_an_overridden_lease_time() -> None:
    message, _ = extra(("lease-time", "100"))
    assert (message.number(51), message.number(58), message.number(59)) == (100, 50, 87)
    message, _ = extra(("lease-time", "100"), ("t1", "10"))
    assert (message.number(58), message.number(59)) == (10, 87)


def test_the_default_of_the_routes_follows_an_overridden_router() -> None:
    has = port(extra_dhcp_opts=(DhcpOption("router", "10.0.0.2"),))
    options = ask(DISCOVER, network(), subnet(host_routes=ROUTES), has).options
    assert options[121] == ROUTES_BYTES + bytes.fromhex("000a000002")


def test_of_several_overriding_routers_the_first_is_the_default() -> None:
    has = port(extra_dhcp_opts=(DhcpOption("router", "10.0.0.2,10.0.0.3"),))
    options = ask(DISCOVER, network(), subnet(host_routes=ROUTES), has).options
    assert options[121] == ROUTES_BYTES + bytes.fromhex("000a000002")
    assert quads(options[3]) == ["10.0.0.2", "10.0.0.3"]


def test_overridden_routes_replace_the_subnets_for_microsoft_too() -> None:
    has = port(extra_dhcp_opts=(DhcpOption("121", "10.7.0.0/16,10.0.0.7"),))
    options = ask(request(dhcp.DISCOVER, wanting(249)), network(), subnet(host_routes=ROUTES), has).options
    assert options[121] == options[249] == bytes.fromhex("100a070a000007")


def test_boot_options_stand_in_the_header_too() -> None:
    message, notes = extra(
        ("server-ip-address", "192.0.2.10"), ("tftp-server", "boot.test"), ("bootfile-name", "pxelinux.0")
    )
    assert (message.siaddr, message.sname, message.file) == (ipv4_int("192.0.2.10"), b"boot.test", b"pxelinux.0")
    assert (message.options[66], message.options[67], notes) == (b"boot.test", b"pxelinux.0", ())


def test_a_boot_server_given_by_address_is_the_next_server() -> None:
    assert extra(("66", "192.0.2.11"))[0].siaddr == ipv4_int("192.0.2.11")
    message, _ = extra(("66", "192.0.2.11"), ("server-ip-address", "192.0.2.10"))
    assert message.siaddr == ipv4_int("192.0.2.10")


def test_boot_names_too_long_for_the_header_are_options_only() -> None:
    message, notes = extra(("tftp-server", "t" * 64), ("bootfile-name", "b" * 128))
    assert (message.sname, message.file, notes) == (b"", b"", ())
    assert (message.options[66], message.options[67]) == (b"t" * 64, b"b" * 128)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no-such-option", "x"), ("0", "x"), ("255", "x"), ("router", "nonsense"), ("mtu", "70000"),
        ("lease-time", "-1"), ("server-ip-address", "nonsense"), ("server-ip-address", ""), ("hostname", ""),
        ("53", "0x06"), ("54", "10.0.0.3"), ("61", "x"), ("option:82", "0x0102"), ("52", "0x01"),
    ],
)  # fmt: skip
def test_an_extra_option_that_cannot_be_used_is_noted_and_changes_nothing(name: str, value: str) -> None:
    message, notes = extra((name, value))
    assert message == ask(DISCOVER)
    assert len(notes) == 1 and repr(name) in notes[0]


def test_extra_options_for_ipv6_are_not_this_apps() -> None:
    has = port(extra_dhcp_opts=(DhcpOption("dns-server", "fd00::53", 6),))
    answered = answer(DISCOVER, network(), subnet(), has)
    assert isinstance(answered, Answer) and answered.notes == ()
    assert told(answered)[1] == ask(DISCOVER)


def test_more_than_a_client_takes_loses_the_least_important() -> None:
    has = port(extra_dhcp_opts=tuple(DhcpOption(str(number), "z" * 200) for number in range(224, 232)))
    small = ask(DISCOVER, network(), subnet(), has)
    assert {1, 3, 26, 51, 54, 58, 59} <= set(small.options)
    assert not set(range(224, 232)) <= set(small.options)
    large = ask(request(dhcp.DISCOVER, {57: (9000).to_bytes(2, "big")}), network(mtu=8942), subnet(), has)
    assert set(range(224, 232)) <= set(large.options)


def test_no_answer_is_larger_than_the_network_carries() -> None:
    long = tuple(DhcpOption(str(number), "z" * 110) for number in range(151, 176))
    short = tuple(DhcpOption(str(number), "z") for number in range(212, 249))
    has = port(extra_dhcp_opts=long + short)
    frame, _ = told(answer(request(dhcp.DISCOVER, {57: b"\xff\xff"}), network(), subnet(), has))
    assert 1400 < 28 + len(frame.datagram.payload) <= 1442


@pytest.mark.parametrize("mtu", [-1, 0, 67, 70_000])
def test_an_mtu_that_ipv4_does_not_know_is_brought_within_bounds(mtu: int) -> None:
    assert ask(DISCOVER, network(mtu=mtu), subnet(), port()).number(26) == (68 if mtu < 68 else 0xFFFF)


def test_a_second_question_gets_the_same_answer() -> None:
    asked = request(dhcp.REQUEST, address(50, "10.0.0.5"))
    assert answer(asked) == answer(asked)
    assert ask(asked, settings=SETTINGS).yiaddr == ADDRESS
