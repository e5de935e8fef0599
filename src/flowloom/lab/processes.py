"""Processes that outlive the verb that started them, and are recognised for certain afterwards.

A pid alone says nothing: the kernel hands it out again.  A process is known by pid, start time and boot, which it
writes itself before it becomes the program it is to be; so there is no moment at which it runs unrecorded.
Each is the leader of a session and a process group of its own, and a signal goes to the whole group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowloom.lab.errors import LabFailed
from flowloom.lab.state import boot_id

# proc(5): the 22nd field of /proc/PID/stat is the start time in clock ticks since boot.
_BIRTH = (
    "pid_file=$1; shift; read -r stat </proc/$$/stat; read -r boot </proc/sys/kernel/random/boot_id; "
    'born() { echo "$1 ${22} $boot" >"$pid_file"; }; born $stat; exec "$@"'
)
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Process:
    """One process of this boot.  born: clock ticks since boot.  leads: signals are for its whole group."""

    pid: int
    born: int
    leads: bool = True

    @property
    def alive(self) -> bool:
        """It runs, or is stopped; a zombie does not count."""
        return _stat(self.pid) == (self.born, True)

    @property
    def gone(self) -> bool:
        """Neither it nor, when it leads a group, any other of the group runs: ports and files are free again."""
        return not self.alive and not (self.leads and _group_runs(self.pid, self.born))

    @property
    def paused(self) -> bool:
        return self.alive and _state(self.pid) in "Tt"

    @property
    def age_seconds(self) -> float:
        """Since its start."""
        ticks = os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - self.born / ticks)

    def send(self, what: signal.Signals) -> None:
        """Signal it; nothing happens when it has ended."""
        if self.gone:
            return
        try:
            if self.leads and (not self.alive or os.getpgid(self.pid) == self.pid):
                os.killpg(self.pid, what)
            else:
                os.kill(self.pid, what)
        except ProcessLookupError:
            pass  # It ended between the question and the signal.


def recorded(pid_file: Path) -> Process | None:
    """The live process of a pid file; None when it has ended, or the pid is somebody else's by now."""
    try:
        pid, born, boot = pid_file.read_text().split()
    except (OSError, ValueError):
        return None
    if not (pid.isdigit() and born.isdigit()) or boot != boot_id():
        return None
    process = Process(int(pid), int(born))
    return process if process.alive else None


def spawn(argv: Sequence[str], pid_file: Path, log_file: Path, env: Mapping[str, str]) -> Process:
    """Start a detached process; its output is appended to `log_file`, its input is empty."""
    pid_file.unlink(missing_ok=True)
    with log_file.open("ab") as log:
        subprocess.run(
            ["setsid", "--fork", "sh", "-c", _BIRTH, "sh", str(pid_file), *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(env),
            cwd="/",
            check=True,
        )
    written = until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"), 10)
    if not written:
        raise LabFailed(f"{argv[0]} did not start: see {log_file}")
    pid, born, _ = pid_file.read_text().split()
    return Process(int(pid), int(born))


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds; False when it did not within `seconds`."""
    deadline = time.monotonic() + seconds
    pause = 0.002
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
    return True


def end(processes: Iterable[Process], grace_seconds: float = 5.0) -> None:
    """End all of them at once: TERM, and KILL for those still there after the grace.  Paused ones wake up first."""
    left = list(processes)
    for process in left:
        process.send(signal.SIGTERM)
        process.send(signal.SIGCONT)
    until(lambda: all(process.gone for process in left), grace_seconds)
    for process in left:
        process.send(signal.SIGKILL)
    until(lambda: all(process.gone for process in left), grace_seconds)


def marked(marker: str) -> list[Process]:
    """Every process of this machine with `NAME=value` in its environment, but not us or our parents."""
    wanted = marker.encode()
    return _found(lambda pid: wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))


def inside(netns: Iterable[str]) -> list[Process]:
    """Every process inside one of these network namespaces, but not us or our parents."""
    wanted = set()
    for name in netns:
        try:
            wanted.add(os.stat(f"/run/netns/{name}").st_ino)
        except FileNotFoundError:
            continue
    return _found(lambda pid: os.stat(f"/proc/{pid}/ns/net").st_ino in wanted) if wanted else []


def _found(matches: Callable[[int], bool]) -> list[Process]:
    spared = _ancestors()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in spared:
            continue
        try:
            if matches(int(entry)):
                born, alive = _stat(int(entry))
                if alive:
                    found.append(Process(int(entry), born, leads=False))
        except OSError:
            continue  # It ended while we looked.
    return found


def _group_runs(leader: int, born: int) -> bool:
    if _stat(leader)[0] not in (born, -1):
        return False  # The number is another's by now, which it becomes only when nobody is left in the group.
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = _fields(int(entry))
        except OSError:
            continue
        if fields[2] == str(leader) and fields[0] not in "ZXx":
            return True
    return False


def _ancestors() -> set[int]:
    found = set()
    pid = os.getpid()
    while pid > 0:
        found.add(pid)
        try:
            pid = int(_fields(pid)[1])
        except OSError:
            break
    return found


def _fields(pid: int) -> list[str]:
    # The second field, the command in brackets, may itself hold spaces and brackets: proc(5).
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _state(pid: int) -> str:
    try:
        return _fields(pid)[0]
    except OSError:
        return "X"


def _stat(pid: int) -> tuple[int, bool]:
    """Start time in clock ticks, and whether it is more than a zombie."""
    try:
        fields = _fields(pid)
    except OSError:
        return -1, False
    return int(fields[19]), fields[0] not in "ZXx"
