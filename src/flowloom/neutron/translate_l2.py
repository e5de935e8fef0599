"""Networks, subnets, ports and trunks as records."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2, rbac_db_models
from neutron.db.extra_dhcp_opt import models as dhcp_options
from neutron.db.models import (
    allowed_address_pair,
    dns,
    external_net,
    securitygroup,
    segment,
    subnet_service_type,
)
from neutron.db.port_security import models as port_security
from neutron.db.qos import models as qos
from neutron.plugins.ml2 import models as ml2_models
from neutron.services.trunk import models as trunk
from neutron_lib import constants

from flowloom.kernel.errors import Rejected
from flowloom.model.records import (
    AddressPair,
    DhcpOption,
    FixedIP,
    HostRoute,
    Network,
    NetworkSegment,
    Port,
    Subnet,
    SubPort,
    Trunk,
)
from flowloom.neutron.reading import Found, Rows, chunks, grouped, select


def networks(connection: sa.Connection, rows: Rows) -> Found:
    segments = grouped(connection, segment.NetworkSegment, "network_id", rows, "segment_index", "id")
    shares = grouped(connection, rbac_db_models.NetworkRBAC, "object_id", rows)
    domains = grouped(connection, dns.NetworkDNSDomain, "network_id", rows)
    external = {row.network_id for row in select(connection, external_net.ExternalNetwork, "network_id", rows)}
    policies = grouped(connection, qos.QosNetworkPolicyBinding, "network_id", rows)
    found: Found = {}
    for row in select(connection, models_v2.Network, "id", rows):
        provider = next((each for each in segments[row.id] if not each.is_dynamic), None)
        if provider is None:
            found[row.id] = Rejected(f"network {row.id}", "it has no segment, so nothing says how it is carried")
            continue
        found[row.id] = Network(
            id=row.id,
            version=rows[row.id].version,
            project_id=row.project_id or "",
            key=rows[row.id].key,
            name=row.name or "",
            admin_state_up=bool(row.admin_state_up),
            mtu=row.mtu,
            shared=shared(shares[row.id]),
            network_type=provider.network_type,
            segmentation_id=provider.segmentation_id,
            physical_network=provider.physical_network,
            dns_domain=domains[row.id][0].dns_domain if domains[row.id] else "",
            external=row.id in external,
            qos_policy_id=policies[row.id][0].policy_id if policies[row.id] else None,
            segments=_segments(segments[row.id]),
        )
    return found


def shared(entries: list[Any]) -> bool:
    """Whether RBAC entries share their object with everybody."""
    return any(entry.action == rbac_db_models.ACCESS_SHARED and entry.target_project == "*" for entry in entries)


def _segments(rows: list[Any]) -> tuple[NetworkSegment, ...]:
    if len(rows) < 2:
        return ()  # The network's own fields say it all.
    return tuple(
        NetworkSegment(row.id, row.network_type, row.physical_network, row.segmentation_id, bool(row.is_dynamic))
        for row in rows
    )


def subnets(connection: sa.Connection, rows: Rows) -> Found:
    routes = grouped(connection, models_v2.SubnetRoute, "subnet_id", rows, "destination", "nexthop")
    servers = grouped(connection, models_v2.DNSNameServer, "subnet_id", rows, "order", "address")
    services = grouped(connection, subnet_service_type.SubnetServiceType, "subnet_id", rows, "service_type")
    return {
        row.id: Subnet(
            id=row.id,
            version=rows[row.id].version,
            project_id=row.project_id or "",
            network_id=row.network_id,
            cidr=row.cidr,
            name=row.name or "",
            ip_version=row.ip_version,
            gateway_ip=row.gateway_ip,
            enable_dhcp=bool(row.enable_dhcp),
            dns_nameservers=tuple(server.address for server in servers[row.id]),
            host_routes=tuple(HostRoute(route.destination, route.nexthop) for route in routes[row.id]),
            ipv6_ra_mode=row.ipv6_ra_mode,
            ipv6_address_mode=row.ipv6_address_mode,
            segment_id=row.segment_id,
            service_types=tuple(service.service_type for service in services[row.id]),
        )
        for row in select(connection, models_v2.Subnet, "id", rows)
    }


def ports(connection: sa.Connection, rows: Rows) -> Found:
    addresses = grouped(connection, models_v2.IPAllocation, "port_id", rows, "ip_address", "subnet_id")
    bindings = grouped(connection, ml2_models.PortBinding, "port_id", rows, "host")
    security = grouped(connection, port_security.PortSecurityBinding, "port_id", rows)
    pairs = grouped(connection, allowed_address_pair.AllowedAddressPair, "port_id", rows, "ip_address", "mac_address")
    groups = grouped(connection, securitygroup.SecurityGroupPortBinding, "port_id", rows, "security_group_id")
    options = grouped(connection, dhcp_options.ExtraDhcpOpt, "port_id", rows, "opt_name", "ip_version")
    names = grouped(connection, dns.PortDNS, "port_id", rows)
    policies = grouped(connection, qos.QosPortPolicyBinding, "port_id", rows)
    found: Found = {}
    for row in select(connection, models_v2.Port, "id", rows):
        # During a live migration a port has two bindings; the flows follow the active one.
        binding = next((each for each in bindings[row.id] if each.status == constants.ACTIVE), None)
        found[row.id] = Port(
            id=row.id,
            version=rows[row.id].version,
            project_id=row.project_id or "",
            key=rows[row.id].key,
            network_id=row.network_id,
            mac_address=row.mac_address,
            name=row.name or "",
            admin_state_up=bool(row.admin_state_up),
            fixed_ips=tuple(FixedIP(address.subnet_id, address.ip_address) for address in addresses[row.id]),
            host=binding.host if binding else "",
            vnic_type=binding.vnic_type if binding else "normal",
            vif_type=binding.vif_type if binding else "unbound",
            device_id=row.device_id or "",
            device_owner=row.device_owner or "",
            port_security_enabled=all(each.port_security_enabled for each in security[row.id]),
            allowed_address_pairs=tuple(AddressPair(pair.ip_address, pair.mac_address) for pair in pairs[row.id]),
            security_group_ids=tuple(group.security_group_id for group in groups[row.id]),
            extra_dhcp_opts=tuple(
                DhcpOption(option.opt_name, option.opt_value, option.ip_version) for option in options[row.id]
            ),
            dns_name=names[row.id][0].dns_name if names[row.id] else "",
            inactive_hosts=tuple(each.host for each in bindings[row.id] if each.status != constants.ACTIVE),
            qos_policy_id=policies[row.id][0].policy_id if policies[row.id] else None,
        )
    return found


def trunks(connection: sa.Connection, rows: Rows) -> Found:
    sub_ports = grouped(connection, trunk.SubPort, "trunk_id", rows, "segmentation_type", "segmentation_id")
    networks = _networks_of(connection, [each.port_id for several in sub_ports.values() for each in several])
    return {
        row.id: Trunk(
            id=row.id,
            version=rows[row.id].version,
            project_id=row.project_id or "",
            key=rows[row.id].key,
            port_id=row.port_id,
            name=row.name or "",
            admin_state_up=bool(row.admin_state_up),
            sub_ports=tuple(
                SubPort(each.port_id, networks[each.port_id], each.segmentation_type, each.segmentation_id)
                for each in sub_ports[row.id]
            ),
        )
        for row in select(connection, trunk.Trunk, "id", rows)
    }


def _networks_of(connection: sa.Connection, port_ids: list[str]) -> dict[str, str]:
    """The networks of ports; they stay theirs for life."""
    table = models_v2.Port.__table__
    found: dict[str, str] = {}
    for chunk in chunks(port_ids):
        for row in connection.execute(sa.select(table.c.id, table.c.network_id).where(table.c.id.in_(chunk))):
            found[row.id] = row.network_id
    return found
