"""A real agent process, Open vSwitch and store: flows follow records, and survive what dies."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from urllib.request import ProxyHandler, build_opener

import pytest
from agent_process import Agent
from one_host import port

from flowloom.consistency.marks import mark
from flowloom.drivers.bus.zeromq import open_bus
from flowloom.kernel.errors import Rejected
from flowloom.model.codec import encode
from flowloom.testing.ovs import RunningOvs
from flowloom.testing.waiting import wait_for


@pytest.fixture(params=["", "zmq+ipc"])
def agent(ovs: RunningOvs, request: pytest.FixtureRequest) -> Iterator[Agent]:
    if not request.param:
        made = Agent(ovs)
        yield made
        made.close()
        return
    url = f"{request.param}://{ovs.run_dir}"
    forwarder = subprocess.Popen([sys.executable, "-m", "flowloom", "bus", "--url", url])
    bus = open_bus(url)
    made = Agent(ovs, url, bus.publisher("neutron"))
    try:
        yield made
    finally:
        made.close()
        bus.close()
        forwarder.terminate()
        forwarder.wait(10)


def start_wrongly(agent: Agent) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flowloom", "agent", "--config", str(agent.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def plain(ovs: RunningOvs) -> Iterator[Agent]:
    made = Agent(ovs)
    yield made
    made.close()


def test_flows_follow_records_and_ports_come_up(agent: Agent) -> None:
    agent.begin()
    assert agent.flows() and agent.groups()
    assert agent.port_status("p2").reason == "no interface with external_ids:iface-id on this host"  # type: ignore[union-attr]
    before = agent.flows()
    agent.write(port(1, version=2, mac_address="fa:16:3e:00:00:99"))
    wait_for(lambda: agent.is_up("p1", 2))
    assert agent.flows() != before
    assert agent.ask("check")["equal"]


def test_an_agent_that_is_killed_and_returns_touches_nothing(plain: Agent) -> None:
    plain.begin()
    plain.ovs.ofctl("add-flow", plain.ovs.address("br-int"), "table=77,cookie=0x1234,actions=drop")
    flows, groups = plain.flows(), plain.groups()
    before = plain.port_status("p1")
    plain.end(signal.SIGKILL)
    assert plain.flows() == flows
    youngest = min(plain.ages())
    plain.start()
    plain.wait_settled()
    assert (plain.flows(), plain.groups()) == (flows, groups)
    assert min(plain.ages()) > youngest, "no flow was added again"
    assert plain.port_status("p1") == before
    assert plain.end() == 0 and plain.flows() == flows, "a clean end leaves the flows, too"


def test_what_changed_while_the_agent_was_away_is_made_good(plain: Agent) -> None:
    plain.begin()
    plain.end(signal.SIGKILL)
    plain.write(port(3, version=2, host="h2", mac_address="fa:16:3e:00:00:77"))
    plain.ovs.vsctl("del-port", "vif1")
    plain.plug(2)
    plain.start()
    plain.wait_settled()
    wait_for(lambda: plain.is_up("p2", 1) and not plain.is_up("p1", 1))
    assert plain.ask("check")["equal"]
    assert any("fa:16:3e:00:00:77" in flow for flow in plain.flows())


def test_a_restart_of_the_switch_brings_the_flows_back(plain: Agent) -> None:
    plain.begin()
    flows, groups = plain.flows(), plain.groups()
    plain.ovs.kill_switch()
    wait_for(lambda: not plain.status()["switch"]["connected"])
    plain.ovs.start_switch()
    wait_for(lambda: plain.flows() == flows and plain.groups() == groups, 30.0)
    plain.wait_settled()
    assert plain.is_up("p1", 1)


def test_a_restart_of_the_database_is_survived(plain: Agent) -> None:
    """Without its database ovs-vswitchd forwards, and does not answer OpenFlow: it has lost the database's lock."""
    plain.begin()
    plain.ovs.kill_database()
    wait_for(lambda: not plain.status()["interfaces"]["connected"])
    plain.write(port(1, version=5, mac_address="fa:16:3e:00:00:99"))
    plain.ovs.start_database()
    wait_for(lambda: plain.is_up("p1", 5), 40.0)
    plain.plug(2)
    wait_for(lambda: plain.is_up("p2", 1))
    assert plain.ask("check")["equal"]


def test_the_control_socket_explains_flows_records_and_ports(plain: Agent) -> None:
    plain.begin()
    flows = plain.ask("flows")["flows"]
    mine = next(flow for flow in flows if flow["table"] == "CLASSIFY" and flow["rule"] == "local_port")
    assert {"kind": "port", "id": "p1", "version": 1, "role": "for"} in mine["causes"]
    assert {"kind": "network", "id": "n1", "version": 1, "role": "read"} in mine["causes"]
    kinds = {record["kind"] for record in plain.ask("records")["records"]}
    assert kinds == {"chassis", "interface", "network", "port", "subnet"}
    here = plain.ask("port", id="p1")
    assert here["version"] == here["confirmed"] == 1 and here["ofport"] and here["connected"] and not here["refused"]
    assert plain.ask("port", id="none")["version"] is None
    with pytest.raises(Rejected, match="unknown question 'nonsense'"):
        plain.ask("nonsense")


def test_numbers_for_prometheus_and_marks_of_records_are_told(plain: Agent) -> None:
    plain.begin()
    with build_opener(ProxyHandler({})).open(f"http://{plain.metrics}/metrics", timeout=10) as answer:
        told = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    assert float(told["flowloom_agent_in_sync"]) == float(told["flowloom_agent_answers"]) == 1
    assert float(told["flowloom_agent_flows"]) > len(plain.flows()) + len(plain.groups()), "buckets are counted too"
    assert float(told["process_cpu_seconds_total"]) > 0
    (entry,) = plain.ask("records", keys=["/lab/-/n1/port/p1"])["entries"]
    assert entry == ["/lab/-/n1/port/p1", 1, mark("/lab/-/n1/port/p1", 1, encode(port(1)))]
    with pytest.raises(Rejected, match="records: "):
        plain.ask("records", limit="many")


def test_a_second_agent_on_the_host_is_refused(plain: Agent) -> None:
    plain.begin()
    done = start_wrongly(plain)
    assert done.returncode == 2 and "control: another process answers at" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("sqlite:///", "redisx:///", "store: no driver for 'redisx'"),
        ("northbound.sqlite", "no/such/dir/northbound.sqlite", "store: the directory"),
        ("db.sock", "none.sock", "openvswitch.ovsdb: "),
        ('bus = ""', 'bus = "carrier-pigeon://x"', "bus: no driver for 'carrier-pigeon'"),
        ('metrics = "127.0.0.1', 'metrics = "0.0.0.0', "metrics: 0.0.0.0 is no loopback address"),
        ("192.0.2.1", "192.0.2.300", "tunnel.ip: "),
        ("run_dir = ", "runn_dir = ", "openvswitch.runn_dir: no such setting"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_exit_code_2(plain: Agent, good: str, bad: str, said: str) -> None:
    text = plain.config.read_text()
    assert good in text
    plain.config.write_text(text.replace(good, bad))
    done = start_wrongly(plain)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr


def test_a_run_directory_of_another_switch_is_named(plain: Agent) -> None:
    text = plain.config.read_text()
    plain.config.write_text(text.replace(f'run_dir = "{plain.ovs.run_dir}"', 'run_dir = "/nonexistent"'))
    done = start_wrongly(plain)
    assert done.returncode == 2 and "openvswitch.run_dir: /nonexistent/br-int.mgmt does not exist" in done.stderr
