"""Labs for the tests: each in a directory of its own, gone afterwards whatever happened."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowloom.lab import host
from flowloom.lab.cloud import Lab

PROGRAMS = ("ip", "ethtool", "ovs-vswitchd", "ovsdb-server", "udhcpc", "dhclient")


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab that is not up; taken down after the test."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the lab is made of network namespaces")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install openvswitch-switch ethtool udhcpc isc-dhcp-client")
    directory = Path(tempfile.mkdtemp(prefix="fl-", dir="/run"))
    found = Lab(directory)
    try:
        yield found
    finally:
        found.down()


@pytest.fixture
def bare(lab: Lab) -> Lab:
    """Two hosts with switches, without agents and Neutron."""
    lab.up(hosts=2, bare=True)
    return lab


@pytest.fixture
def pair(bare: Lab) -> Lab:
    """VMs `vm1` on h1 and `vm2` on h2, on one wire through a tunnel, with static flows and no addresses."""
    for number in (1, 2):
        at = bare.host(f"h{number}")
        bare.vm_add(f"vm{number}", at.name, f"port-{number}", mac=f"02:00:00:00:0{number}:01", mtu=1400)
        tunnel = ("type=geneve", "options:remote_ip=flow", "options:key=flow", "ofport_request=10")
        host.vsctl(at, "add-port", "br-int", "tun", "--", "set", "interface", "tun", *tunnel)
        _wire(bare, number)
    return bare


@pytest.fixture
def wire() -> Callable[[Lab, int], None]:
    """`wire(lab, N)`: everything of vmN goes to the other host, and the other way round."""
    return _wire


@pytest.fixture
def address() -> Callable[[Lab, int], str]:
    """`address(lab, N)` gives vmN an address by hand, and returns it."""
    return _address


def _wire(lab: Lab, number: int) -> None:
    """Everything of vm<number> goes to the other host, and the other way round."""
    at, vm = lab.host(f"h{number}"), lab.vm(f"vm{number}")
    port = host.vsctl(at, "get", "interface", vm.interface, "ofport").strip()
    other = lab.layout.host(3 - number).tunnel_ip
    host.ofctl(at, "add-flow", f"in_port={port},actions=set_field:7->tun_id,set_field:{other}->tun_dst,output:10")
    host.ofctl(at, "add-flow", f"in_port=10,tun_id=7,actions=output:{port}")


def _address(lab: Lab, number: int) -> str:
    """Give vm<number> an address by hand."""
    ip = f"10.0.0.{number}"
    assert lab.exec(f"vm{number}", ["ip", "address", "add", f"{ip}/24", "dev", "eth0"]).returncode == 0
    return ip
