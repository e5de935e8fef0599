"""Databases that the tests of this directory share: each is started once a session, when somebody asks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloom.testing.sql_servers import Galera, SqlServer, galera, mariadb, missing, new_template, servers_directory

sys.path.insert(0, str(Path(__file__).parent))  # Tests are imported by file; their shared modules are beside them.


@pytest.fixture(scope="session")
def servers() -> Iterator[Path]:
    """A directory for servers; in it `template`, the data that each begins with."""
    if why := missing():
        pytest.skip(why)
    with servers_directory() as directory:
        new_template(directory / "template")
        yield directory


@pytest.fixture(scope="session")
def mariadb_server(servers: Path) -> Iterator[SqlServer]:
    with mariadb(servers / "mariadb", servers / "template") as server:
        yield server


@pytest.fixture(scope="session")
def galera_cluster(servers: Path) -> Iterator[Galera]:
    with galera(servers / "galera", servers / "template") as cluster:
        yield cluster
