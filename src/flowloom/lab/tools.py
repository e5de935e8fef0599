"""The system's own programs: is each there, may we use it, and what did it say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowloom.kernel.errors import Misconfigured
from flowloom.lab.errors import LabFailed
from flowloom.lab.layout import Layout

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")

_PACKAGE_OF = {
    "ip": "iproute2",
    "setsid": "util-linux",
    "sysctl": "procps",
    "ethtool": "ethtool",
    "ovsdb-server": "openvswitch-switch",
    "ovsdb-tool": "openvswitch-common",
    "ovs-vswitchd": "openvswitch-switch",
    "ovs-vsctl": "openvswitch-switch",
    "ovs-appctl": "openvswitch-common",
    "ovs-ofctl": "openvswitch-common",
    "udhcpc": "udhcpc",
    "dhclient": "isc-dhcp-client",
}
_ALWAYS = tuple(name for name in _PACKAGE_OF if name not in ("udhcpc", "dhclient"))
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_TIMEOUT_SECONDS = 30.0
_LOG_TAIL_BYTES = 4000


def environment(layout: Layout, **more: str) -> dict[str, str]:
    """The environment of a process of the lab: this one's, without settings that belong to another cloud or switch."""
    foreign = ("OVS_", "OS_", "FLOWLOOM_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    name, _, value = layout.marker.partition("=")
    return env | {"PATH": _path(), name: value, "PYTHONDONTWRITEBYTECODE": "1"} | more


def require(*programs: str) -> None:
    """Misconfigured, naming the Debian package, when a program is not installed."""
    for program in programs:
        if shutil.which(program, path=_path()) is None:
            raise Misconfigured(program, f"is not installed: apt-get install {_PACKAGE_OF[program]}")


def require_lab(bare: bool) -> None:
    """What every lab needs of this machine.  Misconfigured says what is missing and how to get it."""
    if not sys.platform.startswith("linux"):
        raise Misconfigured("lab", "needs Linux: it is made of network namespaces")
    require_root()
    require(*_ALWAYS)
    if not SCHEMA.exists():
        raise Misconfigured("ovsdb-server", f"{SCHEMA} is missing: apt-get install openvswitch-switch")
    if not bare and not beside_python("uwsgi").exists():
        raise Misconfigured("uwsgi", f"is not installed for {sys.executable}: pip install 'flowloom[lab]'")


def require_root() -> None:
    """Misconfigured when we are not root."""
    if os.geteuid() != 0:
        raise Misconfigured("lab", "needs root, for network namespaces and raw sockets: try again with sudo")


def beside_python(program: str) -> Path:
    """A program that is installed in the environment of this Python."""
    return Path(sys.executable).with_name(program)


def python(*argv: str) -> tuple[str, ...]:
    """A command line for this very Python."""
    return (sys.executable, *argv)


def run(
    argv: Sequence[str], stdin: str = "", env: Mapping[str, str] | None = None, timeout: float = _TIMEOUT_SECONDS
) -> str:
    """Run a program to its end and return what it wrote.  LabFailed with its own words when it fails."""
    command = " ".join(argv[:8])
    try:
        done = subprocess.run(
            list(argv),
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=env or _plain(),
            cwd="/",
        )
    except FileNotFoundError as error:
        raise LabFailed(f"{argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabFailed(f"no answer within {timeout:g} s from: {command}") from error
    if done.returncode != 0:
        words = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise LabFailed(f"{command}: {words}")
    return done.stdout


def last_words(log_file: Path) -> str:
    """The last line of a log, as `: LINE`, or nothing."""
    try:
        tail = log_file.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else ""


def _plain() -> dict[str, str]:
    return {**os.environ, "PATH": _path()}


def _path() -> str:
    return f"{os.environ.get('PATH', '/usr/bin:/bin')}:{_SBIN}"
