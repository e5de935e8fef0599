"""Plain selects of Neutron's tables: a few a kind, however many objects there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Protocol

import sqlalchemy as sa

from flowloom.kernel.errors import Rejected
from flowloom.model.records import MAX_KEY, Record

IDS_PER_SELECT = 500
"""SQLite allows 32,766 variables in a statement, and a longer list is no faster."""


class Numbered(Protocol):
    """What a record takes from its sync row."""

    @property
    def key(self) -> int: ...

    @property
    def version(self) -> int: ...


Rows = Mapping[str, Numbered]
"""Sync rows by object id."""

Found = dict[str, "Record | Rejected"]
"""Objects by id, as records, or with the reason why they are none; those that are gone are left out."""

Reader = Callable[[sa.Connection, Rows], Found]


def select(connection: sa.Connection, model: Any, id_column: str, ids: Iterable[str], *order: str) -> list[Any]:
    """Rows of `model` in whose `id_column` one of `ids` stands."""
    statement = _selection(model, id_column, order)
    rows: list[Any] = []
    for chunk in chunks(ids):
        rows += connection.execute(statement, {"ids": chunk})
    return rows


@cache
def _selection(model: Any, id_column: str, order: tuple[str, ...]) -> sa.Select[Any]:
    """Made once: SQLAlchemy makes a statement in several times the time in which it runs one."""
    table = model.__table__
    of_ids = table.c[id_column].in_(sa.bindparam("ids", expanding=True))
    return sa.select(table).where(of_ids).order_by(*(table.c[name] for name in order))


def grouped(
    connection: sa.Connection, model: Any, id_column: str, ids: Iterable[str], *order: str
) -> dict[str, list[Any]]:
    """The same by what stands in `id_column`; asked for one without rows it answers with an empty list."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for row in select(connection, model, id_column, ids, *order):
        groups[getattr(row, id_column)].append(row)
    return groups


def chunks(ids: Iterable[str]) -> Iterable[list[str]]:
    ordered = sorted(set(ids))
    return (ordered[start : start + IDS_PER_SELECT] for start in range(0, len(ordered), IDS_PER_SELECT))


def refuse_large_keys(found: Found, rows: Rows, kind: str) -> Found:
    """The same without those whose key flows could not carry."""
    return {
        each: Rejected(f"{kind} {each}", f"its key {rows[each].key} is above {MAX_KEY}")
        if rows[each].key > MAX_KEY
        else record
        for each, record in found.items()
    }
