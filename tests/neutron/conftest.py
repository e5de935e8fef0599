"""Neutron's schema on SQLite, made once; a copy of it, or a whole API server, for each who asks."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloom.neutron.schema import create_schema
from flowloom.testing.sql_servers import mariadb, missing, new_template, save_template, servers_directory

sys.path.insert(0, str(Path(__file__).parent))  # Tests are imported by file; their shared modules are beside them.

from neutron_cloud import Cloud, Sql, migrate, running_cloud


@pytest.fixture(scope="session")
def schema_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with Neutron's and our tables, made once; tests copy it."""
    path = tmp_path_factory.mktemp("schema") / "neutron.sqlite"
    create_schema(f"sqlite:///{path}")
    return path


@pytest.fixture
def sql(schema_template: Path, tmp_path: Path) -> Sql:
    path = tmp_path / "neutron.sqlite"
    shutil.copy(schema_template, path)
    return Sql(f"sqlite+immediate:///{path}")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, schema_template: Path) -> Iterator[Cloud]:
    with running_cloud(tmp_path_factory.mktemp("cloud"), schema_template) as running:
        yield running


@pytest.fixture(scope="session")
def servers() -> Iterator[Path]:
    """A directory for SQL servers; in it `migrated`, data with the schema of `neutron-db-manage upgrade heads`."""
    if why := missing():
        pytest.skip(why)
    with servers_directory() as directory:
        new_template(directory / "template")
        with mariadb(directory / "migrating", directory / "template") as server:
            server.create_database("neutron")
            migrate(server.url("neutron"))
            save_template(server, directory / "migrated")
        yield directory
