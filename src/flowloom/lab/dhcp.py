"""Real DHCP clients in a VM's namespace, kept running so that they renew; each VM has one at a time."""

from __future__ import annotations

import shlex
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from flowloom.lab import tools
from flowloom.lab.errors import LabFailed
from flowloom.lab.layout import VmLayout
from flowloom.lab.lease import Lease
from flowloom.lab.network import enter
from flowloom.lab.processes import Process, end, recorded, spawn, until

Client: TypeAlias = Literal["udhcpc", "dhclient"]

_DHCLIENT_CONF = """\
option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;
request subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, interface-mtu, host-name,
        rfc3442-classless-static-routes;
initial-interval 1;
backoff-cutoff 2;
retry 2;
timeout 30;
"""
_UDHCPC_OPTIONS = ("subnet", "router", "dns", "domain", "broadcast", "mtu", "staticroutes", "lease", "serverid")


@dataclass(frozen=True)
class Event:
    """Something a client told its script.  at: seconds since 1970.  event: bound, renew, rebind, nak, release, ..."""

    at: float
    client: str
    event: str
    lease: Lease | None
    message: str


def start(vm: VmLayout, client: Client) -> None:
    """Start a client in the VM, in place of the one that runs."""
    tools.require(client)
    stop(vm)
    vm.dir.mkdir(parents=True, exist_ok=True)
    for stale in ("lease.json", "events.jsonl"):
        (vm.dir / stale).unlink(missing_ok=True)
    (vm.dir / "dhcp.client").write_text(client)
    argv = _udhcpc(vm) if client == "udhcpc" else _dhclient(vm)
    spawn(enter(vm.netns, *argv), _pid_file(vm), vm.dir / "dhcp.log", tools.environment(vm.lab))


def await_lease(vm: VmLayout, seconds: float) -> Lease:
    """Wait for the client's lease.  LabFailed when there is none in time."""
    file = vm.dir / "lease.json"
    if not until(file.exists, seconds):
        state = "is still asking" if running(vm) else "has ended"
        raise LabFailed(
            f"VM {vm.name} got no address within {seconds:g} s; its DHCP client {state}; see {vm.dir}/dhcp.log{tools.last_words(vm.dir / 'dhcp.log')}"
        )
    return msgspec.json.decode(file.read_bytes(), type=Lease)


def events(vm: VmLayout) -> list[Event]:
    """What the present client has told its script so far, oldest first."""
    try:
        lines = (vm.dir / "events.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [msgspec.json.decode(line, type=Event) for line in lines]


def renew(vm: VmLayout) -> None:
    """Have a running udhcpc renew now.  LabFailed when the client is not udhcpc: dhclient renews by its timers alone."""
    process = _running(vm)
    if _client(vm) != "udhcpc":
        raise LabFailed(f"the DHCP client of VM {vm.name} is dhclient, which cannot be told to renew")
    process.send(signal.SIGUSR1)


def release(vm: VmLayout, seconds: float = 10.0) -> None:
    """Give the lease back to the server.  LabFailed when the client has not done so in time."""
    process = _running(vm)
    if _client(vm) == "udhcpc":
        process.send(signal.SIGUSR2)
    else:
        # The second dhclient finds the first by its pid file, which that writes only after its script has run.
        pid_file = vm.dir / "dhclient.pid"
        until(lambda: pid_file.exists() and pid_file.read_text().strip() == str(process.pid), seconds)
        argv = enter(vm.netns, *_dhclient(vm, "-r"))
        spawn(argv, vm.dir / "release.pid", vm.dir / "dhcp.log", tools.environment(vm.lab))
    if not until(lambda: not (vm.dir / "lease.json").exists(), seconds):
        raise LabFailed(
            f"the DHCP client of VM {vm.name} did not release its address; see {vm.dir}/dhcp.log{tools.last_words(vm.dir / 'dhcp.log')}"
        )


def running(vm: VmLayout) -> Process | None:
    """The client of this VM that runs now."""
    return recorded(_pid_file(vm))


def stop(vm: VmLayout) -> None:
    """End the client of this VM, without a release; repeating it does nothing."""
    process = running(vm)
    if process is not None:
        end([process])


def _running(vm: VmLayout) -> Process:
    process = running(vm)
    if process is None:
        raise LabFailed(f"VM {vm.name} has no DHCP client running")
    return process


def _client(vm: VmLayout) -> str:
    return (vm.dir / "dhcp.client").read_text()


def _udhcpc(vm: VmLayout) -> tuple[str, ...]:
    wanted = [word for option in _UDHCPC_OPTIONS for word in ("-O", option)]
    return ("udhcpc", "-f", "-i", "eth0", "-s", str(_script(vm, "udhcpc")), "-t", "10", "-T", "1", "-A", "2", *wanted)


def _dhclient(vm: VmLayout, *more: str) -> tuple[str, ...]:
    conf = vm.dir / "dhclient.conf"
    conf.write_text(_DHCLIENT_CONF)
    files = ("-cf", str(conf), "-lf", str(vm.dir / "dhclient.leases"), "-pf", str(vm.dir / "dhclient.pid"))
    return ("dhclient", "-4", "-d", *more, *files, "-sf", str(_script(vm, "dhclient")), "eth0")


def _script(vm: VmLayout, client: Client) -> Path:
    """The clients want a program without arguments as their script, and dhclient gives it no environment of ours."""
    words = (*tools.python("-m", "flowloom.lab.hook"), client, str(vm.dir), str(vm.resolv_conf))
    path = vm.dir / f"{client}-script"
    path.write_text(f'#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH\nexec {shlex.join(words)} "$@"\n')
    path.chmod(0o755)
    return path


def _pid_file(vm: VmLayout) -> Path:
    return vm.dir / "dhcp.pid"
