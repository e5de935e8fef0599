"""One recovery service as step functions: a shell with threads, or a simulator, calls them.

Nothing here waits, sleeps or starts a thread.  Every step does a bounded amount of work and returns in how
many seconds it wants to be called again (0: at once).  Steps may be called late, twice, or in any order, by
any number of services: what they do is decided by what is, never by what happened before.

A step raises Unavailable when the store or the database did not answer; call it again after a while.
`members_step`, `drain_step` and the rest may run in three threads; one and the same step, and those of the
group `follow_step`, `compare_step`, `audit_step`, in one thread at a time.
"""

from __future__ import annotations

from random import Random

from flowloom.consistency.drain import Northbound
from flowloom.consistency.options import Options
from flowloom.consistency.table import AuditTable, LeaseTable, SyncTable
from flowloom.kernel.clock import Clock


class RecoveryCore:
    """One service.  owner: its name among all of them, for this life only."""

    def __init__(
        self,
        table: SyncTable,
        leases: LeaseTable,
        audit: AuditTable,
        northbound: Northbound,
        clock: Clock,
        random: Random,
        owner: str,
        options: Options,
    ) -> None:
        raise NotImplementedError

    def members_step(self) -> float:
        """Say that this service lives; hold a fair share of the shards; lead, if nobody does."""
        raise NotImplementedError

    def drain_step(self) -> float:
        """Drain what was left dirty for longer than `dirty_seconds`, in all projects."""
        raise NotImplementedError

    def follow_step(self, wait_seconds: float = 0.0) -> float:
        """List the store if that is to be done, else take in what changed in it, waiting at most so long."""
        raise NotImplementedError

    def compare_step(self) -> float:
        """Compare the sums of own shards; look into those that differ; repair what is confirmed."""
        raise NotImplementedError

    def audit_step(self) -> float:
        """Read a little of the store and of Neutron again, difference or not; adopt objects without a row."""
        raise NotImplementedError

    def stop(self) -> None:
        """Give back every lease, so that others take over at once; repeating it does nothing."""
        raise NotImplementedError
