"""How each layer's answer is judged, and the table of all of them."""

from __future__ import annotations

from dataclasses import replace as changed

import msgspec
import pytest

from flowloom.cli.answers import AgentStatus, BadRecord, Link, Member, RecoveryStatus, Refused, SwitchLink
from flowloom.cli.status import Row, names, rows_agent, rows_backlog, rows_recovery, show

GOOD = AgentStatus(
    chassis="h1",
    in_sync=True,
    store=Link(True, 0.4),
    bus=Link(True, 0.2),
    switch=SwitchLink(True, 42),
)


def test_quiet_agent_and_switch_are_up() -> None:
    assert rows_agent("h1", GOOD) == [
        Row("agent h1", "up", 0, note="in sync; store heard 0.4 s ago"),
        Row("switch h1", "up", note="42 flows"),
    ]


@pytest.mark.parametrize(
    ("change", "state", "note"),
    [
        ({"in_sync": False}, "behind", "not in sync with the store"),
        ({"in_sync": False, "waiting_for": "the records: timed out"}, "behind", "waiting for the records: timed out"),
        ({"backlog": 3, "gap": 4}, "behind", "3 rules to run, 4 flows to send"),
        ({"store": Link(False, 9, "timed out")}, "behind", "store does not answer: timed out"),
        ({"bus": Link(False, 9, "gone")}, "behind", "bus does not answer: gone"),
        ({"refused": (Refused("f", "e"),)}, "faulty", "1 refused flow"),
        ({"bad_records": (BadRecord("k", "w"),) * 2}, "faulty", "2 unreadable records"),
        (
            {"own_records_contested": 2, "contested_seconds": 3.0},
            "faulty",
            "2 contests; another agent writes the records of chassis h1: stop one, or name it anew",
        ),
        ({"failures": ("l2: boom",), "in_sync": False}, "faulty", "not in sync with the store; 1 failed rule"),
    ],
)
def test_agent_that_is_behind_or_faulty_says_why(change: dict[str, object], state: str, note: str) -> None:
    agent, switch = rows_agent("h1", msgspec.structs.replace(GOOD, **change))
    assert (agent.state, agent.note, switch.state) == (state, note, "up")


def test_agent_without_a_bus_is_up() -> None:
    assert rows_agent("h1", msgspec.structs.replace(GOOD, bus=None))[0].state == "up"


def test_switch_without_a_connection_is_down() -> None:
    lost = msgspec.structs.replace(GOOD, switch=SwitchLink(False, 0, "br-int.mgmt: no such file"))
    assert rows_agent("h1", lost)[1] == Row("switch h1", "down", note="br-int.mgmt: no such file")


def test_undone_rows_are_behind_with_their_age() -> None:
    assert rows_backlog("sql", 0, None, "") == Row("sql", "up", 0, None, "")
    assert rows_backlog("sql", 2, 12.0, "locked") == Row(
        "sql", "behind", 2, 12.0, "changes not yet in the store; last error: locked"
    )


def test_recovery_that_cannot_reach_the_store_is_behind_even_with_nothing_to_do() -> None:
    assert rows_recovery(RecoveryStatus(store=Link(True))) == Row("recovery", "up", 0)
    assert rows_recovery(RecoveryStatus(2, 5.0, store=Link(True))) == Row("recovery", "behind", 2, 5.0)
    assert rows_recovery(RecoveryStatus(store=Link(False, None, "cut"))) == Row(
        "recovery", "behind", 0, None, "the store does not answer it: cut"
    )


MEMBERS = (Member("a@n1:1", 40, True, 9.0), Member("b@n1:2", 24, False, 3.0), Member("c@n1:3", 0, False, -2.0))


def test_recovery_says_who_looks_after_how_much() -> None:
    status = RecoveryStatus(store=Link(True), members=MEMBERS, shards=tuple(range(24)))
    assert rows_recovery(status, "recovery@2") == Row(
        "recovery@2", "up", 0, None, "24 of 64 shards; 2 members, leader a@n1:1"
    )


def test_recovery_that_waits_for_somebodys_word_is_faulty() -> None:
    row = rows_recovery(RecoveryStatus(store=Link(True), guards=1, drift={"orphan": 900, "stale": 0}))
    assert (row.state, row.note) == ("faulty", "1 repair held: flowloom audit --guards; found unequal: 900 orphan")


def test_rows_of_unknown_kinds_are_named() -> None:
    row = rows_recovery(RecoveryStatus(store=Link(True), unknown=tuple(("lamp", f"l{n}") for n in range(5))))
    assert (row.state, row.note) == (
        "faulty",
        "5 rows of unknown kinds left alone: lamp l0, lamp l1, lamp l2 and 2 more",
    )


def test_drift_that_recovery_has_found_is_behind() -> None:
    row = rows_recovery(RecoveryStatus(store=Link(True), drift={"missing": 2}))
    assert (row.state, row.note) == ("behind", "found unequal: 2 missing")


def test_several_recovery_processes_have_a_row_each() -> None:
    assert names(("/a", "/b", "/c")) == {"recovery": "/a", "recovery@2": "/b", "recovery@3": "/c"}
    assert names(()) == {"recovery": ""}


def test_table_of_layers() -> None:
    rows = [
        Row("neutron api", "up", note="http://127.0.0.1:9696 answers 200"),
        Row("sql", "behind", 1, 200.0, "changes not yet in the store"),
        changed(Row("store", "down"), note="timed out"),
    ]
    assert show(rows) == (
        "LAYER        STATE   BACKLOG  OLDEST      NOTE\n"
        "neutron api  up            -  -           http://127.0.0.1:9696 answers 200\n"
        "sql          behind        1  3 min 20 s  changes not yet in the store\n"
        "store        down          -  -           timed out\n"
    )
