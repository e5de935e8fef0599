"""What capture and drain rely on of each database, and what its errors mean: each looked at on the real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pymysql
import pytest
import sqlalchemy as sa
from sql_bench import adoptable, create_tables, empty_tables, translate

from flowloom.consistency.lease import LEASE_SECONDS
from flowloom.consistency.table import Ref
from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.neutron.database import Contended, SqlDatabase, begin_snapshot
from flowloom.neutron.database_time import database_now
from flowloom.neutron.models import LEASE, SYNC
from flowloom.neutron.tables import SqlLeaseTable, SqlSyncTable
from flowloom.testing.sql_servers import Galera, SqlServer, galera

SERVERS = ("sqlite", "mariadb", "galera")
MYSQL = ("mariadb", "galera")
LEVELS = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
NAMED = sa.and_(SYNC.c.kind == "port", SYNC.c.object_id == sa.bindparam("name"))
VERSION = sa.select(SYNC.c.version).where(NAMED)
RAISE = sa.update(SYNC).where(NAMED).values(version=SYNC.c.version + 1)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlDatabase]:
    """Rows a and b at version 1; on Galera the first node."""
    kind = request.param
    if kind == "sqlite":
        made = SqlDatabase.at(f"sqlite+immediate:///{tmp_path}/neutron.sqlite")
    else:
        server = server_of(request, kind)
        if not server.query("SHOW DATABASES LIKE 'isolation'"):
            server.create_database("isolation")
        made = SqlDatabase.at(server.url("isolation"))
    create_tables(made)
    empty_tables(made)
    with made.writer() as connection:
        connection.execute(
            sa.insert(SYNC), [{"kind": "port", "object_id": n, "project_id": "p", "version": 1} for n in "ab"]
        )
    yield made
    made.close()


def server_of(request: pytest.FixtureRequest, kind: str) -> SqlServer:
    if kind == "mariadb":
        return request.getfixturevalue("mariadb_server")
    cluster: Galera = request.getfixturevalue("galera_cluster")
    return cluster.nodes[0]


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("database", kinds, indirect=True)


@pytest.fixture
def read_committed(request: pytest.FixtureRequest) -> Iterator[None]:
    """An operator's server whose default is below what a snapshot needs."""
    kinds = [kind for kind in MYSQL if f"[{kind}]" in request.node.name]
    for kind in kinds:
        server_of(request, kind).query("SET GLOBAL TRANSACTION ISOLATION LEVEL READ COMMITTED")
    yield
    for kind in kinds:
        server_of(request, kind).query("SET GLOBAL TRANSACTION ISOLATION LEVEL REPEATABLE READ")


def change_both(database: SqlDatabase) -> None:
    with database.writer() as connection:
        connection.execute(RAISE, [{"name": "a"}, {"name": "b"}])


@on(*SERVERS)
def test_a_reader_sees_one_moment_whatever_the_servers_default_is(read_committed: None, database: SqlDatabase) -> None:
    with database.reader() as connection:
        assert connection.scalar(VERSION, {"name": "a"}) == 1
        change_both(database)
        assert connection.scalar(VERSION, {"name": "b"}) == 1
    with database.reader() as connection:
        assert [connection.scalar(VERSION, {"name": name}) for name in "ab"] == [2, 2]


@on(*MYSQL)
def test_the_servers_default_alone_would_mix_two_moments(read_committed: None, database: SqlDatabase) -> None:
    with database.writer() as connection:
        assert connection.scalar(VERSION, {"name": "a"}) == 1
        change_both(SqlDatabase.at(database.url))
        assert connection.scalar(VERSION, {"name": "b"}) == 2


@on(*MYSQL)
def test_a_snapshot_is_asked_for_by_its_own_transaction_only(read_committed: None, database: SqlDatabase) -> None:
    engine = sa.create_engine(database.url, pool_size=1, max_overflow=0)
    with engine.connect() as connection:
        begin_snapshot(connection)
        connection.scalar(VERSION, {"name": "a"})
    with engine.connect() as connection:
        assert connection.scalar(VERSION, {"name": "a"}) == 1
        change_both(database)
        assert connection.scalar(VERSION, {"name": "b"}) == 2, "Neutron's own transactions are as they were"
    engine.dispose()


