"""What the SQL tables do when somebody comes between two of their statements: the interleavings made on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sql_bench import OBJECTS, SqlBench, adoptable, create_tables, translate

from flowloom.consistency.table import GuardEntry, Lease, Reopen
from flowloom.kernel.errors import Unavailable
from flowloom.neutron.database import Contended, Database, SqlDatabase
from flowloom.neutron.models import GUARD
from flowloom.neutron.tables import GUARDS_MAX, LOOKS_MAX, TRIES_MAX, SqlAuditTable, SqlLeaseTable, SqlSyncTable
from flowloom.testing.sql_servers import Galera
from flowloom.testing.table_conformance import PROJECT, SCOPE, port, row_of


class Interrupted:
    """A database at which something happens before a process's next writing transactions, each once."""

    def __init__(self, database: Database, *before: Callable[[], object]) -> None:
        self._database = database
        self._before = list(before)

    @contextmanager
    def reader(self) -> Iterator[sa.Connection]:
        with self._database.reader() as connection:
            yield connection

    @contextmanager
    def writer(self) -> Iterator[sa.Connection]:
        if self._before:
            self._before.pop(0)()
        with self._database.writer() as connection:
            yield connection


@pytest.fixture
def database(tmp_path: Path) -> SqlDatabase:
    made = SqlDatabase.at(f"sqlite+immediate:///{tmp_path}/neutron.sqlite")
    create_tables(made)
    return made


@pytest.fixture
def leases(database: SqlDatabase) -> SqlLeaseTable:
    return SqlLeaseTable(database)


def held(leases: SqlLeaseTable, owner: str) -> Lease:
    lease = leases.take("l", owner, 10.0)
    assert lease is not None
    return lease


def test_who_asks_a_holder_that_lets_go_meanwhile_gets_the_lease(database: SqlDatabase, leases: SqlLeaseTable) -> None:
    first = held(leases, "one")
    taken = SqlLeaseTable(Interrupted(database, lambda: leases.release(first))).take("l", "two", 10.0)
    assert taken is not None and taken.fence == first.fence + 1


def test_who_asks_a_holder_that_changes_meanwhile_leaves_word_with_the_new_one(
    database: SqlDatabase, leases: SqlLeaseTable
) -> None:
    first = held(leases, "one")
    third: list[Lease] = []

    def change_hands() -> None:
        leases.release(first)
        third.append(held(leases, "three"))

    assert SqlLeaseTable(Interrupted(database, change_hands)).take("l", "two", 10.0) is None
    kept = leases.release(third[0])
    assert kept is not None and kept.asked == 1


def test_a_lease_that_is_renewed_just_before_its_take_over_stays(database: SqlDatabase, leases: SqlLeaseTable) -> None:
    first = held(leases, "one")
    SqlBench.pass_time(_bench_of(database), 11.0)
    late = SqlLeaseTable(Interrupted(database, lambda: leases.renew([first], 10.0)))
    assert late.take("l", "two", 10.0) is None
    assert leases.renew([first], 10.0) == [first]


def _bench_of(database: SqlDatabase) -> SqlBench:
    bench = object.__new__(SqlBench)
    bench.databases, bench._opened = [database], 0
    return bench


def test_of_two_that_make_a_new_lease_the_second_is_refused(database: SqlDatabase, leases: SqlLeaseTable) -> None:
    won: list[Lease] = []
    late = SqlLeaseTable(Interrupted(database, lambda: won.append(held(leases, "one"))))
    assert late.take("l", "two", 10.0) is None
    assert leases.release(won[0]) is not None, "and has left word"


def test_asking_while_the_holder_lets_go_keeps_the_lease_with_it(database: SqlDatabase, leases: SqlLeaseTable) -> None:
    first = held(leases, "one")
    kept = SqlLeaseTable(Interrupted(database, lambda: leases.take("l", "two", 10.0))).release(first)
    assert kept is not None and kept.asked == 1
    assert leases.take("l", "three", 10.0) is None


