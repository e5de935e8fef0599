"""The DHCP clients of the VMs: what they are given is applied inside the VM, and nowhere else."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from flowloom.lab import hook
from flowloom.lab.cloud import Lab
from flowloom.lab.dhcp import Client
from flowloom.lab.errors import LabFailed
from flowloom.lab.lease import Lease, from_dhclient, from_udhcpc
from flowloom.lab.processes import until

Address: TypeAlias = Callable[[Lab, int], str]

WHOLE = Lease(
    ip="10.0.0.50",
    mask="255.255.255.0",
    router="10.0.0.1",
    dns=("10.0.0.2", "10.0.0.3"),
    mtu=1342,
    routes=(("192.168.7.0/24", "10.0.0.9"), ("0.0.0.0/0", "10.0.0.254")),
    domain="lab.test",
    server="10.0.0.2",
    lease_seconds=600,
)


@pytest.fixture
def server(pair: Lab, address: Address) -> Iterator[Lab]:
    """vm2 is a DHCP server, a real one of somebody else; vm1 has no address yet."""
    if (
        "udhcpd"
        not in subprocess.run(["busybox", "--list"], check=False, capture_output=True, text=True).stdout.split()
    ):
        pytest.skip("needs udhcpd: apt-get install busybox")
    directory = pair.vm("vm2").dir
    directory.mkdir(parents=True)
    conf = directory / "udhcpd.conf"
    conf.write_text(
        f"start 10.0.0.50\nend 10.0.0.50\ninterface eth0\npidfile {directory}/udhcpd.pid\nlease_file {directory}/leases\n"
        "opt subnet 255.255.255.0\nopt router 10.0.0.1\nopt dns 10.0.0.2 10.0.0.3\nopt domain lab.test\nopt mtu 1342\n"
        "opt lease 600\nopt staticroutes 192.168.7.0/24 10.0.0.9, 0.0.0.0/0 10.0.0.254\n"
    )
    (directory / "leases").write_text("")
    address(pair, 2)
    with subprocess.Popen(
        pair.command("vm2", ["busybox", "udhcpd", "-f", "-I", "10.0.0.2", str(conf)]), stderr=subprocess.DEVNULL
    ) as udhcpd:
        assert until((directory / "udhcpd.pid").exists, 10)
        yield pair
        udhcpd.kill()


@pytest.mark.lab
@pytest.mark.parametrize("client", ["udhcpc", "dhclient"])
def test_client_applies_the_whole_lease_in_its_vm_alone(server: Lab, client: Client) -> None:
    real = Path("/etc/resolv.conf").read_bytes()
    assert server.dhcp("vm1", client) == WHOLE
    assert "inet 10.0.0.50/24" in server.exec("vm1", ["ip", "-4", "address", "show", "eth0"]).stdout
    assert "mtu 1342" in server.exec("vm1", ["ip", "link", "show", "eth0"]).stdout
    routes = server.exec("vm1", ["ip", "-4", "route", "show"]).stdout
    assert "default via 10.0.0.254" in routes and "192.168.7.0/24 via 10.0.0.9" in routes
    assert "10.0.0.1 " not in routes, "with option 121 the router option counts for nothing"
    resolv = server.exec("vm1", ["cat", "/etc/resolv.conf"]).stdout
    assert resolv == "search lab.test\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n"
    assert Path("/etc/resolv.conf").read_bytes() == real
    assert server.status().vms[0].dhcp
    assert server.ping("vm1", "10.0.0.2", count=3, interval=0.02).lost == 0


@pytest.mark.lab
@pytest.mark.parametrize("client", ["udhcpc", "dhclient"])
def test_released_address_is_gone_from_the_vm(server: Lab, client: Client) -> None:
    server.dhcp("vm1", client)
    server.dhcp_release("vm1")
    assert "inet " not in server.exec("vm1", ["ip", "-4", "address", "show", "eth0"]).stdout
    assert server.exec("vm1", ["cat", "/etc/resolv.conf"]).stdout == ""


@pytest.mark.lab
def test_renewal_is_told_and_another_client_takes_the_place_of_the_first(server: Lab) -> None:
    server.dhcp("vm1", "udhcpc")
    server.dhcp_renew("vm1")
    assert until(lambda: "renew" in [event.event for event in server.dhcp_events("vm1")], 10)
    assert server.dhcp("vm1", "dhclient").ip == "10.0.0.50"
    clients = server.exec("vm1", ["ip", "netns", "pids", server.vm("vm1").netns]).stdout.split()
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in clients if Path(f"/proc/{pid}").exists()]
    assert "dhclient" in names and "udhcpc" not in names


@pytest.mark.lab
def test_vm_without_a_server_gets_no_address_and_the_sentence_names_the_log(pair: Lab) -> None:
    with pytest.raises(
        LabFailed, match=r"VM vm1 got no address within 1 s; its DHCP client is still asking; see \S+dhcp.log: \w+"
    ):
        pair.dhcp("vm1", seconds=1)


def test_both_clients_words_for_one_lease_read_the_same() -> None:
    udhcpc = {
        "ip": "10.0.0.50",
        "subnet": "255.255.255.0",
        "router": "10.0.0.1 10.0.0.7",
        "dns": "10.0.0.2 10.0.0.3",
        "mtu": "1342",
        "staticroutes": "192.168.7.0/24 10.0.0.9 0.0.0.0/0 10.0.0.254",
        "domain": "lab.test",
        "serverid": "10.0.0.2",
        "lease": "600",
    }
    dhclient = {
        "new_ip_address": "10.0.0.50",
        "new_subnet_mask": "255.255.255.0",
        "new_routers": "10.0.0.1 10.0.0.7",
        "new_domain_name_servers": "10.0.0.2 10.0.0.3",
        "new_interface_mtu": "1342",
        "new_rfc3442_classless_static_routes": "24 192 168 7 10 0 0 9 0 10 0 0 254",
        "new_domain_name": "lab.test",
        "new_dhcp_server_identifier": "10.0.0.2",
        "new_dhcp_lease_time": "600",
    }
    assert from_udhcpc(udhcpc) == from_dhclient(dhclient) == WHOLE


def test_lease_of_the_bare_minimum() -> None:
    lease = from_udhcpc({"ip": "10.0.0.5", "subnet": "255.255.255.255"})
    assert lease.interface == "10.0.0.5/32"
    assert lease.effective_routes == ()
    only_router = from_udhcpc({"ip": "10.0.0.5", "subnet": "255.255.255.0", "router": "10.0.0.1"})
    assert only_router.effective_routes == (("0.0.0.0/0", "10.0.0.1"),)


@pytest.mark.parametrize("octets", ["24 192 168", "33 1 2 3 4 5 6 7 8", "24 192 168 7 10 0 0"])
def test_routes_that_end_in_the_middle_are_no_lease(octets: str) -> None:
    with pytest.raises(ValueError, match="option 121"):
        from_dhclient(
            {
                "new_ip_address": "10.0.0.5",
                "new_subnet_mask": "255.0.0.0",
                "new_rfc3442_classless_static_routes": octets,
            }
        )


def test_event_without_a_lease_is_recorded_and_changes_nothing(tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 10.0.0.2\n")
    assert hook.main(["udhcpc", str(tmp_path), str(resolv), "nak"], {"interface": "eth0", "message": "not yours"}) == 0
    event = json.loads((tmp_path / "events.jsonl").read_text())
    assert (event["client"], event["event"], event["lease"], event["message"]) == ("udhcpc", "nak", None, "not yours")
    assert resolv.read_text() == "nameserver 10.0.0.2\n"
    assert shutil.which("ip"), "nothing above needed it"
