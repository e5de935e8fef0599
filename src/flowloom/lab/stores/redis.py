"""Redis from the Debian packages: one server, a primary with replicas and Sentinels, or a Cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowloom.lab.stores.server import Member, Members, missing

PACKAGES = ("redis-server", "redis-sentinel", "redis-tools")
NAME = "northbound"
"""Of the primary that the Sentinels watch."""

SENTINEL_PORTS = 6
"""A primary, two replicas, three Sentinels."""

CLUSTER_PORTS = 12
"""Three primaries and three replicas: for clients each, then for each other."""

DURABLE: Mapping[str, str] = {"appendonly": "yes", "appendfsync": "always"}
"""What is acknowledged is on the disk."""

# A primary waits 5 s before it sends a replica its content, unless told otherwise: others might ask, too.
_PROMPT: Mapping[str, str] = {"repl-diskless-sync-delay": "0"}

_ANSWER_SECONDS = 10.0
_CREATE_SECONDS = 60.0


@dataclass(frozen=True)
class RedisServer:
    """One process.  options: lines of its configuration.  ctl: what redis-cli needs to get in."""

    dir: Path
    port: int
    options: Mapping[str, str] = field(default_factory=dict)
    sentinel: bool = False
    ctl: Sequence[str] = ()

    @property
    def file(self) -> Path:
        """Its configuration.  Sentinels, and servers that a Sentinel has told something, rewrite it."""
        return self.dir / "redis.conf"

    @property
    def argv(self) -> tuple[str, ...]:
        return ("redis-server", str(self.file), *(["--sentinel"] if self.sentinel else []))

    def prepare(self) -> None:
        data = self.dir / "data"
        data.mkdir(parents=True, exist_ok=True)
        if self.file.exists():
            return
        lines = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(data), "daemonize": "no"}
        lines |= {} if self.sentinel else {"save": '""', **DURABLE, **_PROMPT}
        lines |= self.options
        self.file.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))

    def serves(self) -> bool:
        try:
            return self.cli("PING", seconds=2) == "PONG"
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return False

    def leads(self) -> bool:
        """A primary; in a Cluster there are several."""
        try:
            return not self.sentinel and self.info("replication")["role"] == "master"
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return False

    def cli(self, *words: str, seconds: float = _ANSWER_SECONDS, stdin: bytes = b"") -> str:
        """What redis-cli says.  CalledProcessError when it fails, or Redis refuses; TimeoutExpired after `seconds`."""
        done = subprocess.run(
            ["redis-cli", "-e", "--no-auth-warning", *self.ctl, "-h", "127.0.0.1", "-p", str(self.port), *words],
            input=stdin,
            capture_output=True,
            check=True,
            timeout=seconds,
        )
        return done.stdout.decode(errors="replace").strip()

    def info(self, section: str) -> dict[str, str]:
        """What it says of itself.  Errors as of `cli`."""
        return _pairs(self.cli("INFO", section))


def lacks() -> str:
    """What has to be installed, as a sentence; "" when all is there."""
    return missing(PACKAGES, "redis-server", "redis-sentinel", "redis-cli")


def sentinel_options(primary: int, down_after_ms: int) -> dict[str, str]:
    """The configuration of a Sentinel that watches the primary on port `primary`."""
    return {
        "sentinel monitor": f"{NAME} 127.0.0.1 {primary} 2",
        "sentinel down-after-milliseconds": f"{NAME} {down_after_ms}",
        "sentinel failover-timeout": f"{NAME} 3000",
    }


def cluster_options(bus_port: int, node_timeout_ms: int) -> dict[str, str]:
    """The configuration of a Cluster's member."""
    return {"cluster-enabled": "yes", "cluster-port": str(bus_port), "cluster-node-timeout": str(node_timeout_ms)}


def create_cluster(servers: Sequence[RedisServer]) -> None:
    """Make one Cluster of servers that all serve, half of them replicas.  Errors as of `RedisServer.cli`."""
    hosts = [f"127.0.0.1:{server.port}" for server in servers]
    words = ("--cluster", "create", *hosts, "--cluster-replicas", "1", "--cluster-yes")
    servers[0].cli(*words, seconds=_CREATE_SECONDS)


