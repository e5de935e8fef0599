"""Breaking parts of the lab on purpose, and undoing it.

A part is `api`, `recovery` (`recovery@2`, ...), `bus`, `agent@h1`, `switch@h1`, `ovsdb@h1`, a server of the store
(`store@1`, `sentinel@1`) or a host's way to it (`relay@h1`): a process, to be killed or paused; or `store`: all of its
servers, or the embedded store's directory; or `link@h1` (a host's cable to the underlay).  The last two are things, to be
cut off.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import assert_never

from flowloom.lab import host, network, parts, store
from flowloom.lab.errors import LabFailed, NoSuch
from flowloom.lab.layout import HostLayout, Layout, recovery_name
from flowloom.lab.parts import Part
from flowloom.lab.processes import until
from flowloom.lab.state import State


class Store:
    """The embedded store; there is no process behind it."""


@dataclass(frozen=True)
class Servers:
    """The store's servers, Sentinels included."""

    parts: tuple[Part, ...]


class Link:
    """The cable of a host."""

    def __init__(self, host: HostLayout) -> None:
        self.host = host


def names(layout: Layout, state: State) -> list[str]:
    """Every part of the lab, from the top down."""
    recoveries = [recovery_name(number) for number in range(1, state.recoveries + 1)]
    control = ["api", *recoveries] if not state.bare else []
    control += ["bus"] if state.own_bus else []
    control += ["store", *store.member_names(layout, state)] if state.own_store else []
    kinds = ["ovsdb", "switch", "link"] if state.bare else ["ovsdb", "switch", "agent", "link"]
    kinds += ["relay"] if not state.bare and store.relayed_ports(layout, state) else []
    return control + [f"{kind}@h{number}" for number in range(1, state.hosts + 1) for kind in kinds]


def find(layout: Layout, state: State, what: str) -> Part | Store | Servers | Link:
    """The part of a name.  NoSuch when the lab has none, or does not run it itself."""
    known = names(layout, state)
    if what not in known:
        raise NoSuch(f"the lab has no part {what!r}; it has {', '.join(known)}")
    kind, _, which = what.partition("@")
    servers = store.member_parts(layout, state)
    if kind in ("store", "sentinel") and servers:
        return next((part for part in servers if part.name == what), Servers(tuple(servers)))
    if kind == "recovery":
        return parts.recovery(layout, state, int(which or 1))
    at = layout.host(int(which[1:])) if which else layout.host(1)
    match kind:
        case "api":
            return parts.api(layout, state)
        case "bus":
            return parts.bus(layout, state)
        case "agent":
            return parts.agent(at)
        case "switch":
            return parts.switch(at)
        case "ovsdb":
            return parts.ovsdb(at)
        case "relay":
            return parts.relay(at, store.relayed_ports(layout, state))
        case "link":
            return Link(at)
        case _:
            return Store()


def kill(layout: Layout, state: State, what: str) -> None:
    """SIGKILL the part's processes and wait until they are gone; nothing happens when it is down."""
    found = [part.process() for part in _process_parts(layout, state, what, "kill")]
    running = [process for process in found if process is not None]
    for process in running:
        process.send(signal.SIGKILL)
    for process in running:
        if not until(lambda process=process: process.gone, 10):  # type: ignore[misc]
            raise LabFailed(f"{what} (pid {process.pid}) does not die")


def pause(layout: Layout, state: State, what: str) -> None:
    """SIGSTOP the part's processes.  LabFailed when it is down."""
    found = [part.process() for part in _process_parts(layout, state, what, "pause")]
    running = [process for process in found if process is not None]
    if not running:
        raise LabFailed(f"{what} is down: there is nothing to pause")
    for process in running:
        process.send(signal.SIGSTOP)
    for process in running:
        if not until(lambda process=process: process.paused, 10):  # type: ignore[misc]
            raise LabFailed(f"{what} (pid {process.pid}) does not stop")


def cut(layout: Layout, state: State, what: str) -> None:
    """Cut the store or a link off; nothing happens when it is."""
    part = find(layout, state, what)
    match part:
        case Store():
            if not layout.store_cut_dir.exists():
                layout.store_dir.rename(layout.store_cut_dir)
        case Link():
            network.set_link(part.host, up=False)
        case Part():
            raise LabFailed(f"{what} is a process: it can be killed or paused, not cut off")
        case Servers():
            raise LabFailed(f"{what} is processes: they can be stopped, killed or paused, not cut off")
        case _:
            assert_never(part)


def start(layout: Layout, state: State, what: str) -> None:
    """Undo what was done to the part, and wait until it answers; nothing happens when it is up."""
    part = find(layout, state, what)
    match part:
        case Store():
            _heal_store(layout)
        case Link():
            network.set_link(part.host, up=True)
        case Servers():
            store.start(layout, state)
        case Part():
            _start_process(layout, state, part)
        case _:
            assert_never(part)


def _start_process(layout: Layout, state: State, part: Part) -> None:
    process = part.process()
    if process is not None:
        process.send(signal.SIGCONT)
    kind, _, host_name = part.name.partition("@")
    if kind in ("store", "sentinel"):
        store.start_member(layout, state, part.name)
        return
    if kind == "switch" and process is None:
        host.start_switch(layout.host(int(host_name[1:])), state)
        return
    parts.launch(part, layout)
    parts.await_ready(part)


def _heal_store(layout: Layout) -> None:
    if not layout.store_cut_dir.exists():
        return
    if layout.store_dir.exists():
        # Somebody has made an empty store in the meantime; the real one takes its place, that one stays to be looked at.
        stray = layout.dir / "store.stray"
        number = 1
        while stray.exists():
            number += 1
            stray = layout.dir / f"store.stray{number}"
        layout.store_dir.rename(stray)
    layout.store_cut_dir.rename(layout.store_dir)


def _process_parts(layout: Layout, state: State, what: str, verb: str) -> tuple[Part, ...]:
    part = find(layout, state, what)
    if isinstance(part, Servers):
        return part.parts
    if not isinstance(part, Part):
        raise LabFailed(f"{what} is not a process: it can be cut off, not {verb}{'d' if verb.endswith('e') else 'ed'}")
    return (part,)
