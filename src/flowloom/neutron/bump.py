"""Versions: what raises those of objects, in the transaction that changes them, and where their records lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from flowloom.consistency.marks import shard_of
from flowloom.consistency.table import Ref
from flowloom.neutron.captured import ROOTS, Root, Via
from flowloom.neutron.database_time import database_now
from flowloom.neutron.models import SYNC


@dataclass(frozen=True)
class Touch:
    """One object to bump.

    scope, project_id: where its record lies; None: to be looked up when it has no row yet.
    deleted: True or False when the object itself went or came, else None.
    via: the id is another one's still, and this leads from there to the object; see `lead`.
    """

    ref: Ref
    scope: str | None = None
    project_id: str | None = None
    deleted: bool | None = None
    via: Via | None = None


def lead(connection: sa.Connection, touches: Iterable[Touch]) -> list[Touch]:
    """Take the detours: touches with `via` become those of the objects that it leads to, if there are any."""
    led: list[Touch] = []
    detours: dict[tuple[str, Via], list[str]] = defaultdict(list)
    for touch in touches:
        if touch.via is None:
            led.append(touch)
        else:
            detours[touch.ref.kind, touch.via].append(touch.ref.id)
    for (kind, via), ids in detours.items():
        table = via.model.__table__
        statement = sa.select(table.c[via.id_column]).where(table.c[via.column].in_(sorted(set(ids))), via.where)
        if via.locked:
            statement = statement.with_for_update(read=True)
        led += [Touch(Ref(kind, found), via=via.then) for found in connection.scalars(statement)]
    return led if not any(touch.via for touch in led) else lead(connection, led)


def merge(touches: Iterable[Touch]) -> list[Touch]:
    """One touch an object, with what any of them knows; what came is there, even if it also went."""
    merged: dict[Ref, Touch] = {}
    for touch in touches:
        known = merged.get(touch.ref)
        if known is not None:
            came_or_went = [flag for flag in (known.deleted, touch.deleted) if flag is not None]
            touch = Touch(
                touch.ref,
                touch.scope or known.scope,
                touch.project_id or known.project_id,
                all(came_or_went) if came_or_went else None,
            )
        merged[touch.ref] = touch
    return list(merged.values())


def bump(connection: sa.Connection, touches: Iterable[Touch]) -> None:
    """Raise the version of each object by one in the transaction of `connection`; missing rows are made.

    New objects are inserted at once: on InnoDB an UPDATE that finds nothing locks the gap, and two
    transactions that then insert into it wait for each other.
    """
    for touch in touches:
        if touch.deleted is False or not _raise_version(connection, touch):
            _insert(connection, touch)


def set_deleted(connection: sa.Connection, ref: Ref, deleted: bool) -> None:
    """Say that an object came or went which the same transaction has bumped already."""
    connection.execute(sa.update(SYNC).where(_is(ref)).values(deleted=deleted))


def place_of(connection: sa.Connection, ref: Ref) -> tuple[str, str] | None:
    """(scope, project) of an object's record; None: there is no such object."""
    statement = select_places(ROOTS[ref.kind]).where(ROOTS[ref.kind].model.__table__.c.id == ref.id)
    found = connection.execute(statement).first()
    return None if found is None else (found.scope, found.project_id or "")


def select_places(root: Root) -> sa.Select[Any]:
    """(id, scope, project_id) of every object of a kind."""
    table, owner = root.model.__table__, root.owner.__table__
    scope = table.c[root.scope_column]
    if root.through is None and root.owner is root.model:
        return sa.select(table.c.id, scope.label("scope"), table.c.project_id.label("project_id"))
    rows = table
    if root.through is not None:
        through = root.through.__table__
        rows = table.join(through, through.c.id == scope)
        scope = through.c[root.through_column]
    rows = rows.outerjoin(owner, owner.c.id == scope)
    return sa.select(table.c.id, scope.label("scope"), owner.c.project_id.label("project_id")).select_from(rows)


def _is(ref: Ref) -> sa.ColumnElement[bool]:
    return sa.and_(SYNC.c.kind == ref.kind, SYNC.c.object_id == ref.id)


def _raise_version(connection: sa.Connection, touch: Touch) -> bool:
    values: dict[str, Any] = {"dirty_since": _dirty_since(), "version": SYNC.c.version + 1}
    if touch.deleted is not None:
        values["deleted"] = touch.deleted
    return bool(connection.execute(sa.update(SYNC).where(_is(touch.ref)).values(values)).rowcount)


def _insert(connection: sa.Connection, touch: Touch) -> None:
    placed = _placed(connection, touch)
    if placed is None:
        return  # The object does not exist and never had a record: nothing to write, nothing to delete.
    values = {
        "kind": touch.ref.kind,
        "object_id": touch.ref.id,
        "project_id": placed.project_id,
        "scope": placed.scope,
        "version": 1,
        "shard": shard_of(*touch.ref),
        "deleted": bool(touch.deleted),
        "dirty_since": database_now(),
    }
    again = {
        "dirty_since": _dirty_since(),
        "version": SYNC.c.version + 1,
        "deleted": bool(touch.deleted),
        "project_id": placed.project_id,
        "scope": placed.scope,
    }
    connection.execute(_upsert(connection.dialect.name, values, again))


def _placed(connection: sa.Connection, touch: Touch) -> Touch | None:
    if touch.scope is not None and touch.project_id is not None:
        return touch
    if touch.scope is None:
        place = place_of(connection, touch.ref)
        return None if place is None else replace(touch, scope=place[0], project_id=place[1])
    root = ROOTS[touch.ref.kind]
    owner = root.owner.__table__
    project_id = connection.scalar(sa.select(owner.c.project_id).where(owner.c.id == touch.scope))
    if project_id is None:  # The owner has no project, or went with the object: its own row still knows.
        owners = [kind for kind, each in ROOTS.items() if each.model is root.owner]
        named = sa.select(SYNC.c.project_id).where(SYNC.c.kind.in_(owners), SYNC.c.object_id == touch.scope)
        project_id = connection.scalar(named)
    return replace(touch, project_id=project_id or "")


def _dirty_since() -> sa.ColumnElement[float]:
    return sa.case((SYNC.c.dirty_since > 0, SYNC.c.dirty_since), else_=database_now())


def _upsert(dialect: str, values: dict[str, Any], again: dict[str, Any]) -> Any:
    """INSERT that becomes an update where the row exists: a re-created object, or a concurrent first bump."""
    unique: Sequence[str] = ("kind", "object_id")
    if dialect in ("mysql", "mariadb"):
        from sqlalchemy.dialects import mysql

        return mysql.insert(SYNC).values(values).on_duplicate_key_update(again)
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(SYNC).values(values).on_conflict_do_update(index_elements=unique, set_=again)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(SYNC).values(values).on_conflict_do_update(index_elements=unique, set_=again)
