"""The interfaces contract against a real ovsdb-server and ovs-vswitchd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloom.drivers.interfaces.ovsdb import OvsdbInterfaces, open_interfaces
from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.southbound.interfaces import BridgeSetup, InterfaceEvent, Lost, Plugged, Snapshot, TunnelPort
from flowloom.testing.ovs import RunningOvs
from flowloom.testing.waiting import wait_for

SETUP = BridgeSetup("br-int", "dummy", (TunnelPort("fl-geneve", "geneve", 1),))


@pytest.fixture
def interfaces(ovs: RunningOvs) -> Iterator[OvsdbInterfaces]:
    opened = open_interfaces(ovs.ovsdb)
    yield opened
    opened.close()


def plug(ovs: RunningOvs, name: str, port_id: str, bridge: str = "br-int") -> None:
    """A dummy interface that carries `port_id`."""
    ovs.vsctl(
        "add-port", bridge, name, "--", "set", "interface", name, "type=dummy", f"external_ids:iface-id={port_id}"
    )


class Seen:
    """What was delivered, and the picture one has from it."""

    def __init__(self) -> None:
        self.events: list[InterfaceEvent] = []
        self.plugged: dict[str, Plugged] = {}

    def __call__(self, event: InterfaceEvent) -> None:
        if isinstance(event, Snapshot):
            self.plugged = {item.name: item for item in event.plugged}
        elif isinstance(event, Plugged):
            self.plugged[event.name] = event
        self.events.append(event)

    def ofport(self, name: str) -> int | None:
        return self.plugged[name].ofport if name in self.plugged else None

    def last(self, kind: type) -> bool:
        return bool(self.events) and isinstance(self.events[-1], kind)


def test_the_bridge_and_its_tunnel_port_are_created(ovs: RunningOvs, interfaces: OvsdbInterfaces) -> None:
    interfaces.ensure(SETUP)
    assert ovs.vsctl("get", "bridge", "br-int", "datapath_type", "fail_mode").split() == ["dummy", "secure"]
    assert "OpenFlow15" in ovs.vsctl("get", "bridge", "br-int", "protocols")
    assert ovs.vsctl("get", "interface", "fl-geneve", "ofport", "type").split() == ["1", "geneve"]
    assert ovs.vsctl("get", "interface", "fl-geneve", "options").strip() == "{key=flow, remote_ip=flow}"


def test_ensuring_twice_changes_nothing(ovs: RunningOvs, interfaces: OvsdbInterfaces) -> None:
    interfaces.ensure(SETUP)
    before = ovs.vsctl("get", "open_vswitch", ".", "next_cfg")
    interfaces.ensure(SETUP)
    assert ovs.vsctl("get", "open_vswitch", ".", "next_cfg") == before


def test_wrong_settings_of_ours_are_corrected_and_foreign_ones_stay(
    ovs: RunningOvs, interfaces: OvsdbInterfaces
) -> None:
    interfaces.ensure(SETUP)
    ovs.vsctl("set", "bridge", "br-int", "fail_mode=standalone", "protocols=OpenFlow13",
              "other_config:hwaddr=02:00:00:00:00:01", "external_ids:foreign=yes")  # fmt: skip
    ovs.vsctl(
        "set", "interface", "fl-geneve", "options:remote_ip=192.0.2.1", "options:dst_port=6082", "ofport_request=9"
    )
    ovs.vsctl("add-port", "br-int", "foreign", "--", "set", "interface", "foreign", "type=dummy", "ofport_request=77")
    wait_for(lambda: "OpenFlow15" not in interfaces._row("Bridge", "br-int").protocols)
    interfaces.ensure(SETUP)
    assert ovs.vsctl("get", "bridge", "br-int", "fail_mode").strip() == "secure"
    assert ovs.vsctl("get", "bridge", "br-int", "protocols").strip() == "[OpenFlow13, OpenFlow15]"
    assert ovs.vsctl("get", "bridge", "br-int", "other_config:hwaddr").strip() == '"02:00:00:00:00:01"'
    assert ovs.vsctl("get", "bridge", "br-int", "external_ids:foreign").strip() == "yes"
    assert (
        ovs.vsctl("get", "interface", "fl-geneve", "options").strip() == '{dst_port="6082", key=flow, remote_ip=flow}'
    )
    assert ovs.vsctl("get", "interface", "fl-geneve", "ofport_request").strip() == "1"
    assert ovs.vsctl("get", "interface", "foreign", "ofport").strip() == "77"


def test_a_tunnel_port_that_is_no_longer_wanted_is_removed(ovs: RunningOvs, interfaces: OvsdbInterfaces) -> None:
    both = BridgeSetup("br-int", "dummy", (*SETUP.tunnels, TunnelPort("fl-vxlan", "vxlan", 2)))
    interfaces.ensure(both)
    assert ovs.vsctl("list-ports", "br-int").split() == ["fl-geneve", "fl-vxlan"]
    interfaces.ensure(SETUP)
    assert ovs.vsctl("list-ports", "br-int").split() == ["fl-geneve"]


def test_a_foreign_port_with_our_tunnels_name_is_refused_by_name(ovs: RunningOvs, interfaces: OvsdbInterfaces) -> None:
    ovs.vsctl("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=dummy", "--",
              "add-port", "br-int", "fl-geneve", "--", "set", "interface", "fl-geneve", "type=dummy")  # fmt: skip
    wait_for(lambda: interfaces._row("Interface", "fl-geneve"))
    with pytest.raises(Misconfigured, match="fl-geneve exists and is not this agent's"):
        interfaces.ensure(SETUP)
    assert ovs.vsctl("get", "interface", "fl-geneve", "type").strip() == "dummy"


def test_a_foreign_port_on_our_tunnels_number_is_reported(ovs: RunningOvs, interfaces: OvsdbInterfaces) -> None:
    ovs.vsctl("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=dummy", "--", "add-port", "br-int",
              "foreign", "--", "set", "interface", "foreign", "type=dummy", "ofport_request=1")  # fmt: skip
    wait_for(lambda: interfaces._row("Interface", "foreign"))
    with pytest.raises(Misconfigured, match="OpenFlow port 1 is taken"):
        interfaces.ensure(SETUP)


def test_a_plugged_interface_is_followed_from_plug_to_unplug(ovs: RunningOvs, interfaces: OvsdbInterfaces) -> None:
    interfaces.ensure(SETUP)
    plug(ovs, "vif1", "port-1")
    seen = Seen()
    interfaces.follow("br-int", seen)
    wait_for(lambda: isinstance(seen.events[0], Snapshot) and seen.ofport("vif1"))
    plug(ovs, "vif2", "port-2")
    wait_for(lambda: seen.ofport("vif2"))
    assert seen.plugged["vif2"].port_id == "port-2"
    ovs.vsctl("set", "interface", "vif2", "external_ids:iface-id=port-3")
    wait_for(lambda: seen.plugged["vif2"].port_id == "port-3" and seen.ofport("vif2"))
    assert Plugged("port-2", "vif2", None) in seen.events
    ovs.vsctl("del-port", "vif2")
    wait_for(lambda: seen.ofport("vif2") is None)
    assert seen.events[-1] == Plugged("port-3", "vif2", None)


def test_interfaces_of_other_bridges_and_without_iface_id_are_not_reported(
    ovs: RunningOvs, interfaces: OvsdbInterfaces
) -> None:
    interfaces.ensure(SETUP)
    seen = Seen()
    interfaces.follow("br-int", seen)
    ovs.vsctl("add-br", "br-ex", "--", "set", "bridge", "br-ex", "datapath_type=dummy")
    plug(ovs, "other", "port-9", bridge="br-ex")
    ovs.vsctl("add-port", "br-int", "plain", "--", "set", "interface", "plain", "type=dummy")
    plug(ovs, "vif1", "port-1")
    wait_for(lambda: seen.ofport("vif1"))
    assert set(seen.plugged) == {"vif1"}


def test_an_interface_that_cannot_be_brought_up_says_why(ovs: RunningOvs, interfaces: OvsdbInterfaces) -> None:
    interfaces.ensure(SETUP)
    seen = Seen()
    interfaces.follow("br-int", seen)
    ovs.vsctl("--no-wait", "add-port", "br-int", "bad", "--", "set", "interface", "bad", "type=no-such-type",
              "external_ids:iface-id=port-1")  # fmt: skip
    wait_for(lambda: "bad" in seen.plugged and seen.plugged["bad"].error)
    assert seen.plugged["bad"].ofport is None
    assert "no-such-type" in seen.plugged["bad"].error or "not supported" in seen.plugged["bad"].error


def test_a_restart_of_the_database_is_survived(ovs: RunningOvs, interfaces: OvsdbInterfaces) -> None:
    interfaces.ensure(SETUP)
    seen = Seen()
    interfaces.follow("br-int", seen)
    plug(ovs, "vif1", "port-1")
    wait_for(lambda: seen.ofport("vif1"))
    ovs.kill_database()
    wait_for(lambda: seen.last(Lost))
    with pytest.raises(Unavailable):
        interfaces.ensure(SETUP)
    ovs.start_database()
    plug(ovs, "vif2", "port-2")
    wait_for(lambda: seen.ofport("vif2"))
    kinds = [type(event) for event in seen.events]
    assert kinds.index(Snapshot, kinds.index(Lost)), "a reconnect starts with a snapshot"
    assert seen.ofport("vif1")
    interfaces.ensure(SETUP)


def test_facts_name_the_switch(ovs: RunningOvs, interfaces: OvsdbInterfaces) -> None:
    ovs.vsctl("set", "open_vswitch", ".", "ovs_version=3.1.0", "external_ids:hostname=h1")
    wait_for(lambda: interfaces.facts() == {"ovs_version": "3.1.0", "hostname": "h1"})


def test_a_socket_that_is_not_there_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"openvswitch.ovsdb: .* does not exist; start openvswitch-switch"):
        open_interfaces(f"unix:{tmp_path}/none.sock")
    with pytest.raises(Misconfigured, match="is not unix:PATH"):
        open_interfaces("/run/openvswitch/db.sock")


def test_a_socket_nobody_listens_at_is_unavailable(ovs: RunningOvs) -> None:
    ovs.kill_database()
    with pytest.raises(Unavailable, match="nobody listens"):
        open_interfaces(ovs.ovsdb)


def test_missing_permission_is_a_wrong_setting(ovs: RunningOvs) -> None:
    os.chmod(ovs.run_dir, 0o711)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(65534)
            os.environ["HOME"] = "/"
            open_interfaces(ovs.ovsdb)
        except Misconfigured as error:
            code = 0 if "no permission" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_switch_that_does_not_run_is_unavailable(ovs: RunningOvs, interfaces: OvsdbInterfaces) -> None:
    ovs.kill_switch()
    interfaces._timeout = 0.5
    with pytest.raises(Unavailable, match="is it running"):
        interfaces.ensure(SETUP)
