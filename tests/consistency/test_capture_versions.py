"""Capture's own writes at once from many transactions, on every database: no version is lost, none comes twice."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest
import sqlalchemy as sa
from sql_bench import create_tables, empty_tables

from flowloom.consistency.table import Ref
from flowloom.neutron.bump import Touch, bump
from flowloom.neutron.database import Contended, SqlDatabase
from flowloom.neutron.models import SYNC
from flowloom.testing.sql_servers import Galera, SqlServer

T = TypeVar("T")
WORKERS = 8
RETRIES_MAX = 20
"""As often Neutron repeats an API operation after a deadlock (`neutron_lib.db.api.MAX_RETRIES`)."""


@pytest.fixture(params=["sqlite", "mariadb", "galera"])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[SqlDatabase]]:
    """The database as each API server has it: on Galera at one node each."""
    if request.param == "sqlite":
        urls = [f"sqlite+immediate:///{tmp_path}/neutron.sqlite"]
    elif request.param == "mariadb":
        server: SqlServer = request.getfixturevalue("mariadb_server")
        urls = [_database(server)]
    else:
        cluster: Galera = request.getfixturevalue("galera_cluster")
        _database(cluster.nodes[0])
        cluster.settle()
        urls = [node.url("capture") for node in cluster.nodes]
    found = [SqlDatabase.at(url) for url in urls]
    create_tables(found[0])
    empty_tables(found[0])
    yield found
    for database in found:
        database.close()


def _database(server: SqlServer) -> str:
    if not server.query("SHOW DATABASES LIKE 'capture'"):
        server.create_database("capture")
    return server.url("capture")


class Workers:
    """Transactions at once, each repeated after a deadlock as Neutron does; `deadlocks` counts those."""

    def __init__(self, databases: Sequence[SqlDatabase]) -> None:
        self.databases = databases
        self.deadlocks = 0

    def at_once(self, work: Callable[[int, Random, Callable[[Sequence[Touch]], None]], T]) -> list[T]:
        start = threading.Barrier(WORKERS, timeout=30)

        def run(number: int) -> T:
            database, random = self.databases[number % len(self.databases)], Random(number)

            def commit(touches: Sequence[Touch]) -> None:
                self._commit(database, touches)

            start.wait()
            return work(number, random, commit)

        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(run, range(WORKERS)))

    def _commit(self, database: SqlDatabase, touches: Sequence[Touch]) -> None:
        for _ in range(RETRIES_MAX):
            try:
                with database.writer() as connection:
                    bump(connection, touches)
                return
            except Contended:
                self.deadlocks += 1
                threading.Event().wait(Random().uniform(0, 0.1))
        raise AssertionError(f"{RETRIES_MAX} deadlocks one after the other: an API call would have failed")


def touch(name: str, deleted: bool | None = None) -> Touch:
    return Touch(Ref("port", name), "net", "project", deleted)


def versions(database: SqlDatabase) -> dict[str, int]:
    with database.reader() as connection:
        return dict(connection.execute(sa.select(SYNC.c.object_id, SYNC.c.version)).all())


def test_the_first_changes_of_one_object_at_once_make_one_row_and_all_count(databases: list[SqlDatabase]) -> None:
    workers = Workers(databases)
    names = [f"p{number}" for number in range(10)]

    def work(number: int, _random: Random, commit: Callable[[Sequence[Touch]], None]) -> None:
        for name in names:
            commit([touch(name, None if number % 2 else False)])

    workers.at_once(work)
    assert versions(databases[0]) == dict.fromkeys(names, WORKERS)
    print(f"\n{workers.deadlocks} deadlocks were repeated")


def test_transactions_over_many_objects_in_any_order_all_count(databases: list[SqlDatabase]) -> None:
    workers = Workers(databases)
    names = [f"p{number}" for number in range(12)]

    def work(_number: int, random: Random, commit: Callable[[Sequence[Touch]], None]) -> Counter[str]:
        done: Counter[str] = Counter()
        for _ in range(12):
            chosen = random.sample(names, 3)
            commit([touch(name) for name in chosen])
            done.update(chosen)
        return done

    done = sum(workers.at_once(work), Counter[str]())
    assert versions(databases[0]) == dict(done)
    print(f"\n{workers.deadlocks} deadlocks were repeated")


def test_deletes_and_re_creations_at_once_never_lower_a_version(databases: list[SqlDatabase]) -> None:
    workers = Workers(databases)
    rounds = 15
    stop = threading.Event()

    def watch() -> list[int]:
        seen = []
        while not stop.is_set():
            seen.append(versions(databases[-1]).get("p", 0))
        return seen

    def work(_number: int, random: Random, commit: Callable[[Sequence[Touch]], None]) -> None:
        for _ in range(rounds):
            commit([touch("p", random.choice([True, False, None])), touch("other")])

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            workers.at_once(work)
        finally:
            stop.set()
        seen = watching.result()
    assert seen == sorted(seen)
    assert versions(databases[0]) == {"p": WORKERS * rounds, "other": WORKERS * rounds}
    print(f"\n{workers.deadlocks} deadlocks were repeated, {len(set(seen))} versions seen by a reader")
