"""Routers, floating IPs and port forwardings as records."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.models import l3, l3_attrs, port_forwarding
from neutron.db.qos import models as qos
from neutron_lib import constants

from flowloom.model.records import (
    ExternalGateway,
    FixedIP,
    FloatingIP,
    HostRoute,
    PortForwarding,
    Router,
    RouterInterface,
)
from flowloom.neutron.reading import Found, Rows, chunks, grouped, select

_INTERFACES = frozenset(constants.ROUTER_INTERFACE_OWNERS)


def routers(connection: sa.Connection, rows: Rows) -> Found:
    ports = _ports(connection, rows)
    gateways = [port for several in ports.values() for port in several if _is_gateway(port)]
    addresses = grouped(
        connection, models_v2.IPAllocation, "port_id", [port.port_id for port in gateways], "ip_address", "subnet_id"
    )
    attributes = {row.router_id: row for row in select(connection, l3_attrs.RouterExtraAttributes, "router_id", rows)}
    routes = grouped(connection, l3.RouterRoute, "router_id", rows, "destination", "nexthop")
    policies = grouped(connection, qos.QosRouterGatewayIPPolicyBinding, "router_id", rows)
    found: Found = {}
    for row in select(connection, l3.Router, "id", rows):
        extra = attributes.get(row.id)
        outside = [port for port in ports[row.id] if _is_gateway(port)]
        outside.sort(key=lambda port, first=row.gw_port_id: (port.port_id != first, port.port_id))  # type: ignore[misc]
        found[row.id] = Router(
            id=row.id,
            version=rows[row.id].version,
            project_id=row.project_id or "",
            key=rows[row.id].key,
            name=row.name or "",
            admin_state_up=bool(row.admin_state_up),
            interfaces=tuple(
                RouterInterface(port.port_id, port.network_id)
                for port in ports[row.id]
                if port.port_type in _INTERFACES
            ),
            external_gateways=tuple(
                ExternalGateway(
                    port.port_id,
                    port.network_id,
                    port.mac_address,
                    tuple(FixedIP(each.subnet_id, each.ip_address) for each in addresses[port.port_id]),
                )
                for port in outside
            ),
            enable_snat=bool(row.enable_snat),
            routes=tuple(HostRoute(route.destination, route.nexthop) for route in routes[row.id]),
            distributed=bool(extra and extra.distributed),
            ha=bool(extra and extra.ha),
            availability_zone_hints=_hints(extra.availability_zone_hints) if extra else (),
            enable_default_route_ecmp=bool(extra and extra.enable_default_route_ecmp),
            enable_default_route_bfd=bool(extra and extra.enable_default_route_bfd),
            qos_policy_id=policies[row.id][0].policy_id if policies[row.id] else None,
        )
    return found


def _ports(connection: sa.Connection, rows: Rows) -> dict[str, list[Any]]:
    """The ports of routers, by router."""
    of_router, port = l3.RouterPort.__table__, models_v2.Port.__table__
    found: dict[str, list[Any]] = defaultdict(list)
    for chunk in chunks(rows):
        statement = (
            sa.select(of_router, port.c.network_id, port.c.mac_address)
            .select_from(of_router.join(port, port.c.id == of_router.c.port_id))
            .where(of_router.c.router_id.in_(chunk))
            .order_by(of_router.c.port_id)
        )
        for each in connection.execute(statement):
            found[each.router_id].append(each)
    return found


def _is_gateway(port: Any) -> bool:
    return bool(port.port_type == constants.DEVICE_OWNER_ROUTER_GW)


def _hints(text: str | None) -> tuple[str, ...]:
    return tuple(json.loads(text)) if text else ()


def floating_ips(connection: sa.Connection, rows: Rows) -> Found:
    policies = grouped(connection, qos.QosFIPPolicyBinding, "fip_id", rows)
    return {
        row.id: FloatingIP(
            id=row.id,
            version=rows[row.id].version,
            project_id=row.project_id or "",
            key=rows[row.id].key,
            floating_network_id=row.floating_network_id,
            floating_ip_address=row.floating_ip_address,
            floating_port_id=row.floating_port_id,
            fixed_port_id=row.fixed_port_id,
            fixed_ip_address=row.fixed_ip_address,
            router_id=row.router_id,
            qos_policy_id=policies[row.id][0].policy_id if policies[row.id] else None,
        )
        for row in select(connection, l3.FloatingIP, "id", rows)
    }


def port_forwardings(connection: sa.Connection, rows: Rows) -> Found:
    found = select(connection, port_forwarding.PortForwarding, "id", rows)
    owners = {row.id: row for row in select(connection, l3.FloatingIP, "id", [row.floatingip_id for row in found])}
    return {
        row.id: PortForwarding(
            id=row.id,
            version=rows[row.id].version,
            project_id=owners[row.floatingip_id].project_id or "",
            key=rows[row.id].key,
            floatingip_id=row.floatingip_id,
            protocol=row.protocol,
            external_port_range=(row.external_port_start, row.external_port_end),
            internal_port_id=row.internal_neutron_port_id,
            internal_ip_address=row.internal_ip_address,
            internal_port_range=(row.internal_port_start, row.internal_port_end),
        )
        for row in found
    }
