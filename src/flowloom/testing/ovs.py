"""A real Open vSwitch in a directory: its own ovsdb-server and ovs-vswitchd, nothing shared with the machine's.

The datapath is the userspace one with dummy interfaces, so neither namespaces nor privileges are used and
any number run side by side.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
_DEADLINE_SECONDS = 20.0


@dataclass
class RunningOvs:
    """A running switch.

    run_dir: holds `<bridge>.mgmt`, one OpenFlow socket a bridge.  ovsdb: connection string of the database.
    """

    run_dir: Path
    ovsdb: str
    database: subprocess.Popen[bytes]
    switch: subprocess.Popen[bytes]
    environment: dict[str, str] = field(repr=False)

    def vsctl(self, *arguments: str) -> str:
        """`ovs-vsctl` on this database; waits until ovs-vswitchd has done it."""
        return self.run("ovs-vsctl", "--timeout=10", f"--db={self.ovsdb}", *arguments)

    def ofctl(self, *arguments: str) -> str:
        """`ovs-ofctl` over OpenFlow 1.5; name a bridge by its socket, see `address`."""
        return self.run("ovs-ofctl", "-OOpenFlow15", *arguments)

    def appctl(self, *arguments: str) -> str:
        """`ovs-appctl` to this ovs-vswitchd."""
        return self.run("ovs-appctl", f"--target={self.run_dir}/vswitchd.ctl", *arguments)

    def run(self, *command: str) -> str:
        """Standard output of `command`; its standard error stands in the RuntimeError when it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def address(self, bridge: str) -> str:
        """Path of the OpenFlow socket of `bridge`."""
        return str(self.run_dir / f"{bridge}.mgmt")

    def add_bridge(self, bridge: str, ports: int = 0) -> str:
        """Make a bridge with dummy ports p1 to p`ports` (ofport 1…); the path of its OpenFlow socket."""
        changes = [
            "--may-exist",
            "add-br",
            bridge,
            "--",
            "set",
            "bridge",
            bridge,
            "datapath_type=dummy",
            "fail-mode=secure",
        ]
        for port in range(1, ports + 1):
            name = f"{bridge}-p{port}"
            changes += ["--", "--may-exist", "add-port", bridge, name, "--", "set", "interface", name, "type=dummy"]
            changes += [f"ofport_request={port}"]
        self.vsctl(*changes)
        _wait(Path(self.address(bridge)).exists, f"no socket of {bridge}", self.switch)
        return self.address(bridge)

    def kill_database(self) -> None:
        """Kill ovsdb-server as a crash would: SIGKILL."""
        self.database.kill()
        self.database.wait()

    def start_database(self) -> None:
        """Start ovsdb-server (again) on the database that is there."""
        (self.run_dir / "db.sock").unlink(missing_ok=True)
        self.database = _start_database(self.run_dir, self.environment)
        _wait((self.run_dir / "db.sock").exists, "ovsdb-server does not answer", self.database)

    def kill_switch(self) -> None:
        """Kill ovs-vswitchd as a crash would: SIGKILL."""
        self.switch.kill()
        self.switch.wait()

    def start_switch(self) -> None:
        """Start ovs-vswitchd (again) and wait until it has done what the database says."""
        self.switch = _start_switch(self.run_dir, self.environment)


@contextmanager
def real_ovs(directory: Path) -> Iterator[RunningOvs]:
    """Run a switch in `directory`, which exists; its processes end with the context, whatever happened inside.

    The path must be short: a unix socket's address holds 107 bytes.
    """
    environment = dict(os.environ)
    for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"):
        environment[name] = str(directory)
    database: subprocess.Popen[bytes] | None = None
    ovs: RunningOvs | None = None
    try:
        database = _start_database(directory, environment)
        socket = directory / "db.sock"
        _wait(socket.exists, "ovsdb-server does not answer", database)
        subprocess.run(
            ["ovs-vsctl", "--retry", "--timeout=20", "--no-wait", f"--db=unix:{socket}", "init"],
            env=environment,
            check=True,
            timeout=30,
        )
        switch = _start_switch(directory, environment)
        ovs = RunningOvs(directory, f"unix:{socket}", database, switch, environment)
        yield ovs
    finally:
        if ovs is not None:
            _end(ovs.switch)
            _end(ovs.database)
        elif database is not None:
            _end(database)


def _start_database(directory: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    database = directory / "conf.db"
    if not database.exists():
        subprocess.run(["ovsdb-tool", "create", str(database), str(SCHEMA)], env=environment, check=True, timeout=30)
    (directory / "db.sock").unlink(missing_ok=True)
    return _spawn(
        environment,
        "ovsdb-server",
        str(database),
        f"--remote=punix:{directory}/db.sock",
        f"--unixctl={directory}/ovsdb.ctl",
        f"--log-file={directory}/ovsdb-server.log",
        "-vconsole:off",
    )


def _start_switch(directory: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    control = directory / "vswitchd.ctl"
    control.unlink(missing_ok=True)
    process = _spawn(
        environment,
        "ovs-vswitchd",
        f"unix:{directory}/db.sock",
        "--enable-dummy=override",
        "--disable-system",
        f"--unixctl={control}",
        f"--log-file={directory}/ovs-vswitchd.log",
        "-vconsole:off",
        "-vfile:info",
    )
    try:
        _wait(control.exists, "ovs-vswitchd does not start", process)
        # ovs-vsctl waits for the switch only when it changed something.
        subprocess.run(
            [
                "ovs-vsctl",
                "--retry",
                "--timeout=20",
                f"--db=unix:{directory}/db.sock",
                "set",
                "open_vswitch",
                ".",
                f"other_config:flowloom-test={process.pid}",
            ],
            env=environment,
            check=True,
            timeout=30,
        )
    except BaseException:
        _end(process)
        raise
    return process


def _spawn(environment: dict[str, str], *command: str) -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdin=null, stdout=null, stderr=null, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(condition: Callable[[], bool], otherwise: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(otherwise)
        time.sleep(0.01)
