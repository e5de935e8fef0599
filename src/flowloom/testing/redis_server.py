"""Redis on the loopback, from the Debian packages: one server, Sentinels or a Cluster; killed, paused, started again.

    with single(Path(directory)) as redis:                # raises Skip when a package is missing
        redis.url("prefix=mine")
        redis.servers[0].kill(); redis.servers[0].start()
    with sentinels(Path(directory)) as redis: ...         # a primary, two replicas, three Sentinels
    with cluster(Path(directory)) as redis: ...           # three primaries, three replicas

Every server has a directory, ports and a process group of its own, and ends with the block, whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flowloom.lab.ports import free_port
from flowloom.lab.stores import redis as stores
from flowloom.testing.conformance import Skip
from flowloom.testing.waiting import wait_for

PACKAGES, NAME, DURABLE = stores.PACKAGES, stores.NAME, stores.DURABLE
START_SECONDS = 30.0


def missing() -> str:
    """What has to be installed, as a sentence; "" when all is there."""
    return stores.lacks()


@dataclass
class RedisServer:
    """One process.  options: lines of its configuration.  ctl: what redis-cli needs to get in."""

    directory: Path
    port: int
    options: Mapping[str, str] = field(default_factory=dict)
    sentinel: bool = False
    ctl: Sequence[str] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        return self.directory / "redis.log"

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

    def start(self, **more: str) -> None:
        """Start it and wait until it answers.  RuntimeError with the end of its log when it does not.

        What a server rewrote in its own configuration (a Sentinel's, a replica's primary) stays.
        """
        self._server.prepare()
        command = [*self._server.argv]
        for name, value in more.items():
            command += [f"--{name.replace('_', '-')}", value]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_for(self._answers, START_SECONDS, 0.02)
        except TimeoutError as error:
            raise RuntimeError(f"redis in {self.directory} did not start: {self._log_text()}") from error

    def cli(self, *words: str, seconds: float = 10.0) -> str:
        """What redis-cli says.  CalledProcessError when it fails, or Redis refuses."""
        return self._server.cli(*words, seconds=seconds)

    def info(self, section: str) -> dict[str, str]:
        """What it says of itself."""
        return self._server.info(section)

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
    def _server(self) -> stores.RedisServer:
        return stores.RedisServer(self.directory, self.port, self.options, self.sentinel, self.ctl)

    def _answers(self) -> bool:
        if not self.running:
            raise RuntimeError(f"redis in {self.directory} ended: {self._log_text()}")
        return self._server.serves()

    def _log_text(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


@dataclass
class Redis:
    """Servers with one content (a Cluster's: its parts), and the Sentinels that watch them."""

    scheme: str
    servers: Sequence[RedisServer]
    watchers: Sequence[RedisServer] = ()
    url_options: str = ""

    def url(self, options: str = "", login: str = "") -> str:
        """For `open_store`.  login: `user:password@`."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.watchers or self.servers)
        query = "&".join(filter(None, (self.url_options, options)))
        return (
            f"{self.scheme}://{login}{hosts}" + (f"/{NAME}" if self.watchers else "") + (f"?{query}" if query else "")
        )

    def primary(self, key: str = "") -> RedisServer:
        """The server that takes writes (of `key`, in a Cluster).  TimeoutError when there is none."""
        return wait_for(lambda: self._primary(key), START_SECONDS, 0.05)  # type: ignore[return-value]

    def kill(self) -> None:
        """kill -9 of everything."""
        for server in (*self.watchers, *self.servers):
            server.kill()

    def send(self, what: signal.Signals) -> None:
        """Signal everything that runs (SIGSTOP, SIGCONT)."""
        for server in (*self.watchers, *self.servers):
            if server.running:
                server.send(what)

    def wipe(self) -> None:
        """Throw everything away, on every primary."""
        for server in self.servers:
            if server.running and server.info("replication")["role"] == "master":
                server.cli("FLUSHALL")

    def wait_until_in_step(self) -> None:
        """Until every replica that runs follows its primary."""
        running = [server._server for server in self.servers if server.running]
        wait_for(lambda: stores.in_step(running), START_SECONDS, 0.05)

    def _primary(self, key: str) -> RedisServer | None:
        running = [server for server in self.servers if server.running]
        if self.scheme.endswith("+cluster"):
            with contextlib.suppress(subprocess.CalledProcessError):
                slot = int(running[0].cli("CLUSTER", "KEYSLOT", key))
                for server in running:
                    myself = next(line for line in server.cli("CLUSTER", "NODES").splitlines() if "myself" in line)
                    ranges = (part.partition("-")[::2] for part in myself.split()[8:])
                    if "master" in myself and any(int(low) <= slot <= int(high or low) for low, high in ranges):
                        return server
            return None
        if self.watchers:
            asked = next(each for each in self.watchers if each.running)
            port = int(asked.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME).split()[1])
            running = [server for server in running if server.port == port]
        return next((server for server in running if server.info("replication")["role"] == "master"), None)


@contextmanager
def single(directory: Path, **options: str) -> Iterator[Redis]:
    """One server.  options: of its configuration.  Skip when the packages are missing."""
    ctl = ("-a", options["requirepass"]) if "requirepass" in options else ()
    with _servers(Redis("redis", [RedisServer(directory / "r0", free_port(), _named(options), ctl=ctl)])) as redis:
        redis.servers[0].start()
        yield redis


@contextmanager
def single_tls(directory: Path, ca: Path, cert: Path, key: Path, **options: str) -> Iterator[Redis]:
    """One server that speaks TLS only; redis-cli gets in with the server's own certificate."""
    port = free_port()
    own = {"port": "0", "tls-port": str(port), "tls-ca-cert-file": str(ca)}
    own |= {"tls-cert-file": str(cert), "tls-key-file": str(key), **_named(options)}
    ctl = ("--tls", "--cacert", str(ca), "--cert", str(cert), "--key", str(key), "--sni", "localhost")
    with _servers(Redis("rediss", [RedisServer(directory, port, own, ctl=ctl)])) as redis:
        redis.servers[0].start()
        yield redis


@contextmanager
def sentinels(directory: Path, **options: str) -> Iterator[Redis]:
    """A primary, two replicas, three Sentinels that act within a second.  Skip when the packages are missing."""
    ports = [free_port() for _ in range(3)]
    replica = {"replicaof": f"127.0.0.1 {ports[0]}"}
    servers = [
        RedisServer(directory / f"r{number}", port, {**_named(options), **(replica if number else {})})
        for number, port in enumerate(ports)
    ]
    watchers = [RedisServer(directory / f"s{number}", free_port(), sentinel=True) for number in range(3)]
    for watcher in watchers:
        watcher.options = stores.sentinel_options(ports[0], down_after_ms=1000)
    with _servers(Redis("redis+sentinel", servers, watchers)) as redis:
        for server in (*servers, *watchers):
            server.start()
        redis.wait_until_in_step()
        known_to = [watcher._server for watcher in watchers]
        wait_for(lambda: stores.sentinels_know_all(known_to, replicas=2), START_SECONDS, 0.05)
        yield redis


@contextmanager
def cluster(directory: Path, **options: str) -> Iterator[Redis]:
    """Three primaries, each with a replica.  Skip when the packages are missing."""
    servers = []
    for number in range(6):
        port = free_port(2)
        own = stores.cluster_options(port + 1, node_timeout_ms=1000)
        servers.append(RedisServer(directory / f"r{number}", port, {**own, **_named(options)}))
    with _servers(Redis("redis+cluster", servers)) as redis:
        for server in servers:
            server.start()
        parts = [server._server for server in servers]
        stores.create_cluster(parts)
        wait_for(lambda: stores.cluster_is_whole(parts), START_SECONDS, 0.05)
        yield redis


@contextmanager
def _servers(redis: Redis) -> Iterator[Redis]:
    if why := missing():
        raise Skip(why)
    try:
        yield redis
    finally:
        redis.kill()


def _named(options: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in options.items()}
