"""The whole cloud, once: what a person does with it first, every part broken and healed, and nothing left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from openstack.config import OpenStackConfig
from openstack.connection import Connection
from openstack.network.v2._proxy import Proxy

from flowloom.cli import deployment
from flowloom.kernel.errors import Misconfigured
from flowloom.lab import network, processes
from flowloom.lab.cloud import Lab
from flowloom.lab.errors import LabFailed, NoSuch
from flowloom.lab.processes import until

pytestmark = pytest.mark.lab

PATIENCE_SECONDS = 60.0


@pytest.fixture
def cloud(lab: Lab) -> Lab:
    """Two hosts, agents, Neutron, everything of the lab's own."""
    lab.up(hosts=2)
    return lab


@pytest.fixture
def neutron(cloud: Lab) -> Iterator[Proxy]:
    """The ordinary SDK, configured by the lab's own clouds.yaml."""
    connection = Connection(config=OpenStackConfig(config_files=[str(cloud.clouds_file)]).get_one("flowloom"))
    yield connection.network
    connection.close()


def test_first_steps_in_a_cloud_and_every_part_broken_and_healed(cloud: Lab, neutron: Proxy) -> None:
    overlay = neutron.create_network(name="overlay")
    neutron.create_subnet(network_id=overlay.id, ip_version=4, cidr="10.1.0.0/24")
    ports = [neutron.create_port(network_id=overlay.id) for _ in range(2)]
    addresses = [port.fixed_ips[0]["ip_address"] for port in ports]

    for number, port in enumerate(ports, 1):
        vm = cloud.vm_add(f"vm{number}", f"h{number}", port.id)
        assert (vm.mac, vm.mtu) == (port.mac_address, overlay.mtu)
    bound = [neutron.get_port(port.id) for port in ports]
    assert [(port.binding_host_id, port.device_id) for port in bound] == [("h1", "vm1"), ("h2", "vm2")]
    assert until(lambda: all(neutron.get_port(port.id).status == "ACTIVE" for port in ports), PATIENCE_SECONDS)

    assert cloud.dhcp("vm1", "udhcpc").ip == addresses[0]
    assert cloud.dhcp("vm2", "dhclient").ip == addresses[1]
    assert cloud.ping("vm1", addresses[1], count=10, interval=0.02).lost == 0
    assert cloud.flows("h1") != []

    with pytest.raises(NoSuch, match="Neutron has no ports/nonsense"):
        cloud.vm_add("vm3", "h1", "nonsense")
    _break_and_heal(cloud)
    assert until(lambda: cloud.ping("vm1", addresses[1], count=3, interval=0.02).lost == 0, PATIENCE_SECONDS)

    cloud.vm_rm("vm2")
    assert neutron.get_port(ports[1].id).binding_host_id == ""
    cloud.kill("api")
    with pytest.raises(LabFailed, match="Neutron's API does not answer at"):
        cloud.vm_add("vm4", "h1", ports[1].id)

    cloud.down()
    layout = cloud.layout
    assert processes.marked(layout.marker) == [] and network.namespaces(layout) == []
    assert not layout.dir.exists() and not list(Path("/etc/netns").glob(f"{layout.prefix}*"))


def _break_and_heal(cloud: Lab) -> None:
    """Each process of the control plane, and the store: broken, seen as broken, healed."""
    assert cloud.status().whole, cloud.status()
    for what in ("bus", "recovery", "agent@h1", "switch@h1", "api"):
        before = cloud.status().part(what)
        cloud.pause(what)
        assert cloud.status().part(what).state == "paused"
        cloud.start(what)
        assert cloud.status().part(what).pid == before.pid
        cloud.kill(what)
        assert cloud.status().part(what).state == "down"
        cloud.start(what)
        assert cloud.status().part(what).pid != before.pid
    content = (cloud.layout.store_dir / "northbound.sqlite").stat().st_ino
    cloud.cut("store")
    assert cloud.status().part("store").state == "cut" and not cloud.status().whole
    cloud.start("store")
    assert (cloud.layout.store_dir / "northbound.sqlite").stat().st_ino == content
    assert cloud.status().whole, cloud.status()


