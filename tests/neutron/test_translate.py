"""From rows to facts, and what went past the capture: over every kind, on Neutron's own tables."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from neutron_cloud import Sql
from neutron_histories import FILL, History
from neutron_objects import NETWORK, PORT, network, port
from sqlalchemy import event, orm

from flowloom.consistency.marks import shard_of
from flowloom.consistency.table import Fact, Ref, Row
from flowloom.model.codec import decode, encode
from flowloom.model.records import MAX_KEY, NORTHBOUND, Chassis, Network, Port, PortStatus, Record
from flowloom.neutron.adoption import adoptable
from flowloom.neutron.bump import place_of
from flowloom.neutron.captured import ROOTS, RULES
from flowloom.neutron.translate import facts


def row_of(kind: str, identifier: str, key: int = 1, version: int = 1) -> Row:
    return Row(key, kind, identifier, "p", "s", version, 0, False, 0, shard_of(kind, identifier))


def facts_of(sql: Sql, *rows: Row) -> list[Fact]:
    with sql.reader() as connection:
        return facts(connection, rows)


@pytest.fixture
def filled(sql: Sql) -> Sql:
    """Objects of every kind, that nobody captured."""
    made = iter(range(1, 1000))
    with orm.Session(sql.writing) as session, session.begin():
        for make in FILL * 2:
            make(History(session, Random(3), made, {}))
            session.flush()
    return sql


def ids(sql: Sql) -> dict[str, list[str]]:
    with sql.reader() as connection:
        return {
            kind: list(connection.scalars(sa.select(root.model.__table__.c.id).order_by("id")))
            for kind, root in ROOTS.items()
        }


def test_every_kind_but_those_of_nodes_is_captured_and_translated(filled: Sql) -> None:
    kinds = {each.kind for each in NORTHBOUND} - {Chassis.kind, PortStatus.kind}
    assert kinds == set(ROOTS) == {rule.kind for rule in RULES if rule.root}
    there = ids(filled)
    assert all(there.values()), "a kind of which there is none was not looked at"
    rows = [row_of(kind, each, 7, 9) for kind, several in there.items() for each in several]
    for fact in facts_of(filled, *rows):
        assert isinstance(fact.record, Record), fact
        assert (fact.record.kind, fact.record.id, fact.record.version) == (fact.row.kind, fact.row.id, 9)
        assert decode("k", encode(fact.record)) == fact.record


def test_facts_come_in_the_order_of_their_rows(sql: Sql) -> None:
    with orm.Session(sql.writing) as session, session.begin():
        network(session)
        port(session)
    asked = [row_of("port", PORT), row_of("network", NETWORK), row_of("port", "gone"), row_of("dragon", "d")]
    first, second, gone, unknown = facts_of(sql, *asked)
    assert isinstance(first.record, Port)
    assert isinstance(second.record, Network)
    assert gone == Fact(asked[2], None)
    assert unknown == Fact(asked[3], None, known=False)


def test_a_network_without_a_segment_is_refused_and_says_why(sql: Sql) -> None:
    with orm.Session(sql.writing) as session, session.begin():
        network(session)
        session.execute(sa.text("delete from networksegments"))
    (fact,) = facts_of(sql, row_of("network", NETWORK))
    assert fact.record is None
    assert fact.refused is not None
    assert "segment" in fact.refused.why


@pytest.mark.parametrize("kind", sorted(set(ROOTS) - {"subnet"}))
def test_a_key_that_flows_cannot_carry_is_refused(filled: Sql, kind: str) -> None:
    (fact,) = facts_of(filled, row_of(kind, ids(filled)[kind][0], MAX_KEY + 1))
    assert fact.record is None
    assert fact.refused is not None
    assert "key" in fact.refused.why


def test_the_selects_grow_with_the_kinds_and_not_with_the_objects(filled: Sql) -> None:
    there = ids(filled)
    few = [row_of(kind, several[0]) for kind, several in there.items()]
    many = [row_of(kind, each) for kind, several in there.items() for each in several]
    assert len(many) > 2 * len(few)
    assert selects(filled, many) <= selects(filled, few) + len(ROOTS)


def selects(sql: Sql, rows: list[Row]) -> int:
    with sql.reader() as connection:
        made = []

        def note(*details: Any) -> None:
            made.append(details[2])

        event.listen(connection, "before_cursor_execute", note)
        facts(connection, rows)
    return len(made)


def found(sql: Sql, limit: int = 1000) -> dict[Ref, tuple[str, str, bool, int]]:
    with sql.reader() as connection:
        return {
            each.ref: (each.project_id, each.scope, each.deleted, each.version) for each in adoptable(connection, limit)
        }


def test_objects_without_a_row_are_found_with_the_place_where_their_records_belong(filled: Sql) -> None:
    adopted = found(filled)
    assert set(adopted) == {Ref(kind, each) for kind, several in ids(filled).items() for each in several}
    with filled.reader() as connection:
        for ref, (project_id, scope, deleted, version) in adopted.items():
            assert (scope, project_id) == place_of(connection, ref)
            assert not deleted
            assert version == 0
    assert len(found(filled, limit=3)) == 3


def sync_row(sql: Sql, kind: str, identifier: str, deleted: bool) -> None:
    from flowloom.neutron.models import SYNC

    with sql.writing.begin() as connection:
        values = {"kind": kind, "object_id": identifier, "project_id": "p", "scope": "s", "version": 5}
        connection.execute(sa.insert(SYNC).values(**values, synced_version=5, deleted=deleted))


def test_rows_that_say_otherwise_than_their_objects_are_found(sql: Sql) -> None:
    with orm.Session(sql.writing) as session, session.begin():
        network(session)
    sync_row(sql, "network", NETWORK, deleted=True)
    sync_row(sql, "port", "gone", deleted=False)
    sync_row(sql, "subnet", "gone and said so", deleted=True)
    sync_row(sql, "dragon", "of a newer release", deleted=False)
    assert found(sql) == {
        Ref("network", NETWORK): ("project-a", NETWORK, False, 5),
        Ref("port", "gone"): ("p", "s", True, 5),
    }


def test_objects_with_a_row_that_is_right_are_left_alone(sql: Sql) -> None:
    with orm.Session(sql.writing) as session, session.begin():
        network(session)
    sync_row(sql, "network", NETWORK, deleted=False)
    assert found(sql) == {}
