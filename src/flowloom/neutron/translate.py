"""From Neutron's tables to northbound records, with the version that belongs to exactly that content.

Everything is read in one transaction of the caller, which must be a snapshot (SQLite: WAL; InnoDB:
REPEATABLE READ), so that a record never carries the version of another moment.  Plain selects, a
few a kind however many objects there are: Neutron's own objects cost ten times as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from flowloom.consistency.table import Fact, Row
from flowloom.kernel.errors import Rejected
from flowloom.neutron.captured import (
    ADDRESS_GROUP,
    FLOATING_IP,
    NETWORK,
    PORT,
    PORT_FORWARDING,
    QOS_POLICY,
    ROUTER,
    SECURITY_GROUP,
    SUBNET,
    TRUNK,
)
from flowloom.neutron.reading import Found, Numbered, Reader, refuse_large_keys
from flowloom.neutron.translate_l2 import networks, ports, subnets, trunks
from flowloom.neutron.translate_l3 import floating_ips, port_forwardings, routers
from flowloom.neutron.translate_policy import address_groups, qos_policies, security_groups

_READERS: dict[str, Reader] = {
    NETWORK: networks,
    SUBNET: subnets,
    PORT: ports,
    TRUNK: trunks,
    ROUTER: routers,
    FLOATING_IP: floating_ips,
    PORT_FORWARDING: port_forwardings,
    SECURITY_GROUP: security_groups,
    ADDRESS_GROUP: address_groups,
    QOS_POLICY: qos_policies,
}

_WITHOUT_KEY = frozenset({SUBNET})


def facts(connection: sa.Connection, rows: Sequence[Row]) -> list[Fact]:
    """What the object of each row is in the snapshot of `connection`, which the rows were read in too.

    In the order of `rows`.  Rows of a kind without a translation here are answered with `known` False.
    """
    by_kind: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, {})[row.id] = row
    found = {kind: read(connection, kind, of_kind) for kind, of_kind in sorted(by_kind.items())}
    return [_fact(row, found[row.kind]) for row in rows]


def read(connection: sa.Connection, kind: str, rows: Mapping[str, Numbered]) -> Found | None:
    """Objects of one kind, by id; None: no translation of that kind exists here."""
    reader = _READERS.get(kind)
    if reader is None:
        return None
    found = reader(connection, rows)
    return found if kind in _WITHOUT_KEY else refuse_large_keys(found, rows, kind)


def _fact(row: Row, found: Found | None) -> Fact:
    if found is None:
        return Fact(row, None, known=False)
    outcome = found.get(row.id)
    if isinstance(outcome, Rejected):
        return Fact(row, None, outcome)
    return Fact(row, outcome)
