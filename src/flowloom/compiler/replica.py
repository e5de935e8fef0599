"""The replica: every record the node knows, its indexes, and who asked what.

A question is a set of readers that stands beside what it asks about: noting it is one `set.add` and one
`list.append`; nothing is hashed or built for it.  A reader is a `Unit`, one (rule, record) pair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator

from flowloom.compiler.schema import Kind
from flowloom.compiler.unit import Readers
from flowloom.model.records import Record

Bucket = Record | dict[str, Record]
"""An index bucket is the one record in it, or a dict from two on: most hold one, and a dict costs 232 bytes."""


def members(bucket: Bucket | None) -> Iterable[Record]:
    """The records of a bucket, in no order."""
    if bucket is None:
        return ()
    return bucket.values() if type(bucket) is dict else (bucket,)  # type: ignore[return-value]


def _pair(value: Hashable) -> tuple[Hashable, Hashable]:
    """A value of a nested index."""
    assert isinstance(value, tuple)
    return value[0], value[1]


class Shelf:
    """All records of one kind.

    rows: id -> record.  index: name -> value -> bucket.  nest: nested index -> first -> its seconds.
    The `*_asked` tables hold the readers of each question: the whole record, one field of it, the members
    of a bucket, whether a bucket is empty, the seconds of a first.
    """

    __slots__ = (
        "any_asked", "extractors", "get_asked", "index", "kind", "nest", "pick_asked", "rows", "spread_asked", "where_asked",
    )  # fmt: skip

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.rows: dict[str, Record] = {}
        self.extractors = tuple(kind.indexes.items())
        self.index: dict[str, dict[Hashable, Bucket]] = {name: {} for name in kind.indexes}
        self.nest: dict[str, dict[Hashable, set[Hashable]]] = {name: defaultdict(set) for name in kind.nested}
        self.get_asked: dict[str, Readers] = defaultdict(set)
        self.pick_asked: dict[str, dict[str, Readers]] = {
            field: defaultdict(set) for field in kind.type.__struct_fields__
        }
        self.where_asked: dict[str, dict[Hashable, Readers]] = {name: defaultdict(set) for name in kind.indexes}
        self.any_asked: dict[str, dict[Hashable, Readers]] = {name: defaultdict(set) for name in kind.indexes}
        self.spread_asked: dict[str, dict[Hashable, Readers]] = {name: defaultdict(set) for name in kind.nested}

    def put(self, record: Record) -> None:
        """Take in a record nobody has asked about yet (cold start)."""
        self.rows[record.id] = record
        for name, extract in self.extractors:
            for value in extract(record):
                self._insert(name, value, record)

    def change(self, id: str, new: Record | None, flips: list[tuple[str, Hashable]]) -> list[Readers]:
        """Replace what `id` holds; the reader sets whose question has another answer now.

        flips: gets (index, value) for each bucket that went from empty to not empty or back.
        """
        old = self.rows.get(id)
        woken: list[Readers] = []
        self._wake_of_record(id, old, new, woken)
        for name, extract in self.extractors:
            self._reindex(name, extract(old) if old is not None else (), id, new, extract, woken, flips)
        if new is None:
            self.rows.pop(id, None)
        else:
            self.rows[id] = new
        return woken

    def _wake_of_record(self, id: str, old: Record | None, new: Record | None, woken: list[Readers]) -> None:
        if id in self.get_asked:
            woken.append(self.get_asked[id])
        for field, asked in self.pick_asked.items():
            if asked and id in asked and getattr(old, field, None) != getattr(new, field, None):
                woken.append(asked[id])

    def _reindex(
        self,
        name: str,
        was: tuple[Hashable, ...],
        id: str,
        new: Record | None,
        extract: object,
        woken: list[Readers],
        flips: list[tuple[str, Hashable]],
    ) -> None:
        now: tuple[Hashable, ...] = extract(new) if new is not None else ()  # type: ignore[operator]
        where = self.where_asked[name]
        for value in was:
            if value in where:
                woken.append(where[value])
            if value not in now and self._remove(name, value, id):
                self._flipped(name, value, False, woken)
                flips.append((name, value))
        for value in now:
            if value not in was and value in where:
                woken.append(where[value])
            if new is not None and self._insert(name, value, new):
                self._flipped(name, value, True, woken)
                flips.append((name, value))

    def _insert(self, name: str, value: Hashable, record: Record) -> bool:
        """Put or replace a record in a bucket; True when the bucket was empty."""
        buckets = self.index[name]
        bucket = buckets.get(value)
        if bucket is None:
            buckets[value] = record
            if name in self.nest:
                first, second = _pair(value)
                self.nest[name][first].add(second)
            return True
        if type(bucket) is dict:
            bucket[record.id] = record
        elif bucket.id == record.id:  # type: ignore[union-attr]
            buckets[value] = record
        else:
            buckets[value] = {bucket.id: bucket, record.id: record}  # type: ignore[dict-item, union-attr]
        return False

    def _remove(self, name: str, value: Hashable, id: str) -> bool:
        """Take a record out of a bucket; True when the bucket is empty now."""
        buckets = self.index[name]
        bucket = buckets[value]
        if type(bucket) is dict:
            del bucket[id]
            if len(bucket) == 1:
                (buckets[value],) = bucket.values()
            return False
        del buckets[value]
        if name in self.nest:
            first, second = _pair(value)
            seconds = self.nest[name][first]
            seconds.discard(second)
            if not seconds:
                del self.nest[name][first]
        return True

    def _flipped(self, name: str, value: Hashable, full: bool, woken: list[Readers]) -> None:
        asked = self.any_asked[name]
        if value in asked:
            woken.append(asked[value])
        if name in self.nest:
            first, _ = _pair(value)
            if first in self.spread_asked[name]:
                woken.append(self.spread_asked[name][first])

    def questions(self) -> Iterator[dict[Hashable, Readers]]:
        """Every table of questions, for sweeping and for tests of exactness."""
        yield self.get_asked  # type: ignore[misc]
        yield from self.pick_asked.values()  # type: ignore[misc]
        yield from self.where_asked.values()
        yield from self.any_asked.values()
        yield from self.spread_asked.values()

    def sweep(self) -> int:
        """Forget questions that nobody asks any more; how many."""
        swept = 0
        for asked in self.questions():
            silent = [key for key, readers in asked.items() if not readers]
            swept += len(silent)
            for key in silent:
                del asked[key]
        return swept
