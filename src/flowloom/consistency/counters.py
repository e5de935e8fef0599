"""What a recovery service has counted: plain numbers, which a shell exports as it likes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counters:
    """Since the service started, unless said otherwise.

    drained: records and tombstones that leftovers' drains brought to the store.  refused: objects that were named.
    unpublished: notices that the bus did not take.  dirty_rows is SQL's to say, not counted here.
    repaired, held, left: differences by kind: repaired; held by a guard at the last round; not repairable there.
    drift: differences by kind that the last round confirmed or suspected.
    lock_waits: projects whose lock another held.  lock_lost: repairs that stopped because the lease ran out.
    takeovers: leases taken from a service that was gone.
    rounds: comparisons of sums.  shards_differing: in the last one.  round_at: when it ended (monotonic);
        round_seconds: how long it took.
    listings: full listings of the store.  reread: values of the store, and objects of Neutron, read again
        without a suspicion.  corrected: keys of which the feed had not told.
    audited: entries written.
    """

    drained: int = 0
    refused: int = 0
    unpublished: int = 0
    repaired: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    drift: Counter[str] = field(default_factory=Counter)
    lock_waits: int = 0
    lock_lost: int = 0
    takeovers: int = 0
    rounds: int = 0
    shards_differing: int = 0
    round_at: float = 0.0
    round_seconds: float = 0.0
    listings: int = 0
    reread: int = 0
    corrected: int = 0
    audited: int = 0
