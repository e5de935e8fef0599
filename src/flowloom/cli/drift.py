"""`flowloom drift`: are Neutron, the store, every agent and every switch equal, now?  Layer by layer, with reasons.

Exit code: 0 all equal; 1 something differs, or a change is still on its way; 3 nothing differs as far as could be
looked, but a layer did not answer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from flowloom.cli import recovery, replicas, sources
from flowloom.cli.answers import Check, Marks, NeutronDrift, Unequal
from flowloom.cli.ask import ask
from flowloom.cli.deployment import Deployment, find
from flowloom.cli.table import clean, count, emit, say, table
from flowloom.kernel.errors import FlowloomError, Misconfigured
from flowloom.northbound.store import Store

OK, NOT_SO, NO_ANSWER = 0, 1, 3

DRIFT_SECONDS = 300.0
CHECK_SECONDS = 120.0
PAGE_SECONDS = 30.0
MOMENT_SECONDS = 2.0
"""Longer than the heartbeat by which an agent notices what it missed."""

AGENTS_AT_ONCE = 8

State = Literal["equal", "different", "dirty", "unknown", "none"]


@dataclass(frozen=True)
class Difference:
    """What differs, and why we say so.  object: kind and id, or a flow."""

    layer: str
    kind: str
    object: str
    why: str


@dataclass(frozen=True)
class Layer:
    """Two neighbours compared.

    state: `equal`; `different`; `dirty` (equal but for changes on their way); `unknown` (one of the two did not
    answer); `none` (not in this deployment).  compared: objects, or flows.  differences: a sample of `different`.
    """

    layer: str
    state: State
    compared: int | None = None
    different: int | None = None
    note: str = ""
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Report:
    """What one look at everything found."""

    verdict: str
    seconds: float
    layers: tuple[Layer, ...]

    @property
    def code(self) -> int:
        """The exit code."""
        return code_of(self.layers)


def run(arguments: argparse.Namespace) -> int:
    """Compare and show."""
    report = gather(find(arguments.deployment), arguments.limit)
    if arguments.json:
        emit(report)
    else:
        say(show(report))
    return report.code


def gather(
    deployment: Deployment, limit: int, sleep: Callable[[float], None] = time.sleep, moment: float = MOMENT_SECONDS
) -> Report:
    """Compare all layers, north and south at the same time; of each at most `limit` differences are kept."""
    began = time.monotonic()

    def pause() -> None:
        sleep(moment)

    with ThreadPoolExecutor(2) as pool:
        north = pool.submit(_neutron, deployment, limit)
        south = pool.submit(_agents, deployment, limit, pause)
        layers = (north.result(), *south.result())
    return Report(verdict(layers), round(time.monotonic() - began, 2), layers)


def code_of(layers: Sequence[Layer]) -> int:
    """What is certain comes first: a difference that was seen is one, whoever else did not answer."""
    states = {layer.state for layer in layers}
    return NOT_SO if states & {"different", "dirty"} else NO_ANSWER if "unknown" in states else OK


def verdict(layers: Sequence[Layer]) -> str:
    """One line: equal, or what is not."""
    different = sum(layer.different or 0 for layer in layers)
    states = [layer.state for layer in layers]
    said = []
    if "different" in states:
        said.append(f"DIFFERENT: {count(different, 'difference')} in {count(states.count('different'), 'layer')}")
    if "dirty" in states:
        said.append("changes are on their way" if said else "NOT YET EQUAL: changes are on their way; ask again")
    if "unknown" in states:
        silent = count(states.count("unknown"), "layer")
        said.append(f"{silent} could not be compared" if said else f"UNKNOWN: {silent} could not be compared")
    return "; ".join(said) or "equal"


# Neutron <-> store --------------------------------------------------------------------------------


def _neutron(deployment: Deployment, limit: int) -> Layer:
    name = "neutron <-> store"
    if not deployment.neutron.recoveries:
        return Layer(name, "none", note="flowloom.toml names no [neutron] recovery")
    question = {"ask": "drift", "limit": limit}
    try:
        found, _ = recovery.put(deployment, question, NeutronDrift, DRIFT_SECONDS)
    except FlowloomError as error:
        return Layer(name, "unknown", note=str(error))
    return of_neutron(name, found, limit)


def of_neutron(name: str, found: NeutronDrift, limit: int) -> Layer:
    """The recovery process's comparison as a layer."""
    if not found.complete:
        why = found.why or "not everything could be read"
        return Layer(name, "unknown", found.objects, None, f"nothing is said on part of it: {why}")
    different = sum(found.counts.values())
    notes = [f"{number} {kind}" for kind, number in sorted(found.counts.items()) if number]
    notes += [f"{count(found.dirty, 'change')} on the way"] if found.dirty else []
    state: State = "different" if different else "dirty" if found.dirty else "equal"
    sample = tuple(
        Difference(name, one.kind, " ".join(one.object).strip() or one.key, why_of(one))
        for one in found.differences[:limit]
    )
    return Layer(name, state, found.objects, different, "; ".join(notes), sample)


