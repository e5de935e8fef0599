"""The steps of the demo: a cloud, its main job, and what it survives.

A later network function adds its steps here; a step may use what the steps before it left on the stage.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowloom.cli import deployment
from flowloom.cli.answers import AgentStatus
from flowloom.cli.ask import ask
from flowloom.cli.demo import NotSo, Say, Step, await_so
from flowloom.kernel.errors import Unavailable

if TYPE_CHECKING:
    from openstack.connection import Connection

    from flowloom.lab.cloud import Lab
    from flowloom.lab.dhcp import Client
    from flowloom.lab.probes import PingResult

CIDR = "10.10.0.0/24"
GATEWAY = "10.10.0.1"
GENEVE_PORT = (6081).to_bytes(2, "big")
COMMAND_SECONDS = 60.0
ACTIVE_SECONDS = 60.0
"""Long enough for a busy machine; how long it took is in the table."""


@dataclass(frozen=True)
class DemoPort:
    """A Neutron port of the demo."""

    id: str
    ip_address: str
    mac_address: str


@dataclass
class Stage:
    """What the steps have built so far."""

    lab: Lab
    tell: Say
    network_id: str = ""
    ports: dict[str, DemoPort] = field(default_factory=dict)
    _cloud: Connection | None = None

    @property
    def cloud(self) -> Connection:
        """The ordinary OpenStack SDK, configured by the lab's clouds.yaml."""
        if self._cloud is None:
            from openstack.config import OpenStackConfig
            from openstack.connection import Connection

            found = OpenStackConfig(config_files=[str(self.lab.clouds_file)])
            self._cloud = Connection(config=found.get_one(cloud="flowloom"))
        return self._cloud

    def flowloom(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as an operator would."""
        command = [sys.executable, "-m", "flowloom", "--config", str(self.lab.deployment_file), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)

    def agent(self, host: str) -> AgentStatus:
        """What the agent of a host says of itself."""
        path = deployment.load(self.lab.deployment_file, "--config").agents[host]
        return ask(path, {"ask": "status"}, AgentStatus, 5.0)

    def is_active(self, vm: str) -> bool:
        """Whether Neutron says ACTIVE of a VM's port."""
        return bool(self.cloud.network.get_port(self.ports[vm].id).status == "ACTIVE")

    def why_not(self, vm: str) -> str:
        """The sentence of `flowloom port show`."""
        shown = self.flowloom("port", "show", self.ports[vm].id, "--json")
        try:
            return str(json.loads(shown.stdout)["why"])
        except (ValueError, KeyError):
            return shown.stderr.strip() or "port show says nothing"

    def await_active(self, vm: str) -> float:
        """Wait until a VM's port is ACTIVE; NotSo with the reason."""
        try:
            return await_so(f"the port of {vm} is ACTIVE", lambda: self.is_active(vm), ACTIVE_SECONDS)
        except NotSo as error:
            raise NotSo(f"{error}: {self.why_not(vm)}") from None


def build(stage: Stage) -> str:
    """Neutron on SQLite, the embedded store, ZeroMQ, two hosts with their switches and agents."""
    stage.lab.up(hosts=2, progress=lambda line: stage.tell(f"    {line}"))
    return "Neutron API, SQL, store, bus, recovery, 2 x (Open vSwitch, agent)"


def all_up(stage: Stage) -> str:
    """`flowloom status` ends with 0."""
    took = await_so("flowloom status ends with 0", lambda: stage.flowloom("status").returncode == 0, 30)
    shown = stage.flowloom("status")
    for line in shown.stdout.splitlines():
        stage.tell(f"    {line}")
    return f"flowloom status: {len(shown.stdout.splitlines()) - 1} layers up, after {took:.1f} s"


def network(stage: Stage) -> str:
    """What a tenant does first."""
    made = stage.cloud.network.create_network(name="demo")
    stage.network_id = made.id
    subnet = stage.cloud.network.create_subnet(
        network_id=made.id, name="demo", ip_version=4, cidr=CIDR, gateway_ip=GATEWAY, dns_nameservers=["192.0.2.53"]
    )
    for vm, address in (("vm1", "10.10.0.11"), ("vm2", "10.10.0.12")):
        port = stage.cloud.network.create_port(
            network_id=made.id, name=vm, fixed_ips=[{"subnet_id": subnet.id, "ip_address": address}]
        )
        stage.ports[vm] = DemoPort(port.id, address, port.mac_address)
    return f"network {made.id[:8]}, subnet {CIDR}, 2 ports"


def plug(stage: Stage) -> str:
    """A VM on each host; their ports become ACTIVE when the switches have confirmed."""
    for vm, host in (("vm1", "h1"), ("vm2", "h2")):
        stage.lab.vm_add(vm, host, stage.ports[vm].id)
    took = {vm: stage.await_active(vm) for vm in ("vm1", "vm2")}
    return f"vm1 on h1 and vm2 on h2 are ACTIVE, the later after {max(took.values()):.1f} s"


def leases(stage: Stage) -> str:
    """Each VM asks with another client."""
    return "; ".join((lease(stage, "vm1", "udhcpc"), lease(stage, "vm2", "dhclient")))


def lease(stage: Stage, vm: str, client: Client) -> str:
    """One VM's lease is its port's address, with the subnet's settings."""
    got = stage.lab.dhcp(vm, client)
    wanted = stage.ports[vm].ip_address
    if got.ip != wanted or got.router != GATEWAY or got.dns != ("192.0.2.53",):
        raise NotSo(f"{client} in {vm} got {got}, not {wanted} with router {GATEWAY}")
    return f"{vm} has {got.interface} from {client} (MTU {got.mtu})"


def ping_through_the_tunnel(stage: Stage) -> str:
    """Both ways, and the frames are seen on the wire between the hosts."""
    sender = bytes.fromhex(stage.ports["vm2"].mac_address.replace(":", ""))
    with stage.lab.capture("underlay", stage.lab.host("h2").uplink) as wire:
        there = stage.lab.ping("vm1", stage.ports["vm2"].ip_address, count=20, interval=0.05)
        back = stage.lab.ping("vm2", stage.ports["vm1"].ip_address, count=20, interval=0.05)
        wire.await_frame(lambda frame: GENEVE_PORT in frame[34:38] and sender in frame[42:], 5)
    return f"{_lossless(there)} from vm1, {_lossless(back)} from vm2, seen inside Geneve on the wire of h2"


def _lossless(result: PingResult) -> str:
    if result.lost or result.rtt is None:
        raise NotSo(f"{result.lost} of {result.sent} pings lost, numbers {result.lost_numbers[:10]}")
    return f"{result.received}/{result.sent} answers in {result.rtt.avg_ms:.1f} ms"


def store_cut_off(stage: Stage) -> str:
    """The API accepts what it can commit; the port says what it waits for; what is there works on."""
    stage.lab.cut("store")
    body = {"network_id": stage.network_id, "name": "vm3", "binding:host_id": "h1"}
    answer = stage.cloud.network.post("/ports", json={"port": body})
    if answer.status_code != 201:
        raise NotSo(f"the API answered {answer.status_code}: {answer.text[:200]}")
    port = answer.json()["port"]
    stage.ports["vm3"] = DemoPort(port["id"], port["fixed_ips"][0]["ip_address"], port["mac_address"])
    stage.lab.vm_add("vm3", "h1", port["id"])
    shown = stage.flowloom("port", "show", port["id"])
    for line in shown.stdout.splitlines():
        stage.tell(f"    {line}")
    why = stage.why_not("vm3")
    if shown.returncode != 1 or "the store does not answer" not in why:
        raise NotSo(f"flowloom port show ended with {shown.returncode}: {why} {shown.stderr.strip()}")
    if stage.flowloom("status").returncode != 1:
        raise NotSo("flowloom status does not notice that the store is cut off")
    _lossless(stage.lab.ping("vm1", stage.ports["vm2"].ip_address, count=20, interval=0.05))
    return f"201; {why}"


def store_back(stage: Stage) -> str:
    """Nobody touches the port; it becomes ACTIVE, and it works."""
    if "vm3" not in stage.ports:
        raise NotSo("there is no port that waits")
    stage.lab.start("store")
    took = stage.await_active("vm3")
    got = lease(stage, "vm3", "udhcpc")
    pinged = _lossless(stage.lab.ping("vm3", stage.ports["vm2"].ip_address, count=10, interval=0.05))
    return f"ACTIVE {took:.1f} s after the store came back; {got}; {pinged}"


def agent_killed(stage: Stage) -> str:
    """kill -9 and restart under 100 pings a second: none is lost, and not a flow has changed."""
    lab, target = stage.lab, stage.ports["vm2"].ip_address
    await_so("the agent of h1 has nothing left to do", lambda: _quiet(stage, "h1"), 30)
    before = lab.flows("h1") + lab.groups("h1")
    with lab.pinging("vm1", target, interval=0.01) as ping:
        ping.await_first(10)
        _lossless(lab.ping("vm1", target, count=100, interval=0.01))
        lab.kill("agent@h1")
        _lossless(lab.ping("vm1", target, count=100, interval=0.01))
        lab.start("agent@h1")
        took = await_so("the agent of h1 is in sync again", lambda: _quiet(stage, "h1"), 60)
        _lossless(lab.ping("vm1", target, count=100, interval=0.01))
        result = ping.stop()
    after = lab.flows("h1") + lab.groups("h1")
    if after != before:
        gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
        raise NotSo(f"{len(gone)} flows are gone and {len(new)} are new, such as {(gone + new)[0]}")
    if result.sent < 300:
        raise NotSo(f"only {result.sent} pings were sent: too slow to show anything")
    return f"{_lossless(result)}; {len(after)} flows and groups as before; in sync {took:.1f} s after it answered"


def agent_hears(stage: Stage) -> str:
    """The restarted agent serves a VM that comes now: notice, flows, status, DHCP."""
    made = stage.cloud.network.create_port(network_id=stage.network_id, name="vm4")
    stage.ports["vm4"] = DemoPort(made.id, made.fixed_ips[0]["ip_address"], made.mac_address)
    stage.lab.vm_add("vm4", "h1", made.id)
    took = stage.await_active("vm4")
    got = lease(stage, "vm4", "dhclient")
    pinged = _lossless(stage.lab.ping("vm2", stage.ports["vm4"].ip_address, count=10, interval=0.05))
    return f"ACTIVE after {took:.1f} s; {got}; {pinged} from vm2"


def _quiet(stage: Stage, host: str) -> bool:
    try:
        status = stage.agent(host)
    except Unavailable:
        return False
    return status.in_sync and status.switch.connected and not status.backlog and not status.gap


def oracle(stage: Stage) -> str:
    """Every flow recomputed from the records equals what the agents want and the switches hold."""
    ended = stage.flowloom("compile", "--full", "--check")
    if ended.returncode:
        raise NotSo(" ".join((ended.stdout + ended.stderr).split())[:500])
    hosts = json.loads(stage.flowloom("compile", "--full", "--check", "--json").stdout)
    return ", ".join(f"{host}: {check['flows']} flows equal" for host, check in sorted(hosts.items()))


STEPS: tuple[Step[Stage], ...] = (
    Step("a cloud of two hosts, out of real parts", build, needed=True),
    Step("every layer is up", all_up),
    Step("network, subnet and ports through the OpenStack SDK", network, needed=True),
    Step("a VM on each host: their ports become ACTIVE", plug, needed=True),
    Step("each gets its address from a real DHCP client", leases, needed=True),
    Step("they ping each other through the tunnel", ping_through_the_tunnel),
    Step("store cut off: a port is created, and says why it is not ACTIVE", store_cut_off),
    Step("store back: the port becomes ACTIVE by itself", store_back),
    Step("agent killed with -9 and restarted under a ping", agent_killed),
    Step("the restarted agent serves what comes next", agent_hears),
    Step("full recompute equals agents and switches", oracle),
)
