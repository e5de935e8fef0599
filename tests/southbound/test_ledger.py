"""The ledger: one batch at a time, only the difference, and nothing forgotten whatever the switch answers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.openflow import facts
from flowloom.openflow.actions import apply_actions, output
from flowloom.openflow.match import match
from flowloom.southbound.ledger import Ledger
from flowloom.southbound.switch import Refusal


def flow(n: int, port: int = 1) -> tuple[bytes, bytes]:
    key = facts.flow_key(0, n, match(()))
    return key, facts.flow_value(facts.make_cookie(1, 0), apply_actions(output(port)))


def ledger(*claimed: tuple[bytes, bytes]) -> Ledger:
    made = Ledger()
    made.replace({}, dict(claimed))
    return made


def test_nothing_is_sent_before_the_switch_was_read() -> None:
    made = ledger(flow(1))
    assert made.batch(10, hold_deletes=False) is None
    made.installed({})
    batch, _ = made.batch(10, hold_deletes=False)
    assert batch.puts == [flow(1)]


def test_a_switch_that_holds_what_is_desired_is_not_touched() -> None:
    made = ledger(flow(1), flow(2))
    assert made.installed(dict([flow(1), flow(2)])) == 0
    assert made.batch(10, hold_deletes=False) is None


def test_another_owners_flows_and_groups_are_left_alone() -> None:
    made = ledger(flow(1))
    foreign_flow = (facts.flow_key(0, 77, match(())), facts.flow_value(0x1234, apply_actions(output(1))))
    foreign_group = (facts.group_key(5), b"\0")
    made.installed(dict([foreign_flow, foreign_group]))
    batch, _ = made.batch(10, hold_deletes=False)
    assert batch.deletes == []
    assert made.compare(dict([foreign_flow, foreign_group, flow(1)])) == {}


def test_only_one_batch_is_in_flight() -> None:
    made = ledger(flow(1))
    made.installed({})
    _, ticket = made.batch(10, hold_deletes=False)
    made.replace({}, dict([flow(2)]))
    assert made.batch(10, hold_deletes=False) is None
    made.confirmed(ticket, [])
    batch, _ = made.batch(10, hold_deletes=False)
    assert batch.puts == [flow(2)]


def test_what_changed_while_in_flight_is_sent_again() -> None:
    made = ledger(flow(1, port=1))
    made.installed({})
    _, ticket = made.batch(10, hold_deletes=False)
    made.replace(dict([flow(1, port=1)]), dict([flow(1, port=2)]))
    made.confirmed(ticket, [])
    batch, ticket = made.batch(10, hold_deletes=False)
    assert batch.puts == [flow(1, port=2)]
    made.replace(dict([flow(1, port=2)]), {})
    made.confirmed(ticket, [])
    batch, ticket = made.batch(10, hold_deletes=False)
    assert batch.deletes == [flow(1)[0]]
    made.confirmed(ticket, [])
    assert made.gap == 0


def test_deletes_are_held_while_work_is_undone() -> None:
    made = ledger(flow(1))
    made.installed(dict([flow(2)]))
    batch, ticket = made.batch(10, hold_deletes=True)
    assert batch.deletes == []
    made.confirmed(ticket, [])
    assert made.batch(10, hold_deletes=True) is None
    batch, _ = made.batch(10, hold_deletes=False)
    assert batch.deletes == [flow(2)[0]]


def test_a_refused_flow_is_remembered_until_it_changes() -> None:
    made = ledger(flow(1), flow(2))
    made.installed({})
    _, ticket = made.batch(10, hold_deletes=False)
    made.confirmed(ticket, [Refusal(flow(1)[0], "OFPBAC_BAD_OUT_PORT")])
    assert made.refused == {flow(1)[0]: "OFPBAC_BAD_OUT_PORT"}
    assert made.batch(10, hold_deletes=False) is None
    assert made.gap == 0
    made.replace(dict([flow(1)]), dict([flow(1, port=9)]))
    assert not made.refused
    batch, _ = made.batch(10, hold_deletes=False)
    assert batch.puts == [flow(1, port=9)]


def test_claims_on_one_key_are_counted_and_the_smallest_stands() -> None:
    made = ledger(flow(1, port=5))
    made.replace({}, dict([flow(1, port=3)]))
    made.replace({}, dict([flow(1, port=5)]))
    assert made.desired == dict([flow(1, port=3)])
    assert list(made.rivals()) == [flow(1)[0]]
    made.replace(dict([flow(1, port=3)]), {})
    assert made.desired == dict([flow(1, port=5)])
    assert made.rivals() == {}
    made.replace(dict([flow(1, port=5)]), {})
    made.replace(dict([flow(1, port=5)]), {})
    assert made.desired == {}


def test_of_what_is_left_the_smallest_claim_stands() -> None:
    made = ledger(flow(1, port=7))
    made.replace({}, dict([flow(1, port=5)]))
    made.replace({}, dict([flow(1, port=3)]))
    made.replace(dict([flow(1, port=3)]), {})
    assert made.desired == dict([flow(1, port=5)])


def test_what_came_back_to_what_the_switch_holds_is_not_sent() -> None:
    made = ledger(flow(1, port=1))
    made.installed(dict([flow(1, port=1)]))
    made.replace(dict([flow(1, port=1)]), dict([flow(1, port=2)]))
    made.replace(dict([flow(1, port=2)]), dict([flow(1, port=1)]))
    assert made.gap == 0
    assert made.batch(10, hold_deletes=False) is None


def test_groups_come_before_their_flows_and_leave_after_them() -> None:
    group, bucket = (facts.group_key(facts.GROUPS_FIRST), b"\0"), (facts.bucket_key(facts.GROUPS_FIRST, 1), b"")
    flows = [flow(n) for n in range(10)]
    made = ledger(*flows, bucket, group)
    made.installed({})
    batch, ticket = made.batch(4, hold_deletes=False)
    assert {group, bucket} <= set(batch.puts)
    assert len(batch.puts) == 4
    made.confirmed(ticket, [])
    made.replace(dict([*flows, bucket, group]), {})
    seen: list[bytes] = []
    held = dict(batch.puts)
    made.installed(held)
    while cut := made.batch(1, hold_deletes=False):
        seen += cut[0].deletes
        made.confirmed(cut[1], [])
    assert [key[0] for key in seen] == sorted((key[0] for key in seen), key=lambda kind: kind != facts.FLOW)
    assert seen.index(bucket[0]) >= 2
    assert sorted(seen) == sorted(held)


def test_a_bucket_waits_for_its_group() -> None:
    bucket = (facts.bucket_key(facts.GROUPS_FIRST, 1), b"")
    made = ledger(bucket)
    made.installed({})
    assert made.batch(10, hold_deletes=False) is None
    made.replace({}, {facts.group_key(facts.GROUPS_FIRST): b"\0"})
    batch, _ = made.batch(10, hold_deletes=False)
    assert len(batch.puts) == 2


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["claim", "release", "send", "confirm", "refuse", "lose"]),
            st.integers(0, 5),
            st.integers(1, 3),
        )
    )
)
def test_any_history_ends_with_switch_and_ledger_equal(steps: list[tuple[str, int, int]]) -> None:
    made, switch, claims, open_ticket = Ledger(), {}, [], None
    made.installed(switch)
    for what, n, port in steps:
        if what == "claim":
            claims.append(flow(n, port))
            made.replace({}, dict([claims[-1]]))
        elif what == "release" and claims:
            made.replace(dict([claims.pop(n % len(claims))]), {})
        elif what == "send" and open_ticket is None:
            open_ticket = made.batch(port, hold_deletes=False)
        elif what in ("confirm", "refuse") and open_ticket:
            apply(switch, open_ticket[0])
            made.confirmed(open_ticket[1], [])
            open_ticket = None
        elif what == "lose":
            if open_ticket and n % 2:
                apply(switch, open_ticket[0])
            open_ticket = None
            made.lost()
            made.installed(switch)
    if open_ticket:
        apply(switch, open_ticket[0])
        made.confirmed(open_ticket[1], [])
    while cut := made.batch(2, hold_deletes=False):
        apply(switch, cut[0])
        made.confirmed(cut[1], [])
    wanted: dict[bytes, bytes] = {}
    for key, value in claims:
        wanted[key] = min(value, wanted.get(key, value))
    assert switch == made.desired == wanted
    assert made.gap == 0


def apply(switch: dict[bytes, bytes], batch) -> None:  # type: ignore[no-untyped-def]
    for key in batch.deletes:
        switch.pop(key, None)
    switch.update(batch.puts)


def test_a_refused_flow_is_tried_again_on_a_fresh_read() -> None:
    made = ledger(flow(1))
    made.installed({})
    _, ticket = made.batch(10, hold_deletes=False)
    made.confirmed(ticket, [Refusal(flow(1)[0], "OFPBAC_BAD_OUT_PORT")])
    assert made.batch(10, hold_deletes=False) is None
    made.lost()
    made.installed({})
    batch, _ = made.batch(10, hold_deletes=False)
    assert batch.puts == [flow(1)]