@pytest.mark.parametrize("level", LEVELS)
@on(*MYSQL)
def test_no_version_is_lost_at_any_isolation_level(database: SqlDatabase, level: str) -> None:
    engine = sa.create_engine(database.url, isolation_level=level, pool_size=10)
    workers, rounds = 6, 15

    def work(_worker: int) -> None:
        for _ in range(rounds):
            repeated(lambda: read_and_raise(engine))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    with database.reader() as connection:
        assert connection.scalar(VERSION, {"name": "a"}) == 1 + workers * rounds
    engine.dispose()


def read_and_raise(engine: sa.Engine) -> None:
    """As Neutron's transactions do: they have read, and have a snapshot, before capture bumps."""
    with engine.begin() as connection:
        connection.execute(VERSION, {"name": "b"}).all()
        connection.execute(RAISE, {"name": "a"})


def repeated(work: Callable[[], None]) -> None:
    for _ in range(200):
        try:
            return work()
        except sa.exc.OperationalError as error:
            if error.orig is None or error.orig.args[0] != 1213:
                raise
    raise AssertionError("two hundred deadlocks one after the other")


@on(*MYSQL)
def test_a_row_that_changed_since_the_snapshot_is_contended_where_the_server_is_told_so(database: SqlDatabase) -> None:
    with pytest.raises(Contended, match="1020"):
        raise_after_another_did(database, "ON")
    raise_after_another_did(database, "OFF")
    with database.reader() as connection:
        assert connection.scalar(VERSION, {"name": "a"}) == 4


def raise_after_another_did(database: SqlDatabase, snapshot_isolation: str) -> None:
    with database.writer() as connection:
        connection.exec_driver_sql(f"SET SESSION innodb_snapshot_isolation = {snapshot_isolation}")
        connection.execute(VERSION, {"name": "b"}).all()
        change_both(SqlDatabase.at(database.url))
        connection.execute(RAISE, {"name": "a"})


@on("sqlite")
def test_sqlites_writers_take_turns_and_lose_no_version(database: SqlDatabase) -> None:
    def work(_worker: int) -> None:
        for _ in range(10):
            read_and_raise(database.writing)

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(work, range(5)))
    with database.reader() as connection:
        assert connection.scalar(VERSION, {"name": "a"}) == 51


@on(*SERVERS)
def test_an_update_that_changes_nothing_still_counts_its_row(database: SqlDatabase) -> None:
    with database.writer() as connection:
        same = sa.update(SYNC).where(SYNC.c.object_id == "a").values(version=1)
        assert connection.execute(same).rowcount == 1


@on(*SERVERS)
def test_the_databases_clock_is_the_time_since_1970(database: SqlDatabase) -> None:
    with database.reader() as connection:
        assert abs((connection.scalar(sa.select(database_now())) or 0) - time.time()) < 5


@on("mariadb")
def test_the_hour_that_local_time_repeats_counts_once(database: SqlDatabase) -> None:
    second_two_oclock = 1761440400.25  # 26 October 2025, 02:00 CET; an hour before it was 02:00 CEST.
    with database.reader() as connection:
        for moment in (second_two_oclock - 3600, second_two_oclock):
            connection.exec_driver_sql(f"SET timestamp = {moment}")
            assert float(connection.scalar(sa.select(database_now())) or 0) == moment


