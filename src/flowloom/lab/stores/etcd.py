"""etcd, one member or several, from the Debian package.  Started, asked and led: etcd 3.4 and newer."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowloom.lab.stores.server import Member, Members, missing

PACKAGES = ("etcd-server",)
PORTS = 2
"""Of each member: for clients, and for its peers."""

_ANSWER_SECONDS = 3.0


@dataclass(frozen=True)
class EtcdServer:
    """One member.  client, peer: its ports of 127.0.0.1.  cluster: `NAME=http://127.0.0.1:PEER` of all, joined by commas."""

    name: str
    dir: Path
    client: int
    peer: int
    cluster: str
    token: str
    flags: Sequence[str] = ()
    scheme: str = "http"

    @property
    def data(self) -> Path:
        return self.dir / "data"

    @property
    def argv(self) -> tuple[str, ...]:
        return (
            "etcd",
            f"--name={self.name}",
            f"--data-dir={self.data}",
            f"--listen-client-urls={self.scheme}://127.0.0.1:{self.client}",
            f"--advertise-client-urls={self.scheme}://127.0.0.1:{self.client}",
            f"--listen-peer-urls=http://127.0.0.1:{self.peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{self.peer}",
            f"--initial-cluster={self.cluster}",
            f"--initial-cluster-token={self.token}",
            "--initial-cluster-state=new",
            *self.flags,
        )

    def prepare(self) -> None:
        self.dir.mkdir(parents=True, exist_ok=True)

    def serves(self) -> bool:
        """Healthy, as etcd says itself: it has a leader, and a proposal of its own was accepted."""
        return bool(self._ask("/health").get("health") == "true")

    def leads(self) -> bool:
        said = self._ask("/v3/maintenance/status", b"{}")
        return bool(said) and said.get("leader") == said.get("header", {}).get("member_id")

    def _ask(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        """What etcd's HTTP gateway says; {} when it says nothing, or that it cannot."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.client}{path}", body, _ANSWER_SECONDS) as answer:
                said = json.loads(answer.read())
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}


def initial_cluster(peers: Sequence[tuple[str, int]]) -> str:
    """The members, (name, peer port) each, as etcd wants to be told."""
    return ",".join(f"{name}=http://127.0.0.1:{peer}" for name, peer in peers)


def lacks() -> str:
    """What has to be installed, as a sentence; "" when all is there."""
    return missing(PACKAGES, "etcd")


def members(dir: Path, first_port: int, count: int) -> Members:
    """`count` members in `dir`, on PORTS ports each from `first_port` on."""
    ports = [first_port + PORTS * n for n in range(count)]
    cluster = initial_cluster([(f"m{n}", port + 1) for n, port in enumerate(ports, 1)])
    # As in production: the history does not fill the disk.
    flags = ("--auto-compaction-mode=periodic", "--auto-compaction-retention=1h")
    made = tuple(
        Member(
            f"store@{n}", EtcdServer(f"m{n}", dir / f"m{n}", port, port + 1, cluster, f"flowloom-{first_port}", flags)
        )
        for n, port in enumerate(ports, 1)
    )
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return Members(f"etcd://{hosts}/flowloom", made, tuple(ports), quorum=count // 2 + 1)
