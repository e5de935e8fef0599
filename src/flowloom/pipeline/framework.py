"""What a pipeline is declared with, and how a flow is said in its words.

A `Quantity` is a named match field, or named bits of one; a `Table` says what its flows may match, set
and do, and where a packet may go next.  Numbers of tables, registers and priorities appear only where
they are declared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from flowloom.openflow import actions, facts
from flowloom.openflow.fields import REGS, XREGS, Field
from flowloom.openflow.match import match


class Term(NamedTuple):
    """One condition, in the form in which the switch writes it.  mask -1: exact."""

    order: int
    header: int
    size: int
    value: int
    mask: int


class Goto(NamedTuple):
    """The instruction that ends a flow whose packet goes on."""

    name: str
    number: int
    instruction: bytes


EXACT: Final = -1
_REGISTER: Final = {field: n for n, field in enumerate(REGS)}


@dataclass(frozen=True)
class Quantity:
    """A match field, or `bits` bits of one from bit `offset` on, under a name of the pipeline's own.

    meaning: one line for the documentation.
    """

    name: str
    field: Field
    offset: int
    bits: int
    meaning: str

    @property
    def is_whole(self) -> bool:
        """It covers its field."""
        return self.bits == self.field.bits

    def eq(self, value: int) -> Term:
        """It has this value."""
        return self.masked(value, (1 << self.bits) - 1)

    def masked(self, value: int, mask: int) -> Term:
        """Its bits under `mask` are those of `value`."""
        field = self.field
        register = _REGISTER.get(field)
        if register is not None:
            wide = XREGS[register >> 1]
            shift = self.offset if register & 1 else self.offset + 32
            return Term(wide.order, wide.header, wide.size, (value & mask) << shift, mask << shift)
        mask <<= self.offset
        value = value << self.offset & mask
        return Term(field.order, field.header, field.size, value, EXACT if mask == field.full else mask)

    def load(self, value: int) -> bytes:
        """The action that sets it."""
        if self.is_whole:
            return actions.set_field(self.field, value)
        mask = ((1 << self.bits) - 1) << self.offset
        return actions.set_field(self.field, value << self.offset, mask)

    def copy_to(self, other: Quantity) -> bytes:
        """The action that copies it, or as much as fits, into `other`."""
        return actions.copy_field(self.field, other.field, min(self.bits, other.bits), self.offset, other.offset)


@dataclass(frozen=True)
class GroupKind:
    """A family of groups with one purpose: id = first + key.

    buckets_to: tables its buckets may resubmit to.  buckets_set: what they may set.
    """

    name: str
    first: int
    purpose: str
    buckets_set: tuple[Quantity, ...]
    buckets_to: tuple[str, ...]

    def number(self, key: int) -> int:
        """The group id that stands for `key`."""
        return self.first + key

    def action(self, key: int) -> bytes:
        """The action that runs the group of `key`."""
        return actions.group(self.first + key)

    def fact(self, key: int) -> tuple[bytes, bytes]:
        """The group of `key`, of type all, as a fact; its buckets are facts of their own."""
        return facts.group_key(self.first + key), bytes((facts.GROUP_ALL,))

    def bucket(self, key: int, member: int, *then: bytes) -> tuple[bytes, bytes]:
        """The bucket of `member` (its integer key) in the group of `key`."""
        return facts.bucket_key(self.first + key, member), b"".join(then)


@dataclass(frozen=True)
class Table:
    """One stage.

    number: allotted from the order of declaration.  matches, sets: what its flows may match and change.
    does: kinds of other actions they may carry ("output", "group", "controller", "resubmit", "copy").
    next: names of the tables a packet may go on to; all of them later in the pipeline.
    """

    name: str
    number: int
    purpose: str
    matches: tuple[Quantity, ...]
    sets: tuple[Quantity, ...]
    does: tuple[str, ...]
    next: tuple[str, ...]

    @property
    def goto(self) -> Goto:
        """Go on here: the last of another table's `then`."""
        return Goto(self.name, self.number, actions.goto_table(self.number))

    @property
    def resubmit(self) -> bytes:
        """Look up here now and come back, for buckets of groups and for packet-outs."""
        return actions.resubmit(self.number)

    def flow(self, *terms: Term, then: Sequence[bytes | Goto], priority: IntEnum) -> tuple[bytes, bytes]:
        """A flow of this table as a fact (key, value without cookie).

        terms: conditions in any order.  then: actions in order, a `Goto` last or not at all; empty: drop.
        """
        key = facts.flow_key(self.number, priority, match(_tlvs(terms)))
        if then and isinstance(then[-1], Goto):
            return key, actions.apply_actions(*then[:-1]) + then[-1].instruction  # type: ignore[arg-type]
        return key, actions.apply_actions(*then)  # type: ignore[arg-type]


def _tlvs(terms: Sequence[Term]) -> list[bytes]:
    """Canonical TLVs: in the switch's order, halves of one xreg in one TLV."""
    ordered = sorted(term for term in terms if term.mask)
    out: list[bytes] = []
    n = 0
    while n < len(ordered):
        order, header, size, value, mask = ordered[n]
        n += 1
        while n < len(ordered) and ordered[n].order == order:
            value |= ordered[n].value
            mask |= ordered[n].mask
            n += 1
        if mask == EXACT or mask == (1 << size * 8) - 1:
            out.append((header | size).to_bytes(4, "big") + value.to_bytes(size, "big"))
        else:
            head = (header | 0x100 | size << 1).to_bytes(4, "big")
            out.append(head + value.to_bytes(size, "big") + mask.to_bytes(size, "big"))
    return out


class Registers:
    """Allots named bits of the switch's registers; what is declared earlier stands lower."""

    def __init__(self) -> None:
        self.declared: list[Quantity] = []
        self._used: dict[Field, int] = {}

    def allot(self, name: str, field: Field, bits: int, meaning: str) -> Quantity:
        """The next `bits` free bits of `field`; ValueError when it is full."""
        offset = self._used.get(field, 0)
        if offset + bits > field.bits:
            raise ValueError(f"{name}: no room for {bits} bits in {field.name}")
        self._used[field] = offset + bits
        quantity = Quantity(name, field, offset, bits, meaning)
        self.declared.append(quantity)
        return quantity


def packet_field(field: Field) -> Quantity:
    """A field of the packet under its own OpenFlow name."""
    return Quantity(field.name, field, 0, field.bits, "")
