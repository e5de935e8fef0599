"""Distributed DHCPv4, the flows: each local port's requests go to the agent of its own host.

The server of a subnet is its gateway's address.  Where no port owns that address, a flow answers ARP for
it, so that unicast renewals find their way; they are then punted by the same flow as broadcasts.  A
subnet without a gateway has a link-local server, which a client cannot reach by unicast: it renews by
broadcast when its rebinding time comes.  The answers are in `apps.dhcp_server`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from flowloom.apps import punts
from flowloom.apps.addresses import ETH_IP4, is_ip4
from flowloom.apps.responders import arp_reply
from flowloom.compiler.unit import HERE, NETWORK_HERE, App, Rule, Yielded
from flowloom.compiler.view import View
from flowloom.model.records import Network, Port, Subnet
from flowloom.openflow.actions import controller2
from flowloom.packet.dhcp import CLIENT_PORT, SERVER_PORT
from flowloom.packet.ethernet import mac_int
from flowloom.packet.ipv4 import ipv4_int
from flowloom.pipeline.layout import (
    ETH_SRC,
    ETH_TYPE,
    GUARD,
    IN_KEY,
    IP_PROTO,
    SERVICE,
    UDP_DST,
    UDP_SRC,
    Priority,
)

SERVER_MAC: Final = 0x0200_0000_0067
"""Source of every answer, and what ARP says of a gateway that no port owns."""

LINK_LOCAL_SERVER: Final = 0xA9FE_0001
"""169.254.0.1: the server's address in a subnet without a gateway."""

INFINITE: Final = 0xFFFF_FFFF
"""Lease time that never ends (RFC 2131, section 3.3)."""

_UDP: Final = 17
_REQUESTS: Final = (ETH_TYPE.eq(ETH_IP4), IP_PROTO.eq(_UDP), UDP_SRC.eq(CLIENT_PORT), UDP_DST.eq(SERVER_PORT))


@dataclass(frozen=True)
class DhcpSettings:
    """What the configuration says where the records are silent.

    lease_seconds: of every lease; INFINITE: for ever.  renew_fraction, rebind_fraction: T1 and T2 as parts
    of it (RFC 2131, section 4.4.5).  domain: "" for none.  dns_servers: IPv4, where a subnet names none.
    """

    lease_seconds: int = 86400
    renew_fraction: float = 0.5
    rebind_fraction: float = 0.875
    domain: str = ""
    dns_servers: tuple[str, ...] = ()


def _punt(port: Port, view: View) -> Iterator[Yielded]:
    """Requests of a port that has something to be told.

    They never go on, so port security has nothing to keep from anybody: a client whose address was taken away
    renews it from that very address, and is to be told so.
    """
    if not port.admin_state_up:
        return
    this, punt = IN_KEY.eq(port.key), (controller2(bytes((punts.DHCP4,)) + port.id.encode()),)
    for fixed in port.fixed_ips:
        # Fail closed: of an unknown subnet nothing is known to answer with.
        if is_ip4(fixed.ip_address) and view.pick(Subnet, fixed.subnet_id, "enable_dhcp"):
            if port.port_security_enabled:
                mac = ETH_SRC.eq(mac_int(port.mac_address))
                yield GUARD.flow(this, mac, *_REQUESTS, then=punt, priority=Priority.PUNT)
            yield SERVICE.flow(this, *_REQUESTS, then=punt, priority=Priority.PUNT)
            return


def _server_arp(subnet: Subnet, view: View) -> Iterator[Yielded]:
    """ARP for the server's address where no port speaks for it."""
    gateway = subnet.gateway_ip
    if not subnet.enable_dhcp or gateway is None or not is_ip4(gateway):
        return
    network_key = view.pick(Network, subnet.network_id, "key")
    if network_key is None or view.any(Port, "address", (subnet.network_id, gateway)):
        return
    yield arp_reply(network_key, ipv4_int(gateway), SERVER_MAC)


def dhcp_app(settings: DhcpSettings) -> App:
    """DHCPv4 of the ports on this chassis.  No flow depends on `settings`: only answers do."""
    return App("dhcp", (Rule(40, Port, _punt, HERE), Rule(41, Subnet, _server_arp, NETWORK_HERE)))
