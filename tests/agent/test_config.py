"""A wrong configuration is one sentence that names the setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowloom.agent.config import load
from flowloom.kernel.errors import Misconfigured

GOOD = """
deployment = "lab"
chassis = "h1"
store = "sqlite:////tmp/x/northbound.sqlite"
bus = "zmq+ipc:///tmp/x/bus"
control = "/tmp/x/agent.sock"
[tunnel]
ip = "192.0.2.1"
types = ["geneve"]
[openvswitch]
ovsdb = "unix:/tmp/x/db.sock"
run_dir = "/tmp/x"
bridge = "br-int"
datapath_type = "netdev"
[dhcp]
lease_seconds = 3600
domain = "flowloom.test"
dns_servers = ["192.0.2.53"]
"""


def write(directory: Path, text: str) -> str:
    path = directory / "agent.toml"
    path.write_text(text)
    return str(path)


def test_a_whole_file_becomes_settings(tmp_path: Path) -> None:
    settings = load(write(tmp_path, GOOD))
    assert (settings.chassis, settings.tunnel.ip, settings.tunnel.types) == ("h1", "192.0.2.1", ("geneve",))
    assert settings.openvswitch.datapath_type == "netdev"
    assert settings.dhcp.dns_servers == ("192.0.2.53",)
    assert settings.audit_seconds == 60.0


@pytest.mark.parametrize(
    ("good", "bad", "setting", "why"),
    [
        ('deployment = "lab"', "", "deployment", "is not set"),
        ('deployment = "lab"', 'deployment = "a/b"', "deployment", "is not a name"),
        ('chassis = "h1"', 'chasis = "h1"', "chasis", "no such setting; known here:"),
        ('chassis = "h1"', "chassis = 1", "chassis", "1 is not a string"),
        ('store = "sqlite:////tmp/x/northbound.sqlite"', 'store = "here"', "store", "is not a URL"),
        ('ip = "192.0.2.1"', 'ip = "192.0.2.1/24"', "tunnel.ip", "without a prefix length"),
        ('ip = "192.0.2.1"', 'ip = "0.0.0.0"', "tunnel.ip", "can send to"),
        ('ip = "192.0.2.1"', "", "tunnel.ip", "is not set"),
        ('types = ["geneve"]', 'types = ["stt"]', "tunnel.types", "'stt' is not one of"),
        ('types = ["geneve"]', 'types = "geneve"', "tunnel.types", "is not a list of strings"),
        ('types = ["geneve"]', 'types = ["gre", "gre"]', "tunnel.types", "twice"),
        ('bridge = "br-int"', 'bridge = "a-much-too-long-name"', "openvswitch.bridge", "1 to 15 bytes"),
        ('datapath_type = "netdev"', 'datapath_type = "dpdk"', "openvswitch.datapath_type", "system or netdev"),
        ("lease_seconds = 3600", "lease_seconds = 1", "dhcp.lease_seconds", "not between"),
        ("lease_seconds = 3600", "lease_seconds = 1.5", "dhcp.lease_seconds", "not a whole number"),
        ("lease_seconds = 3600", "lease_seconds = true", "dhcp.lease_seconds", "not a whole number"),
        ('["192.0.2.53"]', '["2001:db8::53"]', "dhcp.dns_servers", "not an IPv4 address"),
        ('control = "/tmp/x/agent.sock"', 'control = "agent.sock"', "control", "absolute path"),
        ('[tunnel]\nip = "192.0.2.1"\ntypes = ["geneve"]', 'tunnel = "x"', "tunnel", "is a section"),
        ('deployment = "lab"', "deployment = ", "--config", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, good: str, bad: str, setting: str, why: str) -> None:
    assert good in GOOD
    text = GOOD.replace(good, bad)
    if bad.startswith("tunnel ="):
        text = bad + text.replace(bad, "")
    with pytest.raises(Misconfigured) as caught:
        load(write(tmp_path, text))
    assert caught.value.setting == setting
    assert why in str(caught.value)
    assert "\n" not in str(caught.value).replace(str(tmp_path), "")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"none.toml: No such file"):
        load(str(tmp_path / "none.toml"))