def test_a_database_that_gives_everything_up_is_unavailable_after_so_many_tries(database: SqlDatabase) -> None:
    def give_up() -> None:
        nonlocal tries
        tries += 1
        raise Contended("deadlock")

    tries = 0
    busy = SqlLeaseTable(Interrupted(database, *[give_up] * (LOOKS_MAX + 1)))
    with pytest.raises(Unavailable, match="faster"):
        busy.take("l", "one", 10.0)
    assert tries == LOOKS_MAX
    tries = 0
    table = SqlSyncTable(Interrupted(database, *[give_up] * (TRIES_MAX + 1)), translate, adoptable)
    with pytest.raises(Unavailable, match="given up"):
        table.note_project("p", "why")
    assert tries == TRIES_MAX


def test_a_deadlock_now_and_then_is_nobodys_business(database: SqlDatabase) -> None:
    def give_up() -> None:
        raise Contended("deadlock")

    table = SqlLeaseTable(Interrupted(database, give_up, give_up))
    lease = held(table, "one")
    assert SqlLeaseTable(Interrupted(database, give_up)).release(lease) is None


def test_an_object_that_gets_its_row_meanwhile_is_not_adopted_over_it(database: SqlDatabase) -> None:
    bench = SqlBench([database])
    bench.bypass(port("new"), "x")
    bench.change(port("gone"), "x")
    bench.bypass(port("gone"), None)

    def neutron_goes_on() -> None:
        bench.change(port("new"), "y")
        bench.change(port("gone"), "again")

    table = SqlSyncTable(Interrupted(database, neutron_goes_on), translate, adoptable)
    assert table.adopt(10) == []
    facts = {fact.row.id: fact for fact in table.facts([port("new"), port("gone")])}
    assert [(facts[n].row.version, facts[n].row.deleted) for n in ("new", "gone")] == [(1, False), (2, False)]


def test_guards_that_nobody_can_see_any_more_are_not_kept(database: SqlDatabase) -> None:
    audit = SqlAuditTable(database)
    for number in range(GUARDS_MAX + 7):
        audit.hold(GuardEntry(f"g{number}", 1000.0 + number, "svc", {}, 1, ()))
    with database.reader() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(GUARD)) == GUARDS_MAX


def test_a_node_that_has_not_heard_of_a_take_over_cannot_commit_a_reopening(galera_cluster: Galera) -> None:
    """The fence is compared on what the node knows, and decided by certification.

    The appliers of one node are held up, so that it still believes in a lease that another node has given away.
    """
    if not galera_cluster.nodes[0].query("SHOW DATABASES LIKE 'races'"):
        galera_cluster.nodes[0].create_database("races")
    here, there = (SqlDatabase.at(galera_cluster.nodes[number].url("races")) for number in (0, 1))
    create_tables(here)
    galera_cluster.settle()
    bench = SqlBench([here])
    tables = bench.open()
    bench.change(port("p"), "x")
    old = tables.leases.take("l", "old", 10.0)
    assert old is not None
    before = row_of(tables, port("p"))
    bench.pass_time(11.0)
    galera_cluster.settle()
    with there.writing.connect() as holding:
        holding.exec_driver_sql("LOCK TABLES toy_objects READ")
        try:
            for name in ("one", "two", "three"):  # One for each applier thread, and one more.
                with here.writer() as connection:
                    values = {"kind": "port", "id": name, "project_id": PROJECT, "scope": SCOPE, "content": "x"}
                    connection.execute(sa.insert(OBJECTS).values(values))
            new = tables.leases.take("l", "new", 10.0)
            assert new is not None and new.fence == old.fence + 1
            late = SqlSyncTable(there, translate, adoptable)
            with ThreadPoolExecutor(1) as pool:
                reopening = pool.submit(late.reopen, old, [Reopen(port("p"), 50, PROJECT, SCOPE)], 0)
                with pytest.raises(TimeoutError):
                    reopening.result(1.0)
                holding.exec_driver_sql("UNLOCK TABLES")
                assert reopening.result(30) is False
        finally:
            holding.exec_driver_sql("UNLOCK TABLES")
    galera_cluster.settle()
    assert row_of(tables, port("p")) == before
