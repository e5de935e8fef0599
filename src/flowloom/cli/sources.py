"""What Neutron's SQL database and the northbound store say, asked directly: no process has to be up for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import NamedTuple
from urllib.parse import urlsplit

from flowloom.cli.deployment import Deployment
from flowloom.cli.diagnosis import InNeutron, InStore, Reported
from flowloom.kernel.errors import Misconfigured, Rejected, Unavailable
from flowloom.model.codec import decode
from flowloom.model.keys import deployment_prefix, key_of, parse_key
from flowloom.model.records import Chassis, Port, PortStatus
from flowloom.northbound.plugins import open_store
from flowloom.northbound.pointer import open_in_force, pointer_key
from flowloom.northbound.store import Entry, Store


class Undone(NamedTuple):
    """Changes in SQL that the store lacks: how many, age of the oldest, and the error that the oldest met."""

    rows: int
    oldest_seconds: float | None
    last_error: str


class Counted(NamedTuple):
    """The store's history and what it holds of the deployment."""

    epoch: str
    objects: int
    tombstones: int


class PortInStore(NamedTuple):
    """What the store holds of a port: its record, whether its host has a live chassis record, its status record."""

    port: InStore | None
    chassis: bool
    report: Reported | None


def backlog(database: str) -> Undone:
    """What the store lacks of what Neutron committed.  Unavailable when the database does not answer."""
    with _explaining():
        from flowloom.neutron import explain
    found = explain.backlog(database)
    return Undone(found.rows, found.oldest_seconds, found.last_error)


def port_in_neutron(deployment: Deployment, port_id: str) -> tuple[InNeutron | None, str]:
    """The port in SQL, and its key in the store; (None, "") when Neutron never had it.

    Unavailable when the database does not answer.
    """
    with _explaining():
        from flowloom.neutron import explain
    found = explain.where_is(deployment.neutron.database, port_id)
    if found is None:
        return None, ""
    port = InNeutron(
        version=found.version,
        synced_version=found.synced_version,
        status=found.status,
        host=found.host,
        vif_type=found.vif_type,
        admin_state_up=found.admin_state_up,
        undone_seconds=found.undone_seconds,
        last_error=found.last_error,
        deleted=found.deleted,
    )
    return port, key_of(deployment.deployment, found.project_id, found.scope, Port.kind, port_id)


@contextmanager
def _explaining() -> Iterator[None]:
    """Reading Neutron's database needs SQLAlchemy and nothing of Neutron."""
    try:
        yield
    except ModuleNotFoundError as error:
        why = f"reading it needs the Python module {error.name}; install it with pip install 'flowloom[neutron]'"
        raise Misconfigured("neutron.database", why) from error


def count_objects(deployment: Deployment) -> Counted:
    """How much the store holds of the deployment.  Unavailable when it does not answer."""
    with opened(deployment) as store:
        versions, cursor = store.versions(deployment_prefix(deployment.deployment))
    versions.pop(pointer_key(deployment.deployment), None)
    tombstones = sum(gone for _, gone in versions.values())
    return Counted(cursor.epoch, len(versions) - tombstones, tombstones)


def port_in_store(deployment: Deployment, port_id: str, key: str, host: str) -> PortInStore:
    """What the store holds of a port.  Unavailable when it does not answer.

    key: the port's, "" when nobody who knows it answers: then it is looked for under every scope.
    host: where Neutron put it; "" to take the record's word.
    """
    with opened(deployment) as store:
        key = key or _search(store, deployment.deployment, port_id)
        entry = store.get([key])[0] if key else None
        port = _port(entry)
        host = host or (port.host if port else "")
        if not host:
            return PortInStore(port, False, None)
        node = (deployment.deployment, "", host)
        chassis, report = store.get([key_of(*node, Chassis.kind, host), key_of(*node, PortStatus.kind, port_id)])
    return PortInStore(port, chassis is not None and chassis.value is not None, _report(report))


@contextmanager
def not_there(group: str, url: str) -> Iterator[None]:
    """What a driver refuses to open is down, for whoever only looks; a URL without a driver stays Misconfigured."""
    try:
        yield
    except Misconfigured as error:
        if urlsplit(url).scheme not in {point.name for point in entry_points(group=group)}:
            raise
        raise Unavailable(error.why) from error


def _search(store: Store, deployment: str, port_id: str) -> str:
    """The key of a port of which only the id is known; a key with a live record wins over a tombstone."""
    found = [
        (gone, key)
        for key, (_, gone) in store.versions(deployment_prefix(deployment)).versions.items()
        if key.endswith(f"/{Port.kind}/{parse_key(key).id}") and parse_key(key).id == port_id
    ]
    return min(found)[1] if found else ""


def _port(entry: Entry | None) -> InStore | None:
    if entry is None:
        return None
    if entry.value is None:
        return InStore(entry.version, deleted=True)
    record = decode(entry.key, entry.value, Port.kind)
    if not isinstance(record, Port):
        raise Rejected(entry.key, f"holds a {record.kind}, not a port")
    return InStore(entry.version, record.host)


def _report(entry: Entry | None) -> Reported | None:
    if entry is None or entry.value is None:
        return None
    record = decode(entry.key, entry.value, PortStatus.kind)
    if not isinstance(record, PortStatus):
        raise Rejected(entry.key, f"holds a {record.kind}, not a port status")
    return Reported(record.port_version, record.up, record.reason)


@contextmanager
def opened(deployment: Deployment) -> Iterator[Store]:
    """The deployment's store, the one in force, while it is looked at.  Unavailable when it does not answer."""
    with not_there("flowloom.stores", deployment.store):
        store = open_in_force(deployment.store, deployment.deployment, open_store).store
    try:
        yield store
    finally:
        store.close()
