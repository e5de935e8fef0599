"""The SQL tables on a database with a toy in Neutron's place: one table with one text an object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from flowloom.consistency.table import Fact, Ref, Row
from flowloom.kernel.errors import Rejected
from flowloom.neutron.database import Contended, SqlDatabase
from flowloom.neutron.database_time import database_now
from flowloom.neutron.models import AUDIT, GUARD, LEASE, MOVE, SYNC, TABLES
from flowloom.neutron.places import SqlPlaceTable
from flowloom.neutron.tables import Adoptable, SqlAuditTable, SqlLeaseTable, SqlSyncTable
from flowloom.testing.table_conformance import KINDS, PROJECT, SCOPE, TableBench, Tables, record_of

_METADATA = sa.MetaData()
OBJECTS = sa.Table(
    "toy_objects",
    _METADATA,
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("project_id", sa.String(255), nullable=False),
    sa.Column("scope", sa.String(64), nullable=False),
    sa.Column("content", sa.String(255), nullable=False),
    mysql_engine="InnoDB",
)


def create_tables(database: SqlDatabase) -> None:
    """Ours and the toy's, where they are missing."""
    with database.writer() as connection:
        SYNC.metadata.create_all(connection, tables=TABLES)
        _METADATA.create_all(connection)


def empty_tables(database: SqlDatabase) -> None:
    with database.writer() as connection:
        for table in (*TABLES, OBJECTS):
            connection.execute(sa.delete(table))


def translate(connection: sa.Connection, rows: Sequence[Row]) -> list[Fact]:
    """As Neutron's translation does: what the objects are in this snapshot; in no order."""
    wanted = [row.id for row in rows]
    found = connection.execute(sa.select(OBJECTS).where(OBJECTS.c.id.in_(wanted)))
    contents = {Ref(each.kind, each.id): each.content for each in found}
    facts = []
    for row in reversed(rows):
        content = contents.get(row.ref)
        if row.kind not in KINDS:
            facts.append(Fact(row, None, known=False))
        elif content is None:
            facts.append(Fact(row, None))
        else:
            record = record_of(row, content)
            refused = isinstance(record, Rejected)
            facts.append(Fact(row, None, record) if refused else Fact(row, record))
    return facts


def adoptable(connection: sa.Connection, limit: int) -> list[Adoptable]:
    """Objects without a row, rows without their object, rows called deleted whose object is there."""
    same = sa.and_(SYNC.c.kind == OBJECTS.c.kind, SYNC.c.object_id == OBJECTS.c.id)
    there = (
        sa.select(OBJECTS, SYNC.c.version)
        .select_from(OBJECTS.outerjoin(SYNC, same))
        .where(sa.or_(SYNC.c.key.is_(None), SYNC.c.deleted), OBJECTS.c.kind.in_(KINDS))
        .limit(limit)
    )
    found = [
        Adoptable(Ref(row.kind, row.id), row.project_id, row.scope, False, row.version or 0)
        for row in connection.execute(there)
    ]
    gone = (
        sa.select(SYNC)
        .select_from(SYNC.outerjoin(OBJECTS, same))
        .where(OBJECTS.c.id.is_(None), sa.not_(SYNC.c.deleted), SYNC.c.kind.in_(KINDS))
        .limit(limit - len(found))
    )
    found += [
        Adoptable(Ref(row.kind, row.object_id), row.project_id, row.scope, True, row.version)
        for row in connection.execute(gone)
    ]
    return found


class SqlBench(TableBench):
    """databases: one and the same content, each the database as one process or node has it.

    cut, mend: how to make all of them unreachable, if there is a way.
    """

    def __init__(
        self,
        databases: Sequence[SqlDatabase],
        cut: Callable[[], None] | None = None,
        mend: Callable[[], None] | None = None,
    ) -> None:
        self.databases = databases
        self._opened = 0
        self._cut, self._mend = cut, mend
        self._is_cut = False
        empty_tables(databases[0])

    @property
    def locks_reach_everywhere(self) -> bool:  # type: ignore[override]
        return len(self.databases) == 1

    def open(self) -> Tables:
        database = self.databases[self._opened % len(self.databases)]
        self._opened += 1
        sync = SqlSyncTable(database, translate, adoptable)
        return Tables(sync, SqlLeaseTable(database), SqlAuditTable(database), SqlPlaceTable(database))

    def change(self, ref: Ref, content: str, project_id: str = PROJECT, scope: str = SCOPE) -> int:
        return self._in_neutron(
            lambda c: (_put(c, ref, content, project_id, scope), _bump(c, ref, project_id, scope))[1]
        )

    def delete(self, ref: Ref) -> int:
        return self._in_neutron(lambda c: (_remove(c, ref), _bump(c, ref, "", "", deleted=True))[1])

    def bypass(self, ref: Ref, content: str | None, project_id: str = PROJECT, scope: str = SCOPE) -> None:
        if content is None:
            self._in_neutron(lambda c: _remove(c, ref))
        else:
            self._in_neutron(lambda c: _put(c, ref, content, project_id, scope))

    def pass_time(self, seconds: float) -> None:
        """Everything that is noted is as much older."""

        def age(connection: sa.Connection) -> None:
            for column in (LEASE.c.expires_at, SYNC.c.dirty_since, AUDIT.c.at, GUARD.c.at, MOVE.c.began_at):
                statement = sa.update(column.table).where(column > 0).values({column.name: column - seconds})
                connection.execute(statement)

        self._in_neutron(age)

    def cut(self) -> None:
        if self._cut is None:
            super().cut()
        else:
            self._is_cut = True
            self._cut()

    def mend(self) -> None:
        if self._mend is not None:
            self._mend()
            self._is_cut = False

    def end(self) -> None:
        if self._is_cut:
            self.mend()

    def _in_neutron(self, work: Callable[[sa.Connection], Any]) -> Any:
        """One transaction of an API worker, which Neutron repeats after a deadlock."""
        database = self.databases[self._opened % len(self.databases)]
        for _ in range(100):
            try:
                with database.writer() as connection:
                    return work(connection)
            except Contended:
                continue
        raise AssertionError("a hundred deadlocks one after the other")


def _put(connection: sa.Connection, ref: Ref, content: str, project_id: str, scope: str) -> None:
    there = sa.and_(OBJECTS.c.kind == ref.kind, OBJECTS.c.id == ref.id)
    if not connection.execute(sa.update(OBJECTS).where(there).values(content=content)).rowcount:
        values = {"kind": ref.kind, "id": ref.id, "project_id": project_id, "scope": scope, "content": content}
        connection.execute(sa.insert(OBJECTS).values(values))


def _remove(connection: sa.Connection, ref: Ref) -> None:
    connection.execute(sa.delete(OBJECTS).where(OBJECTS.c.kind == ref.kind, OBJECTS.c.id == ref.id))


def _bump(connection: sa.Connection, ref: Ref, project_id: str, scope: str, deleted: bool = False) -> int:
    ours = sa.and_(SYNC.c.kind == ref.kind, SYNC.c.object_id == ref.id)
    since = sa.case((SYNC.c.dirty_since > 0, SYNC.c.dirty_since), else_=database_now())
    raised = sa.update(SYNC).where(ours).values(version=SYNC.c.version + 1, deleted=deleted, dirty_since=since)
    if not connection.execute(raised).rowcount:
        values = {"kind": ref.kind, "object_id": ref.id, "project_id": project_id, "scope": scope, "version": 1}
        connection.execute(sa.insert(SYNC).values(deleted=deleted, dirty_since=database_now(), **values))
    found: int = connection.scalar(sa.select(SYNC.c.version).where(ours)) or 0
    return found
