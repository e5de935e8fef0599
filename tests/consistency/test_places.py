"""The fence between two stores on real databases: an acknowledgement and a cut-over at the same moment."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sql_bench import SqlBench, create_tables

from flowloom.consistency.place import Place, Step
from flowloom.consistency.table import Acknowledged
from flowloom.neutron.database import SqlDatabase
from flowloom.neutron.models import STORE
from flowloom.neutron.places import SqlPlaceTable
from flowloom.neutron.tables import _ACKNOWLEDGE
from flowloom.testing.sql_servers import SqlServer
from flowloom.testing.table_conformance import port, row_of

_NUMBERS = itertools.count()


@pytest.fixture(params=["READ COMMITTED", "REPEATABLE READ"])
def database(request: pytest.FixtureRequest, mariadb_server: SqlServer) -> Iterator[SqlDatabase]:
    name = f"places{next(_NUMBERS)}"
    mariadb_server.create_database(name)
    url = mariadb_server.url(name)
    engine = sa.create_engine(url, isolation_level=request.param)
    database = SqlDatabase(engine, sa.create_engine(url))
    create_tables(database)
    yield database
    database.close()


def test_a_cut_over_waits_for_an_acknowledgement_that_is_about_to_commit(database: SqlDatabase) -> None:
    bench = SqlBench([database])
    tables, places = bench.open(), SqlPlaceTable(database)
    bench.change(port("p"), "one")
    row = row_of(tables, port("p"))
    move = places.begin("a", "b", "anna")
    assert move is not None
    cut_over = threading.Thread(target=places.advance, args=(move.number, Step.COPYING, Step.CUT_OVER))
    with database.writer() as connection:
        values = {"row_key": row.key, "row_version": row.version, "row_mark": 7, "of_generation": 0}
        assert connection.execute(_ACKNOWLEDGE, [values]).rowcount == 1
        cut_over.start()
        cut_over.join(1.0)
        assert cut_over.is_alive(), "it does not wait"
    cut_over.join(20.0)
    assert not cut_over.is_alive() and places.place().generation == move.number
    assert row_of(tables, port("p")).synced_version == row.version
    assert not tables.sync.acknowledge([Acknowledged(row.key, row.version, 8)], 0)


def test_acknowledgements_do_not_wait_for_each_other(database: SqlDatabase) -> None:
    bench = SqlBench([database])
    tables = bench.open()
    bench.change(port("p"), "one")
    bench.change(port("q"), "one")
    rows = [row_of(tables, port(name)) for name in "pq"]
    assert SqlPlaceTable(database).begin("a", "b", "anna") is not None
    other = threading.Thread(target=tables.sync.acknowledge, args=([Acknowledged(rows[1].key, rows[1].version, 1)], 0))
    with database.writer() as connection:
        values = {"row_key": rows[0].key, "row_version": 1, "row_mark": 7, "of_generation": 0}
        assert connection.execute(_ACKNOWLEDGE, [values]).rowcount == 1
        other.start()
        other.join(10.0)
        assert not other.is_alive(), "it waits"


def test_a_database_without_the_row_counts_as_one_that_never_moved(tmp_path: Path) -> None:
    database = SqlDatabase.at(f"sqlite+immediate:///{tmp_path}/neutron.sqlite")
    create_tables(database)
    with database.writer() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(STORE)) == 0
    assert SqlPlaceTable(database).place() == Place()
    database.close()
