"""Auto-recovery: whatever is done to either side, afterwards both are equal, and the audit says what was done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recovery_world import DEPLOYMENT, OPTIONS, World, other_content, replace_value

from flowloom.consistency.differences import Kind
from flowloom.consistency.marks import shard_of
from flowloom.consistency.table import Ref
from flowloom.kernel.errors import Rejected
from flowloom.model.keys import key_of
from flowloom.northbound.store import Entry, Write
from flowloom.testing.table_conformance import REFUSED, UNKNOWN_KIND

# --- hands that tamper: each makes one difference of the object and says which ---------------------


def lose(world: World, ref: Ref) -> Kind:
    world.remove(world.key(ref))
    return Kind.TOMBSTONE_MISSING if world.sql.table("sync")[ref].deleted else Kind.MISSING


def lose_silently(world: World, ref: Ref) -> Kind:
    world.remove(world.key(ref), silently=True)
    return Kind.TOMBSTONE_MISSING if world.sql.table("sync")[ref].deleted else Kind.MISSING


def set_back(world: World, ref: Ref) -> Kind:
    entry = world.held(world.key(ref))
    assert entry is not None
    world.put(Entry(entry.key, entry.version - 1, b'{"old":1}'))
    return Kind.TOMBSTONE_MISSING if world.sql.table("sync")[ref].deleted else Kind.STALE


def tamper(world: World, ref: Ref, silently: bool = False) -> Kind:
    entry = world.held(world.key(ref))
    assert entry is not None
    world.put(replace_value(entry, b"garbage") if entry.value is None else other_content(entry), silently)
    return Kind.DIFFERENT


def tamper_silently(world: World, ref: Ref) -> Kind:
    return tamper(world, ref, silently=True)


def bury(world: World, ref: Ref) -> Kind | None:
    entry = world.held(world.key(ref))
    assert entry is not None
    if entry.value is None:
        return None
    world.put(replace_value(entry, None))
    return Kind.DIFFERENT


def run_ahead(world: World, ref: Ref) -> Kind:
    entry = world.held(world.key(ref))
    assert entry is not None
    world.put(Entry(entry.key, entry.version + 1000, b"from the future"))
    return Kind.AHEAD


def plant(world: World, ref: Ref) -> Kind:
    world.put(Entry(key_of(DEPLOYMENT, "p1", "net", "port", f"stray of {ref.id}"), 7, b"stray"))
    return Kind.ORPHAN


def misplace(world: World, ref: Ref) -> Kind:
    world.put(Entry(key_of(DEPLOYMENT, "elsewhere", "net", ref.kind, ref.id), 7, b"misplaced"))
    return Kind.ORPHAN


def spoil_mark(world: World, ref: Ref) -> Kind:
    world.set_row(ref, mark=12345)
    return Kind.UNMARKED


HANDS: list[Callable[[World, Ref], Kind | None]] = [
    lose,
    lose_silently,
    set_back,
    tamper,
    tamper_silently,
    bury,
    run_ahead,
    plant,
    misplace,
    spoil_mark,
]


@pytest.fixture
def world() -> World:
    world = World()
    world.fill(40)
    return world


@pytest.mark.parametrize("hand", HANDS)
@pytest.mark.parametrize("name", ["o0001", "o0010"], ids=["object", "tombstone"])
def test_each_kind_of_difference_is_found_repaired_and_audited(
    world: World, hand: Callable[[World, Ref], Kind | None], name: str
) -> None:
    service = world.service()
    world.run(4)
    assert world.unequal() == [] and world.audit() == []
    kind = hand(world, Ref("port", name))
    if kind is None:
        return
    world.run(30)
    assert world.unequal() == []
    (entry,) = world.audit()
    assert (entry.kind, entry.verified) == (kind, "read again: equal")
    assert entry.ref.id in (name, f"stray of {name}")
    assert (
        entry.by.startswith("service-0") and entry.version == (world.held(_audited_key(world, entry.ref, kind)) or 0)[1]
    )
    assert service.counters.repaired == {kind: 1}
    before = list(world.store.entries())
    world.run(10)
    assert world.store.entries() == before, "recovery did something although all was equal"


def _audited_key(world: World, ref: Ref, kind: Kind) -> str:
    elsewhere = key_of(DEPLOYMENT, "elsewhere", "net", ref.kind, ref.id)
    return elsewhere if kind == Kind.ORPHAN and world.held(elsewhere) else world.key(ref)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    hands=st.lists(st.tuples(st.sampled_from(HANDS), st.integers(0, 39)), max_size=12, unique_by=lambda hand: hand[1]),
    services=st.integers(1, 3),
    restart=st.booleans(),
)
def test_after_any_tampering_both_sides_are_equal_and_the_audit_is_exact(
    seed: int, hands: list[tuple[Callable[[World, Ref], Kind | None], int]], services: int, restart: bool
) -> None:
    world = World(seed)
    refs = world.fill(40)
    if not restart:
        for _ in range(services):
            world.service()
        world.run(4)
    expected = []
    for hand, number in hands:
        kind = hand(world, refs[number])
        if kind is not None:
            name = f"stray of {refs[number].id}" if hand is plant else refs[number].id
            expected.append((kind, name))
    if restart:
        for _ in range(services):
            world.service()
    world.run(40)
    assert world.unequal() == []
    assert world.audited() == sorted(expected)
    assert {entry.verified for entry in world.audit()} <= {"read again: equal"}


def test_a_wrong_mark_is_put_right_in_the_row_and_the_store_is_left_alone(world: World) -> None:
    world.service()
    world.run(4)
    before, version = world.store.entries(), world.sql.table("sync")[Ref("port", "o0001")].version
    spoil_mark(world, Ref("port", "o0001"))
    world.run(10)
    assert world.store.entries() == before
    assert world.sql.table("sync")[Ref("port", "o0001")].version == version
    assert [(entry.kind, entry.done) for entry in world.audit()] == [(Kind.UNMARKED, "acknowledged again")]


def test_a_change_past_the_capture_is_found_by_translating_again(world: World) -> None:
    world.service(replace(OPTIONS, adopt_seconds=1e9))
    world.run(4)
    world.services[0]._next_adopt = 1e9  # Only the retranslation may find it.
    world.bypass("o0001", "past the capture")
    world.bypass("o0002", None)
    world.run(60)
    assert world.unequal() == []
    assert world.audited() == [(Kind.UNCAPTURED, "o0001"), (Kind.UNCAPTURED, "o0002")]


def test_an_object_without_a_row_is_adopted_by_the_leader(world: World) -> None:
    world.service()
    world.service()
    world.run(4)
    world.bypass("new", "made past the capture")
    world.run(20)
    assert world.unequal() == []
    assert world.audited() == [(Kind.NOT_ADOPTED, "new")]


def test_rows_left_dirty_by_a_dead_worker_are_drained(world: World) -> None:
    world.service()
    world.change("o0001", "changed")
    world.change("fresh", "created")
    world.run(5)
    assert world.unequal() == [] and world.audit() == []


def test_a_wiped_store_is_listed_again_and_what_it_lacks_is_held_by_the_guard() -> None:
    world = World()
    world.fill(100)
    service = world.service()
    world.run(4)
    world.store.wipe()
    world.run(20)
    assert all(entry.value is None for entry in world.store.entries())
    (guard,) = world.tables.guards()
    assert guard.found == {Kind.MISSING: 90} and guard.of_objects == 100 and len(guard.sample) == 10
    # The few that are within bounds are repaired meanwhile, and the guard stays the same one.
    assert {entry.kind for entry in world.audit()} == {Kind.TOMBSTONE_MISSING}
    world.run(20)
    assert [kept.id for kept in world.tables.guards()] == [guard.id]
    assert service.counters.held[Kind.MISSING] == 90
    assert world.tables.approve(guard.id, "operator")
    world.run(20)
    assert world.unequal() == []
    assert {entry.guard for entry in world.audit() if entry.kind == Kind.MISSING} == {guard.id}
    assert world.tables.guards() == []


def test_a_dear_round_is_made_seldom_while_a_guard_waits_and_at_once_after_the_word() -> None:
    world = World()
    world.fill(100)
    service = world.service()
    world.run(4)
    sums = service._table.sums

    def slow():  # type: ignore[no-untyped-def]
        world.clock.advance(1.0)
        return sums()

    service._table.sums = slow  # type: ignore[method-assign]
    world.store.wipe()
    world.run(20)
    (guard,) = world.tables.guards()
    rounds = service.counters.rounds
    world.run(20)
    assert service.counters.rounds <= rounds + 1
    world.tables.approve(guard.id, "operator")
    world.run(8)
    assert world.unequal() == []


def test_an_old_backup_put_back_is_brought_up_to_date() -> None:
    world = World()
    world.fill(300)
    world.service()
    world.run(4)
    backup = world.backup()
    changed = [world.change(f"o{n:04}", f"newer {n}") for n in range(1, 9)]
    gone, new = world.change("o0011", None), world.change("late", "created after the backup")
    world.drain()
    world.restore(backup)
    world.run(20)
    assert world.unequal() == []
    kinds = [(Kind.STALE, ref.id) for ref in changed]
    assert world.audited() == sorted([*kinds, (Kind.TOMBSTONE_MISSING, gone.id), (Kind.MISSING, new.id)])


def test_nothing_is_concluded_from_a_store_that_does_not_answer(world: World) -> None:
    world.service()
    world.run(4)
    world.store.available = False
    world.change("o0001", "changed while it was away")
    world.run(20)
    assert world.audit() == []
    world.store.available = True
    world.run(10)
    assert world.unequal() == [] and world.audit() == []


def test_a_leader_that_cannot_reach_the_store_does_no_harm_and_makes_room_for_another(world: World) -> None:
    broken, healthy = world.service(), world.service()
    world.run(6)
    assert broken.shares.leads() and len(broken.shares.owned()) == 32
    world.links[0].cut = True
    for number in range(1, 9):
        tamper(world, Ref("port", f"o{number:04}"))
    world.run(25)
    assert healthy.shares.leads() and broken.shares.owned() == []
    assert world.unequal() == []
    assert {entry.by.split("/")[0] for entry in world.audit()} == {healthy.owner}
    world.links[0].cut = False
    world.run(15)
    assert len(broken.shares.owned()) == len(healthy.shares.owned()) == 32


def test_a_project_lock_left_behind_by_a_dead_deployment_is_taken(world: World) -> None:
    world.service()
    world.run(4)
    assert world.tables.take("project:p1", "gone", 3600.0)  # As an hour's jump of the clock would leave it, too.
    world.change("o0001", "changed")
    tamper(world, Ref("port", "o0004"))
    world.run(10)
    assert world.unequal() == [] and world.audited() == [(Kind.DIFFERENT, "o0004")]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_database_clock_that_jumps_an_hour_delays_and_loses_nothing(world: World, jump: float) -> None:
    world.service(), world.service()
    world.run(6)
    world.change("o0001", "changed before")
    tamper(world, Ref("port", "o0004"))
    world.jumped = jump
    world.change("o0002", "changed after")
    world.run(40)
    assert world.unequal() == [] and world.audited() == [(Kind.DIFFERENT, "o0004")]


def test_a_broken_feed_during_a_round_leads_to_no_repair(world: World) -> None:
    service = world.service()
    world.run(4)
    service._index.start_over()
    service._index._forget()  # As empty as it can be, and not complete.
    service._next_compare = 0.0
    service._round(world.links[0].store())
    assert not service._queue and world.audit() == []


def test_unknown_kinds_are_named_and_never_touched(world: World) -> None:
    service = world.service()
    world.change("x", "of a newer plug-in", kind=UNKNOWN_KIND)
    planted = Entry(key_of(DEPLOYMENT, "p1", "net", UNKNOWN_KIND, "y"), 3, b"of a newer plug-in")
    strange = Entry(f"/{DEPLOYMENT}/no/record", 3, b"?")
    world.put(planted)
    world.put(strange)
    world.run(30)
    row = world.sql.table("sync")[Ref(UNKNOWN_KIND, "x")]
    assert (row.version, row.synced_version) == (1, 0) and "not known to this release" in row.last_error
    assert service.unknown == (Ref(UNKNOWN_KIND, "x"),)
    assert world.held(planted.key) == planted and world.held(strange.key) == strange
    assert world.audit() == []
    assert Ref(UNKNOWN_KIND, "y") not in world.sql.table("sync")


@pytest.mark.parametrize(
    "end",
    ["%6f0001", "o%ff", "x" * 200, "a%2Fb", "o%00", "%F0%9F%98%80"],
    ids=["another spelling", "no text", "longer than a row takes", "slash", "zero", "wide"],
)
def test_whatever_key_a_hand_plants_gets_a_tombstone_once(world: World, end: str) -> None:
    world.service()
    world.run(4)
    planted = Entry(f"/{DEPLOYMENT}/p1/net/port/{end}", 3, b"?")
    world.put(planted)
    world.run(30)
    assert world.held(planted.key) == replace_value(planted, None)._replace(version=4)
    assert [entry.kind for entry in world.audit()] == [Kind.ORPHAN]
    assert world.unequal() == []


@pytest.mark.parametrize(
    ("planted", "why"),
    [
        (Entry(f"/{DEPLOYMENT}/p1/net/port/a b", 3, b"?"), "no store takes"),
        (Entry(f"/{DEPLOYMENT}/p1/net/port/o0001", 2**63 - 1, b"?"), "too large to go above"),
        (Entry(f"/{DEPLOYMENT}/p1/net/port/stray", 2**62 + 1, b"?"), "too large to go above"),
    ],
)
def test_what_no_repair_can_mend_is_told_and_holds_up_no_other(world: World, planted: Entry, why: str) -> None:
    service = world.service()
    world.run(4)
    world.put(planted)
    tamper(world, Ref("port", "o0004"))
    world.run(10)
    assert world.held(planted.key) == planted
    assert world.audited() == [(Kind.DIFFERENT, "o0004")]
    assert sum(service.counters.left.values()) <= 1
    (told,) = world.operations().ask({"ask": "drift"})["differences"]
    assert why in told["left"] and told["key"] == planted.key
    world.change("o0001", "Neutron goes on")
    world.run(5)
    assert world.sql.table("sync")[Ref("port", "o0001")].version == 2


def test_an_object_that_cannot_become_a_record_is_left_and_its_neighbours_are_repaired(world: World) -> None:
    world.service()
    world.run(4)
    world.bypass("o0001", REFUSED)
    tamper(world, Ref("port", "o0001"))
    tamper(world, Ref("port", "o0004"))
    world.services[0]._next_adopt = 1e9
    world.run(4)
    assert world.audited() == [(Kind.DIFFERENT, "o0004")]


def test_a_busy_lock_delays_a_repair_and_nothing_else(world: World) -> None:
    world.service()
    world.run(4)
    lease = world.tables.take("project:p1", "a worker", 15)
    assert lease is not None
    tamper(world, Ref("port", "o0001"))
    tamper(world, Ref("port", "o0002"))
    world.run(6)
    assert world.audited() == [(Kind.DIFFERENT, "o0002")]
    world.run(20)
    assert world.unequal() == []
    assert world.services[0].counters.lock_waits > 0


def test_a_lock_lost_between_comparison_and_repair_changes_nothing(world: World) -> None:
    service = world.service()
    world.run(4)
    tamper(world, Ref("port", "o0001"))
    reopen = service._table.reopen

    def stolen(lease, wanted, generation):  # type: ignore[no-untyped-def]
        world.jumped += 16.0  # By the database's clock the lease is over; by our own we do not know it yet.
        assert world.tables.take(lease.name, "another", 15) is not None
        return reopen(lease, wanted, generation)

    service._table.reopen = stolen  # type: ignore[method-assign]
    version = world.sql.table("sync")[Ref("port", "o0001")].version
    service.follow_step()
    service.compare_step()
    assert world.sql.table("sync")[Ref("port", "o0001")].version == version
    assert service.counters.lock_lost == 1 and world.audit() == []
    service._table.reopen = reopen  # type: ignore[method-assign]
    world.run(30)
    assert world.unequal() == []


def test_every_repair_has_an_entry_even_if_the_service_dies_in_its_middle(world: World) -> None:
    service = world.service()
    world.run(4)
    tamper(world, Ref("port", "o0001"))

    class Died(BaseException):
        pass

    def die(_found, _done, _guard, _by):  # type: ignore[no-untyped-def]
        raise Died

    service._repairer._verify = die  # type: ignore[method-assign]
    with pytest.raises(Died):
        world.run(10, service)
    world.services = []
    world.clock.advance(OPTIONS.lease_seconds)
    heir = world.service()
    world.run(20, heir)
    assert world.unequal() == []
    told = world.operations().ask({"ask": "audit"})["entries"]
    assert [(entry["kind"], entry["ref"][1], entry["done"]) for entry in told] == [
        (Kind.DIFFERENT, "o0001", "to be written again")
    ]


def test_a_store_that_goes_away_in_the_middle_of_a_repair_leaves_the_lock_free(world: World) -> None:
    service = world.service()
    world.run(4)
    tamper(world, Ref("port", "o0001"))
    reopen = service._table.reopen

    def reopen_then_cut(lease, wanted, generation):  # type: ignore[no-untyped-def]
        world.store.available = False
        return reopen(lease, wanted, generation)

    service._table.reopen = reopen_then_cut  # type: ignore[method-assign]
    world.run(2)
    assert not world.store.available
    assert world.tables.take("project:p1", "a worker", 1.0) is not None
    world.store.available = True
    service._table.reopen = reopen  # type: ignore[method-assign]
    world.run(10)
    assert world.unequal() == []


def test_what_cannot_be_repaired_is_not_looked_at_again_and_hides_nothing(world: World) -> None:
    world.service(replace(OPTIONS, reread_per_second=0.001))
    world.run(4)
    stuck = "stuck"
    neighbour = next(n for n in range(10_000) if shard_of("port", f"n{n}") == shard_of("port", stuck))
    world.change(f"n{neighbour}", "neighbour")
    world.put(Entry(key_of(DEPLOYMENT, "p1", "net", "port", stuck), 2**62 + 1, b"?"))
    world.run(6)
    fence = world.sql.table("lease")["project:p1"].fence
    world.run(20)
    assert world.sql.table("lease")["project:p1"].fence == fence, "its lock was taken again and again"
    tamper(world, Ref("port", f"n{neighbour}"))
    world.run(4)
    assert world.audited() == [(Kind.DIFFERENT, f"n{neighbour}")]


def test_what_was_undone_before_anybody_looked_closely_is_found_when_it_is_done_again(world: World) -> None:
    service = world.service()
    world.run(4)
    right = world.held(world.key(Ref("port", "o0001")))
    assert right is not None
    get = world.links[0].store().get
    world.links[0].store().get = lambda keys: (world.put(right), get(keys))[1]  # type: ignore[method-assign]
    tamper(world, Ref("port", "o0001"))
    service.follow_step()
    world.clock.advance(2.0)
    service.compare_step()
    world.links[0].store().get = get  # type: ignore[method-assign]
    assert world.held(right.key) == right
    world.run(4)
    assert world.audit() == []
    tamper(world, Ref("port", "o0001"))
    world.run(6)
    assert world.audited() == [(Kind.DIFFERENT, "o0001")] and world.unequal() == []


def test_an_index_that_is_wrong_repairs_nothing_calls_no_guard_and_is_put_right() -> None:
    world = World()
    refs = world.fill(200)
    service = world.service(replace(OPTIONS, reread_per_second=0.001, versions_seconds=1e9))
    world.run(4)
    for wrong in (150, 5):  # Beyond the guard's bounds, and within.
        service._index.take([Entry(world.key(ref), 77, b"nobody wrote this") for ref in refs[:wrong]])
        world.run(6)
        assert world.tables.guards() == [] and world.audit() == []
        assert service.counters.shards_differing == 0 and service.counters.drift == {}


def test_a_list_of_versions_finds_what_no_feed_told(world: World) -> None:
    world.service(replace(OPTIONS, reread_per_second=0.001))
    world.run(4)
    lose_silently(world, Ref("port", "o0001"))
    world.run(OPTIONS.versions_seconds + 4)
    assert world.audited() == [(Kind.MISSING, "o0001")]


def test_a_store_without_a_change_feed_is_followed_by_its_versions(world: World) -> None:
    service = world.service(replace(OPTIONS, reread_per_second=0.001))
    store = world.links[0].store()
    store.capabilities = replace(store.capabilities, watch=False)
    store.watch = None  # type: ignore[assignment, method-assign]
    world.run(4)
    lose(world, Ref("port", "o0001"))
    run_ahead(world, Ref("port", "o0002"))
    world.change("o0003", "changed")
    world.run(10)
    assert world.unequal() == []
    assert world.audited() == [(Kind.AHEAD, "o0002"), (Kind.MISSING, "o0001")]
    world.store.wipe()
    world.run(10)
    assert world.unequal() == [] and service.counters.listings == 2


def test_only_the_leader_searches_for_objects_without_a_row(world: World) -> None:
    asked: list[str] = []
    for service in (world.service(), world.service()):
        adopt = service._table.adopt

        def noted(limit: int, service=service, adopt=adopt):  # type: ignore[no-untyped-def]
            asked.append(service.owner)
            return adopt(limit)

        service._table.adopt = noted  # type: ignore[method-assign]
    world.run(30)
    assert len(asked) >= 4 and set(asked) == {service.owner for service in world.services if service.shares.leads()}


def test_repairs_keep_to_their_pace() -> None:
    world = World()
    refs = world.fill(60)
    world.service(replace(OPTIONS, repairs_per_second=2.0))
    world.run(4)
    for ref in refs[1:10] + refs[11:20]:
        tamper(world, ref)
    world.run(4)
    assert 4 <= len(world.audit()) <= 10
    world.run(12)
    assert world.unequal() == []


def test_the_audit_is_kept_within_its_bound(world: World) -> None:
    world.service(replace(OPTIONS, audit_keep=4))
    world.run(4)
    for number in range(1, 9):
        tamper(world, Ref("port", f"o{number:04}"))
    world.run(20)
    assert len(world.tables.recent(100)) == 4


# --- dead chassis ----------------------------------------------------------------------------------


class Lives:
    """Satisfies `chassis.Nodes`."""

    def __init__(self, bound: set[str], silent: dict[str, float]) -> None:
        self.bound = bound
        self.silent = silent

    def bound_hosts(self) -> set[str]:
        return self.bound

    def silent_seconds(self, chassis: str) -> float:
        return self.silent.get(chassis, 0.0)


def test_a_silent_chassis_without_ports_is_removed_with_its_port_statuses(world: World) -> None:
    version = 5 << 32 | 3

    def key(chassis: str, kind: str, name: str) -> str:
        return key_of(DEPLOYMENT, "", chassis, kind, name)

    for chassis in ("dead", "bound", "heard"):
        world.put(Entry(key(chassis, "chassis", chassis), version, b"chassis"))
        world.put(Entry(key(chassis, "port_status", "o0001"), version + 1, b"status"))
    lives = Lives({"bound"}, {"dead": 90_000.0, "bound": 90_000.0, "heard": 100.0})
    service = world.service(nodes=lives)
    world.run(10)
    assert world.held(key("dead", "chassis", "dead")) == Entry(key("dead", "chassis", "dead"), version + 1, None)
    assert world.held(key("dead", "port_status", "o0001")) == Entry(
        key("dead", "port_status", "o0001"), version + 2, None
    )
    for chassis in ("bound", "heard"):
        assert world.held(key(chassis, "chassis", chassis)) == Entry(
            key(chassis, "chassis", chassis), version, b"chassis"
        )
    assert [(entry.kind, entry.ref) for entry in world.audit()] == [
        (Kind.DEAD_CHASSIS, Ref("chassis", "dead")),
        (Kind.DEAD_CHASSIS, Ref("port_status", "o0001")),
    ]
    # The agent that comes back has a greater epoch, and its write wins.
    alive = world.links[0].store().apply([Write(key("dead", "chassis", "dead"), 6 << 32, b"chassis")])
    assert alive[0].applied
    assert service.counters.repaired[Kind.DEAD_CHASSIS] == 2


def test_rejected_is_what_a_bad_question_gets(world: World) -> None:
    with pytest.raises(Rejected, match="not known here"):
        world.operations().ask({"ask": "the way"})
