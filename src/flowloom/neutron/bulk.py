"""Which rows a bulk statement is going to find, asked of the database before the statement runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm


class Untranslatable(Exception):
    """The statement does not say which rows it concerns."""


def identifiers_of(state: orm.ORMExecuteState, column: str, other: str = "") -> Iterator[tuple[str, str | None]]:
    """What stands in `column` of the rows that the statement concerns, before it and after it, and in `other`.

    other: "": not wanted.  Untranslatable where the rows are not to be known from the statement.
    """
    if state.is_insert:
        yield from _inserted(state, column, other)
        return
    if isinstance(state.parameters, list):
        yield from _each(state.parameters, column, other)
        return
    statement: Any = state.statement
    table = statement.table
    wanted = [table.c[column], *([table.c[other]] if other else [])]
    asked = sa.select(*wanted).distinct()
    if statement.whereclause is not None:
        asked = asked.where(statement.whereclause)
    for row in state.session.connection().execute(asked, state.parameters or {}):
        if row[0]:
            yield row[0], row[1] if other else None
    if state.is_update:
        yield from ((moved_to, None) for moved_to in _written(state, column))


def _written(state: orm.ORMExecuteState, column: str) -> Iterator[str]:
    """What the update writes into `column`, where rows move from one object to another."""
    statement: Any = state.statement
    for key, value in (statement._values or {}).items():
        if getattr(key, "key", key) == column:
            text = getattr(value, "value", value)
            if text is not None and not isinstance(text, str):
                raise Untranslatable(f"it computes {column}")
            if text:
                yield text


def _inserted(state: orm.ORMExecuteState, column: str, other: str) -> Iterator[tuple[str, str | None]]:
    statement: Any = state.statement
    if statement.select is not None:
        raise Untranslatable("it inserts what a query finds")
    given: Any = state.parameters
    many: list[Any] = given if isinstance(given, list) else [given or {}]
    fixed = {
        getattr(key, "key", key): getattr(value, "value", value) for key, value in (statement._values or {}).items()
    }
    rows = [{getattr(k, "key", k): v for k, v in row.items()} for part in statement._multi_values for row in part]
    yield from _each(rows or [{**fixed, **each} for each in many], column, other)


def _each(rows: list[Any], column: str, other: str) -> Iterator[tuple[str, str | None]]:
    for row in rows:
        found = row.get(column) if isinstance(row, Mapping) else None
        if not isinstance(found, str):
            raise Untranslatable(f"it does not name {column}")
        yield found, row.get(other) if other else None
