"""Capture: every change that reaches a northbound record bumps its sync row in the same transaction.

SQLAlchemy session events see what any plug-in writes, in whatever hook, and nothing of what is rolled
back; mechanism-driver hooks see neither (rows that ML2 deletes by cascade, RBAC, address pairs).

Old rows are read before the flush: attributes that must be loaded cannot be loaded inside it.  New rows
are read after it, when their foreign keys are set.  A bulk statement passes both: the rows that it will find are
looked up before it runs (`bulk`).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from neutron_lib.db import api as db_api
from sqlalchemy import orm
from sqlalchemy.orm import session
from sqlalchemy.orm.base import PASSIVE_NO_INITIALIZE

from flowloom.consistency.table import Ref
from flowloom.neutron.bulk import Untranslatable, identifiers_of
from flowloom.neutron.bump import Touch, bump, lead, merge, place_of, set_deleted
from flowloom.neutron.captured import ROOTS, RULES, Rule

__all__ = ["BulkStatement", "Capture", "Ref"]

LOG = logging.getLogger(__name__)

_PENDING = "flowloom_pending"


class BulkStatement(Exception):
    """A statement changes captured rows past the session, and nothing says which objects it changed."""


class _Pending:
    """What one session's transaction has touched so far.

    bumped: per (nested) transaction, what it has bumped and whether that was gone then, so that one transaction
    bumps an object once; what a savepoint bumped counts only inside it until it is released, because its rollback
    takes the bump back.
    changed: modified rows with the rules by which they reach an object, which may be another one once the flush has
    set their foreign keys.
    """

    def __init__(self) -> None:
        self.before_flush: list[Touch] = []
        self.changed: list[tuple[Any, Rule]] = []
        self.bumped: dict[Any, dict[Ref, bool | None]] = {}


class Capture:
    """Listens to every SQLAlchemy session of the process from `listen()` on.

    committed: called with the touched objects after the outermost commit, in the committing thread.
    strict: raise BulkStatement for a bulk statement that nothing is known about; otherwise count and log it.
    bulk_statements: those on captured tables that reached a record; uncaptured: of them, those whose objects nobody
    knows: only recovery's comparison of contents finds what they changed.
    """

    def __init__(self, committed: Callable[[frozenset[Ref]], None], strict: bool = False) -> None:
        self._committed = committed
        self._strict = strict
        self._rules: dict[type, list[Rule]] = defaultdict(list)
        self._tables: dict[str, list[Rule]] = defaultdict(list)
        for rule in RULES:
            self._rules[rule.model].append(rule)
            self._tables[rule.model.__tablename__].append(rule)
        self.bulk_statements = 0
        self.uncaptured = 0

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
        gone = [row for row in current.deleted if type(row) in self._rules]
        kept = [row for row in current.dirty if type(row) in self._rules and row not in current.deleted]
        changed = [(row, rule) for row in kept for rule in self._rules[type(row)] if _reaches(row, rule)]
        touches = [each for row in gone for rule in self._rules[type(row)] for each in _gone(row, rule)]
        touches += [each for row, rule in changed for each in _changed(row, rule)]
        known = current.info.get(_PENDING)
        if not touches and known is None:
            return
        pending = known or _pending(current)
        pending.before_flush = [_placed(current, touch) for touch in _led(current, touches)]
        pending.changed = changed

    def _after_flush(self, current: orm.Session, _context: Any) -> None:
        new = [row for row in current.new if type(row) in self._rules]
        touches = [each for row in new for rule in self._rules[type(row)] for each in _came(row, rule)]
        pending: _Pending | None = current.info.get(_PENDING)
        if pending is not None:
            touches += [each for row, rule in pending.changed for each in _moved(row, rule)]
            pending.changed = []
        touches = _led(current, touches)
        if pending is not None:
            touches += pending.before_flush
            pending.before_flush = []
        if touches:
            _bump_once(current, touches)

    def _after_commit(self, current: orm.Session) -> None:
        pending: _Pending | None = current.info.get(_PENDING)
        if pending is None:
            return
        nested = current.get_nested_transaction()
        if nested is not None:  # A savepoint is released: what it bumped is its parent's.
            released = pending.bumped.pop(nested, {})
            if released:
                pending.bumped.setdefault(_outer(nested), {}).update(released)
            return
        refs = frozenset(ref for bumped in pending.bumped.values() for ref in bumped)
        if refs:
            self._committed(refs)

    def _after_transaction_end(self, current: orm.Session, transaction: Any) -> None:
        pending: _Pending | None = current.info.get(_PENDING)
        if pending is None:
            return
        pending.bumped.pop(transaction, None)
        if transaction.parent is None:
            current.info.pop(_PENDING, None)

    def _on_execute(self, state: orm.ORMExecuteState) -> None:
        if not (state.is_update or state.is_delete or state.is_insert):
            return
        table = getattr(getattr(state.statement, "table", None), "name", "")
        rules = [rule for rule in self._tables.get(table, ()) if _reaches_a_record(state, rule)]
        if not rules:
            return
        self.bulk_statements += 1
        try:
            touches = [each for rule in rules for each in _touched_by(state, rule)]
        except Untranslatable as error:
            self.uncaptured += 1
            if self._strict:
                raise BulkStatement(f"bulk statement on {table}: {error}: {state.statement}") from error
            LOG.error("A bulk statement on %s passed the capture (%s): %s", table, error, state.statement)
            return
        if touches := _led(state.session, touches):
            _bump_once(state.session, touches)


def _pending(current: orm.Session) -> _Pending:
    found: _Pending = current.info.setdefault(_PENDING, _Pending())
    return found


def _gone(row: Any, rule: Rule) -> Iterator[Touch]:
    if rule.root:
        yield _touch_root(row, rule, deleted=True)
        return
    for identifier in _identifiers(row, rule):
        yield Touch(Ref(rule.kind, identifier), via=rule.via)


def _came(row: Any, rule: Rule) -> Iterator[Touch]:
    if rule.root:
        yield _touch_root(row, rule, deleted=False)
    elif rule.came:
        yield from _moved(row, rule)


def _moved(row: Any, rule: Rule) -> Iterator[Touch]:
    """The object of a row as it is after the flush; nothing is loaded."""
    if not rule.root and rule.id_column in row.__dict__ and (identifier := row.__dict__[rule.id_column]):
        yield Touch(Ref(rule.kind, identifier), via=rule.via)


def _reaches(row: Any, rule: Rule) -> bool:
    """Whether what changed in a modified row reaches the record."""
    state = sa.inspect(row)
    return any(state.get_history(column, PASSIVE_NO_INITIALIZE).has_changes() for column in rule.columns)


def _changed(row: Any, rule: Rule) -> Iterator[Touch]:
    """The object of a modified row; both objects when the row moved from one to another."""
    if rule.root:
        yield replace(_touch_root(row, rule, deleted=False), deleted=None)
        return
    for identifier in _identifiers(row, rule):
        yield Touch(Ref(rule.kind, identifier), via=rule.via)


def _identifiers(row: Any, rule: Rule) -> Iterator[str]:
    former = sa.inspect(row).get_history(rule.id_column, PASSIVE_NO_INITIALIZE).deleted
    return (each for each in {getattr(row, rule.id_column), *former} if each)


def _touch_root(row: Any, rule: Rule, deleted: bool) -> Touch:
    """Of the object itself: what its row says without a look at others."""
    root = ROOTS[rule.kind]
    scope = None if root.through is not None else getattr(row, root.scope_column)
    project_id = row.project_id if root.owner is root.model else None
    return Touch(Ref(rule.kind, row.id), scope, project_id, deleted)


def _led(current: orm.Session, touches: list[Touch]) -> list[Touch]:
    """The same with every detour taken."""
    if not any(touch.via for touch in touches):
        return touches
    return lead(current.connection(), touches)


def _placed(current: orm.Session, touch: Touch) -> Touch:
    """With the scope of what is about to go, where its row does not say it itself."""
    if not touch.deleted or touch.scope is not None:
        return touch
    place = place_of(current.connection(), touch.ref)
    return touch if place is None else replace(touch, scope=place[0], project_id=place[1])


def _outer(transaction: Any) -> Any:
    """The savepoint or transaction around one; those that a flush makes for itself do not count."""
    outer = transaction.parent
    while outer is not None and outer.parent is not None and not outer.nested:
        outer = outer.parent
    return outer


def _bump_once(current: orm.Session, touches: list[Touch]) -> None:
    """Bump what this transaction has not bumped yet; of the rest, say what came or went."""
    pending = _pending(current)
    innermost: Any = current.get_nested_transaction() or current.get_transaction()
    known: dict[Ref, bool | None] = {}
    transaction = innermost
    while transaction is not None:
        known = {**pending.bumped.get(transaction, {}), **known}
        transaction = _outer(transaction)
    here = pending.bumped.setdefault(innermost, {})
    fresh = []
    for touch in merge(touches):
        if touch.ref not in known:
            fresh.append(touch)
            here[touch.ref] = touch.deleted
        elif touch.deleted is not None and touch.deleted != known[touch.ref]:
            set_deleted(current.connection(), touch.ref, touch.deleted)
            here[touch.ref] = touch.deleted
    if fresh:
        bump(current.connection(), fresh)


def _reaches_a_record(state: orm.ORMExecuteState, rule: Rule) -> bool:
    if not state.is_update:
        return rule.came or not state.is_insert
    written = {getattr(column, "key", column) for column in getattr(state.statement, "_values", None) or {}}
    given: Any = state.parameters
    if not written and isinstance(given, list):  # Updates by primary key have their values beside the statement.
        written = {name for row in given for name in row}
    return bool(written & rule.columns)


def _touched_by(state: orm.ORMExecuteState, rule: Rule) -> Iterator[Touch]:
    root = ROOTS[rule.kind]
    if rule.root and root.through is not None and state.is_insert:
        raise Untranslatable("where the records of these rows lie stands in other rows")
    came_or_went = None if state.is_update or not rule.root else state.is_delete
    scope_column = root.scope_column if rule.root and root.through is None else ""
    for identifier, scope in identifiers_of(state, rule.id_column, scope_column):
        touch = Touch(Ref(rule.kind, identifier), scope, None, came_or_went, rule.via)
        yield _placed(state.session, touch)
