"""MariaDB, alone or as a Galera cluster, on the loopback, from the Debian packages: started, killed, started again.

    with servers_directory() as directory:
        template = new_template(directory / "template")        # once a session; raises Skip when packages are missing
        with mariadb(directory / "one", template) as server:
            server.create_database("neutron"); server.url("neutron")
        with galera(directory / "three", template) as cluster:
            cluster.kill(2); cluster.start(2)

Every server has a directory, ports and a process group of its own, and ends with the block, whatever happens.
Nothing here is for data that anybody wants to keep: writes survive the death of a server, not of the machine.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowloom.lab.ports import free_port
from flowloom.testing.conformance import Skip
from flowloom.testing.waiting import wait_for

PACKAGES = ("mariadb-server", "galera-4", "rsync", "socat", "lsof")
GALERA = Path("/usr/lib/galera/libgalera_smm.so")
START_SECONDS = 120.0
STOP_SECONDS = 30.0

# Time stamps in a zone with a summer time, so that what depends on local time is seen.
_TIME_ZONE = "Europe/Berlin"

_CONFIGURATION = """\
[mysqld]
user={user}
datadir={data}
socket={socket}
pid-file={directory}/server.pid
log-error={log}
bind-address=127.0.0.1
port={port}
skip-name-resolve
character-set-server=utf8mb3
collation-server=utf8mb3_general_ci
default-storage-engine=innodb
innodb_autoinc_lock_mode=2
innodb_flush_log_at_trx_commit=2
innodb_buffer_pool_size=128M
innodb_log_file_size=32M
max_connections=400
performance_schema=OFF
"""

_WSREP = """\
binlog_format=ROW
wsrep_on=ON
wsrep_provider={provider}
wsrep_cluster_name={cluster}
wsrep_cluster_address=gcomm://{peers}
wsrep_node_name=node{number}
wsrep_node_address=127.0.0.1
wsrep_node_incoming_address=127.0.0.1:{port}
wsrep_sst_method=rsync
wsrep_sst_receive_address=127.0.0.1:{sst}
wsrep_slave_threads=2
wsrep_provider_options="gmcast.listen_addr=tcp://127.0.0.1:{gcomm};ist.recv_addr=127.0.0.1:{ist};gcache.size=64M"
"""


def missing() -> str:
    """What has to be installed, as a sentence; "" when all is there."""
    tools = ("mariadbd", "mariadb-install-db", "rsync", "socat", "lsof")
    absent = [tool for tool in tools if shutil.which(tool, path=_PATH) is None]
    if absent or not GALERA.exists():
        return f"no {', '.join(absent) or GALERA}: apt-get install --no-install-recommends {' '.join(PACKAGES)}"
    try:
        import pymysql  # noqa: F401
    except ImportError:
        return "no PyMySQL: pip install 'flowloom[mysql]'"
    return ""


_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


def new_template(directory: Path) -> Path:
    """Make a data directory that servers begin with; `root` without a password.  Skip says what is missing."""
    if why := missing():
        raise Skip(why)
    if directory.exists():
        return directory
    making = directory.with_name(directory.name + ".new")
    shutil.rmtree(making, ignore_errors=True)
    done = subprocess.run(
        [
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={making}",
            f"--user={_user()}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--innodb-log-file-size=32M",
        ],
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"mariadb-install-db: {done.stdout[-2000:]}")
    making.rename(directory)
    return directory


@contextmanager
def servers_directory() -> Iterator[Path]:
    """A new directory that the servers' user may enter; removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="flowloom-sql-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _user() -> str:
    """Who runs the servers.  Not root: rsync's daemon, which carries a node's state, gives root's rights up."""
    return "mysql" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


def _own(path: Path) -> None:
    """Give a file to the servers' user."""
    if os.geteuid() == 0:
        shutil.chown(path, _user())


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": _PATH, "TZ": _TIME_ZONE}


