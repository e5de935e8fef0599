"""What a lab is made of and how each part is, asked of the machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from flowloom.lab import dhcp, faults, network
from flowloom.lab.layout import Layout
from flowloom.lab.parts import Part
from flowloom.lab.state import State

Condition: TypeAlias = Literal["up", "down", "paused", "cut"]


@dataclass(frozen=True)
class PartStatus:
    """pid, age_seconds: of the process; None for a part without one."""

    name: str
    state: Condition
    pid: int | None = None
    age_seconds: float | None = None


@dataclass(frozen=True)
class VmStatus:
    """A VM.  state: `down` when its namespace is gone.  dhcp: its client runs."""

    name: str
    state: Condition
    host: str
    port_id: str
    mac: str
    mtu: int
    netns: str
    dhcp: bool


@dataclass(frozen=True)
class Status:
    """The whole lab.  api: URL, "" in a bare lab.  age_seconds: since it was built."""

    dir: str
    hosts: int
    api: str
    age_seconds: float
    parts: tuple[PartStatus, ...]
    vms: tuple[VmStatus, ...]

    @property
    def whole(self) -> bool:
        """Everything is up."""
        return all(part.state == "up" for part in self.parts) and all(vm.state == "up" for vm in self.vms)

    def part(self, name: str) -> PartStatus:
        """The part of that name; KeyError when there is none."""
        return {part.name: part for part in self.parts}[name]


def look(layout: Layout, state: State) -> Status:
    """The lab as it is now."""
    return Status(
        dir=str(layout.dir),
        hosts=state.hosts,
        api="" if state.bare else state.api_url,
        age_seconds=max(0.0, time.time() - state.started),
        parts=tuple(_part(layout, state, name) for name in faults.names(layout, state)),
        vms=tuple(_vm(layout, state, name) for name in sorted(state.vms)),
    )


def _part(layout: Layout, state: State, name: str) -> PartStatus:
    part = faults.find(layout, state, name)
    if isinstance(part, faults.Store):
        cut = layout.store_cut_dir.exists()
        return PartStatus(name, "cut" if cut else "up" if layout.store_dir.exists() else "down")
    if isinstance(part, faults.Servers):
        members = [_process(member).state for member in part.parts]
        return PartStatus(name, next((state for state in ("down", "paused") if state in members), "up"))
    if isinstance(part, faults.Link):
        plugged = network.link_is_up(part.host)
        return PartStatus(name, "down" if plugged is None else "up" if plugged else "cut")
    return _process(part)


def _process(part: Part) -> PartStatus:
    process = part.process()
    if process is None:
        return PartStatus(part.name, "down")
    return PartStatus(part.name, "paused" if process.paused else "up", process.pid, round(process.age_seconds, 1))


def _vm(layout: Layout, state: State, name: str) -> VmStatus:
    plan, vm = state.vms[name], layout.vm(name)
    there = Path("/run/netns", vm.netns).exists()
    client = dhcp.running(vm) is not None
    return VmStatus(name, "up" if there else "down", plan.host, plan.port_id, plan.mac, plan.mtu, vm.netns, client)
