"""Why a port is not ACTIVE: a pure function of what each layer says of it.

The way of a port: accepted (committed in Neutron at a version) → bound (to a host) → store → agent →
interface → switch (confirmed the flows of that version) → report (the agent said so) → ACTIVE in Neutron.
What a later step has seen, an earlier one that does not answer must have let through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flowloom.cli.table import age


@dataclass(frozen=True)
class Unknown:
    """A source that could not be asked, and why."""

    why: str


@dataclass(frozen=True)
class InNeutron:
    """The port and its sync row in Neutron's SQL database.

    undone_seconds: how long its newest version has been waiting for the store; None: it is there.
    last_error: what the last attempt to write it met.  deleted: only the row of a deleted port is left.
    """

    version: int
    synced_version: int
    status: str = "DOWN"
    host: str = ""
    vif_type: str = "unbound"
    admin_state_up: bool = True
    undone_seconds: float | None = None
    last_error: str = ""
    deleted: bool = False


@dataclass(frozen=True)
class InStore:
    """The port's record in the northbound store.  deleted: a tombstone."""

    version: int
    host: str = ""
    deleted: bool = False


@dataclass(frozen=True)
class AtAgent:
    """What the agent of the port's host says.

    version: of the port record it has (None: no record).  confirmed: version whose flows the
    switch confirmed (0: none).
    ofport: OpenFlow port of the interface (None: not plugged).  interface_error: the switch's words on it.
    connected: to the switch.  refused: flows that the switch does not accept, each with its error.
    failed: rules that could not be computed for it, each with its error.
    """

    in_sync: bool = True
    version: int | None = None
    confirmed: int = 0
    ofport: int | None = None
    interface_error: str = ""
    connected: bool = True
    refused: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reported:
    """The status record that the host wrote."""

    port_version: int
    up: bool
    reason: str = ""


@dataclass(frozen=True)
class Facts:
    """What each source says of port `id`.  None: the source was asked and has nothing.

    chassis: whether the store knows an agent on the port's host.  recovery: Unknown when it does not answer.
    """

    id: str
    neutron: InNeutron | Unknown | None
    store: InStore | Unknown | None
    chassis: bool | Unknown
    agent: AtAgent | Unknown
    report: Reported | Unknown | None
    recovery: Unknown | None = None


_PROOFS = ("agent", "switch", "report")

State = Literal["done", "not done", "waits", "unknown"]


