"""The files by which the outside finds the lab: `flowloom.toml` for our command line, `clouds.yaml` for OpenStack's."""

from __future__ import annotations

import json
from pathlib import Path

from flowloom.lab.layout import CLOUD, DEPLOYMENT, HostLayout, Layout
from flowloom.lab.state import State

AGENT_METRICS = "127.0.0.1:9750"
"""Where an agent is scraped: within its host's namespace."""


def deployment(layout: Layout, state: State) -> str:
    """flowloom.toml: the deployment as `flowloom status` and the like see it."""
    lines = [_line("deployment", DEPLOYMENT), _line("store", state.store), _line("bus", state.bus)]
    if not state.bare:
        lines += [
            "[neutron]",
            _line("database", state.sql),
            _line("api", state.api_url),
            f"recovery = {json.dumps(_recoveries(layout, state))}",
        ]
    hosts = [layout.host(number) for number in range(1, state.hosts + 1)]
    lines += ["[agents]", *(_line(host.name, host.agent_socket) for host in hosts)]
    return "".join(f"{line}\n" for line in lines)


def _recoveries(layout: Layout, state: State) -> str | list[str]:
    sockets = [str(layout.recovery_socket(number)) for number in range(1, state.recoveries + 1)]
    return sockets[0] if len(sockets) == 1 else sockets


def recovery(layout: Layout, number: int, metrics_port: int) -> str:
    """What a recovery process has of its own, read after neutron.conf."""
    metrics = f"metrics = 127.0.0.1:{metrics_port}\n" if metrics_port else ""
    return f"[flowloom]\ncontrol = {layout.recovery_socket(number)}\n{metrics}"


def agent(host: HostLayout, state: State) -> str:
    """agent.toml of a host."""
    lines = [
        _line("deployment", DEPLOYMENT),
        _line("chassis", host.name),
        _line("store", state.store),
        _line("bus", state.bus),
        _line("control", host.agent_socket),
        _line("metrics", AGENT_METRICS),
        "[tunnel]",
        _line("ip", host.tunnel_ip),
        'types = ["geneve"]',
        "[openvswitch]",
        _line("ovsdb", host.ovsdb),
        _line("run_dir", host.dir),
        _line("bridge", "br-int"),
        _line("datapath_type", "netdev"),
        "[dhcp]",
        "lease_seconds = 86400",
        _line("domain", "flowloom.test"),
        "dns_servers = []",
    ]
    return "".join(f"{line}\n" for line in lines)


def clouds(api_url: str) -> str:
    """clouds.yaml for the `openstack` client and SDK.

    Without an endpoint override: with one, keystoneauth takes Neutron's list of resources for a version document.
    """
    return (
        f"clouds:\n  {CLOUD}:\n    auth_type: none\n    auth:\n      endpoint: {api_url}\n"
        '    network_api_version: "2"\n'
    )


def _line(key: str, value: str | Path) -> str:
    # A JSON string is a TOML basic string too.
    return f"{key} = {json.dumps(str(value))}"