_WHY: Mapping[str, str] = {
    "missing": "Neutron holds version {neutron}, the store nothing",
    "unmarked": "both hold version {store} and the same; only the mark in the sync row is another's",
    "stale": "Neutron holds version {neutron}, the store version {store}",
    "tombstone missing": "it is deleted in Neutron as of version {neutron}, the store holds no tombstone of that",
    "orphan": "the store holds version {store} of what Neutron does not know",
    "different": "both hold version {store}, with different contents",
    "ahead": "the store holds version {store}, Neutron gave out {neutron} only",
    "uncaptured": "its content in Neutron changed past the capture, at version {neutron}",
    "not adopted": "Neutron has it, and no version was ever given to it",
    "status": "Neutron's status of the port is not what its host reports",
    "dead chassis": "the records of a host that no longer lives",
}


def why_of(one: Unequal) -> str:
    """A difference between Neutron and the store, in words."""
    versions = {"neutron": _version(one.neutron_version), "store": _version(one.store_version)}
    words = _WHY.get(one.kind.replace("_", " "), "Neutron: version {neutron}, store: version {store}").format(
        **versions
    )
    where = f" (project {one.project})" if one.project else ""
    found = f"; found by {one.comparison}" if one.comparison else ""
    return words + where + found + (f"; it stays: {one.left}" if one.left else "")


def _version(number: int) -> str:
    return "none" if number < 0 else str(number)


# Store <-> agents <-> switches --------------------------------------------------------------------


def _agents(deployment: Deployment, limit: int, pause: Callable[[], None]) -> list[Layer]:
    if not deployment.agents:
        return []
    agents = sorted(deployment.agents.items())
    with ThreadPoolExecutor(AGENTS_AT_ONCE) as pool:
        switches = [pool.submit(_switch, host, path, limit, pause) for host, path in agents]
        replicas_of = _replicas(deployment, limit, pause)
        return [*replicas_of, *(each.result() for each in switches)]


def _replicas(deployment: Deployment, limit: int, pause: Callable[[], None]) -> list[Layer]:
    agents = sorted(deployment.agents.items())
    try:
        with sources.opened(deployment) as store:
            listing = replicas.list_store(store, deployment.deployment)

            def compared(agent: tuple[str, str]) -> Layer:
                return _replica(*agent, listing, store, limit, pause)

            with ThreadPoolExecutor(AGENTS_AT_ONCE) as pool:
                return list(pool.map(compared, agents))
    except Misconfigured:
        raise
    except FlowloomError as error:
        return [Layer(f"store <-> agent {host}", "unknown", note=f"the store: {error}") for host, _ in agents]


def _replica(
    host: str, path: str, listing: replicas.Listing, store: Store, limit: int, pause: Callable[[], None]
) -> Layer:
    name = f"store <-> agent {host}"

    def put(question: Mapping[str, object]) -> Marks:
        return ask(path, question, Marks, PAGE_SECONDS)

    try:
        found = replicas.compare(put, listing, store.get, pause)
    except FlowloomError as error:
        return Layer(name, "unknown", note=str(error))
    sample = tuple(Difference(name, one.kind, one.key, one.why) for one in found.differences[:limit])
    state: State = "different" if found.differences else "equal"
    return Layer(name, state, found.objects, len(found.differences), found.note, sample)


def _switch(host: str, path: str, limit: int, pause: Callable[[], None]) -> Layer:
    name = f"agent {host} <-> switch"
    try:
        check = ask(path, {"ask": "check"}, Check, CHECK_SECONDS)
        if not check.equal:
            pause()  # A change may have been on its way.
            check = ask(path, {"ask": "check"}, Check, CHECK_SECONDS)
    except FlowloomError as error:
        return Layer(name, "unknown", note=str(error))
    return of_switch(name, check, limit)


def of_switch(name: str, check: Check, limit: int) -> Layer:
    """An agent's full recompute as a layer."""
    notes = [f"{count(check.backlog, 'rule')} to run"] if check.backlog else []
    state: State = "equal" if check.equal else "different" if check.differences else "dirty"
    sample = tuple(Difference(name, "flow", one.flow, _sides(one)) for one in check.differences[:limit])
    return Layer(name, state, check.flows, len(check.differences), "; ".join(notes), sample)


def _sides(one: object) -> str:
    sides = (("full recompute", "oracle"), ("agent", "desired"), ("switch", "installed"))
    return ", ".join(f"{who}: {getattr(one, what) or 'not there'}" for who, what in sides)


def show(report: Report) -> str:
    """The layers as a table, what differs, and the verdict last."""
    cells = [(one.layer, one.state, one.compared, one.different, one.note) for one in report.layers]
    out = [table(("LAYER", "STATE", "COMPARED", "DIFFERENT", "NOTE"), cells)]
    for layer in report.layers:
        if not layer.differences:
            continue
        out.append(f"\n{layer.layer}\n")
        out += [clean(f"    {one.kind}: {one.object}: {one.why}") + "\n" for one in layer.differences]
        more = (layer.different or 0) - len(layer.differences)
        out += [f"    ... and {more} more (--limit)\n"] if more > 0 else []
    out.append(f"\n{report.verdict} ({report.seconds:.1f} s)\n")
    return "".join(out)
