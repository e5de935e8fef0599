"""A lease as its holder uses it: it knows by its own clock when to stop acting.

The database decides who holds a lease; the holder counts its time from before it asked, on a clock that
never goes back, less a margin.  So however long an answer took, a process slept, or a wall clock jumped,
the holder stops first.  Safety does not rest on it (versions and fences do); what it saves is work twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flowloom.consistency.table import Lease, LeaseTable
from flowloom.kernel.clock import Clock
from flowloom.kernel.errors import Stale

LEASE_SECONDS = 15.0
"""Above the stall of a Galera cluster that loses a node (6.2 s measured: `docs/guarantees.md`)."""

LEASE_SECONDS_MAX = 120.0
"""A lease that claims to last longer was written under a clock that jumped: anybody may take it."""

MARGIN = 0.2
"""Share of a lease in which its holder does not act any more."""


class LeaseLost(Stale):
    """The lease has run out, or somebody else has it: stop, and begin again by asking for it."""


class Held:
    """A lease while it is held.  Hand it on to whoever acts under it: that is all there is to re-entry."""

    def __init__(self, table: LeaseTable, clock: Clock, lease: Lease, seconds: float, asked_at: float) -> None:
        self.lease = lease
        self._table = table
        self._clock = clock
        self._seconds = seconds
        self._stop_at = asked_at + seconds * (1 - MARGIN)
        self._renew_at = asked_at + seconds / 3

    def check(self) -> None:
        """Renew it when it is time.  LeaseLost when it may not be acted under any more."""
        now = self._clock.monotonic()
        if now >= self._stop_at:
            raise LeaseLost(f"the lease {self.lease.name} ran out while this process was held up")
        if now < self._renew_at:
            return
        if not self._table.renew([self.lease], self._seconds):
            raise LeaseLost(f"the lease {self.lease.name} is somebody else's")
        self._stop_at = now + self._seconds * (1 - MARGIN)
        self._renew_at = now + self._seconds / 3

    def release(self) -> bool:
        """Give it back; False when it is kept, because somebody asked for it: look again, then release again."""
        kept = self._table.release(self.lease)
        if kept is None:
            return True
        self.lease = kept
        return False


def hold(table: LeaseTable, clock: Clock, name: str, owner: str, seconds: float = LEASE_SECONDS) -> Held | None:
    """The lease, or None when another has it (and knows now that somebody asked)."""
    asked_at = clock.monotonic()
    lease = table.take(name, owner, seconds)
    return None if lease is None else Held(table, clock, lease, seconds, asked_at)


@contextmanager
def given_back(held: Held) -> Iterator[Held]:
    """Give the lease back at the end, whoever asked; what they wanted is then theirs to look for."""
    try:
        yield held
    finally:
        while not held.release():
            pass
