"""The northbound database of a running cloud is changed: SQLite, etcd, Redis, ZooKeeper, and back to SQLite.

Two hosts with a VM each, pings from either to the other all the while, a client that makes, changes and deletes ports
through Neutron all the while, processes that are killed and restarted in the middle.  Not a packet and not a change
may be lost, and Neutron, the store, agents and switches are equal at the end.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
from openstack import exceptions
from openstack.config import OpenStackConfig
from openstack.connection import Connection
from system_cloud import PATIENCE_SECONDS, Cloud, Vm, eventually

from flowloom.cli import deployment
from flowloom.lab import tools
from flowloom.lab.cloud import Lab
from flowloom.lab.layout import DEPLOYMENT
from flowloom.lab.probes import Ping
from flowloom.lab.processes import until
from flowloom.model.keys import deployment_prefix
from flowloom.model.records import Port, PortStatus, Record
from flowloom.neutron.database import SqlDatabase
from flowloom.neutron.places import SqlPlaceTable
from flowloom.northbound.plugins import open_store
from flowloom.northbound.topology import entries_to_changes
from flowloom.testing import etcd_server, redis_server, zookeeper_server
from flowloom.testing.conformance import Skip

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]

MOVE_SECONDS = 300.0
PROGRAMS = ("ip", "ethtool", "ovs-vswitchd", "ovsdb-server")


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """Neutron, a store in a file, bus, recovery and two hosts."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the lab is made of network namespaces")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install openvswitch-switch ethtool")
    lab = Lab(tempfile.mkdtemp(prefix="fl-", dir="/run"))
    try:
        lab.up(hosts=2)
        with _neutron(lab) as connection:
            yield Cloud(lab, connection.network)
    finally:
        lab.down()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[etcd_server.Cluster]:
    with etcd_server.etcd(tmp_path_factory.mktemp("etcd") / "etcd") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def urls(cloud: Cloud, etcd: etcd_server.Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An etcd, a Redis and a ZooKeeper on the loopback, and ways to them from the hosts."""
    directory = tmp_path_factory.mktemp("servers")
    with ExitStack() as stack:
        try:
            redis = stack.enter_context(
                redis_server.single(directory / "redis", appendonly="yes", appendfsync="always")
            )
            zookeeper = stack.enter_context(zookeeper_server.zookeeper(directory / "zookeeper"))
        except Skip as why:
            pytest.skip(str(why))
        found = {"etcd": etcd.url(), "redis": redis.url(), "zookeeper": zookeeper.url()}
        ports = [url.split("://")[1].partition("/")[0].rpartition(":")[2].partition("?")[0] for url in found.values()]
        for host in cloud.hosts:
            at = cloud.lab.host(host)
            command = tools.python("-m", "flowloom.lab.relay", at.netns, str(at.dir / "ways.sock"), *ports)
            relay = stack.enter_context(subprocess.Popen(command))
            stack.callback(relay.kill)
            eventually("the host has a way to the servers", (at.dir / "ways.sock").exists)
        yield {"sqlite": f"sqlite:///{cloud.lab.layout.store_dir}/northbound.sqlite", **found}


@contextmanager
def _neutron(lab: Lab) -> Iterator[Connection]:
    connection = Connection(config=OpenStackConfig(config_files=[str(lab.clouds_file)]).get_one("flowloom"))
    try:
        yield connection
    finally:
        connection.close()


@dataclass
class Client:
    """Somebody who makes, renames and deletes ports through Neutron until told to stop.

    accepted: port id -> the name that Neutron accepted last; None: its deletion.  refused: what Neutron did not accept.
    """

    cloud: Cloud
    network: str
    accepted: dict[str, str | None] = field(default_factory=dict)
    calls: int = 0
    refused: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with _neutron(self.cloud.lab) as connection:
            while not self._stop.is_set():
                try:
                    self._turn(connection)
                except exceptions.SDKException as error:
                    self.refused.append(str(error))

    def _turn(self, connection: Connection) -> None:
        network = connection.network
        made = network.create_port(network_id=self.network, name=f"made {self.calls}")
        self.accepted[made.id] = made.name
        living = [id for id, name in self.accepted.items() if name is not None]
        for id in living[-4:]:
            self.accepted[id] = network.update_port(id, name=f"renamed {self.calls}").name
            self.calls += 1
        if len(living) > 20:
            network.delete_port(living[0])
            self.accepted[living[0]] = None
        self.calls += 2

    @contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run, name="client")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(PATIENCE_SECONDS)
            self._stop.clear()


def command(cloud: Cloud, *words: str) -> list[str]:
    return [sys.executable, "-m", "flowloom", "--config", str(cloud.lab.deployment_file), "store", "move", *words]


def move(cloud: Cloud, source: str, target: str, killed: str = "") -> dict[str, object]:
    """What the command says when it has moved; the failure says what it said instead.

    killed: a part that is killed at the first word of progress, and started again.
    """
    words = command(cloud, "--from", source, "--to", target, "--json")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            progress = [process.stderr.readline()]
            if killed:
                cloud.lab.kill(killed)
                cloud.lab.start(killed)
            out, err = process.communicate(timeout=MOVE_SECONDS)
        finally:
            process.kill()
    progress.append(err)
    assert process.returncode == 0, f"{out}{progress}{_logs(cloud)}"
    said: dict[str, object] = json.loads(out)
    print(f"{target}: {said['seconds']:.1f} s, {killed or 'nothing'} killed: {said['why']}", *progress, sep="\n")
    assert said["step"] == "done" and str(said["in_force"]).split("?")[0] == target.split("?")[0], said
    assert "2 of 2 chassis write there" in str(said["why"]), said
    return said


def _logs(cloud: Cloud) -> str:
    files = [cloud.lab.layout.dir / "recovery.log", *(cloud.lab.host(host).dir / "agent.log" for host in cloud.hosts)]
    return "\n".join(f"--- {file}\n{file.read_text()[-3000:]}" for file in files if file.exists())


def records_in(url: str) -> list[Record]:
    """What a store holds of the deployment."""
    store = open_store(url)
    try:
        changes, _ = entries_to_changes(store.read(deployment_prefix(DEPLOYMENT)).entries)
    finally:
        store.close()
    return [change.record for change in changes if change.record is not None]


def names_in(url: str) -> dict[str, str]:
    """Names of the ports in a store, by id."""
    return {record.id: record.name for record in records_in(url) if isinstance(record, Port)}


def assert_equal(cloud: Cloud, url: str, client: Client) -> None:
    """Every change that Neutron accepted is in the store, and all copies are equal."""
    wanted = {id: name for id, name in client.accepted.items() if name is not None}
    gone = [id for id, name in client.accepted.items() if name is None]

    def there() -> bool:
        names = names_in(url)
        return all(names.get(id) == name for id, name in wanted.items()) and not any(id in names for id in gone)

    eventually(f"{len(wanted)} ports are in {url} as Neutron accepted them", there)
    drift = subprocess.CompletedProcess[str]([], 1)

    def equal() -> bool:
        nonlocal drift
        drift = cloud.flowloom("drift")
        return drift.returncode == 0

    assert until(equal, PATIENCE_SECONDS), drift.stdout + drift.stderr


@contextmanager
def pinging(cloud: Cloud, source: Vm, target: Vm) -> Iterator[Ping]:
    with cloud.lab.pinging(source.name, target.ip, interval=0.02) as ping:
        ping.await_first(PATIENCE_SECONDS)
        yield ping
        result = ping.stop()
        print(result)
        assert (result.lost, result.duplicates) == (0, 0), result
        assert result.sent > 500


def test_the_database_is_changed_four_times_under_load_without_a_lost_packet_or_change(
    cloud: Cloud, urls: dict[str, str]
) -> None:
    network = cloud.network("movers")
    vms = [cloud.vm(f"vm{n}", f"h{n}", network, f"10.0.0.{10 + n}") for n in (1, 2)]
    cloud.await_active(*vms)
    for vm in vms:
        cloud.address(vm)
    cloud.await_reach(vms[0], vms[1])
    cloud.await_quiet()
    held = cloud.everywhere()
    client = Client(cloud, network)
    chain = ["sqlite", "etcd", "redis", "zookeeper", "sqlite"]
    with pinging(cloud, vms[0], vms[1]), pinging(cloud, vms[1], vms[0]):
        for number, (source, target) in enumerate(itertools.pairwise(chain), 1):
            calls = client.calls
            with client.at_work():
                until(lambda calls=calls: client.calls > calls + 10, PATIENCE_SECONDS)  # type: ignore[misc]
                move(cloud, urls[source], urls[target], killed={2: "recovery", 3: "agent@h1"}.get(number, ""))
                during = client.calls
                until(lambda during=during: client.calls > during + 10, PATIENCE_SECONDS)  # type: ignore[misc]
            assert client.calls > calls + 20 and client.refused == []
            cloud.await_quiet()
            assert_equal(cloud, urls[target], client)
            for vm in vms:
                name = f"{vm.name} in {target}"
                cloud.neutron.update_port(vm.port_id, name=name)
                eventually(
                    f"the host of {name} has read its change in {target}, and says so there",
                    lambda vm=vm, name=name, target=target: is_confirmed(urls[target], vm.port_id, name),  # type: ignore[misc]
                )
        cloud.assert_equal_to_oracle()
    assert cloud.everywhere() == held, "no flow is another one"
    audit = json.loads(cloud.flowloom("audit", "--json").stdout)
    assert audit == [], "nothing had to be repaired"


def is_confirmed(url: str, port_id: str, name: str) -> bool:
    """Whether a store holds the port under this name, and the word of its host that this version is in its switch."""
    records = records_in(url)
    port = next((record for record in records if isinstance(record, Port) and record.id == port_id), None)
    report = next((record for record in records if isinstance(record, PortStatus) and record.id == port_id), None)
    return port is not None and report is not None and port.name == name and report.port_version >= port.version


def test_a_move_to_a_database_that_does_not_answer_waits_and_is_taken_back(
    cloud: Cloud, urls: dict[str, str], etcd: etcd_server.Cluster
) -> None:
    before = names_in(urls["sqlite"])
    database = SqlDatabase.at(deployment.load(cloud.lab.deployment_file, "--config").neutron.database)
    etcd.members[0].send(signal.SIGSTOP)
    try:
        # The command opens its target first; here it hangs a moment later.
        assert SqlPlaceTable(database).begin(urls["sqlite"], urls["etcd"], "somebody") is not None
        eventually("it says what it waits for", lambda: "does not answer" in str(status(cloud)["why"]))
        told = status(cloud)
        assert told["under_way"] and told["step"] == "copying" and told["in_force"] == urls["sqlite"]
        second = asked(cloud, "--from", urls["sqlite"], "--to", urls["redis"])
        assert second.returncode == 1 and "is under way; wait for it, or --abort it" in second.stderr
        aborted = asked(cloud, "--abort")
        assert aborted.returncode == 0 and "gone back: aborted by" in aborted.stdout, aborted.stderr
    finally:
        etcd.members[0].send(signal.SIGCONT)
        database.close()
    again = asked(cloud, "--abort")
    assert again.returncode == 1 and "no move is under way" in again.stderr
    assert asked(cloud, "--status").returncode == 0 and names_in(urls["sqlite"]) == before
    assert cloud.flowloom("drift").returncode == 0


def asked(cloud: Cloud, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(cloud, *words), capture_output=True, text=True, timeout=60, check=False)


def status(cloud: Cloud) -> dict[str, object]:
    found: dict[str, object] = json.loads(asked(cloud, "--status", "--json").stdout)
    return found
