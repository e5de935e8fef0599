"""Views of the replica: plain for the oracle and for packets, recording for units, explaining for people."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar

from flowloom.compiler.replica import Shelf, members
from flowloom.compiler.unit import Readers, Unit
from flowloom.model.records import Record

R = TypeVar("R", bound=Record)

Shelves = Mapping[type[Record], Shelf]


class PlainView:
    """Answers without notes: for the oracle and for packet answers."""

    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves

    def get(self, kind: type[R], id: str) -> R | None:
        return self._shelves[kind].rows.get(id)  # type: ignore[return-value]

    def pick(self, kind: type[Record], id: str, field: str) -> Any:
        record = self._shelves[kind].rows.get(id)
        return None if record is None else getattr(record, field)

    def where(self, kind: type[R], index: str, value: Hashable) -> Iterable[R]:
        return members(self._shelves[kind].index[index].get(value))  # type: ignore[return-value]

    def any(self, kind: type[Record], index: str, value: Hashable) -> bool:
        return value in self._shelves[kind].index[index]

    def spread(self, kind: type[Record], index: str, first: Hashable) -> frozenset[Hashable]:
        return frozenset(self._shelves[kind].nest[index].get(first, ()))


class RecordingView:
    """Answers, and notes the unit as a reader of each question.  One is reused for all units."""

    __slots__ = ("_shelves", "reads", "unit")

    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves
        self.unit = Unit(0, "")
        self.reads: list[Readers] = []

    def _note(self, readers: Readers) -> None:
        readers.add(self.unit)
        self.reads.append(readers)

    def get(self, kind: type[R], id: str) -> R | None:
        shelf = self._shelves[kind]
        self._note(shelf.get_asked[id])
        return shelf.rows.get(id)  # type: ignore[return-value]

    def pick(self, kind: type[Record], id: str, field: str) -> Any:
        shelf = self._shelves[kind]
        self._note(shelf.pick_asked[field][id])
        record = shelf.rows.get(id)
        return None if record is None else getattr(record, field)

    def where(self, kind: type[R], index: str, value: Hashable) -> Iterable[R]:
        shelf = self._shelves[kind]
        self._note(shelf.where_asked[index][value])
        return members(shelf.index[index].get(value))  # type: ignore[return-value]

    def any(self, kind: type[Record], index: str, value: Hashable) -> bool:
        shelf = self._shelves[kind]
        self._note(shelf.any_asked[index][value])
        return value in shelf.index[index]

    def spread(self, kind: type[Record], index: str, first: Hashable) -> frozenset[Hashable]:
        shelf = self._shelves[kind]
        self._note(shelf.spread_asked[index][first])
        return frozenset(shelf.nest[index].get(first, ()))


class ExplainingView(PlainView):
    """Answers, and remembers which records were looked at: (kind, id, version or None if absent)."""

    def __init__(self, shelves: Shelves) -> None:
        super().__init__(shelves)
        self.seen: dict[tuple[str, str], int | None] = {}

    def _saw(self, kind: type[Record], id: str) -> None:
        record = self._shelves[kind].rows.get(id)
        self.seen[kind.kind, id] = None if record is None else record.version

    def get(self, kind: type[R], id: str) -> R | None:
        self._saw(kind, id)
        return super().get(kind, id)

    def pick(self, kind: type[Record], id: str, field: str) -> Any:
        self._saw(kind, id)
        return super().pick(kind, id, field)

    def where(self, kind: type[R], index: str, value: Hashable) -> Iterable[R]:
        found = list(super().where(kind, index, value))
        for record in found:
            self._saw(kind, record.id)
        return found