@on(*SERVERS)
def test_sums_and_pages_are_answered_by_the_index_alone_or_first(database: SqlDatabase) -> None:
    with database.writer() as connection:
        rows = [
            {
                "kind": "port",
                "object_id": f"o{n}",
                "project_id": f"p{n % 50}",
                "version": 1,
                "mark": n,
                "dirty_since": 0,
            }
            for n in range(1, 3000)
        ]
        connection.execute(sa.insert(SYNC), rows)
    if database.writing.dialect.name == "mysql":
        with database.writer() as connection:
            connection.exec_driver_sql("ANALYZE TABLE flowloom_sync")
    executed: list[tuple[str, object]] = []
    sa.event.listen(database.reading, "before_cursor_execute", lambda *args: executed.append((args[2], args[3])))
    table = SqlSyncTable(database, translate, adoptable)
    table.sums()
    table.shard(3, 100, 20)
    table.dirty("p1", 20)
    table.dirty_projects()
    sums, page, dirty, projects = [plan(database, *each) for each in list(executed) if "flowloom_sync" in each[0]]
    assert "ix_flowloom_sync_shard" in sums and ("COVERING INDEX" in sums or "Using index" in sums)
    assert "ix_flowloom_sync_shard" in page and "filesort" not in page and "TEMP B-TREE" not in page
    assert "ix_flowloom_sync_project_dirty" in dirty
    assert "ix_flowloom_sync_dirty_since" in projects or "ix_flowloom_sync_project_dirty" in projects


def plan(database: SqlDatabase, statement: str, parameters: object) -> str:
    explain = "EXPLAIN QUERY PLAN " if database.reading.dialect.name == "sqlite" else "EXPLAIN "
    with database.reader() as connection:
        return "\n".join(str(row) for row in connection.exec_driver_sql(explain + statement, parameters))


# --- errors ----------------------------------------------------------------------------------


@on(*MYSQL)
def test_a_deadlock_is_contended_and_nothing_of_it_happened(database: SqlDatabase) -> None:
    meet = threading.Barrier(2, timeout=20)

    def cross(first: str, second: str) -> bool:
        try:
            with database.writer() as connection:
                connection.execute(RAISE, {"name": first})
                meet.wait()
                connection.execute(RAISE, {"name": second})
            return True
        except Contended:
            return False

    with ThreadPoolExecutor(2) as pool:
        done = sorted(pool.map(cross, "ab", "ba"))
    assert done == [False, True]
    with database.reader() as connection:
        assert [connection.scalar(VERSION, {"name": name}) for name in "ab"] == [2, 2]


@on("mariadb")
def test_a_lock_that_is_not_had_in_time_is_contended(database: SqlDatabase) -> None:
    other = SqlDatabase.at(database.url)
    with other.writer() as holder:
        holder.execute(RAISE, {"name": "a"})
        with pytest.raises(Contended):
            raise_impatiently(database)
    database.close()


def raise_impatiently(database: SqlDatabase) -> None:
    with database.writer() as connection:
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")
        connection.execute(RAISE, {"name": "a"})


@on("mariadb")
def test_a_killed_connection_is_unavailable_and_the_next_one_works(database: SqlDatabase) -> None:
    with pytest.raises(Unavailable):
        raise_while_killed(database)
    with database.reader() as connection:
        assert connection.scalar(VERSION, {"name": "a"}) == 1


def raise_while_killed(database: SqlDatabase) -> None:
    with database.writer() as connection:
        number = connection.scalar(sa.text("SELECT CONNECTION_ID()"))
        with SqlDatabase.at(database.url).writer() as other:
            other.exec_driver_sql(f"KILL {number}")
        connection.execute(RAISE, {"name": "a"})


@on(*SERVERS)
def test_a_missing_table_says_what_to_run(database: SqlDatabase) -> None:
    with pytest.raises(Misconfigured, match="upgrade heads"), database.reader() as connection:
        connection.exec_driver_sql("SELECT * FROM flowloom_nothing")


@on(*SERVERS)
def test_a_fault_of_ours_is_not_taken_for_the_databases(database: SqlDatabase) -> None:
    with pytest.raises(sa.exc.IntegrityError), database.writer() as connection:
        connection.execute(sa.insert(LEASE).values(name="x", fence=None))


@pytest.mark.parametrize("kind", ["nothing listens", "wrong password"])
def test_a_server_that_does_not_let_us_in_is_unavailable(mariadb_server: SqlServer, kind: str) -> None:
    url = mariadb_server.url("mysql")
    url = (
        url.replace("root@", "root:wrong@") if kind == "wrong password" else url.replace(str(mariadb_server.port), "9")
    )
    with pytest.raises(Unavailable), SqlDatabase.at(url).reader():
        pass


