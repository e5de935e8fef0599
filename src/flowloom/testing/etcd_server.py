"""etcd, one member or several, on the loopback, from the Debian package: started, killed, paused, started again.

    with etcd(Path(directory)) as cluster:            # raises Skip when the package is missing
        cluster.url("/prefix")
        cluster.members[0].kill(); cluster.members[0].start()
        cluster.wipe()

Every member has a directory, ports and a process group of its own, and ends with the block, whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flowloom.lab.ports import free_port
from flowloom.lab.stores import etcd as etcd_package
from flowloom.lab.stores.etcd import EtcdServer, initial_cluster
from flowloom.lab.stores.server import missing as lacking
from flowloom.testing.conformance import Skip
from flowloom.testing.waiting import wait_for

PACKAGES = (*etcd_package.PACKAGES, "etcd-client")
START_SECONDS = 60.0
STOP_SECONDS = 10.0


def missing() -> str:
    """What has to be installed, as a sentence; "" when all is there."""
    return lacking(PACKAGES, "etcd", "etcdctl")


@dataclass(frozen=True)
class Certificates:
    """PEM files.  client_ca: clients must show a certificate of it; None: they need none."""

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass
class Member:
    """One etcd process.  client, peer: its ports of 127.0.0.1."""

    name: str
    directory: Path
    client: int
    peer: int
    flags: Sequence[str] = ()
    scheme: str = "http"
    host: str = "127.0.0.1"
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        return self.directory / "etcd.log"

    @property
    def data(self) -> Path:
        return self._server().data

    @property
    def endpoint(self) -> str:
        return f"{self.host}:{self.client}"

    @property
    def running(self) -> bool:
        """It was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of its process.  RuntimeError when it was not started."""
        if self._process is None:
            raise RuntimeError(f"etcd {self.name} does not run")
        return self._process.pid

    def launch(self, initial_cluster: str, token: str) -> None:
        """Start it without waiting."""
        server = self._server(initial_cluster, token)
        server.prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                server.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

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

    def _server(self, initial_cluster: str = "", token: str = "") -> EtcdServer:
        return EtcdServer(
            self.name, self.directory, self.client, self.peer, initial_cluster, token, self.flags, self.scheme
        )

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class Cluster:
    """Members with one content.  url_options: what a URL needs to get in (`ca=…`)."""

    members: Sequence[Member]
    token: str = "flowloom"
    url_options: str = ""
    ctl_flags: Sequence[str] = ()

    @property
    def endpoints(self) -> str:
        return ",".join(member.endpoint for member in self.members)

    def url(self, prefix: str = "/flowloom", options: str = "", login: str = "") -> str:
        """For `open_store`.  login: `user:password@`."""
        scheme = "etcd+tls" if self.members[0].scheme == "https" else "etcd"
        query = "&".join(filter(None, (self.url_options, options)))
        return f"{scheme}://{login}{self.endpoints}{prefix}" + (f"?{query}" if query else "")

    def start(self, *numbers: int, healthy: bool = True) -> None:
        """Start these members (default: all that do not run) and wait until each answers.

        healthy: wait for it; a member with an alarm never is.  RuntimeError with the end of a log otherwise.
        """
        initial = initial_cluster([(member.name, member.peer) for member in self.members])
        chosen = [self.members[n] for n in numbers] or [member for member in self.members if not member.running]
        for member in chosen:
            member.launch(initial, self.token)
        for member in chosen if healthy else ():
            self._wait_until_healthy(member)

    def ctl(self, *words: str, member: Member | None = None, seconds: float = 10.0) -> str:
        """What etcdctl says.  CalledProcessError when it fails."""
        endpoints = member.endpoint if member else ",".join(each.endpoint for each in self.members if each.running)
        done = subprocess.run(
            ["etcdctl", f"--endpoints={endpoints}", f"--command-timeout={seconds}s", *self.ctl_flags, *words],
            env={**os.environ, "ETCDCTL_API": "3"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            text=True,
        )
        return done.stdout

    def leader(self) -> int:
        """The number of the member that leads.  RuntimeError when none does."""
        for number, member in enumerate(self.members):
            if member.running:
                fields = self.ctl("endpoint", "status", "-w", "fields", member=member)
                said = dict(line.split(" : ", 1) for line in fields.splitlines() if " : " in line)
                if said['"MemberID"'] == said['"Leader"']:
                    return number
        raise RuntimeError("no member leads")

    def revision(self) -> int:
        """The newest."""
        fields = self.ctl("get", "nothing", "-w", "fields")
        return int(next(line for line in fields.splitlines() if line.startswith('"Revision"')).split(" : ")[1])

    def compact(self) -> None:
        """Forget the history up to now, which a key of nobody's marks: etcd keeps the revision it compacts to."""
        self.ctl("put", "compacted", "")
        self.compact_without_writing()

    def compact_without_writing(self) -> None:
        """Forget the history before the newest revision."""
        self.ctl("compact", "--physical", str(self.revision()))

    def kill(self) -> None:
        """kill -9 of every member."""
        for member in self.members:
            member.kill()

    def wipe(self) -> None:
        """Kill all, remove their data, and start them empty, at the same addresses."""
        self.kill()
        for member in self.members:
            shutil.rmtree(member.data, ignore_errors=True)
        self.start()

    def snapshot(self, file: Path) -> None:
        """Save what is held now."""
        self.ctl("snapshot", "save", str(file), member=self.members[0])

    def restore(self, file: Path) -> None:
        """Kill all and start them with what was saved, under the same names, addresses and token: the worst case."""
        self.kill()
        initial = initial_cluster([(member.name, member.peer) for member in self.members])
        for member in self.members:
            shutil.rmtree(member.data, ignore_errors=True)
            self.ctl(
                "snapshot",
                "restore",
                str(file),
                f"--name={member.name}",
                f"--data-dir={member.data}",
                f"--initial-cluster={initial}",
                f"--initial-cluster-token={self.token}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{member.peer}",
                member=member,
            )
        self.start()

    def _wait_until_healthy(self, member: Member) -> None:
        def healthy() -> bool:
            if not member.running:
                raise RuntimeError(f"etcd {member.name} ended: {member.log_text()[-3000:]}")
            try:
                self.ctl("endpoint", "health", member=member, seconds=2)
            except subprocess.CalledProcessError:
                return False
            return True

        try:
            wait_for(healthy, START_SECONDS, 0.02)
        except TimeoutError as error:
            raise RuntimeError(f"etcd {member.name} is not healthy: {member.log_text()[-3000:]}") from error


