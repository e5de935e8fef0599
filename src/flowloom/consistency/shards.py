"""Who lives, who leads, who compares what: all by lease, so that whoever dies is replaced within one lease time.

The shards are dealt in groups.  Everybody sees the same living members and computes the same fair share;
who holds more gives back, who holds less takes what is free.  Nobody tells anybody to do anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from flowloom.consistency.lease import LEASE_SECONDS_MAX, MARGIN
from flowloom.consistency.marks import SHARDS
from flowloom.consistency.table import Holder, Lease, LeaseTable
from flowloom.kernel.clock import Clock

MEMBER_PREFIX = "recovery:member:"
LEADER = "recovery:leader"
GROUP_PREFIX = "recovery:shards:"
GROUPS = 16
"""Shard n belongs to group n % GROUPS: few enough leases to renew in one statement, enough to deal evenly."""


def shards_of(group: int) -> range:
    """The shards of a group."""
    return range(group, SHARDS, GROUPS)


def fair_share(owner: str, members: list[str]) -> int:
    """How many groups `owner` may hold, one of `members`: as many as any other, or one more."""
    rank = sorted(members).index(owner)
    return GROUPS // len(members) + (1 if rank < GROUPS % len(members) else 0)


class Member(NamedTuple):
    """A living service.  shards: how many it holds.  seconds_left: of its lease as a member, by the database's clock."""

    owner: str
    shards: int
    leader: bool
    seconds_left: float


def members_of(holders: Sequence[Holder]) -> list[Member]:
    """The living services, out of all leases that begin with `recovery:`."""
    living = [holder for holder in holders if holder.seconds_left > 0]
    shards = Counter[str]()
    for holder in living:
        if holder.name.startswith(GROUP_PREFIX):
            shards[holder.owner] += len(shards_of(int(holder.name.removeprefix(GROUP_PREFIX))))
    leaders = {holder.owner for holder in living if holder.name == LEADER}
    return [
        Member(holder.owner, shards[holder.owner], holder.owner in leaders, holder.seconds_left)
        for holder in living
        if holder.name.startswith(MEMBER_PREFIX)
    ]


class Shares:
    """One service's leases as a member.  One thread calls `step`; any may ask what is held.

    takeovers: groups (and the leadership) taken from somebody whose lease had run out.
    """

    def __init__(self, leases: LeaseTable, clock: Clock, random: Random, owner: str, seconds: float) -> None:
        self.takeovers = 0
        self._table = leases
        self._clock = clock
        self._random = random
        self._owner = owner
        self._seconds = seconds
        self._held: dict[str, Lease] = {}
        self._until = float("-inf")
        self._members: list[str] = []

    def step(self) -> float:
        """Renew, take, give back; in how many seconds to call again.

        Unavailable: nothing is known to be held any more once the time is up by the own clock.
        """
        asked_at = self._clock.monotonic()
        if self._held:
            renewed = self._table.renew(list(self._held.values()), self._seconds)
            self._held = {lease.name: lease for lease in renewed}
        self._take(MEMBER_PREFIX + self._owner)
        holders = {holder.name: holder for holder in self._table.holders("recovery:")}
        # What claims to last longer than any lease may was taken before the database's clock went back.
        living = {name: holder for name, holder in holders.items() if 0 < holder.seconds_left <= LEASE_SECONDS_MAX}
        members = sorted(
            {holder.owner for name, holder in living.items() if name.startswith(MEMBER_PREFIX)} | {self._owner}
        )
        if LEADER not in living:
            self._take_over(LEADER, holders)
        self._deal(holders, living, members)
        self._members = members
        self._until = asked_at + self._seconds * (1 - MARGIN)
        return self._next_call(living, members)

    def owned(self) -> list[int]:
        """Shards that this service may compare and repair now, by its own clock."""
        if not self._live():
            return []
        names = list(self._held)
        return sorted(
            shard
            for name in names
            if name.startswith(GROUP_PREFIX)
            for shard in shards_of(int(name.removeprefix(GROUP_PREFIX)))
        )

    def leads(self) -> bool:
        """Whether this service is the leader now, by its own clock."""
        return self._live() and LEADER in self._held

    @property
    def members(self) -> list[str]:
        """The living services as of the last step."""
        return self._members

    def release(self) -> None:
        """Give everything back at once, so that nobody has to wait for the leases to run out."""
        self._until = float("-inf")
        while self._held:
            _, lease = self._held.popitem()
            self._give_back(lease)

    def _live(self) -> bool:
        return self._clock.monotonic() < self._until

    def _deal(self, holders: dict[str, Holder], living: dict[str, Holder], members: list[str]) -> None:
        fair = fair_share(self._owner, members)
        groups = [name for name in self._held if name.startswith(GROUP_PREFIX)]
        for name in groups[fair:]:
            self._give_back(self._held.pop(name))
        free = [name for name in map(_group_name, range(GROUPS)) if name not in living and name not in self._held]
        self._random.shuffle(free)
        for name in free[: max(0, fair - len(groups))]:
            self._take_over(name, holders)

    def _take_over(self, name: str, holders: dict[str, Holder]) -> None:
        if self._take(name) and name in holders:
            self.takeovers += 1

    def _take(self, name: str) -> bool:
        if name in self._held:
            return True
        lease = self._table.take(name, self._owner, self._seconds)
        if lease is not None:
            self._held[name] = lease
        return lease is not None

    def _give_back(self, lease: Lease) -> None:
        kept: Lease | None = lease
        while kept is not None:  # Who asked for it takes it when it is free.
            kept = self._table.release(kept)

    def _next_call(self, living: dict[str, Holder], members: list[str]) -> float:
        """Well before the own leases end, when the first foreign one ends, and soon while shares are uneven."""
        wanted = self._seconds / 3
        groups = sum(name.startswith(GROUP_PREFIX) for name in self._held)
        if groups != fair_share(self._owner, members):
            wanted = min(wanted, self._seconds / 15)
        ends = [holder.seconds_left for holder in living.values() if holder.owner != self._owner]
        return max(0.05, min([wanted, *(left + 0.05 for left in ends)]))


def _group_name(group: int) -> str:
    return f"{GROUP_PREFIX}{group}"
