"""Network namespaces and the cables between them.

Pitfalls that this module knows (userspace datapath of Open vSwitch 3.1):

* AF_PACKET only sniffs: the host's kernel sees every frame that the switch sees, and would answer ARP for the tunnel's
  address with the MAC of the uplink.  So the switch's end of every cable has ARP and IPv6 switched off.
* A veth leaves checksums to a card that is not there: TCP fails until the VM's end has transmit offload off.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from flowloom.kernel.errors import Misconfigured
from flowloom.lab.errors import LabFailed
from flowloom.lab.layout import UNDERLAY_MTU, HostLayout, Layout, VmLayout
from flowloom.lab.state import Vm
from flowloom.lab.tools import run

_NETNS_DIR = Path("/run/netns")


def enter(netns: str, *argv: str) -> tuple[str, ...]:
    """A command line that runs inside a namespace.  `ip` becomes the program: one process, one pid."""
    return ("ip", "netns", "exec", netns, *argv)


def namespaces(layout: Layout) -> list[str]:
    """The lab's namespaces that exist now."""
    if not _NETNS_DIR.is_dir():
        return []
    return sorted(entry.name for entry in _NETNS_DIR.iterdir() if entry.name.startswith(layout.prefix))


def add_underlay(layout: Layout) -> None:
    """The bridge that stands for the network between the hosts."""
    try:
        run(("ip", "netns", "add", layout.underlay))
    except LabFailed as error:
        raise Misconfigured("lab", f"this machine does not let us make network namespaces: {error}") from error
    batch(
        layout.underlay,
        "link set lo up",
        f"link add br0 mtu {UNDERLAY_MTU} type bridge mcast_snooping 0",
        "link set br0 up",
    )


def add_host(host: HostLayout) -> None:
    """The host's namespace and its cable to the underlay."""
    run(("ip", "netns", "add", host.netns))
    batch(
        host.netns,
        "link set lo up",
        f"link add eth0 mtu {UNDERLAY_MTU} type veth peer name {host.uplink} netns {host.lab.underlay}",
        "link set eth0 arp off",
    )
    _no_ipv6(host.netns, "eth0")
    batch(host.netns, "link set eth0 up")
    batch(host.lab.underlay, f"link set {host.uplink} master br0 mtu {UNDERLAY_MTU} up")


def set_tunnel_address(host: HostLayout) -> None:
    """The tunnel's local address, on br-phy; repeating it changes nothing."""
    batch(
        host.netns,
        f"link set br-phy mtu {UNDERLAY_MTU} up",
        f"address replace {host.tunnel_ip}/24 dev br-phy",
    )


def set_link(host: HostLayout, up: bool) -> None:
    """Plug or pull the host's cable, at the underlay's end."""
    batch(host.lab.underlay, f"link set {host.uplink} {'up' if up else 'down'}")


def link_is_up(host: HostLayout) -> bool | None:
    """Whether the host's cable is plugged; None when it does not exist."""
    try:
        text = run(("ip", "-n", host.lab.underlay, "-o", "link", "show", host.uplink))
    except LabFailed:
        return None
    flags = text.partition("<")[2].partition(">")[0].split(",")
    return "UP" in flags


def add_vm(vm: VmLayout, host: HostLayout, plan: Vm) -> None:
    """The VM's namespace and its cable to the host; `eth0` has the port's MAC and MTU and no address yet."""
    vm.resolv_conf.parent.mkdir(parents=True, exist_ok=True)
    vm.resolv_conf.write_text("")
    run(("ip", "netns", "add", vm.netns))
    batch(
        vm.netns,
        "link set lo up",
        f"link add eth0 address {plan.mac} mtu {plan.mtu} type veth peer name {vm.interface} netns {host.netns}",
    )
    run(enter(vm.netns, "ethtool", "-K", "eth0", "tx", "off"))
    _no_ipv6(host.netns, vm.interface)
    batch(host.netns, f"link set {vm.interface} arp off mtu {plan.mtu}", f"link set {vm.interface} up")
    batch(vm.netns, "link set eth0 up")


def remove(netns: Iterable[str]) -> None:
    """Delete namespaces, with every cable that has an end in them; what is not there is no error."""
    for name in netns:
        if (_NETNS_DIR / name).exists():
            run(("ip", "netns", "delete", name))
        shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


def batch(netns: str, *commands: str) -> None:
    """Several `ip` commands inside a namespace, in one process."""
    run(("ip", "-n", netns, "-batch", "-"), stdin="".join(f"{command}\n" for command in commands))


def _no_ipv6(netns: str, interface: str) -> None:
    # A kernel without IPv6 has no such setting, and needs none.
    run(enter(netns, "sysctl", "-qe", "-w", f"net.ipv6.conf.{interface}.disable_ipv6=1"))