@contextmanager
def etcd(
    directory: Path,
    members: int = 1,
    flags: Sequence[str] = (),
    certificates: Certificates | None = None,
    healthy: bool = True,
) -> Iterator[Cluster]:
    """A cluster in `directory`, which is made.  flags: of every member.  healthy: wait until etcdctl says so.

    Skip when the packages are missing.
    """
    if why := missing():
        raise Skip(why)
    options = list(flags)
    if certificates:
        options += [f"--cert-file={certificates.cert}", f"--key-file={certificates.key}"]
    if certificates and certificates.client_ca:
        options += ["--client-cert-auth", f"--trusted-ca-file={certificates.client_ca}"]
    made = []
    for number in range(members):
        port = free_port(2)
        scheme = "https" if certificates else "http"
        made.append(Member(f"m{number}", directory / f"m{number}", port, port + 1, options, scheme))
    cluster = Cluster(made, token=f"flowloom-{made[0].client}")
    if certificates:
        # etcdctl, too, is to get in: with the servers' own certificate where clients need one.
        cluster.ctl_flags = (f"--cacert={certificates.cert.parent / 'ca.pem'}",)
        if certificates.client_ca:
            cluster.ctl_flags = (*cluster.ctl_flags, f"--cert={certificates.cert}", f"--key={certificates.key}")
    try:
        cluster.start(healthy=healthy)
        yield cluster
    finally:
        cluster.kill()
