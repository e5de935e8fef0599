"""A whole cloud in the lab, and the questions the system tests ask of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openstack.network.v2._proxy import Proxy
from openstack.network.v2.port import Port as NeutronPort

from flowloom.cli import ask, deployment
from flowloom.kernel.errors import Unavailable
from flowloom.lab import host as lab_host
from flowloom.lab.cloud import Lab
from flowloom.lab.probes import Capture, PingResult
from flowloom.lab.processes import until
from flowloom.packet.arp import REQUEST, Arp
from flowloom.packet.ethernet import ARP, BROADCAST, Ethernet, mac_int
from flowloom.packet.ipv4 import ipv4_int
from flowloom.packet.udp import build_udp4

PATIENCE_SECONDS = 60.0
"""How long anything that must happen may take on a busy machine."""

WHO = Path(__file__).with_name("who.py")

Json = dict[str, Any]


@dataclass(frozen=True)
class Vm:
    """A VM that is plugged in.  ip, mac: of its Neutron port."""

    name: str
    host: str
    port_id: str
    ip: str
    mac: str

    @property
    def mac_int(self) -> int:
        return mac_int(self.mac)

    @property
    def ip_int(self) -> int:
        return ipv4_int(self.ip)

    def udp(self, payload: bytes, dst_mac: int = BROADCAST, dst_ip: str = "10.0.0.255") -> bytes:
        """An honest datagram of this VM's."""
        return build_udp4(self.mac_int, dst_mac, self.ip_int, ipv4_int(dst_ip), 4444, 4444, payload)

    def arp_request(self, address: str) -> bytes:
        """An honest ARP request of this VM's."""
        return Ethernet(
            BROADCAST, self.mac_int, ARP, Arp(REQUEST, self.mac_int, self.ip_int, 0, ipv4_int(address)).encode()
        ).encode()


