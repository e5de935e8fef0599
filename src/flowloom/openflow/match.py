"""Matches: OXM TLVs in Open vSwitch's own order, as one padded ofp_match (OpenFlow 1.5.1, section 7.2.3).

In OpenFlow 1.5 Open vSwitch writes registers as 64-bit xregs only: reg0 is the upper and reg1 the lower
half of xreg0, an xxreg is two xregs.  What is sent in another form comes back in this one, so this is
the only form made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from flowloom.openflow.fields import BY_HEADER, REGS, XREGS, XXREGS, Field

_MATCH_TYPE_OXM: Final = 1
_HEAD_BYTES: Final = 4
_HAS_MASK: Final = 0x100
_HEADS: Final = tuple(_MATCH_TYPE_OXM.to_bytes(2, "big") + n.to_bytes(2, "big") for n in range(1024))
_PADS: Final = tuple(bytes(-n % 8) for n in range(8))
_REGISTER_MASK: Final = 0xFFFF_FFFF
_XREGISTER_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_REGISTER_INDEX: Final = {field: index for index, field in enumerate(REGS)}
_XXREGISTER_INDEX: Final = {field: index for index, field in enumerate(XXREGS)}


class Term(NamedTuple):
    """`field` has `value` in the bits of `mask`; a full mask is an exact match."""

    field: Field
    value: int
    mask: int

    def tlv(self) -> bytes:
        """The OXM TLV, in the exact form when the mask is full."""
        return self.field.masked(self.value, self.mask)


def match(tlvs: Sequence[bytes]) -> bytes:
    """A whole ofp_match, padded to 8 bytes.  The TLVs stand in canonical order already."""
    body = b"".join(tlvs)
    length = _HEAD_BYTES + len(body)
    return _HEADS[length] + body + _PADS[length & 7]


def register_term(index: int, value: int, mask: int = _REGISTER_MASK) -> Term:
    """What matching 32-bit register `index` is in canonical form: half of its xreg under a mask."""
    shift = 0 if index & 1 else 32
    return Term(XREGS[index >> 1], (value & mask) << shift, mask << shift)


def canonical(terms: Iterable[Term]) -> list[Term]:
    """The same condition in canonical form: registers folded into xregs, one term a field, in order.

    Terms with an empty mask say nothing and are left out.  ValueError when two terms contradict.
    """
    merged: dict[Field, tuple[int, int]] = {}
    for term in terms:
        for field, value, mask in _folded(term):
            if not mask:
                continue
            if mask & ~field.full:
                raise ValueError(f"{field.name}: the mask {mask:#x} is wider than the field")
            old_value, old_mask = merged.get(field, (0, 0))
            if (old_value ^ value) & old_mask & mask:
                raise ValueError(f"{field.name}: two terms contradict each other")
            merged[field] = (old_value | value & mask, old_mask | mask)
    return sorted((Term(field, *pair) for field, pair in merged.items()), key=lambda term: term.field.order)


def encode_match(terms: Iterable[Term]) -> bytes:
    """A whole ofp_match of terms in any order and form; ValueError when two contradict."""
    return match([term.tlv() for term in canonical(terms)])


def decode_match(data: bytes) -> list[Term]:
    """The terms of a whole, padded ofp_match, in the order they stand.

    ValueError when it is malformed: wrong type, length or padding, an unknown or repeated field, a mask
    where none may be, or value bits outside the mask.
    """
    if len(data) < 8 or int.from_bytes(data[:2], "big") != _MATCH_TYPE_OXM:
        raise ValueError("not an OXM match")
    length = int.from_bytes(data[2:4], "big")
    if length < _HEAD_BYTES or len(data) != length + -length % 8 or any(data[length:]):
        raise ValueError("wrong match length or padding")
    terms: list[Term] = []
    at = _HEAD_BYTES
    while at < length:
        term, at = decode_tlv(data, at, length)
        if any(term.field is other.field for other in terms):
            raise ValueError(f"{term.field.name} stands twice")
        terms.append(term)
    return terms


def decode_tlv(data: bytes, at: int, end: int) -> tuple[Term, int]:
    """The OXM TLV at offset `at` and the offset behind it; ValueError when it is malformed or passes `end`."""
    if end - at < 4:
        raise ValueError("a truncated field header")
    header = int.from_bytes(data[at : at + 4], "big")
    field = BY_HEADER.get(header & 0xFFFF_FE00)
    if field is None:
        raise ValueError(f"unknown field {header:#010x}")
    masked = bool(header & _HAS_MASK)
    if header & 0xFF != field.size << masked or end - at - 4 < field.size << masked:
        raise ValueError(f"{field.name}: wrong length")
    middle = at + 4 + field.size
    value = int.from_bytes(data[at + 4 : middle], "big")
    if value & ~field.full:
        raise ValueError(f"{field.name}: the value is wider than the field")
    if not masked:
        return Term(field, value, field.full), middle
    mask = int.from_bytes(data[middle : middle + field.size], "big")
    if not field.maskable or mask & ~field.full or value & ~mask:
        raise ValueError(f"{field.name}: wrong mask")
    return Term(field, value, mask), middle + field.size


def _folded(term: Term) -> Iterable[Term]:
    """`term` with a register or an xxreg expressed in xregs."""
    register = _REGISTER_INDEX.get(term.field)
    if register is not None:
        return (register_term(register, term.value, term.mask),)
    wide = _XXREGISTER_INDEX.get(term.field)
    if wide is None:
        return (term,)
    return (
        Term(XREGS[2 * wide], term.value >> 64, term.mask >> 64),
        Term(XREGS[2 * wide + 1], term.value & _XREGISTER_MASK, term.mask & _XREGISTER_MASK),
    )
