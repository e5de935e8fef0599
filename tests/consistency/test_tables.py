"""The SQL tables keep their contract on SQLite, on MariaDB, and on three Galera nodes, each process at its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sql_bench import SqlBench, create_tables

from flowloom.neutron.database import SqlDatabase
from flowloom.testing.sql_servers import Galera, SqlServer
from flowloom.testing.table_conformance import TableBench, TableConformance


class TestSqlite(TableConformance):
    @pytest.fixture(autouse=True)
    def _database(self, tmp_path: Path) -> None:
        self.path = tmp_path / "directory" / "neutron.sqlite"
        self.path.parent.mkdir()
        self.database = SqlDatabase.at(f"sqlite+immediate:///{self.path}")
        create_tables(self.database)
        self.bench = self._bench()

    def setup_method(self) -> None: ...

    def _bench(self) -> TableBench:
        return SqlBench([self.database], self._cut, self._mend)

    def _cut(self) -> None:
        self.path.parent.rename(self.path.parent.with_name("away"))

    def _mend(self) -> None:
        self.path.parent.with_name("away").rename(self.path.parent)


@pytest.fixture(scope="module")
def on_mariadb(mariadb_server: SqlServer) -> Iterator[SqlDatabase]:
    mariadb_server.create_database("tables")
    database = SqlDatabase.at(mariadb_server.url("tables"))
    create_tables(database)
    yield database
    database.close()


class TestMariaDB(TableConformance):
    @pytest.fixture(autouse=True)
    def _database(self, on_mariadb: SqlDatabase, mariadb_server: SqlServer) -> None:
        self.bench = SqlBench([on_mariadb], mariadb_server.kill, mariadb_server.start)

    def setup_method(self) -> None: ...


@pytest.fixture(scope="module")
def on_galera(galera_cluster: Galera) -> Iterator[list[SqlDatabase]]:
    galera_cluster.nodes[0].create_database("tables")
    databases = [SqlDatabase.at(node.url("tables")) for node in galera_cluster.nodes]
    create_tables(databases[0])
    galera_cluster.settle()
    yield databases
    for database in databases:
        database.close()


class TestGalera(TableConformance):
    @pytest.fixture(autouse=True)
    def _database(self, on_galera: list[SqlDatabase]) -> None:
        self.bench = SqlBench(on_galera)

    def setup_method(self) -> None: ...
