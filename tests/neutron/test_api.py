"""A real Neutron API server: what it accepted is in the store, and a port is ACTIVE when its host says so."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from neutron_cloud import DEPLOYMENT, Cloud, Refused

from flowloom.kernel.errors import Unavailable
from flowloom.model.codec import encode
from flowloom.model.keys import key_of
from flowloom.model.records import (
    DhcpOption,
    FixedIP,
    HostRoute,
    Network,
    Port,
    PortStatus,
    Record,
    Subnet,
    node_version,
)
from flowloom.neutron import explain
from flowloom.northbound.store import Write
from flowloom.testing.waiting import wait_for


@pytest.fixture
def net(cloud: Cloud) -> Any:
    network = cloud.create("network", name="n")
    network["subnet_id"] = cloud.create("subnet", network_id=network["id"], ip_version=4, cidr="10.1.0.0/24")["id"]
    return network


def record_of(cloud: Cloud, kind: str, identifier: str) -> Record | None:
    """The record once the store has the version that Neutron holds."""

    def synced() -> bool:
        row = cloud.sql.rows()[kind, identifier]
        return bool(row.version == row.synced_version)

    wait_for(synced)
    return cloud.record(identifier)


def version(cloud: Cloud, kind: str, identifier: str) -> int:
    return int(cloud.sql.rows()[kind, identifier].version)


def report(cloud: Cloud, port_id: str, host: str, counter: int, port_version: int, up: bool, reason: str = "") -> None:
    """Write what an agent would."""
    status = PortStatus(
        id=port_id,
        version=node_version(1, counter),
        chassis=host,
        port_version=port_version,
        up=up,
        reason=reason,
    )
    with cloud.store() as store:
        key = key_of(DEPLOYMENT, "", host, PortStatus.kind, port_id)
        store.apply([Write(key, status.version, encode(status))])


def blocks(cloud: Cloud, port_id: str) -> int:
    """How many provisioning blocks keep the port from being ACTIVE."""
    statement = """
        SELECT count(*) FROM provisioningblocks b JOIN ports p ON p.standard_attr_id = b.standard_attr_id
        WHERE p.id = :id
    """
    with cloud.sql.reader() as connection:
        return int(connection.scalar(sa.text(statement), {"id": port_id}) or 0)


def test_the_first_requests_of_new_workers_are_all_allowed(cloud: Cloud, net: Any) -> None:
    wait_for(cloud.synced)  # Who dies while it drains keeps its project's lock until the lease runs out.
    for worker in cloud.workers():
        os.kill(worker, signal.SIGKILL)
    wait_for(lambda: answers(cloud), 60)
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda _: cloud.create("port", network_id=net["id"]), range(16)))


def answers(cloud: Cloud) -> bool:
    try:
        return bool(cloud.call("GET", ""))
    except Refused:
        return False


def test_network_subnet_and_port_reach_the_store_as_neutron_describes_them(cloud: Cloud) -> None:
    network = cloud.create("network", name="blue", mtu=1400)
    subnet = cloud.create(
        "subnet",
        network_id=network["id"],
        ip_version=4,
        cidr="10.2.0.0/24",
        dns_nameservers=["9.9.9.9"],
        host_routes=[{"destination": "1.0.0.0/8", "nexthop": "10.2.0.9"}],
    )
    port = cloud.create(
        "port",
        network_id=network["id"],
        **{"binding:host_id": "h1"},
        extra_dhcp_opts=[{"opt_name": "mtu", "opt_value": "1300"}],
        allowed_address_pairs=[{"ip_address": "10.2.0.99"}],
    )
    assert (port["status"], port["binding:vif_type"]) == ("DOWN", "ovs")

    blue = record_of(cloud, "network", network["id"])
    assert isinstance(blue, Network)
    assert (blue.name, blue.mtu, blue.network_type, blue.shared) == ("blue", 1400, "geneve", False)
    assert blue.segmentation_id == network["provider:segmentation_id"]
    written = record_of(cloud, "subnet", subnet["id"])
    assert isinstance(written, Subnet)
    assert (written.cidr, written.gateway_ip) == ("10.2.0.0/24", "10.2.0.1")
    assert (written.dns_nameservers, written.host_routes) == (("9.9.9.9",), (HostRoute("1.0.0.0/8", "10.2.0.9"),))
    bound = record_of(cloud, "port", port["id"])
    assert isinstance(bound, Port)
    assert (bound.host, bound.vif_type, bound.mac_address) == ("h1", "ovs", port["mac_address"])
    assert bound.fixed_ips == (FixedIP(subnet["id"], port["fixed_ips"][0]["ip_address"]),)
    assert bound.extra_dhcp_opts == (DhcpOption("mtu", "1300", 4),)
    assert [pair.ip_address for pair in bound.allowed_address_pairs] == ["10.2.0.99"]
    assert bound.key != blue.key


def test_every_update_that_reaches_the_record_has_a_higher_version(cloud: Cloud, net: Any) -> None:
    port = cloud.create("port", network_id=net["id"])
    known = version(cloud, "port", port["id"])
    for change in (
        {"name": "q"},
        {"admin_state_up": False},
        {"allowed_address_pairs": [{"ip_address": "10.1.0.98"}]},
        {"allowed_address_pairs": []},
        {"extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": "1200"}]},
        {"extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": None}]},
        {"fixed_ips": [{"subnet_id": net["subnet_id"], "ip_address": "10.1.0.77"}]},
        {"port_security_enabled": False},
        {"binding:host_id": "h1"},
        {"binding:host_id": ""},
        {"mac_address": "fa:16:3e:12:34:56"},
    ):
        cloud.update("port", port["id"], **change)
        now = version(cloud, "port", port["id"])
        assert now > known, change
        known = now
    record = record_of(cloud, "port", port["id"])
    assert isinstance(record, Port)
    assert record.version == known
    assert (record.name, record.admin_state_up, record.port_security_enabled) == ("q", False, False)
    assert (record.fixed_ips, record.host) == ((FixedIP(net["subnet_id"], "10.1.0.77"),), "")
    assert record.mac_address == "fa:16:3e:12:34:56"


def test_an_update_of_words_only_leaves_the_version(cloud: Cloud, net: Any) -> None:
    port = cloud.create("port", network_id=net["id"])
    before = version(cloud, "port", port["id"])
    cloud.update("port", port["id"], description="words")
    assert version(cloud, "port", port["id"]) == before


def test_a_subnet_follows_its_routes_name_servers_and_gateway(cloud: Cloud, net: Any) -> None:
    cloud.update("subnet", net["subnet_id"], host_routes=[{"destination": "2.0.0.0/8", "nexthop": "10.1.0.9"}])
    cloud.update("subnet", net["subnet_id"], dns_nameservers=["8.8.8.8", "1.1.1.1"])
    cloud.update("subnet", net["subnet_id"], gateway_ip=None, host_routes=[], enable_dhcp=False)
    record = record_of(cloud, "subnet", net["subnet_id"])
    assert isinstance(record, Subnet)
    assert (record.host_routes, record.gateway_ip, record.enable_dhcp) == ((), None, False)
    assert record.dns_nameservers == ("8.8.8.8", "1.1.1.1")


def test_a_network_follows_being_shared(cloud: Cloud, net: Any) -> None:
    policy = cloud.call(
        "POST",
        "rbac-policies",
        {
            "rbac_policy": {
                "object_type": "network",
                "object_id": net["id"],
                "action": "access_as_shared",
                "target_tenant": "*",
            }
        },
    )["rbac_policy"]
    shared = record_of(cloud, "network", net["id"])
    assert isinstance(shared, Network)
    assert shared.shared
    cloud.call("DELETE", f"rbac-policies/{policy['id']}")
    private = record_of(cloud, "network", net["id"])
    assert isinstance(private, Network)
    assert not private.shared


def test_deletes_leave_tombstones_above_every_former_version(cloud: Cloud, net: Any) -> None:
    port = cloud.create("port", network_id=net["id"])
    record_of(cloud, "port", port["id"])
    before = version(cloud, "port", port["id"])
    cloud.delete("port", port["id"])
    cloud.delete("network", net["id"])
    for kind, identifier in (("port", port["id"]), ("subnet", net["subnet_id"]), ("network", net["id"])):
        assert record_of(cloud, kind, identifier) is None
        entry = cloud.entries()[identifier]
        assert entry.value is None
    assert cloud.entries()[port["id"]].version > before


def test_bulk_creation_reaches_the_store(cloud: Cloud, net: Any) -> None:
    made = cloud.call("POST", "ports", {"ports": [{"network_id": net["id"], "name": f"b{n}"} for n in range(5)]})
    for port in made["ports"]:
        record = record_of(cloud, "port", port["id"])
        assert isinstance(record, Port)
        assert record.name == port["name"]


@pytest.mark.parametrize("network_type", ["stt", "gre", "vlan"])
def test_a_network_type_that_nobody_wires_is_refused_with_the_alternatives(cloud: Cloud, network_type: str) -> None:
    with pytest.raises(Refused, match="use one of: geneve") as refused:
        cloud.create("network", **{"provider:network_type": network_type})
    assert refused.value.status == 400


def test_nothing_is_announced_that_does_not_work(cloud: Cloud) -> None:
    announced = {extension["alias"] for extension in cloud.call("GET", "extensions")["extensions"]}
    assert not announced & {"security-group", "router", "agent", "trunk", "qos", "dhcp_agent_scheduler"}
    assert {"port-security", "allowed-address-pairs", "extra_dhcp_opt", "binding", "provider"} <= announced


def test_an_interrupted_store_fails_no_call_and_is_caught_up_with_by_itself(cloud: Cloud, net: Any) -> None:
    away = cloud.store_path.parent.with_name("away")
    cloud.store_path.parent.rename(away)
    try:
        port = cloud.create("port", network_id=net["id"], **{"binding:host_id": "h1"})
        # Creation and binding wake the drain once each: a third attempt is one that it makes by itself.
        wait_for(lambda: cloud.sql.rows()["port", port["id"]].attempts >= 3, 30)
        reason = cloud.sql.rows()["port", port["id"]].last_error
        row = cloud.sql.rows()["port", port["id"]]
        assert row.version > row.synced_version, reason
        found = explain.where_is(cloud.deployment.database, port["id"])
        assert found is not None
        assert (found.status, found.last_error) == ("DOWN", reason)
        assert found.undone_seconds is not None
        assert explain.backlog(cloud.deployment.database).rows >= 1
    finally:
        away.rename(cloud.store_path.parent)
    assert isinstance(record_of(cloud, "port", port["id"]), Port)
    assert cloud.sql.rows()["port", port["id"]].last_error == ""
    caught_up = explain.where_is(cloud.deployment.database, port["id"])
    assert caught_up is not None
    assert caught_up.undone_seconds is None


def test_where_is_knows_nothing_of_a_port_that_never_was(cloud: Cloud, tmp_path: Path) -> None:
    assert explain.where_is(cloud.deployment.database, "no-such-port") is None
    with pytest.raises(Unavailable, match="does not exist"):
        explain.backlog(f"sqlite+immediate:///{tmp_path / 'none.sqlite'}")


def test_a_port_is_active_only_when_its_host_has_confirmed_the_version_that_neutron_holds(
    cloud: Cloud, net: Any
) -> None:
    recovery = cloud.start_recovery()
    port = cloud.create("port", network_id=net["id"], **{"binding:host_id": "h1"})["id"]

    def status() -> str:
        return str(cloud.show("port", port)["status"])

    def reason() -> str:
        return str(cloud.ask(ask="port", id=port)["reason"])

    wait_for(lambda: reason() == "host h1 has not reported it")
    assert blocks(cloud, port) == 1, "whatever else completes, the port waits for its host"
    held = version(cloud, "port", port)
    report(cloud, port, "h1", 1, held - 1, up=True)
    wait_for(lambda: f"confirmed version {held - 1}, Neutron holds {held}" in reason())
    report(cloud, port, "h2", 1, held, up=True)  # A host that it is not bound to.
    passes = cloud.ask(ask="status")["passes"]
    wait_for(lambda: cloud.ask(ask="status")["passes"] >= passes + 2, 30)
    assert status() == "DOWN"

    report(cloud, port, "h1", 2, held, up=True)
    wait_for(lambda: status() == "ACTIVE")
    assert blocks(cloud, port) == 0
    assert version(cloud, "port", port) == held, "becoming ACTIVE must not make a new version"

    report(cloud, port, "h1", 3, held, up=False, reason="no such interface")
    wait_for(lambda: status() == "DOWN")
    assert reason() == "host h1 says: no such interface"
    report(cloud, port, "h1", 4, held, up=True)
    wait_for(lambda: status() == "ACTIVE")

    cloud.update("port", port, name="renamed")
    assert status() == "ACTIVE", "a later version does not take an ACTIVE port down"
    cloud.update("port", port, **{"binding:host_id": "h2"})
    assert status() == "DOWN", "the new host has not said anything of this version"
    report(cloud, port, "h2", 2, version(cloud, "port", port), up=True)
    wait_for(lambda: status() == "ACTIVE")

    recovery.terminate()
    assert recovery.wait(20) == 0
    report(cloud, port, "h2", 3, version(cloud, "port", port), up=False, reason="unplugged")
    cloud.start_recovery()
    wait_for(lambda: status() == "DOWN")  # An event that nobody was there to see.


def test_no_bulk_statement_passed_the_capture(cloud: Cloud) -> None:
    assert "BulkStatement" not in cloud.log()
    assert "passed the capture" not in cloud.log()
    assert os.path.exists(cloud.deployment.api_log)
