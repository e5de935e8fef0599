"""What a lab remembers between two verbs: one small file, replaced atomically, and one lock."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from flowloom.kernel.errors import Misconfigured
from flowloom.lab.errors import LabFailed
from flowloom.lab.layout import Layout

LOCK_WAIT_SECONDS = 60.0


class Vm(msgspec.Struct, frozen=True):
    """A VM: its Neutron port, its host (`h1`), MAC, and MTU in bytes."""

    name: str
    host: str
    port_id: str
    mac: str
    mtu: int


class State(msgspec.Struct, frozen=True):
    """What the lab consists of.  What runs, is paused or cut is asked of the machine, never remembered.

    phase: `building` until `up` has finished.  boot: the boot of the machine it was built in.
    started: seconds since 1970.  bare: hosts and switches only, without agents and control plane.
    sql, store, bus: URLs; bus "" for none.  own_*: the lab runs it itself.
    store_form: which servers of its own the store consists of (`etcd3`, ...), "" for none; store_port: the first of theirs.
    recoveries: how many recovery processes.  metrics_port: the first of those on which Neutron's side is scraped.
    """

    phase: Literal["building", "up"]
    boot: str
    started: float
    hosts: int
    bare: bool
    sql: str
    store: str
    bus: str
    own_store: bool
    own_bus: bool
    api_port: int
    vms: dict[str, Vm] = {}
    recoveries: int = 1
    metrics_port: int = 0
    store_form: str = ""
    store_port: int = 0
    format: int = 1

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"


def boot_id() -> str:
    """A name for the time since the machine was started: processes and namespaces do not outlive it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def load(layout: Layout) -> State | None:
    """The lab of a directory; None when there is none.  LabFailed when the file is not this program's."""
    try:
        text = layout.state_file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return msgspec.json.decode(text, type=State)
    except msgspec.DecodeError as error:
        raise LabFailed(
            f"{layout.state_file} is damaged or of another release ({error}); `flowloom lab down` cleans up"
        ) from error


def need(layout: Layout) -> State:
    """The lab of a directory.  Misconfigured when there is none that has come up in this boot."""
    state = load(layout)
    if state is None:
        raise Misconfigured("--dir", f"no lab in {layout.dir}: `flowloom lab up` builds one")
    if state.boot != boot_id():
        raise Misconfigured(
            "--dir", f"the lab in {layout.dir} ended with the last reboot: `flowloom lab up` builds it anew"
        )
    if state.phase != "up":
        raise Misconfigured("--dir", f"the lab in {layout.dir} was never finished: `flowloom lab up` builds it anew")
    return state


def save(layout: Layout, state: State) -> None:
    """Replace the lab's file: a reader sees the old one or the new one, whole."""
    write(layout.state_file, msgspec.json.format(msgspec.json.encode(state)).decode() + "\n")


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace the file `path` by `text`, atomically."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)


@contextmanager
def lock(layout: Layout) -> Iterator[None]:
    """Hold the lab for one verb; the directory must exist.  LabFailed when another verb keeps it too long.

    The kernel releases it when its holder ends, however that ends.
    """
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        descriptor = os.open(layout.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _flock(descriptor, deadline, layout)
            if _is_still(layout.lock_file, descriptor):
                break
        except BaseException:
            os.close(descriptor)
            raise
        # `lab down` removed the directory, and the lock with it, while we waited: begin again with the new one.
        os.close(descriptor)
        layout.dir.mkdir(parents=True, exist_ok=True)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int, deadline: float, layout: Layout) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                holder = os.pread(descriptor, 20, 0).decode().strip() or "unknown"
                raise LabFailed(
                    f"another verb is at work on {layout.dir} (pid {holder}): wait for it, or end it"
                ) from error
            time.sleep(0.05)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


@contextmanager
def held(layout: Layout) -> Iterator[State]:
    """The lab that is up, locked for one verb.  Misconfigured when there is none."""
    need(layout)
    with lock(layout):
        yield need(layout)
