"""Matches: canonical form, and strict decoding."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.openflow.fields import ETH_DST, ETH_TYPE, FIELDS, IN_PORT, IP_DST, METADATA, REGS, XREGS, XXREGS, Field
from flowloom.openflow.match import Term, canonical, decode_match, encode_match, match, register_term


@st.composite
def terms(draw: st.DrawFn) -> list[Term]:
    plain = [field for field in FIELDS.values() if field not in REGS and field not in XXREGS]
    fields = draw(st.lists(st.sampled_from(plain), unique_by=lambda field: field.name, max_size=8))
    return [draw(term(field)) for field in fields]


@st.composite
def term(draw: st.DrawFn, field: Field) -> Term:
    mask = draw(st.integers(1, field.full)) if field.maskable else field.full
    return Term(field, draw(st.integers(0, field.full)) & mask, mask)


@given(terms())
def test_decoding_gives_back_the_terms_in_canonical_order(some: list[Term]) -> None:
    encoded = encode_match(some)
    assert len(encoded) % 8 == 0
    assert decode_match(encoded) == sorted(some, key=lambda one: one.field.order)


@given(st.integers(0, 15), st.integers(0, 0xFFFF_FFFF), st.integers(1, 0xFFFF_FFFF))
def test_a_register_is_half_of_its_xreg(index: int, value: int, mask: int) -> None:
    one = register_term(index, value, mask)
    assert one.field is XREGS[index // 2]
    shift = 0 if index % 2 else 32
    assert (one.value, one.mask) == ((value & mask) << shift, mask << shift)
    assert canonical([Term(REGS[index], value, mask)]) == [one]


def test_two_halves_of_an_xreg_become_one_exact_term() -> None:
    both = [register_term(1, 0x0B), register_term(0, 0x0A)]
    assert canonical(both) == [Term(XREGS[0], 0x0000_000A_0000_000B, XREGS[0].full)]


def test_an_xxreg_becomes_two_xregs() -> None:
    assert canonical([Term(XXREGS[1], 5 << 64 | 6, XXREGS[1].full)]) == [
        Term(XREGS[2], 5, XREGS[2].full),
        Term(XREGS[3], 6, XREGS[3].full),
    ]


def test_terms_that_contradict_are_refused() -> None:
    with pytest.raises(ValueError, match="contradict"):
        encode_match([register_term(3, 1), register_term(3, 2)])


def test_a_term_with_an_empty_mask_says_nothing() -> None:
    assert encode_match([Term(METADATA, 0, 0)]) == match(())


def test_the_bytes_of_a_match_are_those_of_the_specification() -> None:
    expected = bytes.fromhex("0001 0016 80000004 00000001 80000606 0000deadbeef 0000")
    assert match([IN_PORT.exact(1), ETH_DST.exact(0xDEADBEEF)]) == expected


@pytest.mark.parametrize(
    ("malformed", "why"),
    [
        (b"", "not an OXM match"),
        (b"\0\0\0\4\0\0\0\0", "not an OXM match"),
        (match([IN_PORT.exact(1)])[:-8], "length or padding"),
        (match([IN_PORT.exact(1)]) + bytes(8), "length or padding"),
        (match([IN_PORT.exact(1)])[:-1] + b"\1", "length or padding"),
        (match([IN_PORT.exact(1), IN_PORT.exact(1)]), "in_port stands twice"),
        (match([b"\x80\x00\xfe\x04\0\0\0\1"]), "unknown field"),
        (match([b"\x80\x00\x00\x03\0\0\1"]), "in_port: wrong length"),
        (match([ETH_TYPE.masked(0x0800, 0xFF00)]), "eth_type: wrong mask"),
        (match([b"\x80\x00\x19\x08\x01\x02\x03\x04\xff\xff\xff\x00"]), "ip_dst: wrong mask"),
        (match([FIELDS["ip_dscp"].exact(64)]), "ip_dscp: the value is wider"),
        (match([IP_DST.exact(1)])[:3] + b"\x0a" + match([IP_DST.exact(1)])[4:], "length or padding"),
        (match([IP_DST.exact(1)[:6]]), "ip_dst: wrong length"),
        (match([b"\0\0"]), "truncated field header"),
    ],
)
def test_malformed_matches_are_refused(malformed: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode_match(malformed)


@given(st.binary(max_size=64))
def test_garbage_is_refused_or_read_but_never_anything_else(garbage: bytes) -> None:
    for data in (garbage, match([garbage])):
        try:
            decode_match(data)
        except ValueError:
            continue
