"""What recovery and API workers export: every declared number, from what they have counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

from flowloom.consistency.counters import Counters
from flowloom.consistency.differences import Kind
from flowloom.consistency.drain import Drained
from flowloom.kernel.errors import Rejected
from flowloom.neutron.metrics import (
    RECOVERY_METRICS,
    WORKER_METRICS,
    WorkerCounts,
    recovery_samples,
    worker_samples,
)

STATUS: dict[str, Any] = {
    "backlog": 3,
    "oldest_seconds": None,
    "store": {"connected": True},
    "members": [
        {"owner": "a", "shards": 40, "leader": True, "seconds_left": 9.0},
        {"owner": "b", "shards": 24, "leader": False, "seconds_left": 9.0},
        {"owner": "dead", "shards": 0, "leader": False, "seconds_left": -1.0},
    ],
    "shards": list(range(24)),
    "unknown": [["lamp", "l1"]],
    "guards": 2,
    "round": {"cpu_seconds": 0.004},
    "counts": {"made ACTIVE": 7},
}


class Seen:
    bulk_statements = 5
    uncaptured = 1


def test_recovery_tells_every_declared_number_and_no_other() -> None:
    assert set(recovery_samples(STATUS, Counters(), "a")) == {metric.name for metric in RECOVERY_METRICS}


def test_recoverys_numbers_are_those_of_its_status_and_counters() -> None:
    counters = Counters(drained=9, repaired=Counter({Kind.STALE: 4}), round_seconds=0.02)
    told = recovery_samples(STATUS, counters, "b")
    assert told["flowloom_recovery_dirty_rows"] == 3
    assert told["flowloom_recovery_dirty_oldest_seconds"] == 0.0
    assert told["flowloom_recovery_members"] == 2
    assert told["flowloom_recovery_leads"] == 0.0
    assert recovery_samples(STATUS, counters, "a")["flowloom_recovery_leads"] == 1.0
    assert told["flowloom_recovery_shards"] == 24
    assert told["flowloom_recovery_port_status_changes_total"] == {"ACTIVE": 7, "DOWN": 0}
    repaired = told["flowloom_recovery_repaired_objects_total"]
    assert repaired == dict.fromkeys([kind.value for kind in Kind], 0) | {"stale": 4}


def test_worker_tells_every_declared_number_and_no_other() -> None:
    counts = WorkerCounts(captured=8, errors=2)
    counts.count(Drained(read=3, written=2, refused=(Rejected("k", "w"),), left=("p1", "p2")))
    told = worker_samples(counts, 6, Seen())
    assert set(told) == {metric.name for metric in WORKER_METRICS}
    assert [told[f"flowloom_worker_{what}_total"] for what in (
        "captured_changes", "bulk_statements", "uncaptured_statements", "drained_objects", "refused_objects",
        "lock_waits", "drain_errors",
    )] == [8, 5, 1, 2, 1, 2, 2]  # fmt: skip
    assert told["flowloom_worker_waiting_objects"] == 6
