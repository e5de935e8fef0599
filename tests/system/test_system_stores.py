"""A whole cloud on each northbound database that the lab brings along: the main job, and what may happen to a database.

Each form has a cloud of two hosts with a VM each.  Whatever happens to the store, no ping is lost, what Neutron
accepted is everywhere afterwards, and `flowloom drift` ends with 0.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from openstack.config import OpenStackConfig
from openstack.connection import Connection
from system_cloud import PATIENCE_SECONDS, Cloud, Vm, eventually

from flowloom.lab import state, store
from flowloom.lab.cloud import Lab
from flowloom.lab.layout import DEPLOYMENT
from flowloom.lab.stores import etcd, redis, zookeeper
from flowloom.lab.stores.forms import FORMS
from flowloom.lab.stores.server import Members
from flowloom.model.keys import deployment_prefix, parse_key
from flowloom.model.records import Port
from flowloom.northbound.plugins import open_store

pytestmark = pytest.mark.lab

PROGRAMS = ("ip", "ethtool", "ovs-vswitchd", "ovsdb-server", "udhcpc", "dhclient")

OTHERS = 60
"""Ports beside those of the VMs: a repair of more than 50 objects is held by a guard."""


@dataclass
class World:
    """A cloud whose store is of one form, with `vm1` on h1 and `vm2` on h2, and OTHERS ports without a VM."""

    form: str
    cloud: Cloud
    vms: tuple[Vm, Vm]
    network: str
    others: list[str]

    @property
    def lab(self) -> Lab:
        return self.cloud.lab

    @property
    def members(self) -> Members:
        found = store.members(self.lab.layout, state.need(self.lab.layout))
        assert found is not None
        return found

    @property
    def several(self) -> bool:
        return len(self.members.members) > 1

    def key(self, port_id: str) -> str:
        """The key in the store of a port's record."""
        opened = open_store(self.members.url)
        try:
            keys = opened.versions(deployment_prefix(DEPLOYMENT)).versions
        finally:
            opened.close()
        return next(key for key in keys if (parse_key(key).kind, parse_key(key).id) == (Port.kind, port_id))

    def rename(self, name: str, ports: list[str]) -> None:
        for port in ports:
            self.cloud.neutron.update_port(port, name=name)

    def await_drained(self, what: str) -> None:
        """Wait until the store has whatever Neutron has accepted, by Neutron's own books."""
        eventually(f"nothing is undone: {what}", lambda: self.cloud.layers()["sql"]["backlog"] == 0)

    def await_equal(self, what: str) -> int:
        """Wait until `flowloom drift` ends with 0, letting pass what guards hold, as an operator would; how many guards."""
        began, approved = time.monotonic(), 0
        while (told := self.cloud.flowloom("drift")).returncode != 0:
            assert time.monotonic() < began + 2 * PATIENCE_SECONDS, f"{what}: {told.stdout}{told.stderr}"
            for guard in self._waiting_guards():
                self.cloud.flowloom("repair", "--approve", guard)
                approved += 1
        print(f"{self.form}: {what}: equal after {time.monotonic() - began:.1f} s")
        return approved

    def repairs_of(self, port_id: str) -> set[str]:
        """The kinds of differences that were repaired of a port."""
        shown = self.cloud.flowloom("audit", "--object", port_id, "--json")
        return {entry["kind"] for entry in json.loads(shown.stdout)}

    def _waiting_guards(self) -> list[str]:
        shown = self.cloud.flowloom("audit", "--guards", "--json")
        return [guard["id"] for guard in json.loads(shown.stdout) if not guard["approved_by"]]

    @contextmanager
    def loses_nothing(self) -> Iterator[None]:
        """Fifty pings a second each way, before, during and after what happens inside; every one is answered."""
        one, two = self.vms
        with (
            self.lab.pinging(one.name, two.ip, interval=0.02) as there,
            self.lab.pinging(two.name, one.ip, interval=0.02) as back,
        ):
            for ping in (there, back):
                ping.await_first(PATIENCE_SECONDS)
            yield
            assert self.cloud.ping(one, two, count=20).lost == 0
            for ping in (there, back):
                result = ping.stop()
                assert (result.lost, result.duplicates) == (0, 0), result
                assert result.sent > 20


