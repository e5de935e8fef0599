"""What an operator may choose about recovery, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

from flowloom.consistency.lease import LEASE_SECONDS


@dataclass(frozen=True)
class Options:
    """Rates, periods and bounds of one recovery service.

    deployment: first part of every key.  lease_seconds: of project locks and of the service's own leases.
    dirty_seconds: age at which recovery drains a change that nobody drained.  drain_batch: objects a call.
    compare_seconds: from one comparison of sums to the next.
    suspects_max: differences looked at under locks in one step; the others wait for the next.
    repairs_per_second: objects written by repairs, over all projects.
    guard_share, guard_objects: a repair of more objects than both is held (see `guard`).
    reread_per_second: values of the store, and facts of Neutron, read again each second, difference or not.
    versions_seconds: from one full list of the store's versions to the next.
    adopt_seconds: from one look for objects without a row to the next.
    chassis_dead_seconds: a chassis without bound ports that was not heard for so long is removed.
    audit_keep: entries kept.
    """

    deployment: str
    lease_seconds: float = LEASE_SECONDS
    dirty_seconds: float = 1.0
    drain_batch: int = 200
    compare_seconds: float = 2.0
    suspects_max: int = 1000
    repairs_per_second: float = 500.0
    guard_share: float = 0.05
    guard_objects: int = 50
    reread_per_second: float = 20.0
    versions_seconds: float = 300.0
    adopt_seconds: float = 30.0
    chassis_dead_seconds: float = 86_400.0
    audit_keep: int = 10_000
