"""Flow tables searched by tuple space: one dict look-up for each set of masks in use.

A match is compiled once per distinct bytes and shared by every table of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from flowloom.openflow import facts
from flowloom.openflow import fields as f
from flowloom.openflow.fields import XREGS, XXREGS, Field
from flowloom.openflow.match import Term, decode_match
from flowloom.testing.frames import REGISTERS

if TYPE_CHECKING:
    from flowloom.testing.datapath import Walk


class Ambiguous(AssertionError):
    """Two flows of one priority match a packet and differ in what they do: which one runs is anybody's guess."""


Selector: TypeAlias = Callable[[list[int]], Hashable]
Run: TypeAlias = "Callable[[Walk], bool | None]"
"""One compiled action; True ends the list it stands in."""


class Program(NamedTuple):
    """Compiled instructions: what to run, where to go on, which groups are named."""

    runs: tuple[Run, ...]
    goto: int | None
    groups: frozenset[int]


class Flow(NamedTuple):
    """A flow in its table."""

    key: bytes
    value: bytes
    table: int
    priority: int
    cookie: int
    program: Program


class Subtable:
    """The flows of a table that look at the same bits."""

    __slots__ = ("flows", "priorities", "priority_max", "select")

    def __init__(self, select: Selector) -> None:
        self.select = select
        self.flows: dict[Hashable, list[Flow]] = {}
        self.priorities: dict[int, int] = {}
        self.priority_max = -1

    def put(self, wanted: Hashable, flow: Flow) -> None:
        """Add a flow that is not there."""
        bucket = self.flows.setdefault(wanted, [])
        bucket.append(flow)
        bucket.sort(key=lambda one: -one.priority)
        self.priorities[flow.priority] = self.priorities.get(flow.priority, 0) + 1
        self.priority_max = max(self.priority_max, flow.priority)

    def remove(self, wanted: Hashable, key: bytes) -> None:
        """Remove a flow that is there."""
        bucket = self.flows[wanted]
        flow = next(one for one in bucket if one.key == key)
        bucket.remove(flow)
        if not bucket:
            del self.flows[wanted]
        self.priorities[flow.priority] -= 1
        if not self.priorities[flow.priority]:
            del self.priorities[flow.priority]
            self.priority_max = max(self.priorities, default=-1)


class Table:
    """One flow table."""

    def __init__(self) -> None:
        self.subtables: dict[tuple[tuple[int, int], ...], Subtable] = {}
        self._order: list[Subtable] | None = []

    def put(self, flow: Flow) -> None:
        """Add a flow whose key is not there."""
        masks, wanted = compile_match(flow.key[4:])
        subtable = self.subtables.get(masks)
        if subtable is None:
            subtable = self.subtables[masks] = Subtable(_selector(masks))
        subtable.put(wanted, flow)
        self._order = None

    def remove(self, key: bytes) -> None:
        """Remove the flow of a key that is there."""
        masks, wanted = compile_match(key[4:])
        subtable = self.subtables[masks]
        subtable.remove(wanted, key)
        if not subtable.flows:
            del self.subtables[masks]
        self._order = None

    def find(self, values: list[int]) -> Flow | None:
        """The matching flow of the highest priority; Ambiguous when two of them differ in what they do."""
        if self._order is None:
            self._order = sorted(self.subtables.values(), key=lambda one: -one.priority_max)
        best: Flow | None = None
        for subtable in self._order:
            if best is not None and subtable.priority_max < best.priority:
                break
            found = subtable.flows.get(subtable.select(values))
            if found is None:
                continue
            flow = found[0]
            if best is None or flow.priority > best.priority:
                best = flow
            elif flow.priority == best.priority and flow.value[8:] != best.value[8:]:
                raise Ambiguous(f"{flow_text(best.key)} and {flow_text(flow.key)}")
        return best


@lru_cache(maxsize=1 << 16)
def compile_match(match: bytes) -> tuple[tuple[tuple[int, int], ...], Hashable]:
    """The (field, mask) pairs a match looks at, registers in 32 bits, and what it wants to find there."""
    masks: list[tuple[int, int]] = []
    wanted = [0] * len(f.FIELDS)
    for term in decode_match(match):
        for index, value, mask in parts(term.field, term.value, term.mask):
            masks.append((index, mask))
            wanted[index] = value
    ordered = tuple(sorted(masks))
    return ordered, _selector(ordered)(wanted)


def parts(field: Field, value: int, mask: int) -> Iterator[tuple[int, int, int]]:
    """(field, value, mask) with wide registers in 32-bit pieces, empty ones left out."""
    where = places(field)
    for n, index in enumerate(where):
        shift = 32 * (len(where) - 1 - n)
        full = field.full if len(where) == 1 else 0xFFFF_FFFF
        if mask >> shift & full:
            yield index, value >> shift & full, mask >> shift & full


def places(field: Field) -> Sequence[int]:
    """Where a field's number stands in `Packet.values`, the most significant piece first."""
    return _WIDE.get(field.order, (field.order,))


_WIDE: Final = {
    **{field.order: REGISTERS[2 * n : 2 * n + 2] for n, field in enumerate(XREGS)},
    **{field.order: REGISTERS[4 * n : 4 * n + 4] for n, field in enumerate(XXREGS)},
}


@lru_cache(maxsize=1 << 12)
def _selector(masks: tuple[tuple[int, int], ...]) -> Selector:
    if not masks:
        return lambda values: ()
    if all(mask == FULL[index] for index, mask in masks):
        return itemgetter(*(index for index, _ in masks))
    return lambda values: tuple([values[index] & mask for index, mask in masks])


FULL: Final = [field.full for field in f.FIELDS.values()]
"""The full mask of each field, by `Field.order`."""


class Tables:
    """Flows and groups ready to run.  groups: id -> (type, bucket id -> compiled bucket)."""

    def __init__(self) -> None:
        self.tables: dict[int, Table] = {}
        self.groups: dict[int, tuple[int, dict[int, Program]]] = {}

    def put_flow(self, flow: Flow) -> None:
        """Add a flow whose key is not there."""
        table = self.tables.get(flow.table)
        if table is None:
            table = self.tables[flow.table] = Table()
        table.put(flow)

    def remove_flow(self, key: bytes) -> None:
        """Remove the flow of a key that is there."""
        self.tables[key[1]].remove(key)


def flow_text(key: bytes) -> str:
    """A flow's key for people: table, priority, match."""
    table, priority, match = facts.split_flow_key(key)
    terms = ",".join(_term_text(term) for term in decode_match(match)) or "any"
    return f"table {table} priority {priority} {terms}"


def _term_text(term: Term) -> str:
    mask = "" if term.mask == term.field.full else f"/{term.mask:#x}"
    return f"{term.field.name}={term.value:#x}{mask}"
