"""An agent as a process of its own, with a real Open vSwitch and a real store, for functional tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from one_host import chassis, key_for, network, port, subnet

from flowloom.cli.ask import ask
from flowloom.drivers.store.sqlite import open_store
from flowloom.kernel.errors import Unavailable
from flowloom.lab.ports import free_port
from flowloom.model.codec import decode, encode
from flowloom.model.records import PortStatus, Record
from flowloom.northbound.bus import Publisher
from flowloom.northbound.store import Write
from flowloom.testing.ovs import RunningOvs
from flowloom.testing.waiting import wait_for


class Agent:
    """One agent of chassis h1.  bus: URL, "" for the store's change feed."""

    def __init__(self, ovs: RunningOvs, bus: str = "", publisher: Publisher | None = None) -> None:
        self.ovs = ovs
        self.directory = ovs.run_dir
        self.control = str(self.directory / "agent.sock")
        self.metrics = f"127.0.0.1:{free_port()}"
        self.store_path = self.directory / "northbound.sqlite"
        self.store_url = f"sqlite:///{self.store_path}"
        self.log = self.directory / "agent.log"
        self.config = self.directory / "agent.toml"
        self.config.write_text(f"""
            deployment = "lab"
            chassis = "h1"
            store = "{self.store_url}"
            bus = "{bus}"
            control = "{self.control}"
            metrics = "{self.metrics}"
            tunnel = {{ ip = "192.0.2.1", types = ["geneve"] }}
            openvswitch = {{ ovsdb = "{ovs.ovsdb}", run_dir = "{ovs.run_dir}", datapath_type = "dummy" }}
        """)
        self.process: subprocess.Popen[bytes] | None = None
        self.store = open_store(self.store_url)
        self.publisher = publisher

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "flowloom", "agent", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env=os.environ | {"COVERAGE_RUN": ""})

    def end(self, how: int = signal.SIGTERM) -> int:
        process, self.process = self.process, None
        assert process is not None
        process.send_signal(how)
        return process.wait(15)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGKILL)
        self.store.close()

    def ask(self, what: str, **more: object) -> dict[str, Any]:
        return ask(self.control, {"ask": what, **more}, dict[str, Any], 20.0)

    def status(self) -> dict[str, Any]:
        """{} while nobody answers."""
        try:
            return self.ask("status")
        except Unavailable:
            assert self.process is not None and self.process.poll() is None, self.log.read_text()
            return {}

    def wait_settled(self) -> dict[str, Any]:
        """The status, once everything known is on the switch and said upward."""

        def settled() -> dict[str, Any]:
            status = self.status()
            quiet = status and status["loaded"] and status["switch"]["connected"] and not status["waiting_for"]
            busy = status and (status["backlog"] or status["gap"] or status["own_records_undone"])
            return status if quiet and not busy else {}

        try:
            return wait_for(settled, 30.0)
        except TimeoutError:
            raise AssertionError(f"{self.status()}\n{self.log.read_text()}") from None

    def write(self, *records: Record) -> None:
        writes = [Write(key_for(record), record.version, encode(record)) for record in records]
        outcomes = self.store.apply(writes)
        assert all(outcome.applied for outcome in outcomes)
        if self.publisher is not None:
            self.publisher.publish(writes)

    def port_status(self, port_id: str) -> PortStatus | None:
        (entry,) = self.store.get([f"/lab/-/h1/port_status/{port_id}"])
        if entry is None or entry.value is None:
            return None
        record = decode(entry.key, entry.value)
        assert isinstance(record, PortStatus)
        return record

    def is_up(self, port_id: str, version: int) -> bool:
        said = self.port_status(port_id)
        return said is not None and said.up and said.port_version == version

    def flows(self) -> list[str]:
        """Every flow as ovs-ofctl says it, without counters and ages."""
        dump = self.ovs.ofctl("--no-stats", "dump-flows", self.ovs.address("br-int"))
        return sorted(line.strip() for line in dump.splitlines() if "cookie" in line)

    def groups(self) -> list[str]:
        dump = self.ovs.ofctl("dump-groups", self.ovs.address("br-int"))
        return sorted(line.strip() for line in dump.splitlines() if "group_id" in line)

    def ages(self) -> list[float]:
        """Seconds that each flow has been on the switch."""
        dump = self.ovs.ofctl("dump-flows", self.ovs.address("br-int"))
        return [float(line.split("duration=")[1].split("s")[0]) for line in dump.splitlines() if "duration=" in line]

    def plug(self, n: int) -> None:
        self.ovs.vsctl("add-port", "br-int", f"vif{n}", "--", "set", "interface", f"vif{n}", "type=dummy",
                       f"external_ids:iface-id=p{n}")  # fmt: skip

    def begin(self) -> None:
        """Two local ports, one remote, the first local one plugged; wait until it is up."""
        self.write(network(), subnet(), chassis("h2", 2), port(1), port(2), port(3, host="h2"))
        self.start()
        self.wait_settled()
        self.plug(1)
        wait_for(lambda: self.is_up("p1", 1))
        self.wait_settled()
