"""The guard: few repairs pass, many wait for a word that is for them alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.consistency.differences import Kind
from flowloom.consistency.guard import SERVICES, Finding, Guard, family_of, too_many
from flowloom.kernel.clock import ManualClock
from flowloom.testing.sql_model import SqlModel
from flowloom.testing.sql_model_tables import ModelTables


@pytest.fixture
def audit() -> ModelTables:
    return ModelTables(SqlModel(ManualClock().wall))


def finding(
    missing: int = 0, stale: int = 0, epoch: str = "e1", family: str = SERVICES, objects: int = 1000
) -> Finding:
    return Finding(epoch, family, {"missing": missing, "stale": stale}, objects, ("one", "two"))


def guard(audit: ModelTables, by: str = "s0") -> Guard:
    return Guard(audit, by, 0.05, 50)


@pytest.mark.parametrize(
    ("found", "of_objects", "held"),
    [
        ({"missing": 50}, 100, set()),
        ({"missing": 51}, 100, {"missing"}),
        ({"missing": 51}, 2000, set()),
        ({"missing": 101}, 2000, {"missing"}),
        ({"missing": 60, "stale": 50}, 100, {"missing"}),
        ({"missing": 40, "stale": 40}, 100, {"stale"}),
        ({"unmarked": 100_000, "missing": 1}, 100_000, set()),
    ],
)
def test_more_than_fifty_and_more_than_the_share_is_too_much(
    found: dict[str, int], of_objects: int, held: set[str]
) -> None:
    assert too_many(found, of_objects, 0.05, 50) == held


@given(st.dictionaries(st.sampled_from([kind.value for kind in Kind]), st.integers(0, 300)), st.integers(0, 3000))
def test_what_is_not_held_is_within_bounds(found: dict[str, int], objects: int) -> None:
    held = too_many(found, objects, 0.05, 50)
    rest = sum(n for kind, n in found.items() if kind not in held and kind != "unmarked")
    assert rest <= max(50, 0.05 * objects)


def test_a_guard_keeps_its_id_while_the_finding_lasts_whoever_looks(audit: ModelTables) -> None:
    first = guard(audit).decide(finding(missing=100))
    again = guard(audit, "s1").decide(finding(missing=120, stale=1))
    assert first.held == {"missing"} and again.guard == first.guard
    (kept,) = audit.guards()
    assert kept.found == {"missing": 120} and kept.of_objects == 1000 and kept.sample == ("one", "two")


def test_an_approval_lets_exactly_that_finding_pass_for_every_service(audit: ModelTables) -> None:
    waiting = guard(audit).decide(finding(missing=100))
    assert audit.approve(waiting.guard, "operator")
    for by, left in (("s0", 100), ("s1", 80), ("s0", 51)):
        decision = guard(audit, by).decide(finding(missing=left))
        assert (decision.held, decision.guard) == (frozenset(), waiting.guard)
    more = guard(audit).decide(finding(missing=101))
    assert more.held == {"missing"} and more.guard != waiting.guard
    other = guard(audit).decide(finding(missing=60, stale=60))
    assert other.held, "another kind is another finding"


def test_another_history_of_the_store_needs_another_word(audit: ModelTables) -> None:
    waiting = guard(audit).decide(finding(missing=100))
    audit.approve(waiting.guard, "operator")
    again = guard(audit).decide(finding(missing=100, epoch="e2"))
    assert again.held == {"missing"} and again.guard != waiting.guard
    assert [kept.id for kept in audit.guards()] == [again.guard]


def test_a_finding_that_is_gone_lifts_its_guard_and_not_a_jobs(audit: ModelTables) -> None:
    guard(audit).decide(finding(missing=100))
    job = guard(audit).decide(finding(missing=100, family=family_of("repair p1")))
    guard(audit).decide(finding(missing=3))
    assert [kept.id for kept in audit.guards()] == [job.guard]
