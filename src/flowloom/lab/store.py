"""The store that a lab brings along: a file, or servers of its own, and what may be done to either.

Each server is a part of its own, `store@1`, `store@2`, ... and `sentinel@1`, ..., in a directory below the lab's; the
hosts reach them through a relay each (`relay@h1`, see `flowloom.lab.relay`).
"""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from flowloom.kernel.errors import Misconfigured
from flowloom.lab import parts, processes
from flowloom.lab.errors import LabFailed, NoSuch
from flowloom.lab.layout import Layout
from flowloom.lab.parts import Part
from flowloom.lab.processes import until
from flowloom.lab.state import State
from flowloom.lab.stores import server
from flowloom.lab.stores.forms import FORMS
from flowloom.lab.stores.server import Member, Members
from flowloom.northbound.plugins import open_store

READY_SECONDS = 90.0
_STOP_SECONDS = 3.0  # Then they are killed, which every one of them survives: etcd looks for a new leader for longer.
_WORDS = 30
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}")
_LOOPBACK = re.compile(r"(?:127\.0\.0\.1|localhost):(\d+)")


def members(layout: Layout, state: State) -> Members | None:
    """The servers that this lab runs; None when its store is a file, or somebody else's."""
    if not state.store_form:
        return None
    return FORMS[state.store_form].members(layout.store_dir, state.store_port)


def member_names(layout: Layout, state: State) -> list[str]:
    """`store@1`, ...; none when there are no servers."""
    found = members(layout, state)
    return [member.name for member in found.all] if found else []


def relayed_ports(layout: Layout, state: State) -> tuple[int, ...]:
    """The ports of the loopback on which the store is, for hosts to reach it."""
    found = members(layout, state)
    if found:
        return found.ports
    netloc = urlsplit(state.store).netloc.rpartition("@")[2]
    matches = (_LOOPBACK.fullmatch(host) for host in netloc.split(","))
    return tuple(int(match[1]) for match in matches if match)


def member_parts(layout: Layout, state: State) -> list[Part]:
    """A part for each server."""
    found = members(layout, state)
    return [part_of(member) for member in found.all] if found else []


def part_of(member: Member) -> Part:
    """The process of a server."""
    return Part(member.name, member.server.dir, member.server.argv, member.server.serves, READY_SECONDS)


def start(layout: Layout, state: State) -> None:
    """Start every server that does not run, let those go on that are paused, and wait until all are one store."""
    found = members(layout, state)
    if found is None:
        return
    _start(layout, found.members)
    try:
        found.join()
    except subprocess.SubprocessError as error:
        raise LabFailed(f"the store's servers did not become one: {_words(error)}") from error
    _await(layout, found.whole)
    _start(layout, found.watchers)
    _await(layout, found.watched)


def start_member(layout: Layout, state: State, name: str) -> None:
    """Start one server, or let a paused one go on; wait until it serves, unless too few others run for that."""
    found = members(layout, state)
    if found is None:
        return
    member = next(member for member in found.all if member.name == name)
    _launch(layout, member)
    running = [each for each in found.members if part_of(each).process() is not None]
    if member in found.watchers or len(running) >= found.quorum:
        parts.await_ready(part_of(member))


def _start(layout: Layout, those: Sequence[Member]) -> None:
    for member in those:
        _launch(layout, member)
    for member in those:
        parts.await_ready(part_of(member))


def _launch(layout: Layout, member: Member) -> None:
    process = part_of(member).process()
    if process is not None:
        process.send(signal.SIGCONT)
        return
    member.server.prepare()
    parts.launch(part_of(member), layout)


def _await(layout: Layout, holds: Callable[[], bool]) -> None:
    if not until(holds, READY_SECONDS):
        raise LabFailed(f"the store's servers are not one store after {READY_SECONDS:g} s; see {layout.store_dir}")


def _words(error: subprocess.SubprocessError) -> str:
    """The end of what a program said before it failed."""
    said = getattr(error, "stdout", None) or getattr(error, "stderr", None) or b""
    return " ".join(said.decode(errors="replace").split()[-_WORDS:]) or str(error)


def stop(layout: Layout, state: State) -> None:
    """End every server in good order; a file is cut off."""
    _need_own(state)
    if not state.store_form:
        if not layout.store_cut_dir.exists():
            layout.store_dir.rename(layout.store_cut_dir)
        return
    running = [part.process() for part in member_parts(layout, state)]
    processes.end([process for process in running if process is not None], _STOP_SECONDS)


def wipe(layout: Layout, state: State) -> None:
    """Throw away everything that the store holds, as who lost its disks; it runs again afterwards, empty."""
    _need_own(state)
    found = members(layout, state)
    if found is None:
        with _new_file(layout):
            pass  # An empty directory: the driver makes the file anew.
        open_store(state.store, "--store").close()
        return
    stop(layout, state)
    for member in found.all:
        server.forget(member.server)
    start(layout, state)


def save(layout: Layout, state: State, name: str) -> None:
    """Keep a copy of all that the store holds now.  Servers are stopped for it and started again."""
    _need_own(state)
    copy = _copy(layout, name)
    if copy.exists():
        raise Misconfigured("NAME", f"there is a copy {name!r} already: choose another name")
    found = members(layout, state)
    if found is None:
        _need_file(layout)
        copy.mkdir(parents=True)
        source, target = sqlite3.connect(_file(layout)), sqlite3.connect(copy / _file(layout).name)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()
        return
    stop(layout, state)
    try:
        for member in found.all:
            server.save(member.server, copy / member.name)
    finally:
        start(layout, state)


def restore(layout: Layout, state: State, name: str) -> None:
    """Put a copy in place of what the store holds, as who restores a backup; servers are stopped and started for it."""
    _need_own(state)
    copy = _copy(layout, name)
    if not copy.exists():
        known = ", ".join(sorted(entry.name for entry in copy.parent.glob("*"))) or "none"
        raise NoSuch(f"the lab has no copy {name!r} of its store; it has {known}")
    found = members(layout, state)
    if found is None:
        with _new_file(layout) as directory:
            shutil.copytree(copy, directory, dirs_exist_ok=True)
        return
    stop(layout, state)
    for member in found.all:
        server.restore(member.server, copy / member.name)
    start(layout, state)


def _need_own(state: State) -> None:
    if not state.own_store:
        raise NoSuch("this lab's store is not its own: whoever runs it can do this" if state.store else "no store")


def _copy(layout: Layout, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise Misconfigured("NAME", f"{name!r}: a copy's name is 1 to 31 of letters, digits, - and _")
    return layout.store_copies_dir / name


def _file(layout: Layout) -> Path:
    return Path(layout.default_store().removeprefix("sqlite:///"))


def _need_file(layout: Layout) -> None:
    if not _file(layout).exists():
        raise LabFailed("the store is cut off: `flowloom lab start store` first")


@contextmanager
def _new_file(layout: Layout) -> Iterator[Path]:
    """A directory to fill, which then takes the place of the file's."""
    _need_file(layout)
    new, old = layout.dir / "store.new", layout.dir / "store.old"
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    yield new
    layout.store_dir.rename(old)
    new.rename(layout.store_dir)
    shutil.rmtree(old)
