"""What the store holds, as numbers in memory: a version and a mark a key, and their sums by shard.

It is filled by one listing and kept by the change feed.  Whoever fills it says what the store said, in the
order in which it was said; the last word counts, also when it is an older version (somebody may have edited
the store by hand).  One thread uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from flowloom.consistency.marks import NODE_KINDS, SHARDS, mark, shard_of
from flowloom.consistency.table import ShardSum
from flowloom.kernel.errors import Rejected
from flowloom.model.keys import Key, parse_key
from flowloom.northbound.store import Cursor, Entry, Listing, Versions


class Held(NamedTuple):
    """What a key holds.  mark: `marks.mark` of it; 0 where nobody compares contents (node-owned records)."""

    version: int
    mark: int
    tombstone: bool


_TOTAL_BITS = 64


class StoreIndex:
    """Everything under one deployment's prefix.

    complete: it holds every key of the store as of `cursor`; before the first listing, and after the store
        said "start over", it does not, and nothing may be concluded from what is not in it.
    cursor: where the change feed is to go on.
    strange: keys that are none of ours (no record can lie there); they are never touched.
    """

    def __init__(self) -> None:
        self.complete = False
        self.cursor: Cursor | None = None
        self.strange: dict[str, int] = {}
        self._forget()

    def listed(self, listing: Listing) -> None:
        """All of it anew."""
        self._forget()
        self.take(listing.entries)
        self.cursor = listing.cursor
        self.complete = True

    def start_over(self) -> None:
        """The feed is broken: what is known may be old, and is kept until the store is listed again."""
        self.complete = False
        self.cursor = None

    def followed(self, entries: Iterable[Entry], cursor: Cursor) -> None:
        """What the change feed said."""
        self.take(entries)
        self.cursor = cursor

    def take(self, entries: Iterable[Entry]) -> None:
        """Keys hold this."""
        for entry in entries:
            place = _place(entry.key)
            if place is None:
                self.strange[entry.key] = entry.version
            elif place.kind in NODE_KINDS:
                self.nodes[entry.key] = Held(entry.version, 0, entry.value is None)
            else:
                shard = shard_of(place.kind, place.id)
                self._replace(shard, entry.key, Held(entry.version, mark(*entry), entry.value is None))

    def correct(self, asked: Sequence[str], answers: Sequence[Entry | None]) -> list[str]:
        """Keys were asked for just now, and this is what they hold; those of which something else was known.

        The answer is at least as new as all that the feed has said so far: one thread does both.
        """
        wrong = []
        for key, entry in zip(asked, answers, strict=True):
            known = self.get(key)
            if entry is None:
                if known is not None:
                    self._remove(key)
                    wrong.append(key)
                continue
            self.take([entry])
            if self.get(key) != known:
                wrong.append(key)
        return wrong

    def doubtful(self, versions: Versions) -> list[str]:
        """Keys of which a full list of versions says something else than is known here: ask for them."""
        return [
            key
            for key in self.keys() | versions.versions.keys()
            if versions.versions.get(key) != self._version(key) and key not in self.strange
        ]

    def get(self, key: str) -> Held | None:
        """What `key` holds, as far as is known."""
        place = _place(key)
        if place is None:
            return None
        if place.kind in NODE_KINDS:
            return self.nodes.get(key)
        return self._shards[shard_of(place.kind, place.id)].get(key)

    def keys(self) -> set[str]:
        """Every key, node-owned ones included."""
        return set(self.nodes).union(*self._shards)

    def shard(self, shard: int) -> Mapping[str, Held]:
        """The objects of a shard."""
        return self._shards[shard]

    def sum(self, shard: int) -> ShardSum:
        """What `SyncTable.sums` says of the shard if both sides are equal."""
        return ShardSum(len(self._shards[shard]), self._totals[shard])

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def scopes(self) -> Iterator[tuple[str, list[str]]]:
        """Of every node: its name, and the keys that it owns and that hold a value."""
        found: dict[str, list[str]] = {}
        for key, held in self.nodes.items():
            if not held.tombstone:
                found.setdefault(parse_key(key).scope, []).append(key)
        yield from found.items()

    def _version(self, key: str) -> tuple[int, bool] | None:
        held = self.get(key)
        return None if held is None else (held.version, held.tombstone)

    def _forget(self) -> None:
        self.nodes: dict[str, Held] = {}
        self.strange = {}
        self._shards: list[dict[str, Held]] = [{} for _ in range(SHARDS)]
        self._totals = [0] * SHARDS

    def _replace(self, shard: int, key: str, held: Held) -> None:
        before = self._shards[shard].get(key)
        self._shards[shard][key] = held
        self._totals[shard] = (self._totals[shard] + held.mark - (before.mark if before else 0)) % (1 << _TOTAL_BITS)

    def _remove(self, key: str) -> None:
        if self.nodes.pop(key, None) is not None:
            return
        place = parse_key(key)
        shard = shard_of(place.kind, place.id)
        held = self._shards[shard].pop(key)
        self._totals[shard] = (self._totals[shard] - held.mark) % (1 << _TOTAL_BITS)


def _place(key: str) -> Key | None:
    try:
        return parse_key(key)
    except Rejected:
        return None
