"""A real Neutron API on MariaDB, and on Galera with a server at each of two nodes: accepted, drained, in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
import sqlalchemy as sa
from neutron_cloud import DEPLOYMENT, Cloud, Refused, addressed_network, ports_in_neutron, ports_in_store, running_cloud

from flowloom.consistency.drain import LOCK_PREFIX
from flowloom.consistency.marks import SHARDS
from flowloom.consistency.table import Ref
from flowloom.model.codec import encode
from flowloom.model.keys import key_of
from flowloom.model.records import Network, Port, Subnet
from flowloom.neutron import explain
from flowloom.neutron.adoption import adoptable
from flowloom.neutron.database import CAUSALITY_WAIT
from flowloom.neutron.models import LEASE
from flowloom.neutron.tables import SqlSyncTable
from flowloom.neutron.translate import facts
from flowloom.testing.sql_servers import galera, mariadb
from flowloom.testing.waiting import wait_for

CLIENTS = 8

pytestmark = pytest.mark.timeout(600)  # The first test of each database starts servers and makes the schema.


@pytest.fixture(scope="module", params=["mariadb", "galera"])
def clouds(
    request: pytest.FixtureRequest, servers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Cloud]]:
    """API servers of one Neutron, over one store: one on MariaDB; two on Galera, each at a node of its own."""
    directory = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        if request.param == "mariadb":
            urls = [stack.enter_context(mariadb(servers / "cloud", servers / "migrated")).url("neutron")]
        else:
            cluster = stack.enter_context(galera(servers / "cluster", servers / "migrated"))
            urls = [node.url("neutron") for node in cluster.nodes[:2]]
        (directory / "store").mkdir()
        yield [
            stack.enter_context(
                running_cloud(directory / f"api{number}", None, url, directory / "store", workers=2, threads=2)
            )
            for number, url in enumerate(urls)
        ]


def settle(clouds: list[Cloud]) -> None:
    """Until what one API server was told is known to each."""
    for cloud in clouds:
        with cloud.sql.reader() as connection:
            connection.exec_driver_sql(CAUSALITY_WAIT).close()


def all_synced(clouds: list[Cloud]) -> None:
    """Without any recovery process: the API servers alone."""
    wait_for(clouds[0].synced, 60)


def differing(cloud: Cloud) -> list[str]:
    """Keys at which the store does not hold what Neutron's tables and its sync rows say."""
    table = SqlSyncTable(cloud.sql, facts, adoptable)
    wanted = {}
    for fact in table.facts(refs_of(table)):
        row = fact.row
        assert fact.known and fact.refused is None, fact
        value = None if fact.record is None else encode(fact.record)
        wanted[key_of(DEPLOYMENT, row.project_id, row.scope, row.kind, row.id)] = (row.version, value)
    found = {entry.key: (entry.version, entry.value) for entry in cloud.entries().values()}
    return sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))


def refs_of(table: SqlSyncTable) -> list[Ref]:
    return [row.ref for shard in range(SHARDS) for row in table.shard(shard, 0, 10_000)]


def test_what_the_api_accepts_reaches_the_store_under_leases(clouds: list[Cloud]) -> None:
    first, last = clouds[0], clouds[-1]
    network = first.create("network", name="net")["id"]
    settle(clouds)
    subnet = last.create("subnet", network_id=network, ip_version=4, cidr="10.7.0.0/24")["id"]
    settle(clouds)
    port = first.create("port", network_id=network, name="before")["id"]
    settle(clouds)
    last.update("port", port, name="after")
    last.update("network", network, name="renamed")
    last.update("subnet", subnet, name="named")
    settle(clouds)
    all_synced(clouds)
    records = {identifier: first.record(identifier) for identifier in (network, subnet, port)}
    assert [type(each) for each in records.values()] == [Network, Subnet, Port]
    assert [each.name for each in records.values()] == ["renamed", "named", "after"]  # type: ignore[union-attr]
    first.delete("port", port)
    settle(clouds)
    all_synced(clouds)
    assert first.entries()[port].value is None, "a tombstone"
    assert differing(first) == []
    with last.sql.reader() as connection:
        leases = connection.execute(sa.select(LEASE).where(LEASE.c.name.startswith(LOCK_PREFIX))).all()
    assert [lease.owner for lease in leases] == [""] * len(leases), "given back"
    assert max(lease.fence for lease in leases) >= 4
    seen = explain.where_is(last.sql.url, port)
    assert seen is not None and (seen.deleted, seen.undone_seconds, seen.version) == (True, None, seen.synced_version)
    assert explain.backlog(first.sql.url) == explain.Backlog(0, None, "")
    last.delete("subnet", subnet)
    last.delete("network", network)


def test_many_clients_of_one_project_meet_no_error_and_leave_no_row_dirty(clouds: list[Cloud]) -> None:
    network = addressed_network(clouds[0])
    settle(clouds)
    shared = [clouds[0].create("port", network_id=network, name=f"shared{n}")["id"] for n in range(3)]
    settle(clouds)

    def client(number: int) -> list[str]:
        cloud, random, failed = clouds[number % len(clouds)], Random(number), list[str]()

        def call(what: Callable[[], object]) -> object:
            try:
                return what()
            except Refused as error:
                failed.append(str(error)[:300])
                return None

        for turn in range(4):
            made = call(lambda turn=turn: cloud.create("port", network_id=network, name=f"c{number}-{turn}"))  # type: ignore[misc]
            call(lambda turn=turn: cloud.update("port", random.choice(shared), name=f"c{number}-{turn}"))  # type: ignore[misc]
            if made and turn % 2:
                call(lambda made=made: cloud.delete("port", made["id"]))  # type: ignore[misc]
        return failed

    with ThreadPoolExecutor(CLIENTS) as pool:
        failed = [each for found in pool.map(client, range(CLIENTS)) for each in found]
    assert failed == []
    settle(clouds)
    all_synced(clouds)
    assert len(ports_in_neutron(clouds[0], network)) == 3 + CLIENTS * 2
    assert ports_in_store(clouds[0], network) == ports_in_neutron(clouds[-1], network)
    assert differing(clouds[-1]) == []
    for cloud in clouds:
        said = [
            line
            for line in cloud.log().splitlines()
            if ("stay" in line and "dirty" in line) or "passed the capture" in line
        ]
        assert said == []
