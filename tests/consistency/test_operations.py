"""What an operator asks of a recovery service: drift, repair, rebuild, audit, guards."""

from __future__ import annotations

from dataclasses import replace

import pytest
from recovery_world import DEPLOYMENT, OPTIONS, World, other_content
from test_recovery import HANDS, lose, plant, tamper

from flowloom.consistency.differences import Kind
from flowloom.consistency.table import Ref
from flowloom.kernel.errors import Rejected
from flowloom.model.keys import key_of
from flowloom.northbound.store import Entry


@pytest.fixture
def world() -> World:
    world = World()
    world.fill(40)
    return world


def test_drift_of_equal_sides_is_complete_and_finds_nothing(world: World) -> None:
    told = world.operations().ask({"ask": "drift"})
    assert (told["complete"], told["objects"], told["counts"], told["differences"]) == (True, 40, {}, [])


def test_drift_names_every_difference_and_touches_nothing(world: World) -> None:
    expected = {}
    for number, hand in enumerate(HANDS):
        kind = hand(world, Ref("port", f"o{number + 1:04}"))
        if kind is not None:
            expected[kind] = expected.get(kind, 0) + 1
    world.bypass("o0020", "was deleted")
    world.bypass("o0021", "changed past the capture")
    world.change("o0022", "on its way")
    before = world.store.entries()
    told = world.operations().ask({"ask": "drift", "limit": 3})
    expected[Kind.UNCAPTURED] = 2
    assert told["counts"] == expected and told["dirty"] == 1
    assert len(told["differences"]) == 3 and world.store.entries() == before
    assert set(told["differences"][0]) >= {
        "kind",
        "object",
        "project",
        "key",
        "neutron_version",
        "store_version",
        "comparison",
    }


def test_drift_without_the_store_is_not_complete_and_says_why(world: World) -> None:
    world.store.available = False
    told = world.operations().ask({"ask": "drift"})
    assert told["complete"] is False and "cut off" in told["why"] and told["counts"] == {}


def test_repair_makes_everything_equal_and_says_so(world: World) -> None:
    for number, hand in enumerate(HANDS):
        hand(world, Ref("port", f"o{number + 1:04}"))
    operations = world.operations()
    job = operations.ask({"ask": "repair", "by": "anna"})["job"]
    told = world.finish(operations, job)
    assert told["state"] == "done" and told["done"] == told["total"] == told["repaired"] == len(HANDS)
    assert world.unequal() == []
    entries = operations.ask({"ask": "audit", "limit": 100})["entries"]
    assert {entry["by"].split(" via ")[0] for entry in entries} == {"anna"}
    assert len(entries) == len(HANDS) and {entry["verified"] for entry in entries} == {"read again: equal"}
    assert operations.ask({"ask": "drift"})["counts"] == {}


def test_a_dry_run_finds_the_same_and_changes_nothing(world: World) -> None:
    lose(world, Ref("port", "o0001"))
    before = world.store.entries()
    operations = world.operations()
    told = world.finish(operations, operations.ask({"ask": "repair", "dry_run": True})["job"])
    assert told["state"] == "done" and told["found"] == {Kind.MISSING: 1} and told["repaired"] == 0
    assert told["sample"][0]["object"] == ["port", "o0001"]
    assert world.store.entries() == before and world.audit() == []


def test_repair_of_one_project_leaves_the_others(world: World) -> None:
    lose(world, Ref("port", "o0001"))  # p1
    lose(world, Ref("port", "o0002"))  # p2
    operations = world.operations()
    told = world.finish(operations, operations.ask({"ask": "repair", "project": "p2"})["job"])
    assert told["repaired"] == 1 and world.audited() == [(Kind.MISSING, "o0002")]


def test_repair_of_one_object_of_neutron_or_of_the_store(world: World) -> None:
    tamper(world, Ref("port", "o0001"))
    tamper(world, Ref("port", "o0002"))
    plant(world, Ref("port", "o0003"))
    operations = world.operations()
    for name, kind in (("o0001", Kind.DIFFERENT), ("stray of o0003", Kind.ORPHAN), ("o0004", None)):
        told = world.finish(operations, operations.ask({"ask": "repair", "object": name})["job"])
        assert told["found"] == ({} if kind is None else {kind: 1}), name
    assert world.audited() == [(Kind.DIFFERENT, "o0001"), (Kind.ORPHAN, "stray of o0003")]
    audit = operations.ask({"ask": "audit", "object": "o0001"})["entries"]
    assert {entry["ref"][1] for entry in audit} == {"o0001"}


