"""Flowloom's alembic branch, run by neutron-db-manage: from nothing, and from the release before with its rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from flowloom.consistency.marks import shard_of
from flowloom.consistency.table import Ref
from flowloom.neutron.database import SqlDatabase
from flowloom.neutron.models import SYNC, TABLES
from flowloom.neutron.tables import SqlSyncTable
from flowloom.testing.sql_servers import Galera, SqlServer

START, BEFORE = "f10000000000", "f10000000001"


def manage(url: str, *command: str) -> str:
    """neutron-db-manage on our branch alone."""
    program = Path(sys.executable).parent / "neutron-db-manage"
    done = subprocess.run(
        [str(program), "--database-connection", url, "--subproject", "flowloom", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(params=["sqlite", "mariadb", "galera"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    name = f"migration{abs(hash(request.node.name)) % 10**6}"
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/neutron.sqlite"
    elif request.param == "mariadb":
        server: SqlServer = request.getfixturevalue("mariadb_server")
        server.create_database(name)
        yield server.url(name)
    else:
        cluster: Galera = request.getfixturevalue("galera_cluster")
        cluster.nodes[1].create_database(name)
        yield cluster.nodes[1].url(name)


def test_migrated_tables_are_those_of_the_models(url: str) -> None:
    manage(url, "upgrade", "heads")
    ours, metadata = {table.name for table in TABLES}, sa.MetaData()
    for table in TABLES:
        table.to_metadata(metadata)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        options = {
            "include_object": lambda _thing, name, kind, _reflected, _other: kind != "table" or name in ours,
            # MySQL calls FLOAT(53) DOUBLE.
            "compare_type": lambda _c, _i, _m, _found, wanted: False if isinstance(wanted, sa.Float) else None,
        }
        context = MigrationContext.configure(connection, opts=options)
        differences = [each for each in compare_metadata(context, metadata) if "alembic_version" not in str(each)]
    assert differences == []
    assert ours <= set(sa.inspect(engine).get_table_names())


def test_rows_of_the_release_before_get_their_shard_and_are_written_again(url: str) -> None:
    manage(url, "upgrade", START)
    manage(url, "upgrade", BEFORE)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    old = "INSERT INTO flowloom_sync (kind, object_id, project_id, scope, version, synced_version, dirty_since)"
    with engine.begin() as connection:
        for number in range(2500):
            dirty = 1.5 if number == 7 else 0
            connection.execute(
                sa.text(f"{old} VALUES ('port', 'p{number}', 'a', 'n', 3, {2 if dirty else 3}, {dirty})")
            )
    manage(url, "upgrade", "heads")
    table = SqlSyncTable(SqlDatabase.at(url), lambda _connection, _rows: [], lambda _connection, _limit: [])
    rows = [row for shard in range(64) for row in table.shard(shard, 0, 10_000)]
    assert len(rows) == 2500
    assert all(row.shard == shard_of(row.kind, row.id) and row.dirty and row.mark == 0 for row in rows)
    with engine.connect() as connection:
        since = dict(connection.execute(sa.select(SYNC.c.object_id, SYNC.c.dirty_since)).all())
    assert since["p7"] == 1.5, "what was dirty has been so for as long as before"
    assert min(moment for name, moment in since.items() if name != "p7") > 1_000_000_000


def test_rows_that_an_older_release_makes_beside_ours_are_placed_by_adoption(url: str) -> None:
    manage(url, "upgrade", "heads")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO flowloom_sync (kind, object_id, version, dirty_since) VALUES ('port', 'late', 1, 1)")
        )
    table = SqlSyncTable(SqlDatabase.at(url), lambda _connection, _rows: [], lambda _connection, _limit: [])
    assert table.adopt(10) == []
    (row,) = table.shard(shard_of("port", "late"), 0, 10)
    assert row.ref == Ref("port", "late")
