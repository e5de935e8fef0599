"""`flowloom port show ID`: ask every layer what it knows of a port, then say why it is not ACTIVE."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from flowloom.cli import recovery, sources
from flowloom.cli.answers import PortAtAgent, RecoveryStatus
from flowloom.cli.ask import ask
from flowloom.cli.deployment import Deployment, find
from flowloom.cli.diagnosis import AtAgent, Diagnosis, Facts, InNeutron, InStore, Reported, Unknown, diagnose
from flowloom.cli.table import clean, emit, say, table
from flowloom.kernel.errors import FlowloomError, Misconfigured

TIMEOUT_SECONDS = 3.0
EXIT_CODES = {"ACTIVE": 0, "not ACTIVE": 1, "unknown": 3, "no such port": 4}


def run(arguments: argparse.Namespace) -> int:
    """Show the way of one port; 0 ACTIVE, 1 not ACTIVE, 3 nobody who could know answers, 4 no such port."""
    diagnosis = diagnose(gather(find(arguments.deployment), arguments.id))
    if arguments.json:
        emit(diagnosis)
    else:
        say(show(diagnosis))
    return EXIT_CODES[diagnosis.verdict]


def show(diagnosis: Diagnosis) -> str:
    """The sentence, then the steps."""
    head = diagnosis.verdict if diagnosis.why == diagnosis.verdict else f"{diagnosis.verdict}: {diagnosis.why}"
    if diagnosis.why.startswith("ACTIVE"):
        head = diagnosis.why
    text = f"port {clean(diagnosis.id)}\n{clean(head)}\n"
    if diagnosis.steps:
        rows = [(step.name, step.state, step.version, step.note) for step in diagnosis.steps]
        text += "\n" + table(("STEP", "STATE", "VERSION", "NOTE"), rows)
    return text


def gather(deployment: Deployment, port_id: str) -> Facts:
    """What each source says of the port; a source that does not answer is Unknown."""
    neutron, key = _neutron(deployment, port_id)
    host = neutron.host if isinstance(neutron, InNeutron) else ""
    held = _store(deployment, port_id, key, host)
    if not host and isinstance(held.port, InStore):
        host = held.port.host
    return Facts(
        id=port_id,
        neutron=neutron,
        store=held.port,
        chassis=held.chassis,
        agent=_agent(deployment, port_id, host),
        report=held.report,
        recovery=_recovery(deployment),
    )


@dataclass(frozen=True)
class _Held:
    port: InStore | Unknown | None
    chassis: bool | Unknown
    report: Reported | Unknown | None


def _neutron(deployment: Deployment, port_id: str) -> tuple[InNeutron | Unknown | None, str]:
    """The port in SQL, and its key in the store ("" when not known)."""
    if not deployment.neutron.database:
        return Unknown("flowloom.toml names no [neutron] database"), ""
    try:
        return sources.port_in_neutron(deployment, port_id)
    except Misconfigured:
        raise
    except FlowloomError as error:
        return Unknown(str(error)), ""


def _store(deployment: Deployment, port_id: str, key: str, host: str) -> _Held:
    try:
        return _Held(*sources.port_in_store(deployment, port_id, key, host))
    except Misconfigured:
        raise
    except FlowloomError as error:
        unknown = Unknown(str(error))
        return _Held(unknown, unknown, unknown)


def _agent(deployment: Deployment, port_id: str, host: str) -> AtAgent | Unknown:
    if not host:
        return Unknown("the port has no host")
    if host not in deployment.agents:
        return Unknown(f"{deployment.file} lists no agent of {host}")
    try:
        found = ask(deployment.agents[host], {"ask": "port", "id": port_id}, PortAtAgent, TIMEOUT_SECONDS)
    except FlowloomError as error:
        return Unknown(str(error))
    return AtAgent(
        in_sync=found.in_sync,
        version=found.version,
        confirmed=found.confirmed,
        ofport=found.ofport,
        interface_error=found.interface_error,
        connected=found.connected,
        refused=tuple(text.removeprefix("flow refused: ") for text in found.refused),
        failed=tuple(text.removeprefix("flows not computed: ") for text in found.failed),
    )


def _recovery(deployment: Deployment) -> Unknown | None:
    if not deployment.neutron.recoveries:
        return None
    try:
        recovery.put(deployment, {"ask": "status"}, RecoveryStatus, TIMEOUT_SECONDS)
    except FlowloomError as error:
        return Unknown(str(error))
    return None
