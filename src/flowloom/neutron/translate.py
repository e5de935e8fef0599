"""From Neutron's tables to northbound records, with the version that belongs to exactly that content.

Everything is read in one transaction of the caller, which must be a snapshot (SQLite: WAL; InnoDB:
REPEATABLE READ), so that a record never carries the version of another moment.  Plain selects, a
few a kind however many objects there are: Neutron's own objects cost ten times as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from flowloom.consistency.table import Fact, Row
from flowloom.kernel.errors import Rejected
from flowloom.model.records import Record
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
from flowloom.neutron.models import SYNC
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
        found = read(connection, kind, of_kind)
        if found is None:
            why = f"unknown kind {kind!r}: a newer release wrote it"
            translated += [Translated(row, None, Rejected(row.object_id, why)) for row in of_kind.values()]
            continue
        for object_id, row in of_kind.items():
            outcome = found.get(object_id)
            if isinstance(outcome, Rejected):
                translated.append(Translated(row, None, outcome))
            else:
                translated.append(Translated(row, outcome))
    return translated
