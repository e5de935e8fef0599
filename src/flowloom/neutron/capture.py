"""Capture: every change that reaches a northbound record bumps its sync row in the same transaction.

SQLAlchemy session events see what any plug-in writes, in whatever hook, and nothing of what is rolled
back; mechanism-driver hooks see neither (rows that ML2 deletes by cascade, RBAC, address pairs).

Old rows are read before the flush: attributes that must be loaded cannot be loaded inside it.  New rows
are read after it, when their foreign keys are set.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron_lib.db import api as db_api
from sqlalchemy import orm
from sqlalchemy.orm import session
from sqlalchemy.orm.base import PASSIVE_NO_INITIALIZE

from flowloom.neutron.captured import NETWORK, ROOTS, RULES, Rule
from flowloom.neutron.database_time import database_now
from flowloom.neutron.models import SYNC

LOG = logging.getLogger(__name__)

Ref = tuple[str, str]
"""(kind, id) of an object."""

_PENDING = "flowloom_pending"


@dataclass(frozen=True)
class Touch:
    """One object to bump.  deleted: True or False when the object itself went or came, else None."""

    ref: Ref
    network_id: str | None = None
    project_id: str | None = None
    deleted: bool | None = None


class BulkStatement(Exception):
    """A statement changes captured rows past the session, so that nobody knows which objects it changed."""


class _Pending:
    """What one session's transaction has touched so far.

    bumped: per (nested) transaction, what it has bumped, so that one transaction bumps an object once;
    what a savepoint bumped counts only inside it, because its rollback takes the bump back.
    """

    def __init__(self) -> None:
        self.before_flush: list[Touch] = []
        self.bumped: dict[Any, dict[Ref, bool | None]] = {}
        self.refs: set[Ref] = set()


class Capture:
    """Listens to every SQLAlchemy session of the process from `listen()` on.

    committed: called with the touched objects after the outermost commit, in the committing thread.
    strict: raise BulkStatement for bulk statements on captured tables; otherwise count and log them.
    """

    def __init__(self, committed: Callable[[frozenset[Ref]], None], strict: bool = False) -> None:
        self._committed = committed
        self._strict = strict
        self._rules: dict[type, Rule] = {rule.model: rule for rule in RULES}
        self._tables: dict[str, Rule] = {rule.model.__tablename__: rule for rule in RULES}
        self.bulk_statements = 0

    def listen(self) -> None:
        """Start; Neutron's own list of listeners takes them away again in its tests."""
        for event, listener in (
            ("before_flush", self._before_flush),
            ("after_flush", self._after_flush),
            ("after_commit", self._after_commit),
            ("after_transaction_end", self._after_transaction_end),
            ("do_orm_execute", self._on_execute),
        ):
            db_api.sqla_listen(session.Session, event, listener)

    def _before_flush(self, current: orm.Session, _context: Any, _instances: Any) -> None:
        touches = [touch for row in current.deleted if (rule := self._rule(row)) for touch in _gone(row, rule)]
        for row in current.dirty:
            rule = self._rule(row)
            if rule and row not in current.deleted:
                touches += _changed(row, rule)
        if touches:
            _pending(current).before_flush += touches

    def _after_flush(self, current: orm.Session, _context: Any) -> None:
        touches = [touch for row in current.new if (rule := self._rule(row)) for touch in _came(row, rule)]
        pending = current.info.get(_PENDING)
        if pending is None:
            if not touches:
                return
            pending = _pending(current)
        touches += pending.before_flush
        pending.before_flush = []
        fresh = _not_yet_bumped(pending, current, merge(touches))
        pending.refs.update(touch.ref for touch in fresh)
        if fresh:
            bump(current.connection(), fresh)

    def _after_commit(self, current: orm.Session) -> None:
        pending = current.info.get(_PENDING)
        if pending and pending.refs and not current.in_nested_transaction():
            self._committed(frozenset(pending.refs))

    def _after_transaction_end(self, current: orm.Session, transaction: Any) -> None:
        if transaction.parent is None:
            current.info.pop(_PENDING, None)

    def _on_execute(self, state: orm.ORMExecuteState) -> None:
        if not (state.is_update or state.is_delete or state.is_insert):
            return
        table = getattr(getattr(state.statement, "table", None), "name", "")
        rule = self._tables.get(table)
        if rule is None or not _reaches_a_record(state, rule):
            return
        self.bulk_statements += 1
        if self._strict:
            raise BulkStatement(f"bulk statement on {table}: {state.statement}")
        LOG.error("A bulk statement on %s passed the capture: %s", table, state.statement)

    def _rule(self, row: Any) -> Rule | None:
        return self._rules.get(type(row))


def _pending(current: orm.Session) -> _Pending:
    found: _Pending = current.info.setdefault(_PENDING, _Pending())
    return found


def _gone(row: Any, rule: Rule) -> Iterator[Touch]:
    if rule.root:
        yield _touch_root(row, rule, deleted=True)
    elif identifier := getattr(row, rule.id_column):
        yield Touch((rule.kind, identifier))


def _came(row: Any, rule: Rule) -> Iterator[Touch]:
    if rule.root:
        yield _touch_root(row, rule, deleted=False)
    elif identifier := row.__dict__.get(rule.id_column):
        yield Touch((rule.kind, identifier))


