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


class Network(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A Neutron network.  Scope: itself.

    key: immutable integer that flows carry instead of the id.
    network_type, segmentation_id, physical_network: Neutron's provider attributes of its segment.
    mtu: bytes of the largest inner IP packet.
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


class HostRoute(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A route handed to the guest: `destination` in CIDR form, `nexthop` an address."""

    destination: str
    nexthop: str


class Subnet(Record, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A Neutron subnet.  Scope: its network."""

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


NORTHBOUND: tuple[type[Record], ...] = (Network, Subnet, Port, Chassis, PortStatus)
"""Every kind that is stored; tags in keys are their `kind`."""


def node_version(epoch: int, counter: int) -> int:
    """Version of a node-owned record: 31 bits of the writer's epoch, 32 bits of its counter."""
    if not 0 <= epoch < 1 << 31 or not 0 <= counter < 1 << 32:
        raise ValueError(f"epoch {epoch} or counter {counter} out of range")
    return epoch << 32 | counter
