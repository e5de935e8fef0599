"""Chassis that are gone for good: their records are removed, so that nobody sends to them any more.

Node-owned records have one writer, the node's agent.  Only when a chassis serves no port and has been silent
for long does recovery write in its stead: a tombstone one above what it held.  An agent that does come back
has a greater epoch in its versions, and its next write wins.
"""

from __future__ import annotations

from typing import Protocol

from flowloom.consistency.compare import ref_of
from flowloom.consistency.differences import Kind
from flowloom.consistency.index import StoreIndex
from flowloom.consistency.table import AuditEntry
from flowloom.kernel.errors import Unavailable
from flowloom.northbound.bus import Publisher
from flowloom.northbound.limits import VERSION_MAX, is_key
from flowloom.northbound.store import Store, Write


class Nodes(Protocol):
    """What is known of the nodes' lives."""

    def bound_hosts(self) -> set[str]:
        """Hosts to which Neutron has bound a port.  Unavailable when the database does not answer."""
        ...

    def silent_seconds(self, chassis: str) -> float:
        """For how long the agent was certainly not heard; 0 where nobody has listened without a gap."""
        ...


def bury_the_dead(
    store: Store, publisher: Publisher | None, index: StoreIndex, nodes: Nodes, dead_seconds: float, by: str
) -> list[AuditEntry]:
    """Tombstones for all records of chassis that are dead; what was done.  Unavailable: some may be written."""
    candidates = [(name, keys) for name, keys in index.scopes() if nodes.silent_seconds(name) >= dead_seconds]
    if not candidates:
        return []
    bound = nodes.bound_hosts()
    buried: list[AuditEntry] = []
    for name, keys in candidates:
        if name in bound:
            continue
        held = [entry for entry in store.get([key for key in keys if is_key(key)]) if entry is not None]
        entries = [entry for entry in held if entry.value is not None and entry.version < VERSION_MAX]
        writes = [Write(entry.key, entry.version + 1, None) for entry in entries]
        outcomes = store.apply(writes)
        index.correct([write.key for write in writes], store.get([write.key for write in writes]))
        _publish(publisher, writes)
        for write, outcome in zip(writes, outcomes, strict=True):
            buried.append(
                AuditEntry(
                    at=0.0,
                    kind=Kind.DEAD_CHASSIS,
                    ref=ref_of(write.key),
                    project_id="",
                    comparison="silence",
                    neutron_version=-1,
                    store_version=write.version - 1,
                    version=outcome.held,
                    done="tombstone written" if outcome.applied else "left: its agent has written meanwhile",
                    verified="the store's answer",
                    by=by,
                )
            )
    return buried


def _publish(publisher: Publisher | None, writes: list[Write]) -> None:
    if publisher is None:
        return
    try:
        publisher.publish([(write.key, write.version, None) for write in writes])
    except Unavailable:
        return  # Followers find it in the store.