def test_an_object_that_exists_nowhere_is_rejected_by_name(world: World) -> None:
    with pytest.raises(Rejected, match=r"nowhere-to-be-found: neither Neutron nor the store"):
        world.operations().ask({"ask": "repair", "object": "nowhere-to-be-found"})


def test_too_much_is_held_until_exactly_that_is_approved() -> None:
    world = World()
    world.fill(200)
    for number in range(1, 80):
        if number % 10:
            lose(world, Ref("port", f"o{number:04}"))
    operations = world.operations()
    held = world.finish(operations, operations.ask({"ask": "repair"})["job"])
    assert held["state"] == "held" and held["found"] == {Kind.MISSING: 72} and world.audit() == []
    (guard,) = operations.ask({"ask": "guards"})["guards"]
    assert guard["id"] == held["guard"] and guard["found"] == {Kind.MISSING: 72}
    with pytest.raises(Rejected, match="no such guard"):
        operations.ask({"ask": "repair", "approve": "other"})
    # Any service may be told.
    other = world.operations()
    done = world.finish(other, other.ask({"ask": "repair", "approve": held["guard"], "by": "anna"})["job"])
    assert done["state"] == "done" and done["repaired"] == 72 and world.unequal() == []
    assert {entry.guard for entry in world.audit()} == {held["guard"]}
    assert other.ask({"ask": "guards"})["guards"] == []


def test_rebuild_fills_an_empty_store_and_removes_nothing() -> None:
    world = World()
    world.fill(200)
    world.store.wipe()
    planted = Entry(key_of(DEPLOYMENT, "p1", "net", "port", "planted"), 3, b"?")
    world.put(planted)
    operations = world.operations()
    told = world.finish(operations, operations.ask({"ask": "rebuild", "by": "anna"})["job"])
    assert told["state"] == "done" and told["repaired"] == 200
    assert world.held(planted.key) == planted, "a rebuild adds; an orphan is the regular repair's"
    world.remove(planted.key)
    assert world.unequal() == [] and operations.ask({"ask": "guards"})["guards"] == []


def test_a_job_goes_on_where_a_dead_one_was() -> None:
    world = World()
    world.fill(100)
    world.store.wipe()
    first = world.operations()
    job = first.ask({"ask": "rebuild", "rate": 20})["job"]
    for _ in range(4):
        world.clock.advance(first.work())
    told = first.ask({"ask": "job", "id": job})
    assert told["state"] == "running" and 0 < told["done"] < 100 and told["seconds_left"] > 0
    second = world.operations()
    told = world.finish(second, second.ask({"ask": "rebuild"})["job"])
    assert told["state"] == "done" and told["total"] < 100 and world.unequal() == []


def test_a_store_that_goes_away_fails_the_job_with_its_reason(world: World) -> None:
    lose(world, Ref("port", "o0001"))
    operations = world.operations()
    job = operations.ask({"ask": "repair"})["job"]
    world.store.available = False
    told = world.finish(operations, job)
    assert told["state"] == "failed" and "cut off" in told["why"]


def test_a_job_waits_for_a_lock_and_says_whose_it_was_when_it_does_not_get_it(world: World) -> None:
    lose(world, Ref("port", "o0001"))
    lease = world.tables.take("project:p1", "a worker", 60)
    assert lease is not None
    operations = world.operations()
    told = world.finish(operations, operations.ask({"ask": "repair"})["job"])
    assert told["state"] == "failed" and "project p1" in told["why"]


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ({"ask": "drift", "limit": 0}, "limit"),
        ({"ask": "drift", "limit": "all"}, "limit"),
        ({"ask": "repair", "rate": 0}, "rate"),
        ({"ask": "repair", "rate": "fast"}, "rate"),
        ({"ask": "job", "id": "x"}, "no such job"),
        ({"ask": "away"}, "not known"),
    ],
)
def test_a_wrong_question_is_rejected(world: World, question: dict[str, object], named: str) -> None:
    with pytest.raises(Rejected, match=named):
        world.operations().ask(question)


def test_what_is_written_while_drift_looks_is_no_difference(world: World) -> None:
    operations = world.operations(replace(OPTIONS))
    rows, changed = world.tables.shard, []

    def busy(shard: int, after_key: int, limit: int):  # type: ignore[no-untyped-def]
        if shard % 8 == 0:
            changed.append(world.change(f"o{shard + 1:04}", f"changed {shard}"))
            world.drain()
        return rows(shard, after_key, limit)

    operations._table.shard = busy  # type: ignore[method-assign]
    told = operations.ask({"ask": "drift"})
    assert changed and told["counts"] == {}


def test_other_content_keeps_its_version() -> None:
    assert other_content(Entry("/k", 3, b'{"name":"a"}')).version == 3