@pytest.fixture(scope="module", params=list(FORMS))
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    form = request.param
    if os.geteuid() != 0:
        pytest.skip("needs root: the lab is made of network namespaces")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install openvswitch-switch ethtool udhcpc isc-dhcp-client")
    if lacking := FORMS[form].lacks():
        pytest.skip(lacking)
    lab = Lab(tempfile.mkdtemp(prefix="fl-", dir="/run"))
    try:
        lab.up(hosts=2, store=form)
        connection = Connection(config=OpenStackConfig(config_files=[str(lab.clouds_file)]).get_one("flowloom"))
        try:
            yield _filled(form, Cloud(lab, connection.network))
        finally:
            connection.close()
    finally:
        lab.down()


def _filled(form: str, cloud: Cloud) -> World:
    network = cloud.network("stored", "10.0.0.0/16")
    vms = cloud.vm("vm1", "h1", network), cloud.vm("vm2", "h2", network)
    made = cloud.neutron.create_ports([{"network_id": network, "name": f"other{n}"} for n in range(OTHERS)])
    cloud.await_active(*vms)
    return World(form, cloud, vms, network, [port.id for port in made])


def test_main_job(world: World) -> None:
    one, two = world.vms
    assert world.lab.dhcp("vm1").ip == one.ip and world.lab.dhcp("vm2", "dhclient").ip == two.ip
    world.cloud.await_reach(one, two)
    assert world.cloud.ping(one, two, count=50).lost == 0
    assert world.cloud.ping(two, one, count=50).lost == 0
    status = world.lab.status()
    assert status.whole
    assert {part.name for part in status.parts if part.pid} >= {member.name for member in world.members.all}
    world.await_equal("the main job")


def test_store_is_down_while_neutron_accepts_changes(world: World) -> None:
    neutron = world.cloud.neutron
    doomed, *renamed = world.others[:5]
    with world.loses_nothing():
        world.lab.store_stop()
        assert [part.state for part in world.lab.status().parts if part.name.startswith("store")].count("up") == 0
        world.rename("renamed in the dark", renamed)
        neutron.delete_port(doomed)
        made = neutron.create_port(network_id=world.network, name="made in the dark")
        other = neutron.create_network(name="made in the dark")
        assert world.cloud.layers()["sql"]["backlog"] >= 5
        world.lab.start("store")
        world.await_equal("the store was down")
    world.others[:1] = [made.id]
    neutron.delete_network(other)
    assert world.cloud.flowloom("status").returncode == 0


def test_server_in_use_is_killed(world: World) -> None:
    leader = _leader(world)
    with world.loses_nothing():
        world.lab.kill(leader)
        assert world.lab.status().part(leader).state == "down"
        world.rename("while one is dead", world.others[:5])
        if world.several:
            world.await_drained("a member is dead")
            world.await_equal("a member is dead")
        world.lab.start(leader)
        world.rename("while it is back", world.others[5:10])
        world.await_equal("the member is back")
    assert world.lab.status().whole


def _leader(world: World) -> str:
    """The member whose death hurts: writes to Flowloom's keys go through it."""
    if world.form == "redis-cluster":
        return _primary_of_slot(world)
    return next(member.name for member in world.members.members if member.server.leads())


def _primary_of_slot(world: World) -> str:
    """All of Flowloom's keys are in one slot of a Cluster."""
    servers = {member.server.port: member.name for member in world.members.members}  # type: ignore[attr-defined]
    port = next(port for port in servers)
    moved = redis.RedisServer(world.lab.layout.dir, port)
    slot = int(moved.cli("CLUSTER", "KEYSLOT", "{flowloom}:meta"))
    for line in moved.cli("CLUSTER", "NODES").splitlines():
        words = line.split()
        spans = [word.partition("-")[::2] for word in words[8:]]
        if "master" in words[2] and any(int(low) <= slot <= int(high or low) for low, high in spans):
            return servers[int(words[1].partition("@")[0].rpartition(":")[2])]
    raise AssertionError("no primary has the slot")


def test_store_is_wiped_and_refilled_once_somebody_says_so(world: World) -> None:
    with world.loses_nothing():
        world.lab.store_wipe()
        assert world.await_equal("the store was wiped") > 0, "more than 50 objects were written again unasked"
        world.rename("after the flood", world.others[:3])
        world.await_equal("changed afterwards")
    assert world.lab.status().whole


