"""Actions and instructions: decode(encode(x)) == x, known bytes, strict decoding."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.openflow import actions
from flowloom.openflow.actions import (
    ApplyActions,
    Conjunction,
    Controller,
    CopyField,
    Ct,
    DecTtl,
    GotoTable,
    Group,
    Meter,
    Nat,
    Output,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    decode_actions,
    decode_instructions,
)
from flowloom.openflow.fields import CT_MARK, ETH_DST, ETH_SRC, FIELDS, REGS, TCP_DST, VLAN_VID, Field

U8, U16, U32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF_FFFF)
FIELD = st.sampled_from(list(FIELDS.values()))


@st.composite
def set_field(draw: st.DrawFn, field: Field | None = None) -> tuple[bytes, object]:
    target = field or draw(FIELD)
    mask = draw(st.integers(1, target.full)) if target.maskable else target.full
    value = draw(st.integers(0, target.full)) & mask
    return actions.set_field(target, value, mask), SetField(target, value, mask)


@st.composite
def copy_field(draw: st.DrawFn) -> tuple[bytes, object]:
    src, dst = draw(FIELD), draw(FIELD)
    bits, src_ofs, dst_ofs = draw(st.integers(1, 128)), draw(U8), draw(U8)
    return actions.copy_field(src, dst, bits, src_ofs, dst_ofs), CopyField(src, dst, bits, src_ofs, dst_ofs)


@st.composite
def controller(draw: st.DrawFn) -> tuple[bytes, object]:
    userdata, max_len, meter = draw(st.binary(max_size=40)), draw(U16), draw(st.none() | U32)
    return actions.controller2(userdata, max_len, meter), Controller(userdata, max_len, meter)


@st.composite
def nat(draw: st.DrawFn) -> tuple[bytes, object]:
    flags, ip4 = draw(U16), draw(st.none() | st.tuples(U32, U32))
    ports = draw(st.none() | st.tuples(U16, U16))
    return actions.nat(flags, ip4, ports), Nat(flags, ip4, ports)


@st.composite
def ct(draw: st.DrawFn) -> tuple[bytes, object]:
    nested = draw(st.lists(st.one_of(set_field(CT_MARK), nat()), max_size=3))
    flags, alg, table = draw(U16), draw(U16), draw(st.none() | st.integers(0, 254))
    zone_from = draw(st.none() | st.tuples(FIELD, st.integers(0, 64), st.integers(1, 64)))
    zone = 0 if zone_from else draw(U16)
    data = b"".join(one for one, _ in nested)
    made = actions.ct(data, flags=flags, zone=zone, zone_from=zone_from, table=table, alg=alg)
    return made, Ct(flags, zone, zone_from, table, alg, tuple(value for _, value in nested))  # type: ignore[arg-type]


ACTION = st.one_of(
    U32.map(lambda port: (actions.output(port), Output(port))),
    U32.map(lambda number: (actions.group(number), Group(number))),
    U32.map(lambda number: (actions.meter(number), Meter(number))),
    U8.map(lambda table: (actions.resubmit(table), Resubmit(table))),
    U16.map(lambda ethertype: (actions.push_vlan(ethertype), PushVlan(ethertype))),
    st.just((actions.pop_vlan(), PopVlan())),
    st.just((actions.dec_ttl(), DecTtl())),
    st.tuples(U32, st.integers(1, 64), st.integers(2, 64)).map(
        lambda args: (actions.conjunction(*args), Conjunction(*args))
    ),
    set_field(),
    copy_field(),
    controller(),
    ct(),
)


@given(st.lists(ACTION, max_size=6), st.none() | U8)
def test_decoding_gives_back_what_was_encoded(some: list[tuple[bytes, object]], table: int | None) -> None:
    encoded = [data for data, _ in some]
    values = tuple(value for _, value in some)
    assert decode_actions(b"".join(encoded)) == values
    goto = b"" if table is None else actions.goto_table(table)
    expected = ((ApplyActions(values),) if values else ()) + (() if table is None else (GotoTable(table),))  # type: ignore[arg-type]
    assert decode_instructions(actions.apply_actions(*encoded) + goto) == expected


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (actions.output(3), "0000 0010 00000003 0000 000000000000"),
        (actions.set_field(REGS[1], 5), "0019 0010 00010204 00000005 00000000"),
        (actions.copy_field(ETH_SRC, ETH_DST), "001c 0018 0030 0000 0000 0000 80000806 80000606 00000000"),
        (actions.resubmit(9), "ffff 0010 00002320 000e fff8 09 000000"),
        (actions.controller2(b"\1"), "ffff 0018 00002320 0025 000000000000 0003 0005 01 000000"),
        (actions.conjunction(7, 1, 2), "ffff 0010 00002320 0022 00 02 00000007"),
        (actions.ct(zone=5, table=3), "ffff 0018 00002320 0023 0000 00000000 0005 03 000000 0000"),
        (actions.goto_table(4), "0001 0008 04 000000"),
        (actions.apply_actions(), ""),
        (actions.apply_actions(actions.dec_ttl()), "0004 0010 00000000 0018 0008 00000000"),
    ],
)
def test_known_bytes(made: bytes, expected: str) -> None:
    assert made == bytes.fromhex(expected)


def test_a_full_mask_is_written_as_no_mask() -> None:
    assert actions.set_field(TCP_DST, 80, 0xFFFF) == actions.set_field(TCP_DST, 80)
    assert actions.set_field(VLAN_VID, 0x1005, 0x1FFF) == actions.set_field(VLAN_VID, 0x1005)


@pytest.mark.parametrize(
    ("malformed", "why"),
    [
        (actions.output(3)[:-1], "wrong length"),
        (actions.output(3)[:8], "wrong length"),
        (b"\0\0\0\x08\0\0\0\1", "action 0"),
        (b"\0\x63\0\x08\0\0\0\0", "unknown action 99"),
        (b"\xff\xff\0\x10\0\0\0\1\0\0\0\0\0\0\0\0", "unknown action 0x1/0"),
        (b"\0\0\0\0\0\0\0\0", "wrong length"),
        (actions.set_field(REGS[1], 5)[:-1] + b"\1", "set_field: wrong length or padding"),
        (actions.ct(actions.ct(actions.ct())), "ct inside ct"),
        (actions.controller2(b"abc")[:18] + b"\0\xff" + actions.controller2(b"abc")[20:], "property length"),
        (b"\0\x18\0\x08\0\0\0\1", "dec_ttl: malformed"),
    ],
)
def test_malformed_actions_are_refused(malformed: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode_actions(malformed)


@given(st.binary(max_size=96), st.sampled_from([0, 17, 18, 22, 24, 25, 28, 29, 0xFFFF]), st.integers(0, 50))
def test_garbage_is_refused_or_read_but_never_anything_else(garbage: bytes, kind: int, subtype: int) -> None:
    body = kind.to_bytes(2, "big") + (8 + len(garbage) & ~7).to_bytes(2, "big") + garbage
    nicira = b"\xff\xff\0\x60\0\0\x23\x20" + subtype.to_bytes(2, "big") + garbage.ljust(86, b"\0")[:86]
    for data in (garbage, body, nicira):
        for decode in (decode_actions, decode_instructions):
            try:
                decode(data)
            except ValueError:
                continue
