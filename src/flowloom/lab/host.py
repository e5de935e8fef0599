"""One host of the lab: its switch, its uplink bridge, the tunnel's addresses, and what is plugged into br-int."""

from __future__ import annotations

import time

from flowloom.lab import files, network, parts, tools
from flowloom.lab.layout import HostLayout, VmLayout
from flowloom.lab.processes import until
from flowloom.lab.state import State, write

_THREADS = ("other_config:n-handler-threads=1", "other_config:n-revalidator-threads=1")
"""A lab has many switches and few cores."""


def build(host: HostLayout, state: State) -> None:
    """Namespace, cable, database, switch, br-phy with the tunnel's address; the agent is not started yet."""
    host.dir.mkdir(parents=True, exist_ok=True)
    write(host.agent_file, files.agent(host, state))
    network.add_host(host)
    tools.run(("ovsdb-tool", "create", f"{host.dir}/conf.db", str(tools.SCHEMA)))
    start_database(host)
    vsctl(host, "--no-wait", "init", "--", "set", "open_vswitch", ".", f"external_ids:hostname={host.name}", *_THREADS)
    parts.launch(parts.switch(host), host.lab)
    parts.await_ready(parts.switch(host))
    # br-phy needs a MAC of its own: by default it would take the uplink's, which the host's kernel uses.
    mac = f'other_config:hwaddr="{host.tunnel_mac}"'
    vsctl(
        host,
        "add-br",
        "br-phy",
        "--",
        "set",
        "bridge",
        "br-phy",
        "datapath_type=netdev",
        mac,
        "--",
        "add-port",
        "br-phy",
        "eth0",
    )
    network.set_tunnel_address(host)
    if state.bare:
        secure = ("fail_mode=secure", "protocols=OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15")
        vsctl(host, "add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev", *secure)
    set_neighbours(host, state)


def start_database(host: HostLayout) -> None:
    """Start ovsdb-server, unless it runs."""
    parts.launch(parts.ovsdb(host), host.lab)
    parts.await_ready(parts.ovsdb(host))


def start_switch(host: HostLayout, state: State) -> None:
    """Start ovs-vswitchd again: with it went the tunnel's neighbours.  br-phy and its address outlive it."""
    parts.launch(parts.switch(host), host.lab)
    parts.await_ready(parts.switch(host))
    # A change that means nothing: ovs-vsctl waits until the new process has taken it in, and with it all the rest.
    vsctl(host, "set", "open_vswitch", ".", f"external_ids:lab-start={time.time_ns()}")
    set_neighbours(host, state)


def set_neighbours(host: HostLayout, state: State) -> None:
    """Tell the switch the MAC of every other host.

    It learns tunnel neighbours only from ARP replies that miss its flow cache, so a reply to a repeated question can
    go unseen for ever; and the first packet to a neighbour it does not know is lost.
    """
    for number in range(1, state.hosts + 1):
        other = host.lab.host(number)
        if other != host:
            appctl(host, "tnl/neigh/set", "br-phy", other.tunnel_ip, other.tunnel_mac)


def has_bridge(host: HostLayout) -> bool:
    """Whether br-int exists."""
    return "br-int" in vsctl(host, "list-br").split()


def plug(host: HostLayout, vm: VmLayout, port_id: str) -> None:
    """Put the VM's cable into br-int, under the id of its Neutron port; repeating it changes nothing."""
    until(lambda: has_bridge(host), 10)
    ids = f"external_ids:iface-id={port_id}"
    vsctl(host, "--may-exist", "add-port", "br-int", vm.interface, "--", "set", "interface", vm.interface, ids)


def unplug(host: HostLayout, vm: VmLayout) -> None:
    """Take the VM's cable out of br-int; repeating it changes nothing."""
    vsctl(host, "--if-exists", "del-port", "br-int", vm.interface)


def flows(host: HostLayout) -> list[str]:
    """br-int's flows without counters, as ovs-ofctl prints them, sorted."""
    return _dump(host, "dump-flows", "--no-stats")


def groups(host: HostLayout) -> list[str]:
    """br-int's groups, as ovs-ofctl prints them, sorted."""
    return _dump(host, "dump-groups")


def ofctl(host: HostLayout, command: str, *argv: str) -> str:
    """`ovs-ofctl COMMAND br-int ...` in OpenFlow 1.5."""
    return tools.run(("ovs-ofctl", "-O", "OpenFlow15", command, host.openflow, *argv))


def vsctl(host: HostLayout, *argv: str) -> str:
    """`ovs-vsctl ...` on the host's database; gives up after ten seconds."""
    return tools.run(("ovs-vsctl", "--no-syslog", "--timeout=10", f"--db={host.ovsdb}", *argv))


def appctl(host: HostLayout, *argv: str) -> str:
    """`ovs-appctl ...` to the host's ovs-vswitchd."""
    return tools.run(("ovs-appctl", "--timeout=10", "-t", str(host.switch_control), *argv))


def _dump(host: HostLayout, command: str, *options: str) -> list[str]:
    text = tools.run(("ovs-ofctl", "-O", "OpenFlow15", *options, command, host.openflow))
    lines = (line.strip() for line in text.splitlines())
    return sorted(line for line in lines if line and not line.startswith(("NXST_", "OFPST_")))