# --- Galera ----------------------------------------------------------------------------------


@on("galera")
def test_a_reader_waits_for_what_another_node_had_committed(database: SqlDatabase, galera_cluster: Galera) -> None:
    far = galera_cluster.nodes[2]
    galera_cluster.settle()
    with (
        closing(
            pymysql.connect(host="127.0.0.1", port=far.port, user="root", database="isolation", autocommit=True)
        ) as blocking,
        blocking.cursor() as cursor,
    ):
        cursor.execute("LOCK TABLES flowloom_sync READ")  # What comes from other nodes has to wait there.
        try:
            change_both(database)
            with SqlDatabase.at(far.url("isolation"), causality_wait=False).reader() as connection:
                assert connection.scalar(VERSION, {"name": "a"}) == 1, "without the wait it is old"
            with ThreadPoolExecutor(1) as pool:
                reading = pool.submit(read_version, SqlDatabase.at(far.url("isolation")))
                with pytest.raises(TimeoutError):
                    reading.result(0.5)
                cursor.execute("UNLOCK TABLES")
                assert reading.result(20) == 2
        finally:
            cursor.execute("UNLOCK TABLES")


def read_version(database: SqlDatabase) -> int:
    with database.reader() as connection:
        return connection.scalar(VERSION, {"name": "a"}) or 0


@on("galera")
def test_of_two_nodes_the_second_to_certify_is_contended(database: SqlDatabase, galera_cluster: Galera) -> None:
    galera_cluster.settle()
    far = SqlDatabase.at(galera_cluster.nodes[1].url("isolation"))
    with pytest.raises(Contended):
        raise_while_another_does(far, database)
    with far.reader() as connection:
        assert connection.scalar(VERSION, {"name": "a"}) == 2


def raise_while_another_does(far: SqlDatabase, near: SqlDatabase) -> None:
    with far.writer() as connection:
        connection.execute(RAISE, {"name": "a"})
        change_both(near)


def test_a_node_that_dies_stalls_leases_for_less_than_they_last_and_one_without_quorum_says_so(servers: Path) -> None:
    with galera(servers / "dying", servers / "template") as cluster:
        cluster.nodes[0].create_database("isolation")
        databases = [SqlDatabase.at(node.url("isolation")) for node in cluster.nodes]
        create_tables(databases[0])
        cluster.settle()
        tables = [SqlLeaseTable(database) for database in databases]
        longest, fences = 0.0, []
        ends = time.monotonic() + 20
        killed = False
        while time.monotonic() < ends:
            began = time.monotonic()
            for table in tables[:2]:
                lease = table.take("l", "me", 60.0)
                assert lease is not None
                fences.append(lease.fence)
                assert table.release(lease) is None
            longest = max(longest, time.monotonic() - began)
            if not killed and len(fences) > 20:
                cluster.kill(2)
                killed = True
        print(f"\n{len(fences)} leases, the longest pair took {longest:.2f} s around the death of a node")
        assert killed and longest < LEASE_SECONDS / 2
        assert fences == sorted(set(fences))
        with pytest.raises(Unavailable):
            tables[2].take("l", "me", 60.0)
        began = time.monotonic()
        cluster.start(2)
        print(f"the node was back after {time.monotonic() - began:.1f} s")
        last = take_surely(tables[2])
        assert last > fences[-1]
        cluster.kill(1)
        cluster.kill(2)
        with pytest.raises(Unavailable):
            ask_until_quorum_is_missed(tables[0])
        assert not SqlSyncTable(databases[0], translate, adoptable).facts([]), "no refs, no question"
        with pytest.raises(Unavailable):
            SqlSyncTable(databases[0], translate, adoptable).facts([Ref("port", "a")])


def ask_until_quorum_is_missed(table: SqlLeaseTable) -> None:
    for _ in range(1000):
        table.holders("")


def take_surely(table: SqlLeaseTable) -> int:
    for _ in range(50):
        try:
            lease = table.take("l", "me", 60.0)
        except Unavailable:
            continue
        assert lease is not None
        return lease.fence
    raise AssertionError("the node does not come back")
