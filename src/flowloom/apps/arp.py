"""ARP answered where it is asked: a request for the address of a port of the network never leaves the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from flowloom.apps.addresses import ETH_ARP, is_ip4
from flowloom.apps.responders import arp_reply
from flowloom.compiler.unit import HERE, NETWORK_HERE, App, Rule, Yielded
from flowloom.compiler.view import View
from flowloom.model.records import Network, Port
from flowloom.packet.ethernet import mac_int
from flowloom.packet.ipv4 import ipv4_int
from flowloom.pipeline.layout import ARP_OP, ARP_TPA, ETH_TYPE, IN_KEY, LOOKUP, NETWORK, SERVICE, Priority

_REQUEST: Final = (ETH_TYPE.eq(ETH_ARP), ARP_OP.eq(1))


def _arp_responder(port: Port, view: View) -> Iterator[Yielded]:
    """Answer for a port that is somewhere.

    An unbound port often reserves the address that others take in turn (VRRP): its MAC would be a lie.
    """
    network_key = view.pick(Network, port.network_id, "key")
    if network_key is None or not port.host:
        return
    for fixed in port.fixed_ips:
        if is_ip4(fixed.ip_address):
            yield arp_reply(network_key, ipv4_int(fixed.ip_address), mac_int(port.mac_address))


def _own_announcement(port: Port, _: View) -> Iterator[Yielded]:
    """A host that asks for its own address announces it, or looks for a duplicate: it must reach the others."""
    for fixed in port.fixed_ips:
        if is_ip4(fixed.ip_address):
            yield SERVICE.flow(
                IN_KEY.eq(port.key),
                *_REQUEST,
                ARP_TPA.eq(ipv4_int(fixed.ip_address)),
                then=(LOOKUP.goto,),
                priority=Priority.OWN_ANNOUNCEMENT,
            )


def _no_service(network: Network, _: View) -> Iterator[Yielded]:
    """What no service answers goes on."""
    yield SERVICE.flow(NETWORK.eq(network.key), then=(LOOKUP.goto,), priority=Priority.DEFAULT)


def arp_app() -> App:
    """ARP of the networks that have a port on this chassis."""
    return App(
        "arp",
        (
            Rule(30, Port, _arp_responder, NETWORK_HERE),
            Rule(31, Port, _own_announcement, HERE),
            Rule(32, Network, _no_service, NETWORK_HERE),
        ),
    )