def eventually(what: str, holds: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until `holds()`; the test fails, naming `what`, when it does not in time."""
    assert until(holds, seconds), f"after {seconds:g} s still not: {what}"


class Cloud:
    """A lab that is up, with Neutron's API beside it."""

    def __init__(self, lab: Lab, neutron: Proxy) -> None:
        self.lab = lab
        self.neutron = neutron
        self.hosts = [f"h{number}" for number in range(1, lab.status().hosts + 1)]

    # Neutron and VMs

    def network(
        self, name: str, cidr: str = "10.0.0.0/24", *, subnet: Mapping[str, Any] | None = None, **more: Any
    ) -> str:
        """A network with one subnet; its id."""
        made = self.neutron.create_network(name=name, **more)
        settings = {"network_id": made.id, "name": name, "ip_version": 4, "cidr": cidr, **(subnet or {})}
        self.neutron.create_subnet(**settings)
        return str(made.id)

    def vm(self, name: str, host: str, network_id: str, ip: str = "", **more: Any) -> Vm:
        """A VM with a port of its own; not yet ACTIVE, without an address of its own."""
        fixed = {"fixed_ips": [{"ip_address": ip}]} if ip else {}
        made = self.neutron.create_port(network_id=network_id, name=name, **fixed, **more)
        return self.plug(name, host, made)

    def plug(self, name: str, host: str, port: NeutronPort) -> Vm:
        """A VM for a port that exists."""
        self.lab.vm_add(name, host, port.id)
        return Vm(name, host, port.id, port.fixed_ips[0]["ip_address"], port.mac_address)

    def address(self, vm: Vm, prefix_length: int = 24) -> None:
        """Give a VM its address by hand."""
        done = self.lab.exec(vm.name, ["ip", "address", "replace", f"{vm.ip}/{prefix_length}", "dev", "eth0"])
        assert done.returncode == 0, done.stderr

    def status(self, port_id: str) -> str:
        """Neutron's word on a port."""
        return str(self.neutron.get_port(port_id).status)

    def await_active(self, *vms: Vm) -> None:
        """Wait until Neutron says ACTIVE of each; the failure says why not."""
        for vm in vms:
            if not until(lambda vm=vm: self.status(vm.port_id) == "ACTIVE", PATIENCE_SECONDS):  # type: ignore[misc]
                raise AssertionError(f"{vm.name} is not ACTIVE: {self.flowloom('port', 'show', vm.port_id).stdout}")

    # Traffic

    def ping(self, source: Vm, target: Vm, count: int = 5) -> PingResult:
        """A short series."""
        return self.lab.ping(source.name, target.ip, count=count, interval=0.02)

    def reaches(self, source: Vm, target: Vm) -> bool:
        """Whether pings are answered, all of them."""
        return self.ping(source, target, count=3).lost == 0

    def await_reach(self, source: Vm, *targets: Vm) -> None:
        """Wait until pings are answered: ACTIVE speaks of a port's own host, others learn of it a little later."""
        for target in targets:
            if not until(lambda target=target: self.reaches(source, target), PATIENCE_SECONDS):  # type: ignore[misc]
                raise AssertionError(self._why_unreached(source, target))

    def _why_unreached(self, source: Vm, target: Vm) -> str:
        """What somebody would look at who finds that pings are not answered."""
        lines = [f"{source.name} does not reach {target.name}: {self.ping(source, target)}"]
        for vm in (source, target):
            lines.append(f"{vm.name}: {self.lab.exec(vm.name, ['ip', 'neigh']).stdout}")
            lines.append(self.lab.exec(vm.name, ["ip", "-s", "address"]).stdout)
        for host in sorted({source.host, target.host}):
            at = self.lab.layout.host(int(host[1:]))
            lines.append(f"{host}: {lab_host.appctl(at, 'dpctl/dump-flows', '-m')}")
            lines += self.lab.flows(host)
        for vm, other in ((source, target), (target, source)):
            flow = f"in_port={self.lab.vm(vm.name).interface},icmp,dl_src={vm.mac},dl_dst={other.mac}"
            flow += f",nw_src={vm.ip},nw_dst={other.ip},nw_ttl=64"
            lines.append(lab_host.appctl(self.lab.layout.host(int(vm.host[1:])), "ofproto/trace", "br-int", flow))
        return "\n".join(lines)

    def await_well(self) -> None:
        """Wait until `flowloom status` finds nothing undone; the test fails with what it says otherwise."""
        if not until(lambda: self.flowloom("status").returncode == 0, PATIENCE_SECONDS):
            pytest.fail(f"after {PATIENCE_SECONDS:g} s still not well:\n{self.flowloom('status').stdout}")

    def forget_megaflows(self) -> None:
        """Empty the datapaths' caches; what OpenFlow says is translated anew.

        Open vSwitch 3.1's userspace datapath can keep a cached drop although its own translation has become a forward,
        for as long as packets hit it (`ofproto/trace` forwards, `dpctl/dump-flows` drops; see the README's limits).
        """
        for host in self.hosts:
            lab_host.appctl(self.lab.layout.host(int(host[1:])), "revalidator/purge")

    def who(self, source: Vm, number: int, *addresses: str) -> list[tuple[str, str]]:
        """(address, name) of every answer to one datagram to each address, `number` of them being expected; see who.py."""
        command = [sys.executable, str(WHO), "ask", str(number), *addresses]
        asked = self.lab.exec(source.name, command, timeout=30)
        assert asked.returncode == 0, asked.stderr
        return sorted((address, name) for address, name in json.loads(asked.stdout))

    @contextmanager
    def answering(self, vms: Iterable[Vm]) -> Iterator[None]:
        """Each VM tells its name to whoever asks."""
        with ExitStack() as stack:
            for vm in vms:
                command = self.lab.command(vm.name, [sys.executable, str(WHO), "serve", vm.name])
                server = stack.enter_context(
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                )
                stack.callback(server.kill)
                assert server.stdout and server.stdout.readline() == "ready\n"
            yield

    @contextmanager
    def captures(self, vms: Iterable[Vm]) -> Iterator[dict[str, Capture]]:
        """What arrives at each VM, by its name."""
        with ExitStack() as stack:
            yield {vm.name: stack.enter_context(self.lab.capture(vm.name)) for vm in vms}

    # The system

    def flowloom(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command line as an operator runs it."""
        command = [sys.executable, "-m", "flowloom", "--config", str(self.lab.deployment_file), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def layers(self) -> dict[str, Json]:
        """`flowloom status --json`, by layer."""
        return {row["layer"]: row for row in json.loads(self.flowloom("status", "--json").stdout)}

    def agent(self, host: str) -> Json:
        """What an agent says of itself; Unavailable when it does not answer."""
        socket = deployment.load(self.lab.deployment_file, "--config").agents[host]
        found: Json = ask.ask(socket, {"ask": "status"}, dict, 5.0)
        return found

    def is_quiet(self, host: str) -> bool:
        """Whether an agent is in sync and has nothing left to do."""
        try:
            said = self.agent(host)
        except Unavailable:
            return False
        busy = said["backlog"] or said["gap"] or said["own_records_undone"]
        return bool(said["in_sync"] and said["loaded"] and said["switch"]["connected"] and not busy)

    def await_quiet(self, *hosts: str) -> None:
        """Wait until agents (all by default) have nothing left to do."""
        for host in hosts or self.hosts:
            eventually(f"the agent of {host} has nothing left to do", lambda host=host: self.is_quiet(host))  # type: ignore[misc]

    def held(self, host: str) -> list[str]:
        """Flows and groups of a host's switch, as Open vSwitch's own tool prints them, each group's buckets sorted."""
        groups = (group.split(",bucket=") for group in self.lab.groups(host))
        return self.lab.flows(host) + [",bucket=".join([head, *sorted(buckets)]) for head, *buckets in groups]

    def everywhere(self) -> dict[str, list[str]]:
        """`held` of every host."""
        return {host: self.held(host) for host in self.hosts}

    def durations(self, host: str) -> dict[str, float]:
        """Each flow of a switch, without its numbers, and for how many seconds it has been there."""
        found = {}
        for line in lab_host.ofctl(self.lab.host(host), "dump-flows").splitlines():
            words = [word for word in line.strip().replace(", ", " ").split() if word]
            seconds = [word for word in words if word.startswith("duration=")]
            if seconds:
                numbers = ("duration=", "n_packets=", "n_bytes=", "idle_age=", "hard_age=")
                flow = " ".join(word for word in words if not word.startswith(numbers))
                found[flow] = float(seconds[0].removeprefix("duration=").removesuffix("s"))
        return found

    def assert_equal_to_oracle(self) -> None:
        """Full recompute equals every agent and every switch."""
        checked = self.flowloom("compile", "--full", "--check", "--json")
        hosts = json.loads(checked.stdout)
        assert checked.returncode == 0 and set(hosts) == set(self.hosts), checked.stdout + checked.stderr
        assert all(answer["equal"] and answer["flows"] for answer in hosts.values()), hosts
