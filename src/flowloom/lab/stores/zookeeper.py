"""ZooKeeper, one server or an ensemble, from the Debian package."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowloom.lab.stores.server import Member, Members

PACKAGES = ("zookeeper",)
PORTS = 3
"""Of each server: for clients, for followers, for elections."""

JARS = Path("/usr/share/java")
_LOG4J = Path("/etc/zookeeper/conf_example")
_ANSWER_SECONDS = 2.0


@dataclass(frozen=True)
class ZookeeperServer:
    """One process.  options: lines of its configuration; number: its own in the ensemble, from 1; java: of the JVM."""

    dir: Path
    number: int
    port: int
    options: Mapping[str, str]
    java: Sequence[str] = ()

    @property
    def data(self) -> Path:
        return self.dir / "data"

    @property
    def file(self) -> Path:
        return self.dir / "zoo.cfg"

    @property
    def argv(self) -> tuple[str, ...]:
        return (
            "java",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            *self.java,
            "-cp",
            f"{_LOG4J}:{JARS}/*",
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            str(self.file),
        )

    def prepare(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "myid").write_text(f"{self.number}\n")
        self.file.write_text("".join(f"{name}={value}\n" for name, value in self.options.items()))

    def mode(self) -> str:
        """standalone, leader or follower; "" when it serves nobody."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), _ANSWER_SECONDS) as connection,
        ):
            connection.sendall(b"srvr")
            said = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
            return said.partition("Mode: ")[2].partition("\n")[0]
        return ""

    def serves(self) -> bool:
        return self.mode() != ""

    def leads(self) -> bool:
        return self.mode() in ("leader", "standalone")


def configuration(dir: Path, port: int, ports: Sequence[int]) -> dict[str, str]:
    """The lines for the server in `dir` on `port`; ports: the first of each server of the ensemble, it included."""
    lines = {
        "tickTime": "500",
        "initLimit": "20",
        "syncLimit": "10",
        "dataDir": str(dir / "data"),
        "admin.enableServer": "false",
        "maxClientCnxns": "0",
        "clientPort": str(port),
        "clientPortAddress": "127.0.0.1",
    }
    if len(ports) > 1:
        peers = {f"server.{n}": f"127.0.0.1:{peer + 1}:{peer + 2}" for n, peer in enumerate(ports, 1)}
        lines |= {"standaloneEnabled": "false", **peers}
    return lines


def lacks() -> str:
    """What has to be installed, as a sentence; "" when all is there."""
    if shutil.which("java") is None or not (JARS / "zookeeper.jar").exists():
        return f"no ZooKeeper: apt-get install --no-install-recommends {' '.join(PACKAGES)}"
    return ""


def members(dir: Path, first_port: int, count: int) -> Members:
    """`count` servers in `dir`, on PORTS ports each from `first_port` on."""
    ports = [first_port + PORTS * n for n in range(count)]
    servers = [
        ZookeeperServer(dir / f"z{n}", n, port, configuration(dir / f"z{n}", port, ports), ("-Xmx256m",))
        for n, port in enumerate(ports, 1)
    ]
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    named = tuple(Member(f"store@{server.number}", server) for server in servers)
    return Members(f"zookeeper://{hosts}/flowloom", named, tuple(ports), quorum=count // 2 + 1)
