"""The records that this node alone writes: its chassis and the status of its ports.  Level, not edge.

What should be in the store is compared with what is known to be there; the difference is due, the newest
content only, one call under way at a time, until the store has acknowledged it.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from msgspec.structs import replace

from flowloom.kernel.backoff import Backoff
from flowloom.model.codec import encode
from flowloom.model.records import Record
from flowloom.northbound.store import Outcome, Write

WRITES_MAX: Final = 200
"""Records in one call."""


class OwnRecords:
    """Contents by key.  A record in here carries version 0; versions are given when it is written.

    first_version: `node_version(epoch, 0)` of this life.  Versions go on from there, and above anything
    that the store turns out to hold.
    contests: how often somebody else wrote over what this life had written: two agents of one name.  They
    do not stop, so each waits longer from time to time before it answers.
    contested_at: when that was last answered, on the clock of `due`; None: never.
    """

    def __init__(self, first_version: int, random: Random) -> None:
        self._last_version = first_version
        self._wanted: dict[str, Record] = {}
        self._held: dict[str, Record | None] = {}
        self._held_version: dict[str, int] = {}
        self._differing: dict[str, None] = {}
        self._unsure: set[str] = set()
        self._under_way: dict[str, tuple[int, Record | None]] = {}
        self._backoff = Backoff(random)
        self._not_before = 0.0
        self.contests = 0
        self.contested_at: float | None = None
        self._written: set[str] = set()
        self._contested = False
        self._contest_backoff = Backoff(random)

    def want(self, key: str, record: Record | None) -> None:
        """From now on `key` should hold `record` (None: nothing)."""
        if record is None:
            self._wanted.pop(key, None)
        else:
            self._wanted[key] = replace(record, version=0)
        self._compare(key)

    def found(self, key: str, record: Record) -> None:
        """The store holds `record` at `key`, as a listing or a notice says."""
        version = record.version
        if version <= self._held_version.get(key, -1):
            return
        sent = self._under_way.get(key)
        if sent is not None and version <= sent[0]:
            return  # Older than, or an echo of, what is being written: the outcome will tell.
        if version > self._last_version:
            self._contest(key)
        self._hold(key, version, replace(record, version=0))

    def gone(self, key: str) -> None:
        """The store no longer holds a value at `key`, at a version that is not known."""
        if key not in self._under_way and self._held.get(key) is not None:
            self._held[key] = None
            self._compare(key)

    def holds(self, key: str) -> Record | None:
        """What `key` is known to hold in the store, with its version; None: nothing, or it is not known."""
        record = self._held.get(key)
        return None if record is None or key in self._unsure else replace(record, version=self._held_version[key])

    def doubt_all(self) -> None:
        """The store may be another one: everything is due again, above what it held."""
        for key in self._wanted:
            if key not in self._under_way:
                self._doubt(key)

    def wants(self, key: str) -> bool:
        """Whether `key` should hold something."""
        return key in self._wanted

    @property
    def undone(self) -> int:
        """How many keys do not hold, as far as is known, what they should."""
        return len(self._differing) + len(self._under_way)

    def due(self, now: float) -> list[Write]:
        """What to write now; empty while a call is under way, while backing off, or when all is well."""
        if self._contested:
            self._contested = False
            self.contested_at = now
            self._not_before = max(self._not_before, now + self._contest_backoff.next_delay())
        if self._under_way or not self._differing or now < self._not_before:
            return []
        writes = []
        for key in list(self._differing)[:WRITES_MAX]:
            del self._differing[key]
            self._last_version = version = max(self._last_version, self._held_version.get(key, 0)) + 1
            record = self._wanted.get(key)
            self._under_way[key] = (version, record)
            writes.append(Write(key, version, None if record is None else encode(replace(record, version=version))))
        return writes

    def written(self, outcomes: Sequence[Outcome]) -> list[str]:
        """The store's answer.  Keys that held something newer than expected: they are due again, above it."""
        self._backoff.succeeded()
        stale = []
        sent, self._under_way = self._under_way, {}
        for outcome in outcomes:
            if outcome.key not in sent:
                continue
            version, record = sent[outcome.key]
            if outcome.applied or outcome.held == version:
                self._hold(outcome.key, version, record)
                self._written.add(outcome.key)
                if record is None and outcome.key not in self._wanted:
                    self._written.discard(outcome.key)
            else:
                # A former life with a clock ahead of ours wrote it, or a repeat of ours raced: content unknown.
                stale.append(outcome.key)
                self._contest(outcome.key)
                self._held_version[outcome.key] = outcome.held
                self._doubt(outcome.key)
        return stale

    def not_written(self, now: float) -> float:
        """The store did not answer: all of it is due again after the returned delay in seconds."""
        for key in self._under_way:
            self._doubt(key)
        self._under_way = {}
        delay = self._backoff.next_delay()
        self._not_before = now + delay
        return delay

    def _contest(self, key: str) -> None:
        """The store holds something that is not of this life; somebody's of now, if this life wrote there before."""
        if key in self._written:
            self.contests += 1
            self._contested = self.contests > 1  # Once may be an operator's hand, and is answered at once.

    def _doubt(self, key: str) -> None:
        """What `key` holds is not known: it is due, whatever it should hold, until a write is acknowledged."""
        self._unsure.add(key)
        self._differing[key] = None

    def _hold(self, key: str, version: int, record: Record | None) -> None:
        self._held_version[key] = version
        self._held[key] = record
        self._unsure.discard(key)
        self._compare(key)
        if record is None and key not in self._wanted:
            # Forgotten, but every later version lies above it.
            self._last_version = max(self._last_version, version)
            del self._held[key], self._held_version[key]

    def _compare(self, key: str) -> None:
        if self._wanted.get(key) == self._held.get(key) and key not in self._unsure:
            self._differing.pop(key, None)
        elif key not in self._under_way or self._under_way[key][1] != self._wanted.get(key):
            self._differing[key] = None
