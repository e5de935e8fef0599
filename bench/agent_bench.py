"""One agent, for real: its own process, a real Open vSwitch, the embedded store, the ZeroMQ bus.

A change is written to the store and published as Neutron's side does it; the flow is seen by
`ovs-ofctl monitor`, a third party.  CPU is the agent process's, all threads, interpreter start included.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import msgspec

from flowloom.drivers.bus.zeromq import open_bus
from flowloom.drivers.store.sqlite import open_store
from flowloom.drivers.switch.openvswitch import open_switch
from flowloom.model.codec import encode
from flowloom.model.records import FixedIP, Port
from flowloom.northbound.bus import Publisher
from flowloom.northbound.store import Store, Write, pages
from flowloom.openflow import facts
from flowloom.openflow.actions import apply_actions, output
from flowloom.openflow.match import match
from flowloom.southbound.switch import Batch
from flowloom.testing.ovs import RunningOvs, real_ovs
from measure import cpu_seconds, rss_mb
from topology import DEPLOYMENT, Cloud, cloud

BRIDGE = "br-int"
SETTLE_SECONDS = 0.02
"""After a change was seen: what the agent still does about it belongs to its CPU."""

DEADLINE_SECONDS = 120.0

STREAM = 2_000
"""Changes in a row, as fast as they can be written."""


@dataclass
class Samples:
    """What was measured at one size.  Seconds; MB."""

    ports: int
    cold_cpu: float = 0.0
    cold_wall: float = 0.0
    empty_cpu: float = 0.0
    rss: float = 0.0
    flows: int = 0
    records: int = 0
    loop_blocked_max: float | None = None
    idle_cpu: list[float] = field(default_factory=list)
    local_cpu: list[float] = field(default_factory=list)
    foreign_cpu: list[float] = field(default_factory=list)
    foreign_stream_cpu: float | None = None
    path_wall: list[float] = field(default_factory=list)
    ceiling_wall: list[float] = field(default_factory=list)


class AgentUnderTest:
    """The measured agent and everything it talks to, in one directory."""

    def __init__(self, stack: ExitStack, site: str) -> None:
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flb", dir="/tmp")))
        self.ovs: RunningOvs = stack.enter_context(real_ovs(self.directory))
        self.store: Store = open_store(f"sqlite:///{self.directory}/northbound.sqlite")
        stack.callback(self.store.close)
        bus_url = f"zmq+ipc://{self.directory}/bus"
        self.stack = stack
        self.forwarder = self._spawn("bus", "--url", bus_url)
        bus = open_bus(bus_url)
        stack.callback(bus.close)
        self.publisher: Publisher = bus.publisher("bench")
        self.control = str(self.directory / "agent.sock")
        self.config = self.directory / "agent.toml"
        self.config.write_text(f"""
            deployment = "{DEPLOYMENT}"
            chassis = "{site}"
            store = "sqlite:///{self.directory}/northbound.sqlite"
            bus = "{bus_url}"
            control = "{self.control}"
            tunnel = {{ ip = "127.0.0.1", types = ["geneve"] }}
            openvswitch = {{ ovsdb = "{self.ovs.ovsdb}", run_dir = "{self.ovs.run_dir}", datapath_type = "dummy" }}
        """)

    def _spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = self.stack.enter_context((self.directory / f"{arguments[0]}.log").open("ab"))
        process = subprocess.Popen([sys.executable, "-m", "flowloom", *arguments], stdout=log, stderr=log)
        self.stack.callback(_end, process)
        return process

    def start(self) -> subprocess.Popen[bytes]:
        """A new agent process."""
        return self._spawn("agent", "--config", str(self.config))

    def ask(self, question: str) -> dict[str, Any]:
        """An answer of the control socket; {} while nobody answers."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(30)
                client.connect(self.control)
                client.sendall(json.dumps({"ask": question}).encode() + b"\n")
                with client.makefile("rb") as lines:
                    answer: dict[str, Any] = json.loads(lines.readline() or b"{}")
                    return answer
        except (OSError, ValueError):
            return {}

    def settled(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """The status, once nothing is undone."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError((self.directory / "agent.log").read_text())
            status = self.ask("status")
            if status.get("loaded") and not (
                status["waiting_for"] or status["backlog"] or status["gap"] or status["own_records_undone"]
            ):
                return status
            time.sleep(0.1)  # A question costs the agent about a millisecond of the CPU that is measured.
        raise RuntimeError(f"the agent does not settle: {self.ask('status')}")

    def load(self, data: Cloud) -> None:
        """Fill the store, and plug the local ports."""
        for page in pages([Write(*entry) for entry in data.entries()], 1000):
            self.store.apply(page)
        self.ovs.vsctl("--may-exist", "add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=dummy")
        local = [r for _, r in data.records if isinstance(r, Port) and r.host == data.site]
        for n, port in enumerate(local):
            self.ovs.vsctl(
                "add-port", BRIDGE, f"vif{n}", "--", "set", "interface", f"vif{n}", "type=dummy",
                f"external_ids:iface-id={port.id}",
            )  # fmt: skip

    def write(self, key: str, version: int, port: Port | None) -> None:
        """As Neutron's side does: the store first, then the bus."""
        value = None if port is None else encode(port)
        self.store.apply([Write(key, version, value)])
        self.publisher.publish([(key, version, value)])


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def monitor(ovs: RunningOvs) -> Iterator[subprocess.Popen[bytes]]:
    """`ovs-ofctl monitor`, one line a change of a flow, on its standard error."""
    process = subprocess.Popen(
        ["ovs-ofctl", "-OOpenFlow15", "monitor", ovs.address(BRIDGE), "watch:!initial"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=ovs.environment,
    )
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    time.sleep(0.3)
    try:
        yield process
    finally:
        _end(process)


def seen(process: subprocess.Popen[bytes], text: bytes, event: bytes) -> float:
    """When the monitor told of `event` (ADDED, DELETED) for a flow that contains `text`."""
    assert process.stderr is not None
    buffer, deadline = b"", time.monotonic() + 10
    while time.monotonic() < deadline:
        select.select([process.stderr], [], [], 1.0)
        data = process.stderr.read() or b""
        now = time.perf_counter()
        buffer += data
        for line in buffer.split(b"\n"):
            if text in line and event in line:
                return now
    raise RuntimeError(f"no flow with {text!r} was {event!r} in 10 s: {buffer[-500:]!r}")


def measure(ports: int, changes: int, log: Any) -> Samples:
    """Everything at one size."""
    data, out = cloud(ports), Samples(ports)
    out.records = len(data.records)
    with ExitStack() as stack:
        agent = AgentUnderTest(stack, data.site)
        log(f"{ports} ports: {len(data.records)} records into the store")
        agent.load(data)
        started = time.perf_counter()
        process = agent.start()
        status = agent.settled(process)
        out.cold_wall = time.perf_counter() - started
        out.cold_cpu = cpu_seconds(process.pid)
        out.flows = status["switch"]["flows"]
        log(f"{ports} ports: cold start {out.cold_cpu:.2f} s of CPU, {out.flows} flows")
        time.sleep(2.5)  # The bus's first heartbeats lead to one comparison; not a part of any change.
        out.rss = rss_mb(process.pid)
        _idle(process.pid, out)
        local, foreign = _templates(data)
        _ceiling(agent, out, changes)
        with monitor(agent.ovs) as watching:
            _changes(agent, process.pid, data, local, watching, out, changes)
            _foreign(agent, process.pid, data, foreign, out, changes)
        blocked = agent.ask("status").get("loop_blocked_max_seconds")
        out.loop_blocked_max = None if blocked is None else float(blocked)
    return out


def _templates(data: Cloud) -> tuple[list[Port], list[Port]]:
    """Ports of networks with a local port, and of networks without one, none of them local."""
    here = data.local_networks
    others = [r for _, r in data.records if isinstance(r, Port) and r.host != data.site]
    return [p for p in others if p.network_id in here], [p for p in others if p.network_id not in here]


def made_port(template: Port, n: int, hosts: int) -> Port:
    """A new port like `template`, on another host."""
    return msgspec.structs.replace(
        template,
        id=f"bench-{n}",
        version=1,
        key=1_000_000 + n,
        mac_address=f"fa:16:ff:00:{n >> 8 & 255:02x}:{n & 255:02x}",
        fixed_ips=(FixedIP(template.fixed_ips[0].subnet_id, f"10.0.0.{200 + n % 50}"),),
        host=f"chassis-{1 + n % (hosts - 1)}",
    )


def _changes(
    agent: AgentUnderTest,
    pid: int,
    data: Cloud,
    templates: list[Port],
    watching: subprocess.Popen[bytes],
    out: Samples,
    changes: int,
) -> None:
    """A port appears elsewhere in a network that is local, and goes again."""
    random, hosts = Random(3), out.ports // 20
    for n in range(changes):
        port = made_port(random.choice(templates), n, hosts)
        key, mac = data.key(port), port.mac_address.encode()
        for version, record, event in ((1, port, b"ADDED"), (2, None, b"DELETED")):
            before, started = cpu_seconds(pid), time.perf_counter()
            agent.write(key, version, record)
            arrived = seen(watching, b"dl_dst=" + mac, event)
            time.sleep(SETTLE_SECONDS)
            out.local_cpu.append(cpu_seconds(pid) - before)
            out.path_wall.append(arrived - started)


def _foreign(agent: AgentUnderTest, pid: int, data: Cloud, templates: list[Port], out: Samples, changes: int) -> None:
    """A port appears in a network that has no local port, and goes again: no flow changes."""
    if not templates:
        return
    random, hosts = Random(4), out.ports // 20
    for n in range(changes):
        port = made_port(random.choice(templates), 10_000 + n, hosts)
        key = data.key(port)
        for version, record in ((1, port), (2, None)):
            before = cpu_seconds(pid)
            agent.write(key, version, record)
            time.sleep(2 * SETTLE_SECONDS)
            out.foreign_cpu.append(cpu_seconds(pid) - before)
    before = cpu_seconds(pid)
    for n in range(STREAM):
        port = made_port(random.choice(templates), 20_000 + n, hosts)
        agent.write(data.key(port), 1, port)
    time.sleep(2.5)  # The heartbeats that tell of the last ones are a part of the cost.
    out.foreign_stream_cpu = (cpu_seconds(pid) - before) / STREAM


def _idle(pid: int, out: Samples) -> None:
    """What the agent costs in as long as one foreign change is watched, when nothing happens."""
    for _ in range(50):
        before = cpu_seconds(pid)
        time.sleep(2 * SETTLE_SECONDS)
        out.idle_cpu.append(cpu_seconds(pid) - before)


def _ceiling(agent: AgentUnderTest, out: Samples, changes: int) -> None:
    """What no system of this kind can be faster than here: one durable write, then one flow, nothing between."""
    switch = open_switch(agent.ovs.address(BRIDGE), lambda packet: None, lambda why: None)
    value = facts.flow_value(1, apply_actions(output(1)))
    try:
        for n in range(changes):
            flow = (facts.flow_key(200, n, match(())), value)
            started = time.perf_counter()
            agent.store.apply([Write(f"/ceiling/x/y/z/{n}", 1, b"x" * 430)])
            switch.apply(Batch((), (flow,)))
            out.ceiling_wall.append(time.perf_counter() - started)
            switch.apply(Batch((flow[0],), ()))
    finally:
        switch.close()


def middle(values: list[float]) -> float:
    """Median; 0 when nothing was measured."""
    return median(values) if values else 0.0