def test_command_line_finds_every_side_of_the_deployment(lab: Lab) -> None:
    """The file is written by one part of Flowloom and read by another."""
    from flowloom.lab import build, files
    from flowloom.lab.state import State

    wanted: State = build.plan(lab.layout, build.Request(hosts=2, api_port=9696))
    file = lab.layout.dir / "flowloom.toml"
    file.write_text(files.deployment(lab.layout, wanted))
    found = deployment.load(file, "--config")
    file.unlink()
    assert (found.deployment, found.store, found.bus) == ("lab", wanted.store, wanted.bus)
    assert found.neutron.api == "http://127.0.0.1:9696"
    assert found.neutron.database == wanted.sql
    assert found.neutron.recovery == str(lab.layout.recovery_socket(1))
    assert found.agents == {f"h{number}": str(lab.layout.host(number).agent_socket) for number in (1, 2)}


def test_recovery_processes_have_each_a_socket_a_port_and_a_name(lab: Lab) -> None:
    from flowloom.lab import build, faults, files, parts

    layout = lab.layout
    plan = msgspec.structs.replace(build.plan(layout, build.Request(recoveries=2)), metrics_port=9740)
    file = layout.dir / "flowloom.toml"
    file.write_text(files.deployment(layout, plan))
    assert deployment.load(file, "--config").neutron.recoveries == (
        str(layout.dir / "recovery.sock"),
        str(layout.dir / "recovery@2.sock"),
    )
    file.unlink()
    assert [name for name in faults.names(layout, plan) if name.startswith("recovery")] == ["recovery", "recovery@2"]
    layout.neutron_dir.mkdir()
    both = [faults.find(layout, plan, name) for name in ("recovery", "recovery@2")]
    assert all(isinstance(part, parts.Part) for part in both)
    assert len({part.pid_file for part in both}) == len({part.log_file for part in both}) == 2  # type: ignore[union-attr]
    texts = [layout.recovery_file(number).read_text() for number in (1, 2)]
    assert texts[0] == f"[flowloom]\ncontrol = {layout.dir}/recovery.sock\nmetrics = 127.0.0.1:9740\n"
    # Above the ports of the API's workers, which count from the first one.
    assert texts[1] == f"[flowloom]\ncontrol = {layout.dir}/recovery@2.sock\nmetrics = 127.0.0.1:9743\n"
    (layout.dir / "lab.lock").touch()  # So that the fixture may remove it.


def test_store_that_was_made_anew_while_it_was_cut_steps_aside(lab: Lab) -> None:
    from flowloom.lab import build, faults

    layout = lab.layout
    plan = build.plan(layout, build.Request())
    layout.store_dir.mkdir()
    (layout.store_dir / "northbound.sqlite").write_text("the real one")
    for number in range(2):
        faults.cut(layout, plan, "store")
        faults.cut(layout, plan, "store")  # Cut is cut.
        layout.store_dir.mkdir()
        (layout.store_dir / "northbound.sqlite").write_text(f"stray {number}")
        faults.start(layout, plan, "store")
        faults.start(layout, plan, "store")
        assert (layout.store_dir / "northbound.sqlite").read_text() == "the real one"
    assert (layout.dir / "store.stray" / "northbound.sqlite").read_text() == "stray 0"
    assert (layout.dir / "store.stray2" / "northbound.sqlite").read_text() == "stray 1"
    (layout.dir / "lab.lock").touch()  # So that the fixture may remove it.


def test_servers_that_do_not_fit_are_refused_by_name(lab: Lab) -> None:
    for setting, wrong in (
        ("--sql", {"sql": "sqlite:////tmp/x.sqlite"}),
        ("--sql", {"sql": "mysql://root@127.0.0.1/neutron"}),
        ("--store", {"store": "nonsense://x"}),
        ("--bus", {"bus": "nonsense://x"}),
        ("--hosts", {"hosts": 100}),
        ("--recoveries", {"recoveries": 0}),
    ):
        started = time.monotonic()
        with pytest.raises(Misconfigured) as caught:
            lab.up(**wrong)  # type: ignore[arg-type]
        assert caught.value.setting == setting
        assert time.monotonic() - started < 30
        assert network.namespaces(lab.layout) == []