def test_store_is_restored_from_an_old_copy(world: World) -> None:
    neutron = world.cloud.neutron
    world.lab.store_save("old")
    world.rename("younger than the copy", world.others[:10])
    made = neutron.create_port(network_id=world.network, name="younger than the copy")
    neutron.delete_port(world.others.pop())
    world.await_equal("before it is restored")
    with world.loses_nothing():
        world.lab.store_restore("old")
        world.await_equal("an old copy was restored")
    assert "stale" in world.repairs_of(world.others[0])
    assert "missing" in world.repairs_of(made.id)
    world.others.append(made.id)


def test_store_is_tampered_with_by_its_own_client(world: World) -> None:
    changed, removed = world.others[:2]
    hand = _hand(world)
    with world.loses_nothing():
        hand.change(world.key(changed), lambda text: text.replace('"name":"', '"name":"by hand '))
        hand.remove(world.key(removed))
        # Recovery finds it by itself, too: whoever is first.
        done = world.cloud.flowloom("repair")
        assert done.returncode == 0, done.stdout + done.stderr
        world.await_equal("it was tampered with")
    assert "different" in world.repairs_of(changed)
    assert "missing" in world.repairs_of(removed)


# The databases' own clients


@dataclass(frozen=True)
class Hand:
    """What somebody does at the database's own command line."""

    change: Callable[[str, Callable[[str], str]], None]
    remove: Callable[[str], None]


def _hand(world: World) -> Hand:
    kind = world.form.partition("-")[0].rstrip("3")
    return {"etcd": _etcdctl, "redis": _redis_cli, "zookeeper": _zkcli}[kind](world)


def _etcdctl(world: World) -> Hand:
    server = world.members.members[0].server
    assert isinstance(server, etcd.EtcdServer)

    def ctl(*words: str) -> str:
        command = ["etcdctl", f"--endpoints=127.0.0.1:{server.client}", *words]
        return _said(command, ETCDCTL_API="3")

    def change(key: str, how: Callable[[str], str]) -> None:
        before = ctl("get", f"/flowloom{key}", "--print-value-only").removesuffix("\n")
        assert how(before) != before
        ctl("put", "--", f"/flowloom{key}", how(before))

    return Hand(change, lambda key: _one(ctl("del", f"/flowloom{key}")))


def _redis_cli(world: World) -> Hand:
    name = _primary_of_slot(world) if world.form == "redis-cluster" else _leader(world)
    server = next(member.server for member in world.members.members if member.name == name)
    assert isinstance(server, redis.RedisServer)

    def change(key: str, how: Callable[[str], str]) -> None:
        before = server.cli("HGET", "{flowloom}:value", key)
        assert how(before) != before
        server.cli("HSET", "{flowloom}:value", key, how(before))

    def remove(key: str) -> None:
        for words in (("HDEL", "{flowloom}:value"), ("HDEL", "{flowloom}:version"), ("ZREM", "{flowloom}:index")):
            _one(server.cli(*words, key))

    return Hand(change, remove)


def _zkcli(world: World) -> Hand:
    server = world.members.members[0].server
    assert isinstance(server, zookeeper.ZookeeperServer)

    def cli(*words: str) -> str:
        main = ("-cp", f"{zookeeper.JARS}/*", "org.apache.zookeeper.ZooKeeperMain")
        return _said(["java", *main, "-server", f"127.0.0.1:{server.port}", *words])

    def change(key: str, how: Callable[[str], str]) -> None:
        lines = cli("get", f"/flowloom/objects{key}").splitlines()
        head = next(n for n, line in enumerate(lines) if " live " in line)
        before = f"{lines[head]}\n{lines[head + 1]}"
        assert how(before) != before
        cli("set", f"/flowloom/objects{key}", how(before))

    return Hand(change, lambda key: _nothing(cli("delete", f"/flowloom/objects{key}")))


def _one(said: str) -> None:
    assert said.split() == ["1"], said


def _nothing(said: str) -> None:
    assert "not exist" not in said, said


def _said(command: list[str], **env: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | env, timeout=60, check=False)
    assert done.returncode == 0, done
    return done.stdout
