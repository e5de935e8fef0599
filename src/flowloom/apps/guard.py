"""Port security: no spoofed source leaves a port.

A port may use its own addresses and its allowed address pairs, each with its MAC, in Ethernet, IP, ARP
and neighbour discovery alike; it may not play router or DHCP server.  What is not allowed is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from flowloom.apps.addresses import (
    ETH_ARP,
    ETH_IP4,
    ETH_IP6,
    is_ip4,
    link_local,
    within,
)
from flowloom.compiler.unit import HERE, App, Rule, Yielded
from flowloom.compiler.view import View
from flowloom.model.records import Port
from flowloom.packet.ethernet import mac_int
from flowloom.pipeline.framework import Goto, Term
from flowloom.pipeline.layout import (
    ARP_SHA,
    ARP_SPA,
    ETH_SRC,
    ETH_TYPE,
    GUARD,
    ICMP6_TYPE,
    IN_KEY,
    IP6_SRC,
    IP_PROTO,
    IP_SRC,
    ND_SLL,
    ND_TARGET,
    ND_TLL,
    SERVICE,
    UDP_DST,
    UDP_SRC,
    Priority,
)

ICMP6: Final = 58
UDP: Final = 17
ROUTER_SOLICITATION: Final = 133
ROUTER_ADVERTISEMENT: Final = 134
NEIGHBOUR_SOLICITATION: Final = 135
NEIGHBOUR_ADVERTISEMENT: Final = 136
REDIRECT: Final = 137
MULTICAST_LISTENER_REPORT: Final = 143

_ON: Final[tuple[Goto, ...]] = (SERVICE.goto,)
_IP4: Final = ETH_TYPE.eq(ETH_IP4)
_ARP: Final = ETH_TYPE.eq(ETH_ARP)
_IP6: Final = ETH_TYPE.eq(ETH_IP6)
_UDP4: Final = (_IP4, IP_PROTO.eq(UDP))
_UDP6: Final = (_IP6, IP_PROTO.eq(UDP))
_ICMP6: Final = (_IP6, IP_PROTO.eq(ICMP6))
_ANYONE: Final = 0
"""The unspecified address: a host that has none yet."""

_NOT_A_HOSTS_BUSINESS: Final = (
    (*_UDP4, UDP_SRC.eq(67)),
    (*_UDP6, UDP_SRC.eq(547)),
    *((*_ICMP6, ICMP6_TYPE.eq(kind)) for kind in (ROUTER_ADVERTISEMENT, REDIRECT)),
    *((*_ICMP6, ICMP6_TYPE.eq(kind)) for kind in (NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT)),
)
"""Denied first; solicitations and advertisements that tell the truth are allowed above this."""


def _guard(port: Port, _: View) -> Iterator[Yielded]:
    this = IN_KEY.eq(port.key)
    if not port.port_security_enabled:
        yield GUARD.flow(this, then=_ON, priority=Priority.ALLOW_ALL)
        return
    for terms in _NOT_A_HOSTS_BUSINESS:
        yield GUARD.flow(this, *terms, then=(), priority=Priority.DENY)
    own = [(port.mac_address, fixed.ip_address) for fixed in port.fixed_ips]
    pairs = [(pair.mac_address, pair.ip_address) for pair in port.allowed_address_pairs]
    for mac in sorted({mac_int(port.mac_address), *(mac_int(pair) for pair, _ in pairs)}):
        yield from _before_an_address(this, mac)
        yield from _ip6_source(this, mac, IP6_SRC.eq(link_local(mac)), ND_TARGET.eq(link_local(mac)))
    for text, address in own + pairs:
        mac = mac_int(text)
        if is_ip4(address):
            yield from _ip4_source(this, mac, address)
        else:
            yield from _ip6_source(this, mac, within(IP6_SRC, address), within(ND_TARGET, address))


def _before_an_address(this: Term, mac: int) -> Iterator[Yielded]:
    """What a host sends while it has no address: DHCP, and probes whether an address is taken."""
    from_mac = (this, ETH_SRC.eq(mac))
    allow = Priority.ALLOW
    yield GUARD.flow(*from_mac, *_UDP4, IP_SRC.eq(_ANYONE), UDP_SRC.eq(68), UDP_DST.eq(67), then=_ON, priority=allow)
    yield GUARD.flow(*from_mac, _ARP, ARP_SHA.eq(mac), ARP_SPA.eq(_ANYONE), then=_ON, priority=allow)
    for kind in (ROUTER_SOLICITATION, MULTICAST_LISTENER_REPORT):
        yield GUARD.flow(*from_mac, *_ICMP6, IP6_SRC.eq(_ANYONE), ICMP6_TYPE.eq(kind), then=_ON, priority=allow)
    # Duplicate address detection carries no link-layer option (RFC 4861, section 4.3).
    yield GUARD.flow(
        *from_mac,
        *_ICMP6,
        IP6_SRC.eq(_ANYONE),
        ICMP6_TYPE.eq(NEIGHBOUR_SOLICITATION),
        ND_SLL.eq(0),
        then=_ON,
        priority=Priority.ALLOW_NEIGHBOUR,
    )


def _ip4_source(this: Term, mac: int, address: str) -> Iterator[Yielded]:
    yield GUARD.flow(this, ETH_SRC.eq(mac), _IP4, within(IP_SRC, address), then=_ON, priority=Priority.ALLOW)
    yield GUARD.flow(
        this, ETH_SRC.eq(mac), _ARP, ARP_SHA.eq(mac), within(ARP_SPA, address), then=_ON, priority=Priority.ALLOW
    )


def _ip6_source(this: Term, mac: int, source: Term, target: Term) -> Iterator[Yielded]:
    from_source = (this, ETH_SRC.eq(mac), source)
    yield GUARD.flow(*from_source, _IP6, then=_ON, priority=Priority.ALLOW)
    for told in (mac, 0):  # The option that tells the MAC: true, or absent.
        yield GUARD.flow(
            *from_source,
            *_ICMP6,
            ICMP6_TYPE.eq(NEIGHBOUR_SOLICITATION),
            ND_SLL.eq(told),
            then=_ON,
            priority=Priority.ALLOW_NEIGHBOUR,
        )
        yield GUARD.flow(
            *from_source,
            *_ICMP6,
            ICMP6_TYPE.eq(NEIGHBOUR_ADVERTISEMENT),
            target,
            ND_TLL.eq(told),
            then=_ON,
            priority=Priority.ALLOW_NEIGHBOUR,
        )


def guard_app() -> App:
    """Port security of the ports on this chassis."""
    return App("guard", (Rule(20, Port, _guard, HERE),))
