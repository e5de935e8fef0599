"""Random histories of nested transactions on Neutron's own tables: what is committed is counted once, the rest never."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from neutron_cloud import Sql
from neutron_histories import FILL, Content, History, content, difference
from neutron_lib.db import api as db_api
from sqlalchemy import orm

from flowloom.consistency.table import Ref
from flowloom.neutron.bump import place_of
from flowloom.neutron.capture import Capture


class Rolled(Exception):
    """Thrown to leave a transaction or savepoint by its rollback."""


def play(h: History, depth: int) -> set[Ref]:
    """Steps and savepoints; what they changed and did not take back."""
    changed: set[Ref] = set()
    for _ in range(h.random.randint(1, 6)):
        if depth < 3 and h.random.random() < 0.35:
            changed |= savepoint(h, depth)
            continue
        h.step()
        h.session.flush()
        before, h.now = h.now, content(h.session.connection())
        changed |= difference(before, h.now)
    return changed


def savepoint(h: History, depth: int) -> set[Ref]:
    try:
        with h.session.begin_nested():
            changed = play(h, depth + 1)
            if h.random.random() < 0.4:
                raise Rolled
            return changed
    except Rolled:
        h.now = content(h.session.connection())
        return set()


@pytest.fixture
def woken() -> Iterator[list[frozenset[Ref]]]:
    refs: list[frozenset[Ref]] = []
    Capture(refs.append, strict=True).listen()
    yield refs
    db_api.sqla_remove_all()


@pytest.mark.parametrize("seed", range(5))
def test_a_transaction_raises_the_version_of_what_it_changed_by_one_and_of_nothing_else(
    sql: Sql, woken: list[frozenset[Ref]], seed: int
) -> None:
    random, made = Random(seed), iter(range(1, 100_000))
    after: Content = {}
    with orm.Session(sql.writing) as session, session.begin():
        for make in FILL:
            make(History(session, random, made, after))
            session.flush()
    with sql.reader() as connection:
        after = content(connection)
    changes = 0
    for _ in range(20):
        before, rows = after, sql.rows()
        woken.clear()
        try:
            with orm.Session(sql.writing) as session, session.begin():
                changed = play(History(session, random, made, before), 0)
                if random.random() < 0.25:
                    raise Rolled
        except Rolled:
            changed = set()
        with sql.reader() as connection:
            after = content(connection)
            places = {ref: place_of(connection, ref) for ref in after}
        assert difference(before, after) <= changed
        versions = {ref: row.version - (rows[ref].version if ref in rows else 0) for ref, row in sql.rows().items()}
        assert {Ref(*ref): raised for ref, raised in versions.items() if raised} == dict.fromkeys(changed, 1)
        assert woken == ([frozenset(changed)] if changed else [])
        for ref, row in sql.rows().items():
            assert row.deleted == (ref not in after), ref
            assert row.deleted or (row.scope, row.project_id) == places[Ref(*ref)], ref
        changes += len(changed)
    assert changes > 15
