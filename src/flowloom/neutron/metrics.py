"""What Neutron's side exports to Prometheus: the recovery process, and each API worker.

With `[flowloom] metrics = 127.0.0.1:9740` recovery serves on that port, and the n-th API worker of uwsgi on 9740 + n.
Other processes that load Neutron's plug-ins (RPC and periodic workers) serve nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flowloom.consistency.counters import Counters
from flowloom.consistency.differences import Kind
from flowloom.consistency.drain import Drained
from flowloom.kernel.errors import Misconfigured
from flowloom.metrics import Metric, Samples, Server, serve, worker_number
from flowloom.neutron.config import Settings

LOG = logging.getLogger(__name__)

RECOVERY = "recovery"
WORKER = "worker"

RECOVERY_METRICS: tuple[Metric, ...] = (
    Metric("flowloom_recovery_dirty_rows", "gauge", "Changes that Neutron committed and the store lacks."),
    Metric("flowloom_recovery_dirty_oldest_seconds", "gauge", "How long the oldest of them has waited; 0: none does."),
    Metric("flowloom_recovery_unknown_rows", "gauge", "Rows of kinds that this release does not know; they are left alone."),
    Metric("flowloom_recovery_store_connected", "gauge", "1 when the store answered last."),
    Metric("flowloom_recovery_drained_objects_total", "counter", "Objects brought to the store that nobody else had drained."),
    Metric("flowloom_recovery_refused_objects_total", "counter", "Attempts on objects that cannot become records."),
    Metric("flowloom_recovery_unpublished_notices_total", "counter", "Notices that the bus did not take."),
    Metric("flowloom_recovery_drift_objects", "gauge", "Differences of Neutron and the store that the last round saw.", "kind"),
    Metric("flowloom_recovery_repaired_objects_total", "counter", "Objects repaired.", "kind"),
    Metric("flowloom_recovery_held_objects", "gauge", "Differences that a guard held at the last round.", "kind"),
    Metric("flowloom_recovery_left_objects", "gauge", "Differences that cannot be repaired, of the last repair.", "kind"),
    Metric("flowloom_recovery_guards_waiting", "gauge", "Repairs that wait for somebody's word."),
    Metric("flowloom_recovery_lock_waits_total", "counter", "Projects left to the holder of their lock."),
    Metric("flowloom_recovery_lock_losses_total", "counter", "Repairs that stopped because their lock ran out."),
    Metric("flowloom_recovery_lease_takeovers_total", "counter", "Leases taken from a service that was gone."),
    Metric("flowloom_recovery_members", "gauge", "Recovery processes that live, as this one sees them."),
    Metric("flowloom_recovery_leads", "gauge", "1 when this process is the leader."),
    Metric("flowloom_recovery_shards", "gauge", "Shards that this process looks after, of 64."),
    Metric("flowloom_recovery_rounds_total", "counter", "Comparisons of digests with the store."),
    Metric("flowloom_recovery_round_seconds", "gauge", "How long the last one took."),
    Metric("flowloom_recovery_round_cpu_seconds", "gauge", "CPU time of the last one."),
    Metric("flowloom_recovery_shards_differing", "gauge", "Shards whose digests differed at the last one."),
    Metric("flowloom_recovery_listings_total", "counter", "Full listings of the store."),
    Metric("flowloom_recovery_reread_objects_total", "counter", "Objects read again without a suspicion."),
    Metric("flowloom_recovery_corrected_keys_total", "counter", "Keys of which the store's change feed had not told."),
    Metric("flowloom_recovery_audited_entries_total", "counter", "Entries written to the audit."),
    Metric("flowloom_recovery_port_status_changes_total", "counter", "Ports whose status was brought into step.", "to"),
)  # fmt: skip

WORKER_METRICS: tuple[Metric, ...] = (
    Metric("flowloom_worker_captured_changes_total", "counter", "Objects that this worker's commits changed."),
    Metric("flowloom_worker_bulk_statements_total", "counter", "Bulk statements on captured tables that reached a record."),
    Metric("flowloom_worker_uncaptured_statements_total", "counter",
           "Of those, the ones whose objects nobody knows: only the comparison of contents finds what they changed."),
    Metric("flowloom_worker_waiting_objects", "gauge", "Objects that wait for this worker's drain."),
    Metric("flowloom_worker_drained_objects_total", "counter", "Objects that this worker brought to the store."),
    Metric("flowloom_worker_refused_objects_total", "counter", "Attempts on objects that cannot become records."),
    Metric("flowloom_worker_lock_waits_total", "counter", "Projects left to the holder of their lock."),
    Metric("flowloom_worker_drain_errors_total", "counter", "Drains that ended with an error; recovery does what they leave."),
    Metric("flowloom_worker_drain_cpu_seconds_total", "counter", "CPU time of the thread that drains."),
)  # fmt: skip

METRICS = {RECOVERY: RECOVERY_METRICS, WORKER: WORKER_METRICS}


@dataclass
class WorkerCounts:
    """Of one API worker, since it started.  Written by its threads without a lock: a count may be missed.

    cpu_seconds: of the thread that drains.
    """

    captured: int = 0
    drained: int = 0
    refused: int = 0
    left: int = 0
    errors: int = 0
    cpu_seconds: float = 0.0

    def count(self, done: Drained) -> None:
        """Add what a drain did."""
        self.drained += done.written
        self.refused += len(done.refused)
        self.left += len(done.left)


class Captured(Protocol):
    """What is asked of `capture.Capture`."""

    bulk_statements: int
    uncaptured: int


def recovery_samples(status: Mapping[str, Any], counters: Counters, owner: str) -> Samples:
    """The numbers of an answer to `status`, and of what the service has counted."""
    living = [member for member in status["members"] if member["seconds_left"] >= 0]
    return {
        "flowloom_recovery_dirty_rows": status["backlog"],
        "flowloom_recovery_dirty_oldest_seconds": status["oldest_seconds"] or 0.0,
        "flowloom_recovery_unknown_rows": len(status["unknown"]),
        "flowloom_recovery_store_connected": float(status["store"]["connected"]),
        "flowloom_recovery_drained_objects_total": counters.drained,
        "flowloom_recovery_refused_objects_total": counters.refused,
        "flowloom_recovery_unpublished_notices_total": counters.unpublished,
        "flowloom_recovery_drift_objects": _by_kind(counters.drift),
        "flowloom_recovery_repaired_objects_total": _by_kind(counters.repaired),
        "flowloom_recovery_held_objects": _by_kind(counters.held),
        "flowloom_recovery_left_objects": _by_kind(counters.left),
        "flowloom_recovery_guards_waiting": status["guards"],
        "flowloom_recovery_lock_waits_total": counters.lock_waits,
        "flowloom_recovery_lock_losses_total": counters.lock_lost,
        "flowloom_recovery_lease_takeovers_total": counters.takeovers,
        "flowloom_recovery_members": len(living),
        "flowloom_recovery_leads": float(any(each["leader"] and each["owner"] == owner for each in living)),
        "flowloom_recovery_shards": len(status["shards"]),
        "flowloom_recovery_rounds_total": counters.rounds,
        "flowloom_recovery_round_seconds": counters.round_seconds,
        "flowloom_recovery_round_cpu_seconds": status["round"]["cpu_seconds"] or 0.0,
        "flowloom_recovery_shards_differing": counters.shards_differing,
        "flowloom_recovery_listings_total": counters.listings,
        "flowloom_recovery_reread_objects_total": counters.reread,
        "flowloom_recovery_corrected_keys_total": counters.corrected,
        "flowloom_recovery_audited_entries_total": counters.audited,
        "flowloom_recovery_port_status_changes_total": {
            to: status["counts"].get(f"made {to}", 0) for to in ("ACTIVE", "DOWN")
        },
    }


def _by_kind(counts: Counter[str]) -> Mapping[str, float]:
    """Every kind, those that there are none of too: what is not there cannot be watched."""
    return {kind.value: counts[kind] for kind in Kind} | {str(kind): number for kind, number in counts.items()}


def worker_samples(counts: WorkerCounts, waiting: int, capture: Captured) -> Samples:
    """The numbers of an API worker.  waiting: objects that its drain has not come to."""
    return {
        "flowloom_worker_captured_changes_total": counts.captured,
        "flowloom_worker_bulk_statements_total": capture.bulk_statements,
        "flowloom_worker_uncaptured_statements_total": capture.uncaptured,
        "flowloom_worker_waiting_objects": waiting,
        "flowloom_worker_drained_objects_total": counts.drained,
        "flowloom_worker_refused_objects_total": counts.refused,
        "flowloom_worker_lock_waits_total": counts.left,
        "flowloom_worker_drain_errors_total": counts.errors,
        "flowloom_worker_drain_cpu_seconds_total": counts.cpu_seconds,
    }


def serve_recovery(found: Settings, samples: Callable[[], Samples]) -> Server | None:
    """Serve the recovery process's numbers, where that is wanted.  Misconfigured when the port is taken."""
    where = found.metrics_address()
    if where is None:
        return None
    return serve("[flowloom] metrics", where, RECOVERY, RECOVERY_METRICS, samples)


def serve_worker(found: Settings, samples: Callable[[], Samples]) -> Server | None:
    """Serve an API worker's numbers, where that is wanted and this is one.  What prevents it is logged: the API goes on."""
    number = worker_number()
    where = found.metrics_address(number) if number else None
    if where is None:
        return None
    try:
        return serve("[flowloom] metrics", where, WORKER, WORKER_METRICS, samples)
    except Misconfigured as error:
        LOG.error("This API worker exports no numbers: %s", error)
        return None