@dataclass(frozen=True)
class Step:
    """One step of the way.  version: of the port, as far as this step has one."""

    name: str
    state: State
    version: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The way of a port.  verdict: "ACTIVE", "not ACTIVE", "no such port" or "unknown"; why: one sentence."""

    id: str
    verdict: Literal["ACTIVE", "not ACTIVE", "no such port", "unknown"]
    why: str
    steps: tuple[Step, ...]


def diagnose(facts: Facts) -> Diagnosis:
    """Where the port of `facts` stands, and why it is not ACTIVE."""
    absent = _absent(facts)
    if absent is not None:
        return absent
    way = _Way(facts)
    steps = tuple(_inferred([step() for step in way.steps]))
    active = isinstance(facts.neutron, InNeutron) and facts.neutron.status == "ACTIVE"
    gaps: tuple[State, ...] = ("not done",) if active else ("not done", "unknown")
    blocked = next((n for n, step in enumerate(steps) if step.state in gaps), None)
    if blocked is None:
        return Diagnosis(facts.id, "ACTIVE", "ACTIVE", steps)
    shown = steps[: blocked + 1] + tuple(_waiting(step) for step in steps[blocked + 1 :])
    gap = steps[blocked]
    if active:
        return Diagnosis(facts.id, "ACTIVE", f"ACTIVE in Neutron, but {gap.note}", shown)
    asked = isinstance(facts.neutron, InNeutron) or gap.state == "not done"
    return Diagnosis(facts.id, "not ACTIVE" if asked else "unknown", _sentence(facts, gap), shown)


def _absent(facts: Facts) -> Diagnosis | None:
    """The answer for a port that is not there (or of which nobody who answers knows)."""
    neutron, store = facts.neutron, facts.store
    if isinstance(neutron, InNeutron) and not neutron.deleted:
        return None
    left = (
        f"; the store still holds version {store.version}" if isinstance(store, InStore) and not store.deleted else ""
    )
    if isinstance(neutron, InNeutron):
        return Diagnosis(facts.id, "no such port", f"deleted in Neutron at version {neutron.version}{left}", ())
    if neutron is None:
        return Diagnosis(facts.id, "no such port", f"Neutron has no port {facts.id}{left}", ())
    if isinstance(store, InStore):
        gone = Diagnosis(facts.id, "no such port", f"the store holds a tombstone of it, version {store.version}", ())
        return gone if store.deleted else None
    if store is None:
        return Diagnosis(facts.id, "no such port", f"the store has no port {facts.id}; Neutron: {neutron.why}", ())
    return Diagnosis(facts.id, "unknown", f"Neutron: {neutron.why}; the store: {store.why}", ())


def _sentence(facts: Facts, step: Step) -> str:
    if step.name == "store" and isinstance(facts.neutron, InNeutron):
        return f"committed in Neutron at version {facts.neutron.version}; {step.note}"
    return step.note


def _waiting(step: Step) -> Step:
    """What comes behind the first gap is not a fault of its own; an interface that is missing is still worth saying."""
    if step.state != "not done":
        return step
    return Step(step.name, "waits", step.version, step.note if step.name == "interface" else "")


def _inferred(steps: list[Step]) -> list[Step]:
    """Steps that cannot be asked are done where a later one proves that they were passed."""
    out = []
    for n, step in enumerate(steps):
        # Only a version carries the proof: an interface may be plugged before the port is known.
        proof = [later for later in steps[n + 1 :] if later.state == "done" and later.name in _PROOFS]
        if step.state == "unknown" and proof:
            step = Step(step.name, "done", proof[0].version, f"as the {proof[0].name} shows; {step.note}")
        out.append(step)
    return out


class _Way:
    """The steps of one port, each judged by its own source alone."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._where = f"of {self.host}" if self.host else "of its host"
        self.steps: tuple[Callable[[], Step], ...] = (
            self._accepted,
            self._bound,
            self._store,
            self._agent,
            self._interface,
            self._switch,
            self._report,
            self._active,
        )

    @property
    def wanted(self) -> int:
        """The version that every step must reach: the newest one known."""
        if isinstance(self._facts.neutron, InNeutron):
            return self._facts.neutron.version
        return self._facts.store.version if isinstance(self._facts.store, InStore) else 0

    @property
    def host(self) -> str:
        for source in (self._facts.neutron, self._facts.store):
            if isinstance(source, InNeutron | InStore):
                return source.host
        return ""

    def _accepted(self) -> Step:
        neutron = self._facts.neutron
        if not isinstance(neutron, InNeutron):
            # Not a gap: the port came out of Neutron into the store, so it was accepted.
            why = neutron.why if isinstance(neutron, Unknown) else ""
            return Step("accepted", "done", self.wanted, f"as the store shows; Neutron: {why}")
        if not neutron.admin_state_up:
            return Step("accepted", "not done", neutron.version, "it is switched off: admin_state_up is false")
        return Step("accepted", "done", neutron.version, "committed in Neutron")

    def _bound(self) -> Step:
        neutron, host = self._facts.neutron, self.host
        if not host:
            return Step("bound", "not done", None, "it is not bound to a host: binding:host_id is empty")
        if self._facts.chassis is False:
            return Step("bound", "not done", None, f"no agent on host {host}")
        if isinstance(neutron, InNeutron) and neutron.vif_type == "binding_failed":
            return Step("bound", "not done", None, f"Neutron could not bind it to host {host}: see its log")
        if isinstance(neutron, InNeutron) and neutron.vif_type == "unbound":
            return Step("bound", "not done", None, f"Neutron has not yet bound it to host {host}")
        return Step("bound", "done", None, f"to host {host}")

    def _store(self) -> Step:
        neutron, store = self._facts.neutron, self._facts.store
        if isinstance(store, InStore) and store.version >= self.wanted and not store.deleted:
            return Step("store", "done", store.version, "holds it")
        since = age(neutron.undone_seconds) if isinstance(neutron, InNeutron) else ""
        if isinstance(store, Unknown):
            if isinstance(neutron, InNeutron) and neutron.synced_version >= neutron.version:
                return Step("store", "done", neutron.synced_version, f"as Neutron remembers; the store: {store.why}")
            bracket = f" (since {since})" if since else ""
            return Step("store", "unknown", None, f"not yet in the store: the store does not answer{bracket}")
        held = store.version if store is not None else None
        what = "not yet in the store" if held is None else f"the store still has version {held}"
        if not since:
            return Step("store", "not done", held, f"{what}, although Neutron wrote it: recovery will write it again")
        met = neutron.last_error if isinstance(neutron, InNeutron) else ""
        met = f"; the last attempt met: {met}" if met else ""
        recovery = "; the recovery process does not answer" if self._facts.recovery else ""
        return Step("store", "not done", held, f"{what}: waiting to be written (since {since}){met}{recovery}")

    def _agent(self) -> Step:
        agent = self._facts.agent
        if isinstance(agent, Unknown):
            return Step("agent", "unknown", None, f"the agent {self._where} cannot be asked: {agent.why}")
        if agent.version is not None and agent.version >= self.wanted:
            return Step("agent", "done", agent.version, "has the record")
        if not agent.in_sync:
            return Step("agent", "not done", agent.version, f"the agent {self._where} is not in sync with the store")
        has = "has not received it" if agent.version is None else f"still has version {agent.version}"
        return Step("agent", "not done", agent.version, f"the agent {self._where} {has}")

    def _interface(self) -> Step:
        agent = self._facts.agent
        if isinstance(agent, Unknown):
            return Step("interface", "unknown", None, f"the agent {self._where} cannot be asked")
        if agent.interface_error:
            note = f"the interface {self._where} could not be brought up: {agent.interface_error}"
            return Step("interface", "not done", None, note)
        if agent.ofport is None:
            on = f" on {self.host}" if self.host else ""
            note = f"no interface with external_ids:iface-id={self._facts.id}{on}"
            return Step("interface", "not done", None, note)
        return Step("interface", "done", None, f"OpenFlow port {agent.ofport}")

    def _switch(self) -> Step:
        agent = self._facts.agent
        if isinstance(agent, Unknown):
            return Step("switch", "unknown", None, f"the agent {self._where} cannot be asked")
        if agent.failed:
            note = f"the agent {self._where} could not compute its flows: {agent.failed[0]}"
            return Step("switch", "not done", agent.confirmed, note)
        if agent.refused:
            return Step(
                "switch", "not done", agent.confirmed, f"the switch {self._where} refused a flow: {agent.refused[0]}"
            )
        if agent.confirmed >= self.wanted:
            return Step("switch", "done", agent.confirmed, "confirmed its flows")
        if not agent.connected:
            note = f"the switch {self._where} is not connected to its agent"
            return Step("switch", "not done", agent.confirmed, note)
        note = f"the switch {self._where} has not yet confirmed the flows of version {self.wanted}"
        return Step("switch", "not done", agent.confirmed, note)

    def _report(self) -> Step:
        report = self._facts.report
        if isinstance(report, Unknown):
            return Step("report", "unknown", None, f"the store does not answer: {report.why}")
        if report is None:
            return Step("report", "not done", None, f"the agent {self._where} has not yet reported it")
        if not report.up:
            said = report.reason or "without a reason"
            return Step("report", "not done", report.port_version, f"the agent {self._where} reports it down: {said}")
        if report.port_version < self.wanted:
            note = f"the agent {self._where} has reported version {report.port_version}, not yet {self.wanted}"
            return Step("report", "not done", report.port_version, note)
        return Step("report", "done", report.port_version, "up")

    def _active(self) -> Step:
        neutron = self._facts.neutron
        if not isinstance(neutron, InNeutron):
            why = neutron.why if isinstance(neutron, Unknown) else ""
            return Step("ACTIVE", "unknown", None, f"reported up, but Neutron cannot be asked: {why}")
        if neutron.status == "ACTIVE":
            return Step("ACTIVE", "done", None, "status in Neutron")
        recovery = "; the recovery process does not answer" if self._facts.recovery else ""
        note = f"the agent {self._where} reported it up; Neutron still says {neutron.status}{recovery}"
        return Step("ACTIVE", "not done", None, note)
