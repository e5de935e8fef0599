"""ZooKeeper, one server or an ensemble, on the loopback, from the Debian package: started, killed, paused, wiped.

    with zookeeper(Path(directory)) as ensemble:          # raises Skip when the package is missing
        ensemble.url("/mine")
        ensemble.servers[0].kill(); ensemble.start()

Every server has a directory, ports and a process group of its own, and ends with the block, whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flowloom.lab.ports import free_port
from flowloom.lab.stores import zookeeper as stores
from flowloom.testing.conformance import Skip
from flowloom.testing.waiting import wait_for

PACKAGES = stores.PACKAGES
START_SECONDS = 60.0


def missing() -> str:
    """What has to be installed, as a sentence; "" when all is there."""
    return stores.lacks()


@dataclass
class ZookeeperServer:
    """One process.  options: lines of its configuration; number: its own in the ensemble, from 1."""

    directory: Path
    number: int
    port: int
    options: Mapping[str, str]
    java: Sequence[str] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def data(self) -> Path:
        return self._server.data

    @property
    def log(self) -> Path:
        return self.directory / "zookeeper.log"

    @property
    def pid(self) -> int:
        """Of its process.  RuntimeError when it was not started."""
        if self._process is None:
            raise RuntimeError(f"the server in {self.directory} does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        """It was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start it without waiting."""
        self._server.prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._server.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def mode(self) -> str:
        """standalone, leader or follower; "" when it serves nobody."""
        return self._server.mode()

    def send(self, what: signal.Signals) -> None:
        """Signal it (SIGSTOP, SIGCONT, …)."""
        os.kill(self.pid, what)

    def kill(self) -> None:
        """kill -9; nothing happens when it does not run."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    @property
    def _server(self) -> stores.ZookeeperServer:
        return stores.ZookeeperServer(self.directory, self.number, self.port, self.options, ("-Xmx1g", *self.java))

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


@dataclass
class Ensemble:
    """Servers with one content.  secure: the port for TLS of a server alone; 0: none."""

    servers: Sequence[ZookeeperServer]
    secure: int = 0

    def url(self, path: str = "", options: str = "", login: str = "") -> str:
        """For `open_store`.  login: `user:password@`."""
        hosts = ",".join(f"127.0.0.1:{self.secure or server.port}" for server in self.servers)
        return f"zookeeper{'+tls' if self.secure else ''}://{login}{hosts}{path}" + (f"?{options}" if options else "")

    def start(self) -> None:
        """Start what does not run and wait until each serves.  RuntimeError with the end of a log otherwise."""
        for server in self.servers:
            if not server.running:
                server.launch()
        for server in self.servers:
            try:
                wait_for(lambda: server.mode() or not server.running, START_SECONDS, 0.05)  # noqa: B023
            except TimeoutError as error:
                raise RuntimeError(f"ZooKeeper {server.number} serves nobody: {server.log_text()}") from error
            if not server.running:
                raise RuntimeError(f"ZooKeeper {server.number} ended: {server.log_text()}")

    def leader(self) -> ZookeeperServer:
        """The server that leads, or stands alone.  TimeoutError when none does."""
        return wait_for(
            lambda: next((each for each in self.servers if each.mode() in ("leader", "standalone")), None),
            START_SECONDS,
            0.05,
        )  # type: ignore[return-value]

    def kill(self) -> None:
        """kill -9 of every server."""
        for server in self.servers:
            server.kill()

    def wipe(self) -> None:
        """Kill all, remove their data, and start them empty, at the same addresses."""
        self.kill()
        for server in self.servers:
            shutil.rmtree(server.data, ignore_errors=True)
        self.start()

    def save(self, directory: Path) -> None:
        """Kill all, keep a copy of their data, and start them again."""
        self.kill()
        for server in self.servers:
            shutil.copytree(server.data, directory / str(server.number))
        self.start()

    def restore(self, directory: Path) -> None:
        """Kill all, put back what was saved, and start them."""
        self.kill()
        for server in self.servers:
            shutil.rmtree(server.data, ignore_errors=True)
            shutil.copytree(directory / str(server.number), server.data)
        self.start()


@contextmanager
def zookeeper(
    directory: Path, servers: int = 1, java: Sequence[str] = (), options: Mapping[str, str] | None = None
) -> Iterator[Ensemble]:
    """An ensemble in `directory`, which is made.  java: options of the JVM.  Skip when the package is missing."""
    if why := missing():
        raise Skip(why)
    ports = [free_port(3) for _ in range(servers)]
    made = []
    for number, port in enumerate(ports, 1):
        own = directory / f"z{number}"
        configuration = {**stores.configuration(own, port, ports), **(options or {})}
        made.append(ZookeeperServer(own, number, port, configuration, java))
    ensemble = Ensemble(made)
    try:
        ensemble.start()
        yield ensemble
    finally:
        ensemble.kill()
