"""The two SQLite dialects, and the schema that is made through them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from flowloom.kernel.errors import Misconfigured
from flowloom.neutron.schema import create_schema
from flowloom.neutron.sqlite_dialect import reader_url


@pytest.fixture
def url(tmp_path: Path) -> str:
    found = f"sqlite+immediate:///{tmp_path / 'x.sqlite'}"
    with sa.create_engine(found, poolclass=sa.NullPool).begin() as connection:
        connection.execute(sa.text("create table t (id integer primary key, n integer not null)"))
        connection.execute(sa.text("insert into t values (1, 0)"))
    return found


def test_parallel_read_then_write_transactions_lose_no_update(url: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)

    def increment() -> None:
        for _ in range(20):
            with engine.begin() as connection:
                n = connection.scalar(sa.text("select n from t"))
                connection.execute(sa.text("update t set n = :n"), {"n": n + 1})

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.connect() as connection:
        assert connection.scalar(sa.text("select n from t")) == 80


def test_a_second_writer_does_not_even_read_before_the_first_has_ended(url: str) -> None:
    engine, read = sa.create_engine(url, poolclass=sa.NullPool), threading.Event()

    def increment() -> None:
        with engine.begin() as connection:
            n = connection.scalar(sa.text("select n from t"))
            read.set()
            connection.execute(sa.text("update t set n = :n"), {"n": n + 1})

    second = threading.Thread(target=increment)
    with engine.begin() as connection:
        n = connection.scalar(sa.text("select n from t"))
        second.start()
        assert not read.wait(0.3), "it has read what is about to change"
        connection.execute(sa.text("update t set n = :n"), {"n": n + 1})
    second.join()
    with engine.connect() as connection:
        assert connection.scalar(sa.text("select n from t")) == 2


def test_a_reader_keeps_its_snapshot_and_does_not_wait_for_a_writer(url: str) -> None:
    writer, reader = (sa.create_engine(each, poolclass=sa.NullPool) for each in (url, reader_url(url)))
    with reader.connect() as reading:
        assert reading.scalar(sa.text("select n from t")) == 0
        with writer.begin() as writing:
            writing.execute(sa.text("update t set n = 7"))
            assert reading.scalar(sa.text("select n from t")) == 0
        assert reading.scalar(sa.text("select n from t")) == 0
    with reader.connect() as reading:
        assert reading.scalar(sa.text("select n from t")) == 7


def test_a_reader_refuses_to_write(url: str) -> None:
    with sa.create_engine(reader_url(url)).connect() as connection, pytest.raises(exc.OperationalError):
        connection.execute(sa.text("update t set n = 1"))


def test_a_second_write_transaction_in_one_thread_fails_at_once_instead_of_waiting_for_itself(url: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    started = time.monotonic()
    with engine.begin() as outer:
        outer.execute(sa.text("select 1"))
        with pytest.raises(exc.OperationalError, match="already holds"), engine.begin() as inner:
            inner.execute(sa.text("select 1"))
    assert time.monotonic() - started < 20, "it waited for the lock"
    with engine.begin() as again:
        again.execute(sa.text("update t set n = 3"))


def test_only_sqlite_schemas_are_made_from_models() -> None:
    with pytest.raises(Misconfigured, match="neutron-db-manage"):
        create_schema("mysql+pymysql://u@127.0.0.1/neutron")


def test_the_migration_makes_the_table_that_the_model_describes(schema_template: Path, tmp_path: Path) -> None:
    migrated = f"sqlite+immediate:///{tmp_path / 'm.sqlite'}"
    manage = Path(sys.executable).parent / "neutron-db-manage"
    subprocess.run(
        [manage, "--database-connection", migrated, "--subproject", "flowloom", "upgrade", "heads"],
        check=True,
        capture_output=True,
    )
    for table in ("flowloom_sync", "flowloom_lease", "flowloom_audit", "flowloom_guard"):
        assert described(migrated, table) == described(f"sqlite:///{schema_template}", table)


def described(url: str, table: str) -> tuple[Any, ...]:
    """Columns, in whatever order they came, and indexes."""
    inspector = sa.inspect(sa.create_engine(url))
    columns = {each["name"]: {**each, "type": str(each["type"])} for each in inspector.get_columns(table)}
    return columns, inspector.get_indexes(table), inspector.get_unique_constraints(table)


def test_a_created_schema_counts_as_fully_migrated(schema_template: Path) -> None:
    manage = Path(sys.executable).parent / "neutron-db-manage"
    url = f"sqlite:///{schema_template}"
    said = subprocess.run(
        [manage, "--database-connection", url, "has_offline_migrations"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
    with sa.create_engine(url).connect() as connection:
        # Alembic keeps the heads that no other one depends on: here those of both branches.
        heads = connection.scalars(sa.text("select version_num from alembic_version_flowloom")).all()
        assert sorted(heads) == ["f10000000004", "f10000000005"]