@dataclass
class SqlServer:
    """One MariaDB server.  wsrep: the part of its configuration that makes it a node."""

    directory: Path
    port: int
    wsrep: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    @property
    def pid(self) -> int:
        """Of its process, which leads a process group.  RuntimeError when it was not started."""
        if self._process is None:
            raise RuntimeError(f"the server in {self.directory} does not run")
        return self._process.pid

    def url(self, database: str) -> str:
        """For SQLAlchemy, as Neutron's documentation writes it."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{database}?charset=utf8"

    def prepare(self, template: Path) -> None:
        """Begin with the data of `template`."""
        self.directory.mkdir(parents=True)
        _own(self.directory)
        subprocess.run(["cp", "-a", "--reflink=auto", str(template), str(self.data)], check=True)
        # The socket's path has at most 107 characters, so it is given relative to the data directory.
        (self.directory / "server.cnf").write_text(
            _CONFIGURATION.format(
                user=_user(),
                data=self.data,
                socket="server.sock",
                directory=self.directory,
                log=self.log,
                port=self.port,
            )
            + self.wsrep
        )

    def launch(self, *options: str) -> None:
        """Start it without waiting."""
        self._process = subprocess.Popen(
            ["mariadbd", f"--defaults-file={self.directory}/server.cnf", *options],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def start(self, *options: str) -> None:
        """Start it and wait until it answers.  RuntimeError with the end of its log when it does not."""
        self.launch(*options)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Until it answers, and is synchronized with its cluster if it has one."""
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: self.ready() or self._ended(), START_SECONDS, 0.05)
        if not self.ready():
            self.kill()
            raise RuntimeError(f"the server in {self.directory} did not start: {self.log_text()[-3000:]}")

    def ready(self) -> bool:
        """Whether it takes statements now."""
        import pymysql

        try:
            if not self.wsrep:
                return bool(self.query("SELECT 1"))
            states = ("wsrep_ready", "wsrep_local_state_comment", "wsrep_cluster_status")
            found = [self.query(f"SHOW STATUS LIKE '{state}'")[0][1] for state in states]
            return found == ["ON", "Synced", "Primary"]
        except (pymysql.err.MySQLError, OSError):
            return False

    def query(self, statement: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Execute one statement as an administrator; its rows."""
        import pymysql

        connection = pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", database=database, autocommit=True, connect_timeout=10
        )
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def create_database(self, name: str) -> None:
        """An empty database with Neutron's character set."""
        self.query(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb3")

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def send(self, what: signal.Signals) -> None:
        """Signal the process alone (SIGSTOP, SIGCONT, …)."""
        os.kill(self.pid, what)

    def kill(self) -> None:
        """End it and its helpers at once, as kill -9 does; nothing happens when it does not run."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Shut it down; nothing happens when it does not run."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self.kill()

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None


@dataclass
class Galera:
    """A cluster of nodes with one content."""

    nodes: Sequence[SqlServer]

    def start_all(self) -> None:
        """Bootstrap with the first, let the others join."""
        self.nodes[0].start("--wsrep-new-cluster")
        for node in self.nodes[1:]:
            node.launch()
        for node in self.nodes[1:]:
            node.wait_until_ready()

    def start(self, number: int) -> None:
        """Let a node that was stopped or killed join again, from where its own data end."""
        node = self.nodes[number]
        position = _recovered_position(node)
        node.start(*([f"--wsrep-start-position={position}"] if position else []))

    def kill(self, number: int) -> None:
        """kill -9 of a node."""
        self.nodes[number].kill()

    def size(self, number: int = 0) -> int:
        """Of how many nodes this one knows."""
        return int(self.nodes[number].query("SHOW STATUS LIKE 'wsrep_cluster_size'")[0][1])

    def settle(self) -> None:
        """Wait until every node that runs has applied what was committed before."""
        for node in self.nodes:
            if node._process is not None:
                node.query("SET STATEMENT wsrep_sync_wait = 1 FOR SELECT 1")


def _recovered_position(node: SqlServer) -> str:
    """Up to which transaction a dead node's own data go, as Debian's start script finds out; "" when unknown."""
    log = node.directory / "recovery.log"
    log.unlink(missing_ok=True)
    subprocess.run(
        ["mariadbd", f"--defaults-file={node.directory}/server.cnf", "--wsrep-recover", f"--log-error={log}"],
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=START_SECONDS,
    )
    found = re.findall(r"Recovered position:?\s*([0-9a-f-]{36}:-?\d+)", log.read_text() if log.exists() else "")
    return found[-1] if found else ""


@contextmanager
def mariadb(directory: Path, template: Path) -> Iterator[SqlServer]:
    """One server with the data of `template`, in `directory`, which is made."""
    server = SqlServer(directory, free_port())
    try:
        server.prepare(template)
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def galera(directory: Path, template: Path, nodes: int = 3) -> Iterator[Galera]:
    """A cluster whose nodes all begin with the data of `template`, in `directory`, which is made."""
    # mysql, group communication, incremental and full state transfer.
    ports = [free_port(4) for _ in range(nodes)]
    peers = ",".join(f"127.0.0.1:{each + 1}" for each in ports)
    cluster = Galera(
        [
            SqlServer(
                directory / f"node{number}",
                port,
                _WSREP.format(
                    provider=GALERA,
                    cluster=f"flowloom-{ports[0]}",
                    peers=peers,
                    number=number,
                    port=port,
                    gcomm=port + 1,
                    ist=port + 2,
                    sst=port + 3,
                ),
            )
            for number, port in enumerate(ports)
        ]
    )
    first = cluster.nodes[0]
    try:
        # The first alone gives the data a place in a cluster's history; copies of them need no transfer of state.
        first.prepare(template)
        first.start("--wsrep-new-cluster")
        first.stop()
        (first.data / "galera.cache").unlink(missing_ok=True)
        for node in cluster.nodes[1:]:
            node.prepare(first.data)
        cluster.start_all()
        yield cluster
    finally:
        for node in reversed(cluster.nodes):
            node.kill()


def save_template(server: SqlServer, directory: Path) -> Path:
    """Stop a server that stands alone and keep its data as the template of others."""
    server.stop()
    for leftover in ("grastate.dat", "gvwstate.dat", "galera.cache", "server.sock"):
        (server.data / leftover).unlink(missing_ok=True)
    subprocess.run(["cp", "-a", str(server.data), str(directory)], check=True)
    return directory
