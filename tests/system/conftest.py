"""One cloud of three hosts for each file of system tests, gone afterwards whatever happened."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from openstack.config import OpenStackConfig
from openstack.connection import Connection
from system_cloud import Cloud

from flowloom.lab.cloud import Lab

PROGRAMS = ("ip", "ethtool", "ovs-vswitchd", "ovsdb-server", "udhcpc", "dhclient")


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """Neutron, store, bus, recovery and three hosts."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the lab is made of network namespaces")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install openvswitch-switch ethtool udhcpc isc-dhcp-client")
    # A short path: unix sockets are in it.
    lab = Lab(tempfile.mkdtemp(prefix="fl-", dir="/run"))
    try:
        lab.up(hosts=3)
        connection = Connection(config=OpenStackConfig(config_files=[str(lab.clouds_file)]).get_one("flowloom"))
        try:
            yield Cloud(lab, connection.network)
        finally:
            connection.close()
    finally:
        lab.down()
