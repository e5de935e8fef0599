"""What is captured: which rows of Neutron's tables reach which northbound record, as one declaration.

To capture another kind, add its root and its rules here and its translation in `translate`.  Which field of the
API ends up in which field of a record, and which in none, is in `docs/records.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2, rbac_db_models
from neutron.db.extra_dhcp_opt import models as dhcp_options
from neutron.db.models import (
    address_group,
    allowed_address_pair,
    dns,
    external_net,
    l3,
    l3_attrs,
    port_forwarding,
    securitygroup,
    segment,
    subnet_service_type,
)
from neutron.db.port_security import models as port_security
from neutron.db.qos import models as qos
from neutron.plugins.ml2 import models as ml2_models
from neutron.services.trunk import models as trunk
from neutron_lib import constants
from sqlalchemy import inspect

from flowloom.model import records

NETWORK, SUBNET, PORT = records.Network.kind, records.Subnet.kind, records.Port.kind
ROUTER, FLOATING_IP = records.Router.kind, records.FloatingIP.kind
PORT_FORWARDING, TRUNK = records.PortForwarding.kind, records.Trunk.kind
SECURITY_GROUP, ADDRESS_GROUP = records.SecurityGroup.kind, records.AddressGroup.kind
QOS_POLICY = records.QosPolicy.kind


@dataclass(frozen=True)
class Root:
    """Where the objects of a kind are, and where their records lie.

    scope_column: names the scope, the thing that the record is distributed with; or, with `through`, the row of
    that model which names it in `through_column`.
    owner: whose project the record lies under; its id is the scope.
    """

    kind: str
    model: Any
    scope_column: str
    owner: Any
    through: Any = None
    through_column: str = ""


_ROOTS = (
    Root(NETWORK, models_v2.Network, "id", models_v2.Network),
    Root(SUBNET, models_v2.Subnet, "network_id", models_v2.Network),
    Root(PORT, models_v2.Port, "network_id", models_v2.Network),
    Root(ROUTER, l3.Router, "id", l3.Router),
    Root(FLOATING_IP, l3.FloatingIP, "floating_network_id", models_v2.Network),
    Root(
        PORT_FORWARDING,
        port_forwarding.PortForwarding,
        "floatingip_id",
        models_v2.Network,
        l3.FloatingIP,
        "floating_network_id",
    ),
    Root(SECURITY_GROUP, securitygroup.SecurityGroup, "id", securitygroup.SecurityGroup),
    Root(ADDRESS_GROUP, address_group.AddressGroup, "id", address_group.AddressGroup),
    Root(QOS_POLICY, qos.QosPolicy, "id", qos.QosPolicy),
    Root(TRUNK, trunk.Trunk, "port_id", models_v2.Network, models_v2.Port, "network_id"),
)

ROOTS: dict[str, Root] = {root.kind: root for root in _ROOTS}


@dataclass(frozen=True)
class Via:
    """A table that leads from the id which a row has (`column`) to the object that the row reaches (`id_column`).

    locked: read it with a lock, which sees what was committed since the transaction's snapshot, and keeps it.
    then: where it leads on from there.
    """

    model: Any
    column: str
    id_column: str
    where: sa.ColumnElement[bool]
    locked: bool = False
    then: Via | None = None


@dataclass(frozen=True)
class Rule:
    """Rows of `model` reach the record of `kind` whose id stands in the column `id_column`.

    columns: attributes that reach the record; a change of any other is none.
    root: the row is the object itself: creating and deleting it creates and deletes the record.
    via: it is not that id itself which is meant, but where this table leads from it.
    came: False where a new row changes nothing, because what `via` goes by is always newer.
    """

    model: Any
    kind: str
    id_column: str
    columns: frozenset[str]
    root: bool = False
    via: Via | None = None
    came: bool = True


def _root(kind: str, columns: str) -> Rule:
    return Rule(ROOTS[kind].model, kind, "id", frozenset(columns.split()), root=True)


def _child(model: Any, kind: str, id_column: str) -> Rule:
    """A row that belongs to an object whole: all its columns and the relation to its object count."""
    mapper = inspect(model)
    return Rule(model, kind, id_column, frozenset(mapper.columns.keys()) | frozenset(mapper.relationships.keys()))


def _columns(model: Any, kind: str, id_column: str, columns: str, via: Via | None = None, came: bool = True) -> Rule:
    return Rule(model, kind, id_column, frozenset(columns.split()), via=via, came=came)


_GATEWAY = Via(
    l3.RouterPort, "port_id", "router_id", l3.RouterPort.__table__.c.port_type == constants.DEVICE_OWNER_ROUTER_GW
)
"""From the gateway port to its router, whose record carries the port's addresses."""


def _taken_along(model: Any, kind: str, child: Any, column: str, id_column: str, then: Via | None = None) -> Rule:
    """What the database itself deletes with a row of `model`, without a word to the session: rows of `child`.

    Neutron refuses to delete what is in use; this is for whoever began to use it after Neutron had looked.
    """
    return Rule(model, kind, "id", frozenset(), via=Via(child, column, id_column, sa.true(), True, then), came=False)


