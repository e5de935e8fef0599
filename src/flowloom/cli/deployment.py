"""Which deployment a command asks: `flowloom.toml`.

::

    deployment = "lab"
    store = "sqlite:////run/flowloom-lab/store/northbound.sqlite"
    bus = "zmq+ipc:///run/flowloom-lab/bus"          # "": none

    [neutron]                                       # may be left out where there is none
    database = "sqlite+immediate:////run/flowloom-lab/neutron.sqlite"
    api = "http://127.0.0.1:9696"
    recovery = "/run/flowloom-lab/recovery.sock"    # of several processes: ["/path", "/path"]

    [agents]                                        # host = control socket of its agent
    h1 = "/run/flowloom-lab/h1/agent.sock"
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowloom.kernel.errors import Misconfigured

VARIABLE = "FLOWLOOM_CONFIG"
SYSTEM_FILE = Path("/etc/flowloom/flowloom.toml")
LAB_FILE = Path("/run/flowloom-lab/flowloom.toml")


@dataclass(frozen=True)
class NeutronSide:
    """Where Neutron is; "" for what this machine does not know.

    database: SQLAlchemy URL.  api: HTTP URL.  recoveries: paths of the control sockets of the recovery processes.
    """

    database: str = ""
    api: str = ""
    recoveries: tuple[str, ...] = ()

    @property
    def recovery(self) -> str:
        """The first of them; "" when there is none."""
        return self.recoveries[0] if self.recoveries else ""


@dataclass(frozen=True)
class Deployment:
    """One deployment as seen from the command line.  agents: host name -> path of the control socket."""

    file: Path
    deployment: str
    store: str
    bus: str = ""
    neutron: NeutronSide = NeutronSide()
    agents: Mapping[str, str] = field(default_factory=dict)

    def agents_of(self, host: str | None) -> Mapping[str, str]:
        """The agents to ask: all, or `host`'s alone.  Misconfigured when the file does not list it."""
        if host is None:
            if not self.agents:
                raise Misconfigured("agents", f'{self.file} lists none: add its control socket, host = "/path"')
            return self.agents
        if host not in self.agents:
            known = ", ".join(sorted(self.agents)) or "none"
            raise Misconfigured("--host", f"{self.file} lists no agent of {host}; it lists {known}")
        return {host: self.agents[host]}


def find(named: str | None, environment: Mapping[str, str] = os.environ) -> Deployment:
    """The deployment of `--config`, else of $FLOWLOOM_CONFIG, else of this machine, else of the default lab.

    Misconfigured when a named file cannot be read or none of the usual ones exists.
    """
    if named:
        return load(Path(named), "--config")
    if environment.get(VARIABLE):
        return load(Path(environment[VARIABLE]), VARIABLE)
    for usual in (SYSTEM_FILE, LAB_FILE):
        if usual.exists():
            return load(usual, str(usual))
    raise Misconfigured("--config", f"no deployment to ask: neither {SYSTEM_FILE} nor {LAB_FILE} exists; name a file")


def load(file: Path, setting: str) -> Deployment:
    """The deployment that `file` describes; `setting` named the file.  Misconfigured names the faulty key."""
    try:
        with file.open("rb") as stream:
            table = tomllib.load(stream)
    except OSError as error:
        raise Misconfigured(setting, f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(setting, f"{file} is not TOML: {error}") from error
    reader = _Reader(file)
    reader.only(table, "", {"deployment", "store", "bus", "neutron", "agents"})
    neutron = reader.table(table, "neutron")
    reader.only(neutron, "neutron.", {"database", "api", "recovery"})
    agents = reader.table(table, "agents")
    return Deployment(
        file=file,
        deployment=reader.text(table, "deployment"),
        store=reader.text(table, "store"),
        bus=reader.text(table, "bus", default=""),
        neutron=NeutronSide(
            database=reader.text(neutron, "database", "neutron.", default=""),
            api=reader.text(neutron, "api", "neutron.", default=""),
            recoveries=reader.texts(neutron, "recovery", "neutron."),
        ),
        agents={host: reader.text(agents, host, "agents.") for host in agents},
    )


@dataclass(frozen=True)
class _Reader:
    """Typed look-ups that name file and key when they fail."""

    file: Path

    def only(self, table: Mapping[str, object], prefix: str, known: set[str]) -> None:
        for key in table:
            if key not in known:
                raise Misconfigured(prefix + key, f"{self.file} has no such setting; known: {', '.join(sorted(known))}")

    def table(self, table: Mapping[str, object], key: str) -> Mapping[str, object]:
        value = table.get(key, {})
        if not isinstance(value, dict):
            raise Misconfigured(key, f"in {self.file} this is a section, [{key}]")
        return value

    def text(self, table: Mapping[str, object], key: str, prefix: str = "", default: str | None = None) -> str:
        value = table.get(key, default)
        if value is None:
            raise Misconfigured(prefix + key, f"is missing in {self.file}")
        if not isinstance(value, str) or (default is None and not value):
            raise Misconfigured(prefix + key, f"in {self.file} must be a text in quotes, not {value!r}")
        return value

    def texts(self, table: Mapping[str, object], key: str, prefix: str = "") -> tuple[str, ...]:
        """A text, or a list of texts; () when there is none, or an empty one."""
        value = table.get(key, "")
        items = value if isinstance(value, list) else [value] if value != "" else []
        if not all(isinstance(item, str) and item for item in items):
            raise Misconfigured(
                prefix + key, f"in {self.file} must be a text in quotes, or a list of such, not {value!r}"
            )
        return tuple(items)
