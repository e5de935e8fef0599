"""Flows and checks, as people see them."""

from __future__ import annotations

from flowloom.cli.answers import Cause, Check, Difference, Flow
from flowloom.cli.flows import show_checks, show_flows

FLOWS = (
    Flow(
        table="LOOKUP",
        priority=200,
        match="NETWORK=7, eth_dst=fa:16:3e:00:00:01",
        actions="OUT_KEY=5, goto DELIVER",
        app="l2",
        rule="unicast",
        cookie=0xF100_0001_DEAD_BEEF,
        causes=(
            Cause("port", "p1", 3, "for"),
            Cause("network", "n1", 1, "read"),
            Cause("chassis", "h9", None, "read"),
            Cause("interface", "p1", 0, "read"),
        ),
    ),
    Flow(table="DELIVER", app="l2", rule="default"),
)


def test_flows_are_a_table_for_each_host() -> None:
    assert show_flows({"h1": FLOWS, "h2": FLOWS[1:]}, explain=False) == (
        "h1: 2 flows\n"
        "TABLE    PRIORITY  APP  MATCH                                 ACTIONS\n"
        "LOOKUP        200  l2   NETWORK=7, eth_dst=fa:16:3e:00:00:01  OUT_KEY=5, goto DELIVER\n"
        "DELIVER         0  l2   any                                   drop\n"
        "\n"
        "h2: 1 flow\n"
        "TABLE    PRIORITY  APP  MATCH  ACTIONS\n"
        "DELIVER         0  l2   any    drop\n"
    )


def test_explained_flow_names_rule_records_and_versions() -> None:
    assert show_flows({"h1": FLOWS}, explain=True).splitlines()[3:9] == [
        "    cookie 0xf1000001deadbeef, rule unicast of app l2",
        "    for port p1 version 3",
        "    read network n1 version 1",
        "    read chassis h9 which is not there",
        "    read interface p1",
        "DELIVER         0  l2   any                                   drop",
    ]


def test_every_difference_is_listed_with_the_three_views() -> None:
    checks = {
        "h1": Check(equal=True, flows=40),
        "h2": Check(flows=41, differences=(Difference("LOOKUP NETWORK=7", "goto DELIVER", None, "drop"),)),
    }
    assert show_checks(checks) == (
        "HOST  STATE      FLOWS  DIFFERENCES  BACKLOG\n"
        "h1    equal         40            0        0\n"
        "h2    DIFFERENT     41            1        0\n"
        "\n"
        "h2: LOOKUP NETWORK=7\n"
        "    full recompute: goto DELIVER\n"
        "    agent: not there\n"
        "    switch: drop\n"
    )
