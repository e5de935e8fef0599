"""Objects that went past the capture: what was there before it, and what was written or deleted by other means."""

from __future__ import annotations

import sqlalchemy as sa

from flowloom.consistency.table import Ref
from flowloom.neutron.bump import select_places
from flowloom.neutron.captured import ROOTS, Root
from flowloom.neutron.models import SYNC
from flowloom.neutron.tables import Adoptable


def adoptable(connection: sa.Connection, limit: int) -> list[Adoptable]:
    """At most `limit` objects whose row is missing, or says that they are gone or there when they are not.

    Three anti-joins a kind: what it costs grows with the number of objects.
    """
    found: list[Adoptable] = []
    for root in ROOTS.values():
        for find in (_without_row, _gone_unsaid, _there_again):
            if len(found) < limit:
                found += find(connection, root, limit - len(found))
    return found


def _without_row(connection: sa.Connection, root: Root, limit: int) -> list[Adoptable]:
    row = sa.exists().where(SYNC.c.kind == root.kind, SYNC.c.object_id == root.model.__table__.c.id)
    found = connection.execute(select_places(root).where(~row).limit(limit))
    return [Adoptable(Ref(root.kind, each.id), each.project_id or "", each.scope, False, 0) for each in found]


def _gone_unsaid(connection: sa.Connection, root: Root, limit: int) -> list[Adoptable]:
    there = sa.exists().where(root.model.__table__.c.id == SYNC.c.object_id)
    found = connection.execute(
        sa.select(SYNC.c.object_id, SYNC.c.project_id, SYNC.c.scope, SYNC.c.version)
        .where(SYNC.c.kind == root.kind, SYNC.c.deleted == sa.false(), ~there)
        .limit(limit)
    )
    return [
        Adoptable(Ref(root.kind, each.object_id), each.project_id, each.scope, True, each.version) for each in found
    ]


def _there_again(connection: sa.Connection, root: Root, limit: int) -> list[Adoptable]:
    identifier = root.model.__table__.c.id
    said_gone = sa.select(SYNC.c.object_id, SYNC.c.version).where(SYNC.c.kind == root.kind, SYNC.c.deleted == sa.true())
    gone = said_gone.subquery()
    found = connection.execute(
        select_places(root).add_columns(gone.c.version).join(gone, gone.c.object_id == identifier).limit(limit)
    )
    return [
        Adoptable(Ref(root.kind, each.id), each.project_id or "", each.scope, False, each.version) for each in found
    ]
