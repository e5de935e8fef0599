"""L2 switching within a host and between hosts: unicast by MAC, broadcast and multicast to each member once.

A flow carries keys: what may change (an interface's port number, a chassis's address, a network's number
on the wire) stands in one flow each, so a change touches that flow alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from flowloom.compiler.unit import HERE, NETWORK_HERE, App, Rule, Yielded
from flowloom.compiler.view import View
from flowloom.model.records import Chassis, Interface, Network, Port
from flowloom.openflow.actions import output
from flowloom.packet.ethernet import mac_int
from flowloom.packet.ipv4 import ipv4_int
from flowloom.pipeline.layout import (
    CLASSIFY,
    DELIVER,
    ENCAP,
    ETH_DST,
    FLOOD_LOCAL,
    FLOOD_REMOTE,
    FROM_TUNNEL,
    GUARD,
    IN_KEY,
    IN_PORT,
    LOOKUP,
    MULTICAST_BIT,
    NETWORK,
    OUT_KEY,
    REMOTE,
    TUN_DST,
    TUN_ID,
    TUNNEL,
    VIA,
    Priority,
)


@dataclass(frozen=True)
class TunnelPorts:
    """OpenFlow port number of the flow-based tunnel port of each type this chassis has."""

    geneve: int | None = None
    vxlan: int | None = None
    gre: int | None = None

    def number(self, network_type: str) -> int | None:
        """The port that carries `network_type`, None when this chassis has none."""
        return {"geneve": self.geneve, "vxlan": self.vxlan, "gre": self.gre}.get(network_type)


VIA_TYPE: Final = {"geneve": 1, "vxlan": 2, "gre": 3}
"""The tunnel types as the register VIA holds them."""


def _local_port(port: Port, view: View) -> Iterator[Yielded]:
    """Into the pipeline from its interface, and out of it again."""
    ofport = view.pick(Interface, port.id, "ofport")
    network_key = view.pick(Network, port.network_id, "key")
    if ofport is None or network_key is None or not port.admin_state_up:
        return  # Fail closed: not plugged, of an unknown network, or down: nothing in, nothing out.
    if not view.pick(Network, port.network_id, "admin_state_up"):
        return
    yield CLASSIFY.flow(
        IN_PORT.eq(ofport),
        then=(NETWORK.load(network_key), IN_KEY.load(port.key), GUARD.goto),
        priority=Priority.PORT,
    )
    yield DELIVER.flow(OUT_KEY.eq(port.key), then=(output(ofport),), priority=Priority.PORT)


def _unicast(port: Port, view: View, site: str) -> Iterator[Yielded]:
    """Where this port's address lives."""
    network_key = view.pick(Network, port.network_id, "key")
    if network_key is None or not port.host:
        return  # Fail closed: a port of an unknown network, or bound nowhere, receives nothing.
    to_port = (NETWORK.eq(network_key), ETH_DST.eq(mac_int(port.mac_address)))
    if port.host == site:
        yield LOOKUP.flow(*to_port, then=(OUT_KEY.load(port.key), DELIVER.goto), priority=Priority.UNICAST)
        return
    chassis_key = view.pick(Chassis, port.host, "key")
    if chassis_key is None:
        return  # Wait: the chassis has not registered; its record wakes this rule.
    yield LOOKUP.flow(
        *to_port,
        FROM_TUNNEL.eq(0),  # Never from tunnel to tunnel: a stale location is dropped, not bounced.
        then=(REMOTE.load(chassis_key), ENCAP.goto),
        priority=Priority.UNICAST,
    )


def _flood_member(port: Port, view: View, site: str) -> Iterator[Yielded]:
    """This port's place in its network's flood: its own bucket, or that of the chassis it is on."""
    network_key = view.pick(Network, port.network_id, "key")
    if network_key is None or not port.host:
        return
    if port.host == site:
        yield FLOOD_LOCAL.bucket(network_key, port.key, OUT_KEY.load(port.key), DELIVER.resubmit)
        return
    chassis_key = view.pick(Chassis, port.host, "key")
    if chassis_key is not None:  # Every port of that chassis claims the same bucket.
        yield FLOOD_REMOTE.bucket(network_key, chassis_key, REMOTE.load(chassis_key), ENCAP.resubmit)


def _flood(network: Network, _: View) -> Iterator[Yielded]:
    """Broadcast and multicast of a network: to local ports, and from local ports to each other chassis once."""
    yield FLOOD_LOCAL.fact(network.key)
    yield FLOOD_REMOTE.fact(network.key)
    group_addressed = (NETWORK.eq(network.key), ETH_DST.masked(MULTICAST_BIT, MULTICAST_BIT))
    yield LOOKUP.flow(
        *group_addressed,
        then=(FLOOD_LOCAL.action(network.key), FLOOD_REMOTE.action(network.key)),
        priority=Priority.FLOOD,
    )
    yield LOOKUP.flow(
        *group_addressed,
        FROM_TUNNEL.eq(1),
        then=(FLOOD_LOCAL.action(network.key),),
        priority=Priority.FLOOD_FROM_TUNNEL,
    )


def _tunnel_network(network: Network, tunnels: TunnelPorts) -> Iterator[Yielded]:
    """A network's number on the wire, in and out."""
    number = tunnels.number(network.network_type)
    if number is None or network.segmentation_id is None or not network.admin_state_up:
        return  # Fail closed: no tunnel of that type here; the network stays within the host.
    yield CLASSIFY.flow(
        IN_PORT.eq(number),
        TUN_ID.eq(network.segmentation_id),
        then=(NETWORK.load(network.key), FROM_TUNNEL.load(1), LOOKUP.goto),
        priority=Priority.TUNNEL_PORT,
    )
    yield ENCAP.flow(
        NETWORK.eq(network.key),
        then=(TUN_ID.load(network.segmentation_id), VIA.load(VIA_TYPE[network.network_type]), TUNNEL.goto),
        priority=Priority.PORT,
    )


def _tunnel_chassis(chassis: Chassis, tunnels: TunnelPorts) -> Iterator[Yielded]:
    """A chassis's address on the wire, by each type of tunnel that both ends have."""
    for kind in chassis.tunnel_types:
        number = tunnels.number(kind)
        if number is not None:
            yield TUNNEL.flow(
                REMOTE.eq(chassis.key),
                VIA.eq(VIA_TYPE[kind]),
                then=(TUN_DST.load(ipv4_int(chassis.tunnel_ip)), output(number)),
                priority=Priority.PORT,
            )


def switching_app(site: str, tunnels: TunnelPorts) -> App:
    """L2 switching for the chassis `site`."""

    def local_port(port: Port, view: View) -> Iterator[Yielded]:
        return _local_port(port, view)

    def unicast(port: Port, view: View) -> Iterator[Yielded]:
        return _unicast(port, view, site)

    def flood_member(port: Port, view: View) -> Iterator[Yielded]:
        return _flood_member(port, view, site)

    def tunnel_network(network: Network, view: View) -> Iterator[Yielded]:
        return _tunnel_network(network, tunnels)

    def tunnel_chassis(chassis: Chassis, view: View) -> Iterator[Yielded]:
        if chassis.id != site:
            yield from _tunnel_chassis(chassis, tunnels)

    return App(
        "switching",
        (
            Rule(10, Port, local_port, HERE),
            Rule(11, Port, unicast, NETWORK_HERE),
            Rule(12, Port, flood_member, NETWORK_HERE),
            Rule(13, Network, _flood, NETWORK_HERE),
            Rule(14, Network, tunnel_network, NETWORK_HERE),
            Rule(15, Chassis, tunnel_chassis),
        ),
    )
