"""The store contract: a key-value database seen as versioned bytes.

A store knows keys, versions and bytes, never records.  Every key holds one of: nothing, a value at a
version, or a tombstone (a deleted value's version, empty bytes).  A write is applied if, and only if,
its version is greater than the one held, tombstones included; so late, doubled and reordered writes
are harmless and a deleted object does not rise again.

Calls block and may be made from any thread.  Every call ends within the driver's deadline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Write(NamedTuple):
    """One intended state of one key.  value None: a delete, which leaves a tombstone at `version`."""

    key: str
    version: int
    value: bytes | None


class Entry(NamedTuple):
    """What a key holds.  value None: a tombstone."""

    key: str
    version: int
    value: bytes | None


class Outcome(NamedTuple):
    """What became of one write.  applied: it is now held.  Otherwise `held` (>= the write's version) stays.

    held: the version that the key holds after the call.
    """

    key: str
    applied: bool
    held: int


class Cursor(NamedTuple):
    """A point in a store's history: everything before it has been seen.

    epoch: random, made when the database was created; another epoch is another history.
    position: the driver's own, ordered within one epoch.
    """

    epoch: str
    position: int


class Listing(NamedTuple):
    """All entries under a prefix as of `cursor` (tombstones included), in key order."""

    entries: Sequence[Entry]
    cursor: Cursor


class Versions(NamedTuple):
    """Versions under a prefix as of `cursor`: key -> (version, is a tombstone)."""

    versions: dict[str, tuple[int, bool]]
    cursor: Cursor


class Changes(NamedTuple):
    """Entries changed since a cursor, oldest first (a key changed twice may appear once, at its newest),
    and the cursor to go on from.  Empty when the time ran out without a change."""

    entries: Sequence[Entry]
    cursor: Cursor


@dataclass(frozen=True)
class Capabilities:
    """What a driver guarantees beyond the contract; a capability that is asked for and missing is refused at start.

    atomic_batch: `apply` applies all of its writes or none that is not stale, in one atomic step,
        and no reader sees a part of it.
    batch_writes_max, batch_bytes_max: the most that one atomic step holds, bytes of keys and values together; a
        larger `apply` is several steps, in the order of its writes.  0: no limit.
    watch: `watch` exists and loses nothing.
    consistent_read: `read` and `versions` are snapshots as of their cursor.
    durable: an applied write survives kill -9 of the server (or of every process, for an embedded store).
    value_bytes_max: the largest value; a larger one is Rejected.
    """

    atomic_batch: bool
    watch: bool
    consistent_read: bool
    durable: bool
    value_bytes_max: int
    batch_writes_max: int = 0
    batch_bytes_max: int = 0


class Watch(Protocol):
    """An open change feed from a cursor on.  One thread uses it."""

    def next(self, timeout_seconds: float) -> Changes:
        """Wait for changes, at most `timeout_seconds`.

        Never loses one: StartOver when the cursor cannot be resumed (history trimmed, epoch changed),
        Unavailable when the database does not answer; after Unavailable `next` may be called again.
        """
        ...

    def close(self) -> None:
        """Release what the watch holds; repeating it does nothing."""
        ...


class Store(Protocol):
    """A northbound database.  Errors: Unavailable, StartOver, Rejected (names the key); an absent key is no error."""

    capabilities: Capabilities

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        """Apply each write if it is newer than what its key holds; outcomes in the order of `writes`.

        Atomic per key; per call where `capabilities.atomic_batch`.  Repeating a call is harmless: the
        second time every outcome is `applied=False, held=` the same version.  After Unavailable the
        outcome is unknown: read, or repeat.
        """
        ...

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """What each key holds; None for a key never written."""
        ...

    def read(self, prefix: str) -> Listing:
        """Everything under `prefix`.  Complete or an error, never a part."""
        ...

    def versions(self, prefix: str) -> Versions:
        """Versions without values under `prefix`.  Complete or an error, never a part."""
        ...

    def watch(self, prefix: str, cursor: Cursor) -> Watch:
        """The changes under `prefix` after `cursor` (from a `Listing`, `Versions` or `Changes`)."""
        ...

    def close(self) -> None:
        """Release everything; repeating it does nothing."""
        ...


def pages(items: Sequence[Write], size: int) -> Iterator[Sequence[Write]]:
    """Cut a long batch into calls of at most `size` writes."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