def cluster_is_whole(servers: Sequence[RedisServer]) -> bool:
    """Whether every member believes in the Cluster, and every replica follows.  Errors as of `RedisServer.cli`."""
    roles = [server.info("replication")["role"] for server in servers]
    states = [_pairs(server.cli("CLUSTER", "INFO")).get("cluster_state") for server in servers]
    return set(states) == {"ok"} and roles.count("slave") == len(servers) // 2 and in_step(servers)


def in_step(servers: Sequence[RedisServer]) -> bool:
    """Whether every replica among them follows its primary.  Errors as of `RedisServer.cli`."""
    said = [server.info("replication") for server in servers]
    return all(one["master_link_status"] == "up" for one in said if one["role"] == "slave")


def sentinels_know_all(watchers: Sequence[RedisServer], replicas: int) -> bool:
    """Whether every Sentinel knows the replicas and all the others.  Errors as of `RedisServer.cli`."""
    wanted = (("num-slaves", replicas), ("num-other-sentinels", len(watchers) - 1))
    for watcher in watchers:
        said = watcher.cli("SENTINEL", "MASTER", NAME) + "\n"
        if not all(f"{name}\n{number}\n" in said for name, number in wanted):
            return False
    return True


def single(dir: Path, first_port: int) -> Members:
    """One server in `dir`."""
    server = RedisServer(dir / "r1", first_port)
    return Members(f"redis://127.0.0.1:{first_port}", (Member("store@1", server),), (first_port,))


def sentinels(dir: Path, first_port: int) -> Members:
    """A primary, two replicas and three Sentinels in `dir`, on SENTINEL_PORTS ports from `first_port` on."""
    ports = range(first_port, first_port + 3)
    watching = range(first_port + 3, first_port + SENTINEL_PORTS)
    follow = {"replicaof": f"127.0.0.1 {first_port}"}
    servers = [RedisServer(dir / f"r{n}", port, follow if n > 1 else {}) for n, port in enumerate(ports, 1)]
    # A machine with few cores stands still now and then for a second.
    options = sentinel_options(first_port, down_after_ms=2000)
    watchers = [RedisServer(dir / f"s{n}", port, options, sentinel=True) for n, port in enumerate(watching, 1)]
    hosts = ",".join(f"127.0.0.1:{port}" for port in watching)
    return Members(
        f"redis+sentinel://{hosts}/{NAME}",
        tuple(Member(f"store@{n}", server) for n, server in enumerate(servers, 1)),
        (*ports, *watching),
        whole=lambda: _can(lambda: in_step(servers)),
        # A Sentinel asks for replicas now and every ten seconds.
        watchers=tuple(Member(f"sentinel@{n}", watcher) for n, watcher in enumerate(watchers, 1)),
        watched=lambda: _can(lambda: sentinels_know_all(watchers, len(servers) - 1)),
    )


def cluster(dir: Path, first_port: int) -> Members:
    """A Cluster in `dir`, on CLUSTER_PORTS ports from `first_port` on."""
    ports = range(first_port, first_port + CLUSTER_PORTS // 2)
    servers = [
        RedisServer(dir / f"r{n}", port, cluster_options(port + len(ports), node_timeout_ms=2000))
        for n, port in enumerate(ports, 1)
    ]

    def join() -> None:
        if _pairs(servers[0].cli("CLUSTER", "INFO")).get("cluster_known_nodes") == "1":
            create_cluster(servers)

    return Members(
        f"redis+cluster://{','.join(f'127.0.0.1:{port}' for port in ports)}",
        tuple(Member(f"store@{n}", server) for n, server in enumerate(servers, 1)),
        tuple(ports),
        join=join,
        whole=lambda: _can(lambda: cluster_is_whole(servers)),
    )


def _pairs(text: str) -> dict[str, str]:
    lines = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, colon, value in lines if colon}


def _can(question: Callable[[], bool]) -> bool:
    """The answer; False when one that is asked does not answer."""
    try:
        return question()
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
