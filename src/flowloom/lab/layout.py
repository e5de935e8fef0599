"""Every name that a lab uses, derived from its directory: two labs on one machine share none.

The namespaces of the lab in /run/flowloom-lab are called `fl<hash>-net` (the underlay), `fl<hash>-h1` (a host),
`fl<hash>-vm-NAME` (a VM), where the hash is that of the directory's path.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from flowloom.kernel.errors import Misconfigured

DEFAULT_DIR = Path("/run/flowloom-lab")
DEPLOYMENT = "lab"
CLOUD = "flowloom"

HOSTS_MAX = 99
RECOVERIES_MAX = 9
UNDERLAY_MTU = 1600
"""Bytes; a VM's 1500 and a Geneve header fit."""

_SOCKET_PATH_MAX = 107  # sockaddr_un.sun_path holds 108 bytes, the last one a zero: unix(7)
_LONGEST_SOCKET = "h99/ovsdb-server.ctl"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_HOST = re.compile(r"h([1-9][0-9]?)")


@dataclass(frozen=True)
class Layout:
    """Paths and names of the lab in `dir`, an absolute path without symbolic links."""

    dir: Path

    @classmethod
    def of(cls, dir: Path | str) -> Layout:
        """The layout of a directory.  Misconfigured when unix sockets in it would have too long a path."""
        path = Path(dir).expanduser().resolve()
        limit = _SOCKET_PATH_MAX - len("/" + _LONGEST_SOCKET)
        length = len(str(path).encode())
        if length > limit:
            raise Misconfigured(
                "--dir", f"{path} is {length} bytes long and unix sockets allow {limit}: choose a shorter one"
            )
        if re.search(r"[^A-Za-z0-9_./+@-]", str(path)):
            raise Misconfigured(
                "--dir", f"{str(path)!r}: use letters, digits and _./+@- only, the path becomes part of URLs"
            )
        return cls(path)

    @property
    def prefix(self) -> str:
        """What the names of this lab's namespaces begin with."""
        return f"fl{hashlib.sha256(str(self.dir).encode()).hexdigest()[:6]}-"

    @property
    def marker(self) -> str:
        """The environment variable by which a process of this lab is recognised, even without its pid file."""
        return f"FLOWLOOM_LAB={self.dir}"

    @property
    def underlay(self) -> str:
        """The namespace with the bridge that stands for the network between the hosts."""
        return self.prefix + "net"

    @property
    def state_file(self) -> Path:
        return self.dir / "lab.json"

    @property
    def lock_file(self) -> Path:
        return self.dir / "lab.lock"

    @property
    def failed_dir(self) -> Path:
        """Where the files of an `up` that failed go, logs above all."""
        return self.dir.with_name(self.dir.name + ".failed")

    @property
    def clouds_file(self) -> Path:
        return self.dir / "clouds.yaml"

    @property
    def deployment_file(self) -> Path:
        return self.dir / "flowloom.toml"

    @property
    def store_dir(self) -> Path:
        return self.dir / "store"

    @property
    def store_cut_dir(self) -> Path:
        """Where the store's directory is while it is cut off."""
        return self.dir / "store.cut"

    @property
    def store_copies_dir(self) -> Path:
        """Copies of what the store held."""
        return self.dir / "store.copies"

    @property
    def bus_dir(self) -> Path:
        return self.dir / "bus"

    @property
    def neutron_dir(self) -> Path:
        return self.dir / "neutron"

    def recovery_socket(self, number: int) -> Path:
        """The control socket of the recovery process `number`, counted from 1."""
        return self.dir / f"{recovery_name(number)}.sock"

    def recovery_file(self, number: int) -> Path:
        """What the recovery process `number` has of its own, beside neutron.conf."""
        return self.neutron_dir / f"{recovery_name(number)}.conf"

    def default_sql(self) -> str:
        """SQLAlchemy URL of the database that the lab brings along."""
        return f"sqlite+immediate:///{self.dir}/neutron.sqlite"

    def default_store(self) -> str:
        return f"sqlite:///{self.store_dir}/northbound.sqlite"

    def default_bus(self) -> str:
        return f"zmq+ipc://{self.bus_dir}"

    def host(self, number: int) -> HostLayout:
        return HostLayout(self, number)

    def vm(self, name: str) -> VmLayout:
        return VmLayout(self, name)


@dataclass(frozen=True)
class HostLayout:
    """Paths, names and addresses of host `number`, counted from 1."""

    lab: Layout
    number: int

    @property
    def name(self) -> str:
        return f"h{self.number}"

    @property
    def dir(self) -> Path:
        return self.lab.dir / self.name

    @property
    def netns(self) -> str:
        return self.lab.prefix + self.name

    @property
    def uplink(self) -> str:
        """The host's cable, as the underlay's bridge sees it."""
        return f"u{self.number}"

    @property
    def tunnel_ip(self) -> str:
        return f"192.168.50.{self.number}"

    @property
    def tunnel_mac(self) -> str:
        return f"02:00:c0:a8:32:{self.number:02x}"

    @property
    def ovsdb(self) -> str:
        """The switch's configuration database, as `ovs-vsctl --db` takes it."""
        return f"unix:{self.dir}/db.sock"

    @property
    def openflow(self) -> str:
        """The OpenFlow management socket of br-int, as `ovs-ofctl` takes it."""
        return f"unix:{self.dir}/br-int.mgmt"

    @property
    def switch_control(self) -> Path:
        """The socket of `ovs-appctl -t`."""
        return self.dir / "ovs-vswitchd.ctl"

    @property
    def agent_file(self) -> Path:
        return self.dir / "agent.toml"

    @property
    def agent_socket(self) -> Path:
        return self.dir / "agent.sock"

    @property
    def relay_socket(self) -> Path:
        """Somebody listens here once the host reaches the store's ports."""
        return self.dir / "relay.sock"


@dataclass(frozen=True)
class VmLayout:
    """Paths and names of a VM."""

    lab: Layout
    name: str

    @property
    def dir(self) -> Path:
        return self.lab.dir / "vms" / self.name

    @property
    def netns(self) -> str:
        return f"{self.lab.prefix}vm-{self.name}"

    @property
    def resolv_conf(self) -> Path:
        """`ip netns exec` binds this file over /etc/resolv.conf: ip-netns(8)."""
        return Path("/etc/netns") / self.netns / "resolv.conf"

    @property
    def interface(self) -> str:
        """The VM's cable as its host sees it: 15 bytes at most, unique on a machine."""
        return f"tap{hashlib.sha256(self.name.encode()).hexdigest()[:11]}"


def recovery_name(number: int) -> str:
    """The part's name of recovery process `number`: `recovery`, `recovery@2`, ..."""
    return "recovery" if number == 1 else f"recovery@{number}"


def host_number(name: str, hosts: int) -> int:
    """The number in a host's name (`h2` -> 2).  Misconfigured when the lab has no such host."""
    match = _HOST.fullmatch(name)
    if match is None or int(match[1]) > hosts:
        raise Misconfigured("--host", f"{name} is not a host of this lab; it has h1 to h{hosts}")
    return int(match[1])


def check_vm_name(name: str) -> str:
    """`name`, if a VM may be called that.  Misconfigured otherwise."""
    if not _NAME.fullmatch(name) or _HOST.fullmatch(name):
        raise Misconfigured("NAME", f"{name!r}: a VM's name is 1 to 32 of a-z, 0-9 and -, and not h1, h2, ...")
    return name
