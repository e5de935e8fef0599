"""From Neutron's tables to northbound records, with the version that belongs to exactly that content.

Everything is read in one transaction of the caller, which must be a snapshot (SQLite: WAL; InnoDB:
REPEATABLE READ), so that a record never carries the version of another moment.  Plain selects, a
few a kind however many objects there are: Neutron's own objects cost ten times as much.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2, rbac_db_models
from neutron.db.extra_dhcp_opt import models as dhcp_options
from neutron.db.models import allowed_address_pair, dns, securitygroup, segment
from neutron.db.port_security import models as port_security
from neutron.plugins.ml2 import models as ml2_models
from neutron_lib import constants

from flowloom.kernel.errors import Rejected
from flowloom.model.records import (
    MAX_KEY,
    AddressPair,
    DhcpOption,
    FixedIP,
    HostRoute,
    Network,
    Port,
    Record,
    Subnet,
)
from flowloom.neutron.captured import NETWORK, PORT, SUBNET
from flowloom.neutron.models import SYNC

IDS_PER_SELECT = 500
"""SQLite allows 32,766 variables in a statement, and a longer list is no faster."""


@dataclass(frozen=True)
class SyncRow:
    """One row of the sync table."""

    key: int
    kind: str
    object_id: str
    project_id: str
    scope: str
    version: int
    synced_version: int
    attempts: int
    last_error: str

    @property
    def dirty(self) -> bool:
        return self.version > self.synced_version


@dataclass(frozen=True)
class Translated:
    """A sync row and what becomes of its object: a record, None when it is gone, or why neither."""

    row: SyncRow
    record: Record | None
    refused: Rejected | None = None


_COLUMNS = tuple(SYNC.c[name] for name in SyncRow.__dataclass_fields__)


def select_rows(connection: sa.Connection, *where: sa.ColumnElement[bool], limit: int | None = None) -> list[SyncRow]:
    """Sync rows, the longest dirty first."""
    statement = sa.select(*_COLUMNS).where(*where).order_by(SYNC.c.dirty_since, SYNC.c.key).limit(limit)
    return [SyncRow(*row) for row in connection.execute(statement)]


def translate(connection: sa.Connection, rows: Sequence[SyncRow]) -> list[Translated]:
    """What each row's object is in the snapshot of `connection`, which the rows were read in too."""
    translated: list[Translated] = []
    for kind in sorted({row.kind for row in rows}):
        of_kind = {row.object_id: row for row in rows if row.kind == kind}
        read = _READERS.get(kind)
        if read is None:
            why = f"unknown kind {kind!r}: a newer release wrote it"
            translated += [Translated(row, None, Rejected(row.object_id, why)) for row in of_kind.values()]
            continue
        found = read(connection, of_kind)
        for object_id, row in of_kind.items():
            outcome = found.get(object_id)
            if isinstance(outcome, Rejected):
                translated.append(Translated(row, None, outcome))
            else:
                translated.append(Translated(row, outcome))
    return translated


Found = dict[str, "Record | Rejected"]


def _chunks(ids: Iterable[str]) -> Iterable[list[str]]:
    ordered = sorted(ids)
    return (ordered[start : start + IDS_PER_SELECT] for start in range(0, len(ordered), IDS_PER_SELECT))


def _select(connection: sa.Connection, model: Any, id_column: str, ids: Iterable[str], *order: str) -> list[Any]:
    table = model.__table__
    rows: list[Any] = []
    for chunk in _chunks(ids):
        statement = sa.select(table).where(table.c[id_column].in_(chunk))
        rows += connection.execute(statement.order_by(*(table.c[name] for name in order)))
    return rows


def _grouped(connection: sa.Connection, model: Any, id_column: str, ids: Iterable[str], *order: str) -> dict[str, Any]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for row in _select(connection, model, id_column, ids, *order):
        groups[getattr(row, id_column)].append(row)
    return groups


def _networks(connection: sa.Connection, rows: dict[str, SyncRow]) -> Found:
    segments = _grouped(connection, segment.NetworkSegment, "network_id", rows, "segment_index", "id")
    shares = _grouped(connection, rbac_db_models.NetworkRBAC, "object_id", rows)
    domains = _grouped(connection, dns.NetworkDNSDomain, "network_id", rows)
    found: Found = {}
    for row in _select(connection, models_v2.Network, "id", rows):
        sync = rows[row.id]
        provider = next((each for each in segments[row.id] if not each.is_dynamic), None)
        if provider is None:
            found[row.id] = Rejected(f"network {row.id}", "it has no segment, so nothing says how it is carried")
            continue
        if sync.key > MAX_KEY:
            found[row.id] = Rejected(f"network {row.id}", f"its key {sync.key} is above {MAX_KEY}")
            continue
        found[row.id] = Network(
            id=row.id,
            version=sync.version,
            project_id=row.project_id or "",
            key=sync.key,
            name=row.name or "",
            admin_state_up=bool(row.admin_state_up),
            mtu=row.mtu,
            shared=any(
                share.action == rbac_db_models.ACCESS_SHARED and share.target_project == "*" for share in shares[row.id]
            ),
            network_type=provider.network_type,
            segmentation_id=provider.segmentation_id,
            physical_network=provider.physical_network,
            dns_domain=domains[row.id][0].dns_domain if domains[row.id] else "",
        )
    return found


def _subnets(connection: sa.Connection, rows: dict[str, SyncRow]) -> Found:
    routes = _grouped(connection, models_v2.SubnetRoute, "subnet_id", rows, "destination", "nexthop")
    servers = _grouped(connection, models_v2.DNSNameServer, "subnet_id", rows, "order", "address")
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
        )
        for row in _select(connection, models_v2.Subnet, "id", rows)
    }


def _ports(connection: sa.Connection, rows: dict[str, SyncRow]) -> Found:
    addresses = _grouped(connection, models_v2.IPAllocation, "port_id", rows, "ip_address", "subnet_id")
    bindings = _grouped(connection, ml2_models.PortBinding, "port_id", rows, "host")
    security = _grouped(connection, port_security.PortSecurityBinding, "port_id", rows)
    pairs = _grouped(connection, allowed_address_pair.AllowedAddressPair, "port_id", rows, "ip_address", "mac_address")
    groups = _grouped(connection, securitygroup.SecurityGroupPortBinding, "port_id", rows, "security_group_id")
    options = _grouped(connection, dhcp_options.ExtraDhcpOpt, "port_id", rows, "opt_name", "ip_version")
    names = _grouped(connection, dns.PortDNS, "port_id", rows)
    found: Found = {}
    for row in _select(connection, models_v2.Port, "id", rows):
        sync = rows[row.id]
        if sync.key > MAX_KEY:
            found[row.id] = Rejected(f"port {row.id}", f"its key {sync.key} is above {MAX_KEY}")
            continue
        # During a live migration a port has two bindings; the flows follow the active one.
        binding = next((each for each in bindings[row.id] if each.status == constants.ACTIVE), None)
        found[row.id] = Port(
            id=row.id,
            version=sync.version,
            project_id=row.project_id or "",
            key=sync.key,
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
        )
    return found


_READERS: dict[str, Callable[[sa.Connection, dict[str, SyncRow]], Found]] = {
    NETWORK: _networks,
    SUBNET: _subnets,
    PORT: _ports,
}
