"""The processes of a lab, each as a value: how it is started, where it writes, when it is ready.

A part's name is `bus`, `api`, `recovery` (a second one is `recovery@2`), or `ovsdb@h1`, `switch@h1`, `agent@h1`,
`relay@h1`; those of the store's servers are in `flowloom.lab.store`.
"""

from __future__ import annotations

import json
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from flowloom.lab import files, tools
from flowloom.lab.errors import LabFailed
from flowloom.lab.layout import DEPLOYMENT, HostLayout, Layout, recovery_name
from flowloom.lab.network import enter
from flowloom.lab.processes import Process, recorded, spawn, until
from flowloom.lab.state import State, write

API_PROCESSES = 2
API_THREADS = 2


@dataclass(frozen=True)
class Part:
    """One process.  dir: holds `<name>.pid` and `<name>.log`; ready: asked until true, `ready_seconds` at most."""

    name: str
    dir: Path
    argv: tuple[str, ...]
    ready: Callable[[], bool]
    ready_seconds: float = 15.0
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def _stem(self) -> str:
        """The name without its host, which has a directory of its own."""
        kind, _, which = self.name.partition("@")
        return self.name if which.isdigit() else kind

    @property
    def pid_file(self) -> Path:
        return self.dir / f"{self._stem}.pid"

    @property
    def log_file(self) -> Path:
        return self.dir / f"{self._stem}.log"

    def process(self) -> Process | None:
        """The live process; None when it is down."""
        return recorded(self.pid_file)


def launch(part: Part, layout: Layout) -> None:
    """Start the process of a part, unless it runs; do not wait until it is ready."""
    if part.process() is not None:
        return
    spawn(part.argv, part.pid_file, part.log_file, tools.environment(layout, **part.env))


def await_ready(part: Part) -> None:
    """Wait until a launched part answers.  LabFailed, with the end of its log, when it ends or stays silent."""
    ended = False

    def settled() -> bool:
        nonlocal ended
        ended = part.process() is None
        return ended or part.ready()

    if not until(settled, part.ready_seconds):
        raise LabFailed(
            f"{part.name} is not ready after {part.ready_seconds:g} s; see {part.log_file}{tools.last_words(part.log_file)}"
        )
    if ended:
        raise LabFailed(f"{part.name} ended at once; see {part.log_file}{tools.last_words(part.log_file)}")


def ovsdb(host: HostLayout) -> Part:
    """The switch's configuration database."""
    control = host.dir / "ovsdb-server.ctl"
    return Part(
        name=f"ovsdb@{host.name}",
        dir=host.dir,
        argv=enter(
            host.netns,
            "ovsdb-server",
            f"{host.dir}/conf.db",
            f"--remote=p{host.ovsdb}",
            "--remote=db:Open_vSwitch,Open_vSwitch,manager_options",
            f"--unixctl={control}",
            "-vsyslog:off",
            "-vconsole:info",
        ),
        env=_switch_env(host),
        ready=lambda: _listens(host.dir / "db.sock"),
    )


def switch(host: HostLayout) -> Part:
    """ovs-vswitchd with the userspace datapath.  It runs inside the namespace: ports and routes are taken from there."""
    return Part(
        name=f"switch@{host.name}",
        dir=host.dir,
        argv=enter(
            host.netns,
            "ovs-vswitchd",
            host.ovsdb,
            "--disable-system",
            f"--unixctl={host.switch_control}",
            "-vsyslog:off",
            "-vconsole:info",
        ),
        env=_switch_env(host),
        ready=lambda: _listens(host.switch_control),
    )


def agent(host: HostLayout) -> Part:
    return Part(
        name=f"agent@{host.name}",
        dir=host.dir,
        argv=enter(host.netns, *tools.python("-m", "flowloom", "agent", "--config", str(host.agent_file))),
        ready=lambda: _answers(host.agent_socket),
        ready_seconds=30,
    )


def relay(host: HostLayout, ports: Sequence[int]) -> Part:
    """The host's way to these ports of the loopback outside."""
    return Part(
        name=f"relay@{host.name}",
        dir=host.dir,
        argv=tools.python("-m", "flowloom.lab.relay", host.netns, str(host.relay_socket), *map(str, ports)),
        ready=lambda: _listens(host.relay_socket),
    )