RULES: tuple[Rule, ...] = (
    # Networks, subnets, ports.
    _root(NETWORK, "name admin_state_up mtu rbac_entries segments"),
    _columns(
        segment.NetworkSegment,
        NETWORK,
        "network_id",
        "network_id network_type physical_network segmentation_id segment_index is_dynamic network",
    ),
    _child(rbac_db_models.NetworkRBAC, NETWORK, "object_id"),
    _columns(external_net.ExternalNetwork, NETWORK, "network_id", "network_id network"),
    _child(dns.NetworkDNSDomain, NETWORK, "network_id"),
    _child(qos.QosNetworkPolicyBinding, NETWORK, "network_id"),
    _root(
        SUBNET,
        "name network_id cidr ip_version gateway_ip enable_dhcp ipv6_ra_mode ipv6_address_mode segment_id"
        " dns_nameservers routes service_types",
    ),
    _child(models_v2.SubnetRoute, SUBNET, "subnet_id"),
    _child(models_v2.DNSNameServer, SUBNET, "subnet_id"),
    _child(subnet_service_type.SubnetServiceType, SUBNET, "subnet_id"),
    _root(PORT, "name network_id mac_address admin_state_up device_id device_owner fixed_ips"),
    _child(models_v2.IPAllocation, PORT, "port_id"),
    _columns(ml2_models.PortBinding, PORT, "port_id", "port_id host vnic_type vif_type status port"),
    _child(port_security.PortSecurityBinding, PORT, "port_id"),
    _child(allowed_address_pair.AllowedAddressPair, PORT, "port_id"),
    _child(securitygroup.SecurityGroupPortBinding, PORT, "port_id"),
    _child(dhcp_options.ExtraDhcpOpt, PORT, "port_id"),
    _columns(dns.PortDNS, PORT, "port_id", "port_id dns_name port"),
    _child(qos.QosPortPolicyBinding, PORT, "port_id"),
    # Routers, floating IPs.
    _root(ROUTER, "name admin_state_up gw_port_id gw_port enable_snat"),
    _columns(l3.RouterPort, ROUTER, "router_id", "router_id port_id port_type router port"),
    _columns(models_v2.IPAllocation, ROUTER, "port_id", "port_id ip_address subnet_id port", _GATEWAY),
    _columns(models_v2.Port, ROUTER, "id", "mac_address", _GATEWAY, came=False),
    _columns(
        l3_attrs.RouterExtraAttributes,
        ROUTER,
        "router_id",
        "distributed ha availability_zone_hints enable_default_route_ecmp enable_default_route_bfd router",
    ),
    _child(l3.RouterRoute, ROUTER, "router_id"),
    _child(qos.QosRouterGatewayIPPolicyBinding, ROUTER, "router_id"),
    _root(
        FLOATING_IP,
        "floating_ip_address floating_network_id floating_port_id fixed_port_id fixed_ip_address router_id router port",
    ),
    _child(qos.QosFIPPolicyBinding, FLOATING_IP, "fip_id"),
    _root(
        PORT_FORWARDING,
        "floatingip_id internal_neutron_port_id protocol internal_ip_address internal_port_start internal_port_end"
        " external_port_start external_port_end port floating_ip",
    ),
    # Groups and policies.
    _root(SECURITY_GROUP, "name stateful rbac_entries"),
    _columns(
        securitygroup.SecurityGroupRule,
        SECURITY_GROUP,
        "security_group_id",
        "security_group_id remote_group_id remote_address_group_id direction ethertype protocol port_range_min"
        " port_range_max remote_ip_prefix security_group source_group",
    ),
    _child(rbac_db_models.SecurityGroupRBAC, SECURITY_GROUP, "object_id"),
    _root(ADDRESS_GROUP, "name addresses rbac_entries"),
    _child(address_group.AddressAssociation, ADDRESS_GROUP, "address_group_id"),
    _child(rbac_db_models.AddressGroupRBAC, ADDRESS_GROUP, "object_id"),
    _root(QOS_POLICY, "name rbac_entries"),
    _child(qos.QosBandwidthLimitRule, QOS_POLICY, "qos_policy_id"),
    _child(qos.QosDscpMarkingRule, QOS_POLICY, "qos_policy_id"),
    _child(qos.QosPacketRateLimitRule, QOS_POLICY, "qos_policy_id"),
    _child(qos.QosMinimumBandwidthRule, QOS_POLICY, "qos_policy_id"),
    _child(qos.QosMinimumPacketRateRule, QOS_POLICY, "qos_policy_id"),
    _child(rbac_db_models.QosPolicyRBAC, QOS_POLICY, "object_id"),
    # Trunks.
    _root(TRUNK, "name admin_state_up port_id port sub_ports"),
    _columns(trunk.SubPort, TRUNK, "trunk_id", "trunk_id port_id port segmentation_type segmentation_id"),
    # Foreign keys that cascade from one object into another.
    _taken_along(models_v2.Subnet, PORT, models_v2.IPAllocation, "subnet_id", "port_id"),
    _taken_along(models_v2.Subnet, ROUTER, models_v2.IPAllocation, "subnet_id", "port_id", _GATEWAY),
    _taken_along(
        securitygroup.SecurityGroup, PORT, securitygroup.SecurityGroupPortBinding, "security_group_id", "port_id"
    ),
    _taken_along(
        securitygroup.SecurityGroup,
        SECURITY_GROUP,
        securitygroup.SecurityGroupRule,
        "remote_group_id",
        "security_group_id",
    ),
    _taken_along(
        address_group.AddressGroup,
        SECURITY_GROUP,
        securitygroup.SecurityGroupRule,
        "remote_address_group_id",
        "security_group_id",
    ),
    _taken_along(qos.QosPolicy, NETWORK, qos.QosNetworkPolicyBinding, "policy_id", "network_id"),
    _taken_along(qos.QosPolicy, PORT, qos.QosPortPolicyBinding, "policy_id", "port_id"),
    _taken_along(qos.QosPolicy, FLOATING_IP, qos.QosFIPPolicyBinding, "policy_id", "fip_id"),
    _taken_along(qos.QosPolicy, ROUTER, qos.QosRouterGatewayIPPolicyBinding, "policy_id", "router_id"),
)
