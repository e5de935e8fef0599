"""The northbound records.

Fields carry Neutron's names.  A record references others by id.  A record's scope (the thing it is
distributed with) never changes in its life.  The schema only grows: new fields have defaults, no
field changes its meaning, and an unknown field is ignored by an older reader.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

SCHEMA = 1
"""Schema version written by this release.  A reader skips, names and counts records above its own."""

MAX_KEY = 0x0FFF_FFFF
"""Integer keys are 1..MAX_KEY, allotted once per object and deployment, immutable (see `Network.key`)."""


class Record(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What every record has.

    version: per object, strictly increasing for ever, deletes and re-creations included; < 2**63.
    Neutron-owned records take it from the object's sync row; node-owned records (`Chassis`,
    `PortStatus`) from their single writer's `node_version(epoch, counter)`.
    """

    kind: ClassVar[str]
    id: str
    version: int
    project_id: str = ""


class NetworkSegment(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One of several segments of a network.  is_dynamic: Neutron allotted it to bind a port."""

    id: str
    network_type: str
    physical_network: str | None = None
    segmentation_id: int | None = None
    is_dynamic: bool = False


class Network(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A Neutron network.  Scope: itself.

    key: immutable integer that flows carry instead of the id.
    network_type, segmentation_id, physical_network: Neutron's provider attributes of its first segment.
    segments: all of them, the first included, where there are several; empty: there is just the one.
    mtu: bytes of the largest inner IP packet.
    external: Neutron's router:external.
    qos_policy_id: for its ports and floating IPs that have none of their own.
    """

    kind: ClassVar[str] = "network"
    key: int
    name: str = ""
    admin_state_up: bool = True
    mtu: int = 1450
    shared: bool = False
    network_type: str = "geneve"
    segmentation_id: int | None = None
    physical_network: str | None = None
    dns_domain: str = ""
    external: bool = False
    qos_policy_id: str | None = None
    segments: tuple[NetworkSegment, ...] = ()


class HostRoute(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A route handed to the guest, or an extra route of a router: `destination` in CIDR form, `nexthop` an address."""

    destination: str
    nexthop: str


class Subnet(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A Neutron subnet.  Scope: its network.

    segment_id: the segment of its network that it is bound to; None: all of them.
    service_types: device owners that addresses are for; empty: any.
    """

    kind: ClassVar[str] = "subnet"
    network_id: str
    cidr: str
    name: str = ""
    ip_version: int = 4
    gateway_ip: str | None = None
    enable_dhcp: bool = True
    dns_nameservers: tuple[str, ...] = ()
    host_routes: tuple[HostRoute, ...] = ()
    ipv6_ra_mode: str | None = None
    ipv6_address_mode: str | None = None
    segment_id: str | None = None
    service_types: tuple[str, ...] = ()


class FixedIP(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One address of a port."""

    subnet_id: str
    ip_address: str


class AddressPair(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A source that a port may use besides its own: an address or CIDR, with a MAC."""

    ip_address: str
    mac_address: str


class DhcpOption(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One of Neutron's extra_dhcp_opts: `opt_name` is a number or a name, see `packet.dhcp`."""

    opt_name: str
    opt_value: str
    ip_version: int = 4


class Port(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A Neutron port.  Scope: its network.

    host: Neutron's binding:host_id, the id of the chassis that serves it ("" while unbound).
    inactive_hosts: hosts with an inactive binding: where a live migration takes it.
    qos_policy_id: its own; None: its network's counts.
    """

    kind: ClassVar[str] = "port"
    key: int
    network_id: str
    mac_address: str
    name: str = ""
    admin_state_up: bool = True
    fixed_ips: tuple[FixedIP, ...] = ()
    host: str = ""
    vnic_type: str = "normal"
    vif_type: str = "unbound"
    device_id: str = ""
    device_owner: str = ""
    port_security_enabled: bool = True
    allowed_address_pairs: tuple[AddressPair, ...] = ()
    security_group_ids: tuple[str, ...] = ()
    extra_dhcp_opts: tuple[DhcpOption, ...] = ()
    dns_name: str = ""
    inactive_hosts: tuple[str, ...] = ()
    qos_policy_id: str | None = None


class RouterInterface(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A port of a router on a network inside; its MAC and addresses are the port record's."""

    port_id: str
    network_id: str


class ExternalGateway(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A port of a router on an external network, with what a node needs of it without following that network."""

    port_id: str
    network_id: str
    mac_address: str
    fixed_ips: tuple[FixedIP, ...] = ()


class Router(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A Neutron router.  Scope: itself.

    key: as `Network.key`.
    external_gateways: the first is the one of Neutron's external_gateway_info.
    enable_snat: what leaves by a gateway without a floating IP gets the gateway's address.
    distributed, ha: as asked for in Neutron.
    qos_policy_id: of what passes the gateway.
    """

    kind: ClassVar[str] = "router"
    key: int
    name: str = ""
    admin_state_up: bool = True
    interfaces: tuple[RouterInterface, ...] = ()
    external_gateways: tuple[ExternalGateway, ...] = ()
    enable_snat: bool = True
    routes: tuple[HostRoute, ...] = ()
    distributed: bool = False
    ha: bool = False
    availability_zone_hints: tuple[str, ...] = ()
    enable_default_route_ecmp: bool = False
    enable_default_route_bfd: bool = False
    qos_policy_id: str | None = None


class FloatingIP(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A Neutron floating IP.  Scope: the external network that it comes from, because it moves between routers.

    floating_port_id: Neutron's own port that holds the address (and a MAC) on the external network.
    fixed_port_id, fixed_ip_address, router_id: where it leads; None: nowhere.
    router_id without the others: its ports are forwarded one by one (`PortForwarding`).
    qos_policy_id: its own; None: its external network's counts.
    """

    kind: ClassVar[str] = "floatingip"
    key: int
    floating_network_id: str
    floating_ip_address: str
    floating_port_id: str
    fixed_port_id: str | None = None
    fixed_ip_address: str | None = None
    router_id: str | None = None
    qos_policy_id: str | None = None


class PortForwarding(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Ports of a floating IP that lead to ports of a fixed one.  Scope: the external network of its floating IP.

    external_port_range, internal_port_range: first and last, equally many.
    """

    kind: ClassVar[str] = "port_forwarding"
    key: int
    floatingip_id: str
    protocol: str
    external_port_range: tuple[int, int]
    internal_port_id: str
    internal_ip_address: str
    internal_port_range: tuple[int, int]


class SecurityGroupRule(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a security group lets pass.

    direction: "ingress" or "egress".  ethertype: "IPv4" or "IPv6".
    protocol: a name or a number as text, as Neutron was told; None: any.
    port_range_min, port_range_max: of ICMP its type and code; None: any.
    At most one of the three remotes is given; none: anybody.
    """

    id: str
    direction: str
    ethertype: str
    protocol: str | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: str | None = None
    remote_group_id: str | None = None
    remote_address_group_id: str | None = None


class SecurityGroup(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A Neutron security group with its rules.  Scope: itself.

    key: as `Network.key`.  shared: with everybody.
    """

    kind: ClassVar[str] = "security_group"
    key: int
    name: str = ""
    stateful: bool = True
    shared: bool = False
    rules: tuple[SecurityGroupRule, ...] = ()


class AddressGroup(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A Neutron address group, named by rules of security groups.  Scope: itself.

    addresses: in CIDR form.  shared: with everybody.
    """

    kind: ClassVar[str] = "address_group"
    key: int
    name: str = ""
    shared: bool = False
    addresses: tuple[str, ...] = ()


class BandwidthLimitRule(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """direction: as the guest sees it.  max_kbps: kilobits a second.  max_burst_kbps: kilobits; 0: the default."""

    id: str
    direction: str
    max_kbps: int
    max_burst_kbps: int = 0


class DscpMarkingRule(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """dscp_mark: 0 .. 63."""

    id: str
    dscp_mark: int


class PacketRateLimitRule(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """direction: as the guest sees it.  max_kpps: thousands of packets a second."""

    id: str
    direction: str
    max_kpps: int
    max_burst_kpps: int = 0


class MinimumBandwidthRule(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Carried for whoever places guests; nothing enforces it."""

    id: str
    direction: str
    min_kbps: int


class MinimumPacketRateRule(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Carried for whoever places guests; nothing enforces it.  direction: "any" too."""

    id: str
    direction: str
    min_kpps: int


class QosPolicy(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A Neutron QoS policy with its rules.  Scope: itself.  shared: with everybody."""

    kind: ClassVar[str] = "qos_policy"
    key: int
    name: str = ""
    shared: bool = False
    bandwidth_limit_rules: tuple[BandwidthLimitRule, ...] = ()
    dscp_marking_rules: tuple[DscpMarkingRule, ...] = ()
    packet_rate_limit_rules: tuple[PacketRateLimitRule, ...] = ()
    minimum_bandwidth_rules: tuple[MinimumBandwidthRule, ...] = ()
    minimum_packet_rate_rules: tuple[MinimumPacketRateRule, ...] = ()


class SubPort(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A port whose frames come tagged through a trunk's parent port.  network_id: the port's, where its record lies."""

    port_id: str
    network_id: str
    segmentation_type: str
    segmentation_id: int


class Trunk(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A Neutron trunk.  Scope: the network of its parent port.  port_id: the parent port."""

    kind: ClassVar[str] = "trunk"
    key: int
    port_id: str
    name: str = ""
    admin_state_up: bool = True
    sub_ports: tuple[SubPort, ...] = ()


class Chassis(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A compute node, written by its own agent alone.  Scope: itself; id: the node's host name.

    key: immutable integer claimed once in the store (`northbound.keys.claim_key`).
    tunnel_ip: address of the node's tunnel endpoint.
    """

    kind: ClassVar[str] = "chassis"
    key: int
    tunnel_ip: str
    tunnel_types: tuple[str, ...] = ("geneve",)
    started_at: float = 0.0


class PortStatus(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What one chassis says about one port bound to it.  id: the port's; scope: the chassis.

    port_version: the version of the port record whose flows the switch has confirmed (0: none).
    up: interface present and flows confirmed.
    reason: why not, in one sentence ("" when up).
    """

    kind: ClassVar[str] = "port_status"
    chassis: str
    port_version: int = 0
    up: bool = False
    reason: str = ""


class Interface(Record, frozen=True, gc=False, kw_only=True):
    """A fact of the local switch, never stored: the port `id` is plugged at OpenFlow port `ofport`."""

    kind: ClassVar[str] = "interface"
    version: int = 0
    ofport: int


NORTHBOUND: tuple[type[Record], ...] = (
    Network,
    Subnet,
    Port,
    Router,
    FloatingIP,
    PortForwarding,
    SecurityGroup,
    AddressGroup,
    QosPolicy,
    Trunk,
    Chassis,
    PortStatus,
)
"""Every kind that is stored; tags in keys are their `kind`."""


def node_version(epoch: int, counter: int) -> int:
    """Version of a node-owned record: 31 bits of the writer's epoch, 32 bits of its counter."""
    if not 0 <= epoch < 1 << 31 or not 0 <= counter < 1 << 32:
        raise ValueError(f"epoch {epoch} or counter {counter} out of range")
    return epoch << 32 | counter
