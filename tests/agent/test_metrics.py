"""What an agent exports: the numbers of its status, by the names that the documentation has."""

from __future__ import annotations

from one_host import port, running

from flowloom.agent import answers
from flowloom.agent.metrics import METRICS, samples
from flowloom.northbound.store import Write

SHELL = {"packets_dropped": 3, "loop_blocked_max_seconds": 0.001}
"""What the loop adds to the core's answer."""


def test_every_declared_number_is_told_and_no_other() -> None:
    host = running()
    told = samples(answers.status(host.core, host.now) | SHELL)
    assert set(told) == {metric.name for metric in METRICS}


def test_numbers_are_those_of_the_node() -> None:
    host = running()
    host.wait(1)
    host.say(Write("/lab/-/n1/port/p9", 1, b"{"))
    told = samples(answers.status(host.core, host.now) | SHELL)
    status = answers.status(host.core, host.now)
    assert told["flowloom_agent_in_sync"] == 1.0
    assert told["flowloom_agent_records"] == 6 + 2, "five of the world, its own chassis and status, an unreadable one"
    assert told["flowloom_agent_bad_records"] == 1
    assert told["flowloom_agent_flows"] == told["flowloom_agent_installed_flows_total"] == len(host.switch.facts)
    assert told["flowloom_agent_flow_gap"] == told["flowloom_agent_refusals_total"] == 0
    assert told["flowloom_agent_local_ports"] == 1
    assert told["flowloom_agent_packets_total"] == {"dropped": 3} | status["packets"]
    assert told["flowloom_agent_connected"] == {"store": 1.0, "switch": 1.0, "interfaces": 1.0}


def test_what_the_switch_refuses_is_counted() -> None:
    host = running()
    host.wait(1)
    before = set(host.switch.facts)
    host.tell(port(3, host="h2"))
    added = set(host.switch.facts) - before
    host.untell(port(3, host="h2"), 2)
    installed = host.core.installing.installs
    host.switch.refuse = dict.fromkeys(added, "OFPFMFC_UNKNOWN")
    host.tell(port(3, version=3, host="h2"))
    told = samples(answers.status(host.core, host.now) | SHELL)
    assert told["flowloom_agent_refusals_total"] == told["flowloom_agent_refused_flows"] == len(added) > 0
    assert host.core.installing.installs >= installed
