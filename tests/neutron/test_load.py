"""Many clients, several workers, one SQLite file, and another writer beside them."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from neutron_cloud import Cloud, addressed_network, ports_in_neutron, ports_in_store

from flowloom.testing.waiting import wait_for


@contextmanager
def writing_beside(path: str) -> Iterator[None]:
    """Another writer of the same file: short transactions that read, then write."""
    stop = threading.Event()

    def write() -> None:
        connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        connection.execute("CREATE TABLE IF NOT EXISTS beside (n INTEGER)")
        while not stop.wait(0.05):
            connection.execute("BEGIN IMMEDIATE")
            count = connection.execute("SELECT count(*) FROM beside").fetchone()[0]
            connection.execute("INSERT INTO beside VALUES (?)", (count,))
            connection.execute("COMMIT")
        connection.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_200_ports_by_8_clients_over_2_workers_beside_another_writer_meet_no_error(cloud: Cloud) -> None:
    network_id = addressed_network(cloud)
    with (
        writing_beside(cloud.deployment.database.partition("://")[2]),
        ThreadPoolExecutor(8) as clients,
    ):
        made = list(clients.map(lambda n: cloud.create("port", network_id=network_id, name=f"p{n}"), range(200)))
    assert len({port["fixed_ips"][0]["ip_address"] for port in made}) == 200
    wait_for(cloud.synced, 30)
    assert ports_in_store(cloud, network_id) == {port["id"]: port["name"] for port in made}


def test_updates_of_the_same_ports_by_parallel_clients_end_with_what_neutron_holds(cloud: Cloud) -> None:
    network_id = addressed_network(cloud)
    ports = [cloud.create("port", network_id=network_id)["id"] for _ in range(3)]
    with ThreadPoolExecutor(6) as clients:
        list(clients.map(lambda n: cloud.update("port", ports[n % 3], name=f"v{n}"), range(30)))
    wait_for(cloud.synced, 30)
    assert ports_in_store(cloud, network_id) == ports_in_neutron(cloud, network_id)
