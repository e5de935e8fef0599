"""What is captured: which rows of Neutron's tables reach which northbound record, as one declaration.

To capture another kind, add its rules here and its translation in `translate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neutron.db import models_v2, rbac_db_models
from neutron.db.extra_dhcp_opt import models as dhcp_options
from neutron.db.models import allowed_address_pair, dns, securitygroup, segment
from neutron.db.port_security import models as port_security
from neutron.plugins.ml2 import models as ml2_models
from sqlalchemy import inspect

NETWORK, SUBNET, PORT = "network", "subnet", "port"


@dataclass(frozen=True)
class Rule:
    """Rows of `model` reach the record of `kind` whose id stands in the column `id_column`.

    columns: attributes that reach the record; a change of any other is none.
    root: the row is the object itself: creating and deleting it creates and deletes the record.
    network_column: where a root names its scope, the network that it is distributed with.
    """

    model: Any
    kind: str
    id_column: str
    columns: frozenset[str]
    root: bool = False
    network_column: str = "network_id"


def _root(model: Any, kind: str, columns: str, network_column: str = "network_id") -> Rule:
    return Rule(model, kind, "id", frozenset(columns.split()), root=True, network_column=network_column)


def _child(model: Any, kind: str, id_column: str) -> Rule:
    """A row that belongs to an object whole: all its columns and the relation to its object count."""
    mapper = inspect(model)
    return Rule(model, kind, id_column, frozenset(mapper.columns.keys()) | frozenset(mapper.relationships.keys()))


def _columns(model: Any, kind: str, id_column: str, columns: str) -> Rule:
    return Rule(model, kind, id_column, frozenset(columns.split()))


RULES: tuple[Rule, ...] = (
    _root(models_v2.Network, NETWORK, "name admin_state_up mtu rbac_entries segments", network_column="id"),
    _columns(
        segment.NetworkSegment,
        NETWORK,
        "network_id",
        "network_id network_type physical_network segmentation_id segment_index is_dynamic network",
    ),
    _child(rbac_db_models.NetworkRBAC, NETWORK, "object_id"),
    _child(dns.NetworkDNSDomain, NETWORK, "network_id"),
    _child(port_security.NetworkSecurityBinding, NETWORK, "network_id"),
    _root(
        models_v2.Subnet,
        SUBNET,
        "name network_id cidr ip_version gateway_ip enable_dhcp ipv6_ra_mode ipv6_address_mode dns_nameservers routes",
    ),
    _child(models_v2.SubnetRoute, SUBNET, "subnet_id"),
    _child(models_v2.DNSNameServer, SUBNET, "subnet_id"),
    _root(models_v2.Port, PORT, "name network_id mac_address admin_state_up device_id device_owner fixed_ips"),
    _child(models_v2.IPAllocation, PORT, "port_id"),
    _columns(ml2_models.PortBinding, PORT, "port_id", "port_id host vnic_type vif_type status port"),
    _child(port_security.PortSecurityBinding, PORT, "port_id"),
    _child(allowed_address_pair.AllowedAddressPair, PORT, "port_id"),
    _child(securitygroup.SecurityGroupPortBinding, PORT, "port_id"),
    _child(dhcp_options.ExtraDhcpOpt, PORT, "port_id"),
    _columns(dns.PortDNS, PORT, "port_id", "port_id dns_name port"),
)

ROOTS: dict[str, Rule] = {rule.kind: rule for rule in RULES if rule.root}