def _changed(row: Any, rule: Rule) -> Iterator[Touch]:
    """The object of a modified row; both objects when the row moved from one to another."""
    state = sa.inspect(row)
    if not any(state.get_history(column, PASSIVE_NO_INITIALIZE).has_changes() for column in rule.columns):
        return
    if rule.root:
        yield replace(_touch_root(row, rule, deleted=False), deleted=None)
        return
    identifiers = {getattr(row, rule.id_column), *state.get_history(rule.id_column, PASSIVE_NO_INITIALIZE).deleted}
    for identifier in identifiers:
        if identifier:
            yield Touch((rule.kind, identifier))


def _touch_root(row: Any, rule: Rule, deleted: bool) -> Touch:
    project_id = row.project_id if rule.kind == NETWORK else None
    return Touch((rule.kind, row.id), getattr(row, rule.network_column), project_id, deleted)


def merge(touches: Iterable[Touch]) -> list[Touch]:
    """One touch an object, with what any of them knows; what came is there, even if it also went."""
    merged: dict[Ref, Touch] = {}
    for touch in touches:
        known = merged.get(touch.ref)
        if known is not None:
            came_or_went = [flag for flag in (known.deleted, touch.deleted) if flag is not None]
            touch = Touch(
                touch.ref,
                touch.network_id or known.network_id,
                touch.project_id or known.project_id,
                all(came_or_went) if came_or_went else None,
            )
        merged[touch.ref] = touch
    return list(merged.values())


def _not_yet_bumped(pending: _Pending, current: orm.Session, touches: list[Touch]) -> list[Touch]:
    innermost: Any = current.get_nested_transaction() or current.get_transaction()
    known: dict[Ref, bool | None] = {}
    transaction = innermost
    while transaction is not None:
        known = {**pending.bumped.get(transaction, {}), **known}
        transaction = transaction.parent
    fresh = [t for t in touches if t.ref not in known or (t.deleted is not None and t.deleted != known[t.ref])]
    pending.bumped.setdefault(innermost, {}).update({touch.ref: touch.deleted for touch in fresh})
    return fresh


def _reaches_a_record(state: orm.ORMExecuteState, rule: Rule) -> bool:
    if not state.is_update:
        return True
    written = {getattr(column, "key", column) for column in getattr(state.statement, "_values", None) or {}}
    return not written or bool(written & rule.columns)


def bump(connection: sa.Connection, touches: Iterable[Touch]) -> None:
    """Raise the version of each object by one in the transaction of `connection`; missing rows are made.

    New objects are inserted at once: on InnoDB an UPDATE that finds nothing locks the gap, and two
    transactions that then insert into it wait for each other.
    """
    for touch in touches:
        if touch.deleted is False or not _raise_version(connection, touch):
            _insert(connection, touch)


def _raise_version(connection: sa.Connection, touch: Touch) -> bool:
    values: dict[str, Any] = {"dirty_since": _dirty_since(), "version": SYNC.c.version + 1}
    if touch.deleted is not None:
        values["deleted"] = touch.deleted
    kind, identifier = touch.ref
    statement = sa.update(SYNC).where(SYNC.c.kind == kind, SYNC.c.object_id == identifier).values(values)
    return bool(connection.execute(statement).rowcount)


def _insert(connection: sa.Connection, touch: Touch) -> None:
    network_id = touch.network_id or _network_of(connection, touch.ref)
    if network_id is None:
        return  # The object does not exist and never had a record: nothing to write, nothing to delete.
    project_id = touch.project_id or _project_of(connection, network_id)
    values = {
        "kind": touch.ref[0],
        "object_id": touch.ref[1],
        "project_id": project_id,
        "scope": network_id,
        "version": 1,
        "deleted": bool(touch.deleted),
        "dirty_since": database_now(),
    }
    again = {
        "dirty_since": _dirty_since(),
        "version": SYNC.c.version + 1,
        "deleted": bool(touch.deleted),
        "project_id": project_id,
        "scope": network_id,
    }
    connection.execute(_upsert(connection.dialect.name, values, again))


def _dirty_since() -> sa.ColumnElement[float]:
    return sa.case((SYNC.c.dirty_since > 0, SYNC.c.dirty_since), else_=database_now())


def _upsert(dialect: str, values: dict[str, Any], again: dict[str, Any]) -> Any:
    """INSERT that becomes an update where the row exists: a re-created object, or a concurrent first bump."""
    if dialect in ("mysql", "mariadb"):
        from sqlalchemy.dialects import mysql

        return mysql.insert(SYNC).values(values).on_duplicate_key_update(again)
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return (
            postgresql.insert(SYNC)
            .values(values)
            .on_conflict_do_update(index_elements=["kind", "object_id"], set_=again)
        )
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(SYNC).values(values).on_conflict_do_update(index_elements=["kind", "object_id"], set_=again)


def _network_of(connection: sa.Connection, ref: Ref) -> str | None:
    rule = ROOTS[ref[0]]
    table = rule.model.__table__
    found: str | None = connection.scalar(sa.select(table.c[rule.network_column]).where(table.c.id == ref[1]))
    return found


def _project_of(connection: sa.Connection, network_id: str) -> str:
    networks = models_v2.Network.__table__
    return connection.scalar(sa.select(networks.c.project_id).where(networks.c.id == network_id)) or ""