def bus(layout: Layout, state: State) -> Part:
    """The forwarder of the ZeroMQ bus."""
    sockets = (layout.bus_dir / "in.sock", layout.bus_dir / "out.sock")
    return Part(
        name="bus",
        dir=layout.dir,
        argv=tools.python("-m", "flowloom", "bus", "--url", state.bus),
        ready=lambda: all(map(_listens, sockets)),
    )


def api(layout: Layout, state: State) -> Part:
    """Neutron's API under uwsgi: several workers, as in production."""
    neutron = deployment(layout, state)
    return Part(
        name="api",
        dir=layout.dir,
        # no-orphans: a killed master takes its workers along, so that its successor finds the port free.
        argv=(*neutron.uwsgi_argv, "--no-orphans", "--virtualenv", sys.prefix, "--logto", str(layout.dir / "api.log")),
        env=neutron.env,
        ready=lambda: _http_ok(state.api_url),
        ready_seconds=90,
    )


def recovery(layout: Layout, state: State, number: int = 1) -> Part:
    """A process that finishes what Neutron's workers left undone, and keeps the store equal to Neutron."""
    neutron = deployment(layout, state)
    own = layout.recovery_file(number)
    write(own, files.recovery(layout, number, metrics_port_of(state, number)))
    return Part(
        name=recovery_name(number),
        dir=layout.dir,
        argv=(*neutron.recovery_argv, "--config-file", str(own)),
        env=neutron.env,
        ready=lambda: _answers(layout.recovery_socket(number)),
        ready_seconds=60,
    )


def metrics_port_of(state: State, recovery: int) -> int:
    """The first recovery process has the first port, the API's workers those above it, other recoveries the next."""
    return state.metrics_port + (0 if recovery == 1 else API_PROCESSES + recovery - 1)


def metrics_ports(recoveries: int) -> int:
    """How many ports in a row Neutron's side needs for its metrics."""
    return API_PROCESSES + recoveries


class Deployment(msgspec.Struct, frozen=True):
    """What Neutron's side says of itself: where its configuration is, and how its processes are started."""

    neutron_conf: str
    env: dict[str, str]
    uwsgi_argv: tuple[str, ...]
    recovery_argv: tuple[str, ...]


def deployment(layout: Layout, state: State) -> Deployment:
    """Neutron's configuration, written again from what the lab is."""
    wanted = {
        "directory": str(layout.neutron_dir),
        "database": state.sql,
        "store": state.store,
        "bus": state.bus,
        "api_port": state.api_port,
        "name": DEPLOYMENT,
        "control": str(layout.recovery_socket(1)),
        "metrics": f"127.0.0.1:{state.metrics_port}" if state.metrics_port else "",
        "workers": API_PROCESSES,
        "threads": API_THREADS,
    }
    # Asked by its command: the lab starts processes and knows nobody's insides.
    said = tools.run(tools.python("-m", "flowloom.neutron.deploy", json.dumps(wanted)))
    return msgspec.json.decode(said, type=Deployment)


def schema_argv(layout: Layout, state: State) -> tuple[str, ...]:
    """The command that creates Neutron's tables, in a process of its own: it loads all of Neutron."""
    if state.sql.startswith("sqlite"):
        return tools.python("-m", "flowloom.neutron.schema", state.sql)
    conf = deployment(layout, state).neutron_conf
    return (str(tools.beside_python("neutron-db-manage")), "--config-file", conf, "upgrade", "heads")


def _switch_env(host: HostLayout) -> dict[str, str]:
    # Unix sockets are per path, not per namespace: these are what keeps the switches of two hosts apart.
    return {name: str(host.dir) for name in ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR")}


def _listens(path: Path) -> bool:
    """Somebody accepts connections at a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _answers(path: Path) -> bool:
    """A process of ours answers at its control socket."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(2)
            client.connect(str(path))
            client.sendall(json.dumps({"ask": "status"}).encode() + b"\n")
            return bool(client.recv(1))
    except OSError:
        return False


def _http_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
