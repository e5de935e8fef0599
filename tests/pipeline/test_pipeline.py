"""The declaration is sound, and a fact that goes beyond it is named."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from pathlib import Path

import pytest

from flowloom.openflow import actions, facts
from flowloom.openflow.match import decode_match
from flowloom.pipeline import layout
from flowloom.pipeline.check import check, lint
from flowloom.pipeline.describe import describe
from flowloom.pipeline.layout import (
    CLASSIFY,
    DELIVER,
    ETH_DST,
    FLOOD_LOCAL,
    FLOOD_REMOTE,
    FROM_TUNNEL,
    GUARD,
    IN_KEY,
    IN_PORT,
    IP_SRC,
    LOOKUP,
    NETWORK,
    OUT_KEY,
    TABLES,
)
from flowloom.pipeline.render import render


class P(IntEnum):
    X = 5


def flow(table, *terms, then=()):  # type: ignore[no-untyped-def]
    key, value = table.flow(*terms, then=then, priority=P.X)
    return key, facts.flow_value(0, value)


def test_the_declaration_is_sound() -> None:
    assert lint() == []


def test_a_way_back_is_found() -> None:
    tables = [replace(t, next=("CLASSIFY",)) if t.name == "DELIVER" else t for t in TABLES]
    assert "DELIVER goes back to CLASSIFY" in lint(tables)


def test_a_register_that_nothing_upstream_sets_is_found() -> None:
    tables = [replace(t, matches=(*t.matches, OUT_KEY)) if t.name == "GUARD" else t for t in TABLES]
    assert lint(tables) == ["GUARD matches OUT_KEY, which nothing upstream sets"]


def test_a_table_to_which_nothing_leads_is_found() -> None:
    tables = [replace(t, next=("LOOKUP",)) if t.name == "CLASSIFY" else t for t in TABLES]
    assert "nothing leads to GUARD" in lint(tables)


def test_registers_do_not_overlap() -> None:
    used = [(q.field.name, bit) for q in layout.REGISTERS.declared for bit in range(q.offset, q.offset + q.bits)]
    assert len(used) == len(set(used))


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        (flow(DELIVER, ETH_DST.eq(1)), "does not match eth_dst"),
        (flow(CLASSIFY, IN_PORT.eq(1), then=(DELIVER.goto,)), "does not go on to DELIVER"),
        (flow(LOOKUP, NETWORK.eq(1), then=(CLASSIFY.goto,)), "does not go on to CLASSIFY"),
        (flow(CLASSIFY, IN_PORT.eq(1), then=(OUT_KEY.load(1), GUARD.goto)), "does not set reg2"),
        (flow(CLASSIFY, IN_PORT.eq(1), then=(actions.output(1),)), "does not output"),
        (flow(GUARD, IN_KEY.eq(1), IP_SRC.eq(1)), "needs eth_type"),
        (flow(LOOKUP, NETWORK.eq(1), then=(actions.group(3),)), "does not run group"),
        (flow(LOOKUP, NETWORK.eq(1), then=(actions.dec_ttl(),)), "does not do DecTtl"),
        (FLOOD_LOCAL.bucket(1, 2, OUT_KEY.load(2), CLASSIFY.resubmit), "does not resubmit"),
        (FLOOD_REMOTE.bucket(1, 2, OUT_KEY.load(2)), "does not set"),
        ((facts.group_key(3), b"\0"), "outside every declared family"),
    ],
)
def test_what_a_table_did_not_declare_is_named(fact: tuple[bytes, bytes], said: str) -> None:
    assert any(said in problem for problem in check(*fact)), check(*fact)


def test_halves_of_one_register_pair_become_one_condition() -> None:
    key, _ = flow(LOOKUP, FROM_TUNNEL.eq(1), NETWORK.eq(3), ETH_DST.eq(5))
    terms = decode_match(facts.split_flow_key(key)[2])
    assert [term.field.name for term in terms] == ["eth_dst", "xreg0", "metadata"]
    both = flow(GUARD, IN_KEY.eq(7), FROM_TUNNEL.eq(1))[0]
    (term,) = decode_match(facts.split_flow_key(both)[2])
    assert (term.value, term.mask) == (1 << 32 | 7, 1 << 32 | 0xFFFF_FFFF)


def test_terms_may_be_given_in_any_order() -> None:
    assert flow(LOOKUP, NETWORK.eq(3), ETH_DST.eq(5)) == flow(LOOKUP, ETH_DST.eq(5), NETWORK.eq(3))


def test_a_condition_with_an_empty_mask_says_nothing() -> None:
    assert flow(GUARD, IN_KEY.eq(1), IP_SRC.masked(0, 0)) == flow(GUARD, IN_KEY.eq(1))


def test_facts_are_described_in_the_pipelines_words() -> None:
    text = describe(*flow(LOOKUP, NETWORK.eq(3), FROM_TUNNEL.eq(0), ETH_DST.eq(0xFA163E000001), then=(OUT_KEY.load(9), DELIVER.goto)))  # fmt: skip
    assert str(text) == "LOOKUP 5 eth_dst=fa:16:3e:00:00:01, FROM_TUNNEL=0, NETWORK=3 -> OUT_KEY=9, goto DELIVER"
    assert str(describe(*flow(DELIVER, OUT_KEY.eq(1)))) == "DELIVER 5 OUT_KEY=1 -> drop"
    assert (
        str(describe(*FLOOD_LOCAL.bucket(4, 9, OUT_KEY.load(9), DELIVER.resubmit)))
        == "FLOOD_LOCAL 0 key=4, member=9 -> OUT_KEY=9, look up in DELIVER"
    )
    assert str(describe(*FLOOD_LOCAL.fact(4))) == "FLOOD_LOCAL 0 key=4 -> all"


def test_the_page_in_docs_is_the_declaration() -> None:
    page = Path(__file__).parents[2] / "docs" / "pipeline.md"
    assert page.read_text() == render()
