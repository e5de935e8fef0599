"""How a publisher numbers its notices."""

from __future__ import annotations

from flowloom.northbound.numbering import Numbering, scope_of


def previous(numbering: Numbering, scope: str) -> int:
    return numbering.notice(f"/lab/p/{scope}/port/a", 1, b"").previous


def test_the_scope_of_a_key_is_what_comes_before_kind_and_id() -> None:
    assert scope_of("/lab/p/n1/port/a") == "/lab/p/n1/"


def test_previous_is_the_last_number_in_the_same_scope() -> None:
    numbering = Numbering("p", 1, 0.0)
    assert [previous(numbering, scope) for scope in "ababb"] == [0, 0, 1, 2, 4]


def test_a_publisher_that_forgot_a_scope_says_so() -> None:
    numbering = Numbering("p", 1, 0.0, scopes_max=2)
    assert [previous(numbering, scope) for scope in "abacb"] == [0, 0, 1, 0, -1]
    assert previous(numbering, "new") == -1  # It cannot tell a new scope from a forgotten one.


def test_a_scope_is_owed_one_heartbeat_with_its_last_number() -> None:
    numbering = Numbering("p", 1, 0.0)
    assert [beat.scope for beat in numbering.heartbeats(0.0)] == [""]
    numbering.notice("/lab/p/n1/port/a", 1, b"")
    numbering.notice("/lab/p/n1/port/a", 2, b"")
    assert numbering.heartbeats(0.9) == []
    assert numbering.next_due() == 1.0
    assert [(beat.scope, beat.sequence) for beat in numbering.heartbeats(1.0)] == [("/lab/p/n1/", 2), ("", 2)]
    assert numbering.next_due() == 2.0
    assert [(beat.scope, beat.sequence) for beat in numbering.heartbeats(2.0)] == [("", 2)]
