"""Faults of real processes over real databases: afterwards Neutron and the store are equal, and nothing that was
accepted is lost.

Each scenario runs on SQLite, MariaDB and three Galera nodes, with an API server (two of them on Galera) and two
recovery processes; it prints the time from the end of the fault to equal.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from neutron_cloud import Cloud, Refused, ports_in_neutron, running_cloud

from flowloom.consistency.lease import LEASE_SECONDS
from flowloom.model.records import Port
from flowloom.testing.sql_servers import Galera, galera, mariadb
from flowloom.testing.waiting import wait_for

pytestmark = pytest.mark.timeout(900)

CLIENTS = 8
PATIENCE_SECONDS = 120.0

POINTS = (
    "after commit, before the lock",
    "lock held, nothing read",
    "read, not stored",
    "stored, not published",
    "published, not acknowledged",
    "acknowledged, lock not given back",
)


@dataclass
class World:
    """API servers of one Neutron over one store, two recovery processes, and what the API accepted.

    accepted: port id -> the name that was last accepted; None: its deletion was.
    """

    name: str
    clouds: list[Cloud]
    die_at: Path
    cluster: Galera | None
    network: str = ""
    recoveries: list[subprocess.Popen[bytes]] = field(default_factory=list)
    accepted: dict[str, str | None] = field(default_factory=dict)

    @property
    def first(self) -> Cloud:
        return self.clouds[0]

    def any(self, random: Random) -> Cloud:
        return random.choice(self.clouds)

    def create(self, cloud: Cloud, name: str) -> str:
        made = cloud.create("port", network_id=self.network, name=name)
        self.accepted[made["id"]] = name
        return str(made["id"])

    def update(self, cloud: Cloud, port: str, name: str) -> None:
        def updated() -> bool:
            try:
                cloud.update("port", port, name=name)
            except Refused as error:
                # Another node of Galera may not have applied yet what this client was told by the first.
                if error.status != 404 or len(self.clouds) == 1 or self.accepted.get(port) is None:
                    raise
                return False
            return True

        wait_for(updated, PATIENCE_SECONDS)
        self.accepted[port] = name

    def delete(self, cloud: Cloud, port: str) -> None:
        cloud.delete("port", port)
        self.accepted[port] = None

    def tamper(self, *statements: str) -> None:
        """With the store's own client, past everything of ours."""
        with closing(sqlite3.connect(self.first.store_path, timeout=10)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    def drift(self) -> Any:
        """{} when Neutron and the store are equal and nothing is dirty; else what was told."""
        told = self.ask(ask="drift")
        return told["counts"] if told.get("complete") and not told["dirty"] else told

    def ask(self, **request: Any) -> Any:
        """The answer of a recovery process that lives; OSError when none does."""
        for cloud in self.clouds[:-1]:
            try:
                return cloud.ask(**request)
            except OSError:  # It was killed, and nobody started it again yet.
                continue
        return self.clouds[-1].ask(**request)

    def await_equal(self, what: str) -> None:
        """Wait for it, say how long it took, and compare with what the API accepted."""
        started = time.monotonic()
        wait_for(self._equal, PATIENCE_SECONDS)
        print(f"\n{self.name}: {what}: equal {time.monotonic() - started:.1f} s after the fault")
        in_neutron = ports_in_neutron(self.first, self.network)
        alive = {port: name for port, name in self.accepted.items() if name is not None}
        gone = [port for port, name in self.accepted.items() if name is None]
        assert alive.items() <= in_neutron.items() and not in_neutron.keys() & set(gone)
        entries = self.first.entries()
        names = {port: self._name(port) for port in alive}
        assert names == alive
        assert all(entries[port].value is None for port in gone if port in entries)

    def _equal(self) -> bool:
        try:
            return bool(self.drift() == {})
        except OSError:
            return False

    def _name(self, port: str) -> str | None:
        record = self.first.record(port)
        return record.name if isinstance(record, Port) else None


@pytest.fixture(scope="module", params=["sqlite", "mariadb", "galera"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp(request.param)
    die_at = directory / "die_at"
    options: dict[str, Any] = {"workers": 2, "threads": 2}
    with ExitStack() as stack:
        stack.enter_context(_environment(die_at))
        cluster, clouds = None, list[Cloud]()
        if request.param == "sqlite":
            template = request.getfixturevalue("schema_template")
            clouds = [stack.enter_context(running_cloud(directory / "api", template, **options))]
        else:
            servers = request.getfixturevalue("servers")
            if request.param == "mariadb":
                urls = [stack.enter_context(mariadb(servers / "faults", servers / "migrated")).url("neutron")]
            else:
                cluster = stack.enter_context(galera(servers / "fault-cluster", servers / "migrated"))
                urls = [node.url("neutron") for node in cluster.nodes[:2]]
            (directory / "store").mkdir()
            for number, url in enumerate(urls):
                place = directory / f"api{number}"
                clouds.append(stack.enter_context(running_cloud(place, None, url, directory / "store", **options)))
        made = World(request.param, clouds, die_at, cluster)
        made.network = clouds[0].create("network", name="faults")["id"]
        clouds[0].create("subnet", network_id=made.network, ip_version=4, cidr="10.9.0.0/16")
        made.recoveries.append(clouds[0].start_recovery())
        last = clouds[-1]
        made.recoveries.append(last.start(last.deployment.recovery_argv, "recovery-2.log"))
        wait_for(lambda: len(clouds[0].ask(ask="status")["members"]) == 2, PATIENCE_SECONDS)
        yield made


@contextmanager
def _environment(die_at: Path) -> Iterator[None]:
    wanted = {"FLOWLOOM_DIE_AT": str(die_at), "PYTHONPATH": str(Path(__file__).parent / "killing")}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def at_once(work: Callable[[int], None], count: int) -> None:
    """`work(0..count-1)` by CLIENTS clients; what one raises is raised."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(work, range(count)))


@pytest.mark.parametrize("point", POINTS)
def test_process_killed_on_the_way_to_the_store_loses_nothing(world: World, point: str) -> None:
    port = world.create(world.first, "before")
    world.await_equal("a port is created")
    world.die_at.write_text(point)
    deadline = time.monotonic() + PATIENCE_SECONDS
    number = 0
    while world.die_at.exists():
        assert time.monotonic() < deadline, f"nobody came to the point: {point}"
        number += 1
        try:
            world.update(world.first, port, f"{point} {number}")
        except Refused:
            # The worker died under the answer: accepted or not, the next update says.
            continue
    world.update(world.first, port, f"{point}, the last word")
    _restart_the_dead(world)
    world.await_equal(f"killed: {point}")


def _restart_the_dead(world: World) -> None:
    for number, process in enumerate(world.recoveries):
        if process.poll() is not None:
            cloud = world.clouds[0] if number == 0 else world.clouds[-1]
            world.recoveries[number] = cloud.start(cloud.deployment.recovery_argv, f"recovery-{number + 1}.log")


def test_holder_of_locks_that_sleeps_longer_than_its_lease_does_no_harm(world: World) -> None:
    leader = next(member for member in _members(world) if member["leader"])
    asleep = int(leader["owner"].split(":")[1])
    ports = [world.create(world.first, f"s{n}") for n in range(10)]
    for pid in (asleep, world.first.workers()[0]):
        os.kill(pid, signal.SIGSTOP)
    try:
        ended = time.monotonic() + LEASE_SECONDS + 2
        random, number = Random(1), 0
        while time.monotonic() < ended:
            number += 1
            try:
                world.update(world.any(random), random.choice(ports), f"while it sleeps {number}")
            except Refused as error:
                if error.status != 0:  # 0: a request that was given to the sleeper.
                    raise
    finally:
        for pid in (asleep, world.first.workers()[0]):
            os.kill(pid, signal.SIGCONT)
    for number, port in enumerate(ports):
        world.update(world.first, port, f"awake {number}")
    world.await_equal("a holder slept longer than its lease")


def test_store_that_is_down_for_500_writes_has_all_of_them_afterwards(world: World) -> None:
    store = world.first.store_path.parent
    away = store.with_name("store.away")
    random = Random(2)
    world.await_equal("before")
    store.rename(away)
    doomed: list[str] = []

    def write(n: int) -> None:
        port = world.create(world.any(random), f"d{n}")
        world.update(world.first, port, f"d{n} again")
        if n % 4 == 0:
            doomed.append(port)

    try:
        at_once(write, 222)  # With the deletions: 500 writes.
        at_once(lambda n: world.delete(world.first, doomed[n]), len(doomed))
    finally:
        away.rename(store)
    world.await_equal("the store was down for 500 writes")


def test_clients_that_update_and_delete_the_same_objects_leave_all_equal(world: World) -> None:
    ports = [world.create(world.first, f"c{n}") for n in range(20)]
    for port in ports:
        del world.accepted[port]  # Who comes last is not known here: Neutron's word is compared.
    random = Random(3)
    moves = [(random.choice(ports), random.random() < 0.1) for _ in range(160)]

    def move(n: int) -> None:
        port, deletes = moves[n]
        cloud = world.clouds[n % len(world.clouds)]
        try:
            if deletes:
                cloud.delete("port", port)
            else:
                cloud.update("port", port, name=f"c {n}")
        except Refused as error:
            if error.status not in (404, 409):
                raise

    at_once(move, len(moves))
    world.await_equal("8 clients updated and deleted the same 20 ports")
    in_neutron = ports_in_neutron(world.first, world.network)
    entries = world.first.entries()
    for port in ports:
        assert (entries[port].value is not None) == (port in in_neutron)


def test_leader_of_recovery_killed_under_writes_is_replaced(world: World) -> None:
    leader = next(member for member in _members(world) if member["leader"])
    doomed = int(leader["owner"].split(":")[1])
    (number,) = [n for n, process in enumerate(world.recoveries) if process.pid == doomed]
    random = Random(5)

    def write(n: int) -> None:
        if n == 30:
            os.kill(doomed, signal.SIGKILL)
        world.create(world.any(random), f"l{n}")

    at_once(write, 60)
    world.recoveries[number].wait()
    entry = world.first.entries()[next(iter(world.accepted))]
    world.tamper(f"DELETE FROM object WHERE key = '{entry.key}'")  # Only a service that owns its shard finds it.
    world.await_equal("the leader of recovery was killed")
    _restart_the_dead(world)
    wait_for(lambda: len(_members(world)) == 2, PATIENCE_SECONDS)


def test_store_tampered_with_by_its_own_client_is_repaired_and_audited(world: World) -> None:
    ports = [world.create(world.first, f"t{n}") for n in range(4)]
    world.await_equal("before")
    before = world.first.entries()
    edited, removed, old, future = (before[port].key for port in ports)
    stray = f"{edited.rpartition('/')[0]}/stray"
    world.tamper(
        f"UPDATE object SET value = replace(CAST(value AS TEXT), '\"t0\"', '\"x\"') WHERE key = '{edited}'",
        f"DELETE FROM object WHERE key = '{removed}'",
        f"UPDATE object SET version = 0, value = 'old' WHERE key = '{old}'",
        f"UPDATE object SET version = 5000 WHERE key = '{future}'",
        f"INSERT INTO object VALUES ('{stray}', 3, '?')",
    )
    world.await_equal("objects were edited, removed, aged, moved ahead and planted")
    kinds = [
        [entry["kind"] for entry in world.first.ask(ask="audit", object=identifier)["entries"]]
        for identifier in (*ports, "stray")
    ]
    assert kinds == [["different"], ["missing"], ["stale"], ["ahead"], ["orphan"]]
    assert world.first.entries()["stray"].value is None


def test_store_put_back_200_writes_old_is_brought_up_to_date(world: World, tmp_path: Path) -> None:
    port = world.create(world.first, "r")
    world.await_equal("before")
    store = world.first.store_path
    with sqlite3.connect(store) as source, sqlite3.connect(tmp_path / "copy") as copy:
        source.backup(copy)
    random = Random(6)

    def write(n: int) -> None:
        made = world.create(world.any(random), f"r{n}")
        world.update(world.any(random), made, f"r{n} again")

    at_once(write, 98)
    world.update(world.first, port, "newer than the copy")
    gone = world.create(world.first, "gone")
    world.delete(world.first, gone)
    world.await_equal("200 writes")
    for suffix in ("-wal", "-shm"):
        Path(f"{store}{suffix}").unlink(missing_ok=True)
    shutil.move(tmp_path / "copy", store)
    _approve(world, "repair")
    world.await_equal("the store was put back as it was 200 writes ago")


def test_store_that_was_wiped_is_rebuilt(world: World) -> None:
    for port in [world.create(world.first, f"w{n}") for n in range(60)][::7]:
        world.delete(world.first, port)
    world.await_equal("before")
    for path in world.first.store_path.parent.iterdir():
        if path.is_file():
            path.unlink()
    with world.first.store():
        pass  # Whoever opens it first makes it anew.
    _approve(world, "rebuild")
    world.await_equal("the store was wiped")


def _members(world: World) -> Any:
    return world.ask(ask="status")["members"]


def _approve(world: World, how: str) -> None:
    """What an operator does: look, and let the guard pass what it holds."""
    if how == "rebuild":
        job = world.first.ask(ask="rebuild", by="test")["job"]
    else:
        wait_for(lambda: world.first.ask(ask="guards")["guards"], PATIENCE_SECONDS)
        guard = world.first.ask(ask="guards")["guards"][0]
        job = world.first.ask(ask="repair", approve=guard["id"], by="test")["job"]
    wait_for(lambda: world.first.ask(ask="job", id=job)["state"] != "running", PATIENCE_SECONDS)
    told = world.first.ask(ask="job", id=job)
    assert told["state"] == "done", told


def test_500_ports_deleted_while_they_are_updated_leave_tombstones(world: World) -> None:
    names = [{"network_id": world.network, "name": f"b{n}"} for n in range(500)]
    ports: list[str] = []
    for start in range(0, len(names), 50):
        made = world.first.call("POST", "ports", {"ports": names[start : start + 50]})["ports"]
        ports += [port["id"] for port in made]
    random = Random(4)

    def work(n: int) -> None:
        if n % 5 == 0:
            try:
                world.first.update("port", random.choice(ports), name=f"b {n}")
            except Refused as error:
                if error.status != 404:
                    raise
        else:
            world.delete(world.first, ports[n - n // 5 - 1])

    at_once(work, 625)
    world.await_equal("500 ports were deleted while they were updated")
    assert sum(world.accepted.get(port, "") is None for port in ports) == 500


def test_galera_node_killed_and_rejoined_under_writes_loses_nothing(world: World) -> None:
    if world.cluster is None:
        pytest.skip("only Galera has nodes")
    refused: list[Refused] = []

    def write(n: int) -> None:
        if n == 20:
            world.cluster.kill(2)  # type: ignore[union-attr]
        if n == 60:
            world.cluster.start(2)  # type: ignore[union-attr]
        try:
            port = world.create(world.clouds[n % 2], f"g{n}")
            world.update(world.clouds[n % 2], port, f"g{n} again")
        except Refused as error:
            refused.append(error)

    at_once(write, 100)
    world.await_equal("a Galera node was killed and came back under writes")
    print(f"{len(refused)} of 200 calls refused meanwhile: {sorted({error.status for error in refused})}")
