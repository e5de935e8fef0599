"""The follower: what it asks and when, and that its replica equals the store after any history."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowloom.kernel.errors import Unavailable
from flowloom.northbound.bus import BusEvent, Gone, Heartbeat, Notice
from flowloom.northbound.follower import Follower, FollowerSettings, Step
from flowloom.northbound.numbering import Numbering
from flowloom.northbound.requests import Answer, CompareVersions, GetKeys, ReadPrefix, Request, ask
from flowloom.northbound.store import Changes, Entry, Write
from flowloom.testing.fake_store import MemoryDatabase

SCOPES = ("/lab/p/n1/", "/lab/p/n2/", "/lab/q/n3/")
KEYS = tuple(f"{scope}port/{name}" for scope in SCOPES for name in "ab")


class World:
    """A store, publishers, a bus and a store link that the test disturbs, and one follower with its values."""

    def __init__(self, prefixes: tuple[str, ...] = ("/lab/",), **options: Any) -> None:
        self.now = 100.0
        self.database = MemoryDatabase(Random(1))
        self.store = self.database.open()
        self.truth: dict[str, Write] = {}
        self.epochs = [1, 1]
        self.publishers = [Numbering(f"pub{n}", 1, self.now) for n in range(2)]
        self.wire: list[BusEvent] = []
        self.asked: list[Request] = []
        self.answers: list[Answer] = []
        self.values: dict[str, Entry] = {}
        self.own_alive = True
        self.follower = Follower(prefixes, Random(2), FollowerSettings(**options))
        self.requests: list[Request] = []
        self.take(self.follower.start(self.now))

    def take(self, step: Step) -> None:
        for entry in step.changes:
            assert entry.key.startswith(self.follower.prefixes) or entry.value is None
            if entry.value is None:
                assert entry.key in self.values, "a delete of what was never said to be there"
                del self.values[entry.key]
            else:
                before = self.values.get(entry.key)
                assert before is None or entry.version > before.version, "an older value was applied"
                self.values[entry.key] = entry
        self.asked += step.requests
        self.requests += step.requests

    def write(self, key: str, dead: bool, who: int) -> None:
        """As Neutron does: the truth first, the store if it is there, then the notice."""
        version = self.truth[key].version + 1 if key in self.truth else 1
        write = Write(key, version, None if dead else b"%d" % version)
        self.truth[key] = write
        try:
            self.store.apply([write])
        except Unavailable:
            return
        self.wire.append(self.publishers[who].notice(*write))

    def restart(self, who: int) -> None:
        self.epochs[who] += 1
        self.publishers[who] = Numbering(f"pub{who}", self.epochs[who], self.now)

    def beat(self) -> None:
        for publisher in self.publishers:
            self.wire += publisher.heartbeats(self.now)
        if self.own_alive:
            self.wire.append(Heartbeat("me", 1, 0))

    def refill(self) -> None:
        self.store.apply(list(self.truth.values()))

    def deliver(self, index: int = 0) -> None:
        if self.wire:
            self.take(self.follower.receive(self.wire.pop(index % len(self.wire)), self.now))

    def answer_all(self) -> None:
        for _ in range(100):
            if not self.asked:
                return
            self.take(self.follower.receive(ask(self.store, self.asked.pop(0)), self.now))
        raise AssertionError("the follower asks without end")

    def settle(self, seconds: float, beats: bool = True) -> None:
        """Let everything work as it should for so long."""
        until = self.now + seconds
        while self.now < until:
            self.now += 0.5
            if beats:
                self.beat()
            while self.wire:
                self.deliver()
            self.take(self.follower.tick(self.now))
            self.answer_all()

    def held(self) -> dict[str, Entry]:
        return {e.key: e for e in self.database.entries("/lab/") if e.value is not None}

    def forget_requests(self) -> None:
        self.requests = []


def synced(**options: Any) -> World:
    world = World(**options)
    for key in KEYS:
        world.write(key, False, 0)
    world.settle(5.0)
    assert world.values == world.held()
    world.forget_requests()
    return world


OPERATIONS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(KEYS), st.booleans(), st.integers(0, 1)),
    st.tuples(st.just("deliver"), st.integers(0, 5)),
    st.tuples(st.just("lose"), st.integers(0, 5)),
    st.tuples(st.just("double"), st.integers(0, 5)),
    st.tuples(st.just("beat")),
    st.tuples(st.just("time"), st.sampled_from([0.1, 1.0, 4.0, 30.0])),
    st.tuples(st.just("ask"), st.integers(0, 3)),
    st.tuples(st.just("answer"), st.integers(0, 3)),
    st.tuples(st.just("restart"), st.integers(0, 1)),
    st.tuples(st.just("cut")),
    st.tuples(st.just("mend")),
    st.tuples(st.just("wipe"), st.booleans()),
    st.tuples(st.just("gone")),
    st.tuples(st.just("own"), st.booleans()),
)


def perform(world: World, operation: tuple) -> None:  # type: ignore[type-arg]
    match operation:
        case ("write", key, dead, who):
            world.write(key, dead, who)
        case ("deliver", index):
            world.deliver(index)
        case ("lose", index) if world.wire:
            world.wire.pop(index % len(world.wire))
        case ("double", index) if world.wire:
            world.wire.append(world.wire[index % len(world.wire)])
        case ("beat",):
            world.beat()
        case ("time", seconds):
            world.now += seconds
            world.take(world.follower.tick(world.now))
        case ("ask", index) if world.asked:  # The store answers now; the answer arrives later, in any order.
            world.answers.append(ask(world.store, world.asked.pop(index % len(world.asked))))
        case ("answer", index) if world.answers:
            answer = world.answers.pop(index % len(world.answers))
            world.take(world.follower.receive(answer, world.now))
        case ("restart", who):
            world.restart(who)
        case ("cut",):
            world.database.available = False
        case ("mend",):
            world.database.available = True
        case ("wipe", at_once):
            world.database.wipe()
            if at_once and world.database.available:
                world.refill()
        case ("gone",):
            world.take(world.follower.receive(Gone("cut"), world.now))
        case ("own", alive):
            world.own_alive = alive
        case _:
            pass


HISTORIES = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


def check_healed(world: World) -> None:
    assert not world.follower.suspect_empty or not world.held()
    if not world.follower.suspect_empty:
        assert world.values == world.held()
    assert world.follower.in_sync


@HISTORIES
@given(st.lists(OPERATIONS, max_size=60))
def test_after_healing_the_replica_equals_the_store_within_one_refresh(history: list[tuple]) -> None:  # type: ignore[type-arg]
    world = World(refresh_seconds=30.0, grace_seconds=20.0, own_publisher="me")
    for operation in history:
        perform(world, operation)
    # Healed: all parts work, whoever refills the store has done so; what was on its way is lost.
    world.database.available = True
    world.own_alive = True
    world.refill()
    world.wire.clear()
    world.answers.clear()  # Answers that never come are asked again after answer_seconds.
    world.settle(150.0)
    check_healed(world)


@HISTORIES
@given(st.lists(OPERATIONS, max_size=60))
def test_after_healing_a_reconnect_is_enough_without_any_refresh(history: list[tuple]) -> None:  # type: ignore[type-arg]
    world = World(refresh_seconds=1e9, grace_seconds=5.0)
    for operation in history:
        perform(world, operation)
    world.database.available = True
    world.refill()
    for answer in world.answers:
        world.take(world.follower.receive(answer, world.now))
    world.answers.clear()
    world.take(world.follower.receive(Gone("reconnected"), world.now))
    world.settle(30.0)
    check_healed(world)


LOSSES = st.lists(
    st.tuples(st.sampled_from(KEYS), st.booleans(), st.integers(0, 1), st.booleans()), min_size=1, max_size=30
)


@HISTORIES
@given(LOSSES, st.sampled_from([("/lab/",), SCOPES, SCOPES[:1]]))
def test_lost_notices_are_found_by_the_next_heartbeats_alone(
    writes: list[tuple[str, bool, int, bool]], prefixes: tuple[str, ...]
) -> None:
    world = World(prefixes, refresh_seconds=1e9)
    world.settle(3.0)
    for key, dead, who, lost in writes:
        world.write(key, dead, who)
        if lost:
            world.wire.pop()
    world.settle(3.0)
    followed = {key: entry for key, entry in world.held().items() if key.startswith(prefixes)}
    assert world.values == followed


def test_nothing_is_asked_while_notices_arrive() -> None:
    world = synced(refresh_seconds=1e9)
    for version in range(20):
        world.write(KEYS[version % len(KEYS)], version % 5 == 4, 0)
    world.settle(10.0)
    assert world.requests == []
    assert world.values == world.held()


def test_a_lost_notice_asks_for_its_scope_alone_and_for_the_key_that_differs() -> None:
    world = synced(refresh_seconds=1e9)
    world.write(KEYS[0], False, 0)
    world.wire.clear()
    world.settle(3.0)
    assert [type(request) for request in world.requests] == [CompareVersions, GetKeys]
    assert isinstance(world.requests[0], CompareVersions) and world.requests[0].prefix == SCOPES[0]
    assert isinstance(world.requests[1], GetKeys) and world.requests[1].keys == (KEYS[0],)


def test_a_publisher_whose_lost_first_notice_is_announced_by_a_heartbeat_is_asked_about() -> None:
    world = synced(refresh_seconds=1e9)
    world.publishers.append(Numbering("new", 1, world.now))
    world.write(KEYS[2], False, 2)
    world.wire.clear()
    world.settle(3.0)
    assert world.values == world.held()


def test_a_restarted_publisher_is_doubted_where_it_was_heard() -> None:
    world = synced(refresh_seconds=1e9)
    world.write(KEYS[0], False, 0)
    world.wire.clear()  # Its last notice and the heartbeat that would have told are lost with it.
    world.restart(0)
    world.settle(3.0)
    assert world.values == world.held()
    assert {r.prefix for r in world.requests if isinstance(r, CompareVersions)} <= {*SCOPES, "/lab/"}


def test_a_silent_bus_is_suspect_and_polled_until_our_own_heartbeat_is_back() -> None:
    world = synced(refresh_seconds=1e9, own_publisher="me", poll_seconds=3.0)
    for _ in range(8):  # Nothing comes over the bus, not even our own heartbeats.
        world.write(KEYS[0], False, 0)
        world.wire.clear()
        world.settle(1.0, beats=False)
    assert world.follower.suspect_bus
    assert len([r for r in world.requests if isinstance(r, CompareVersions)]) >= 1
    world.settle(6.0, beats=False)
    assert world.values == world.held()
    world.settle(2.0)
    assert not world.follower.suspect_bus


def test_an_unavailable_store_is_asked_again_with_growing_delays_and_nothing_is_lost() -> None:
    world = World(refresh_seconds=1e9)
    world.write(KEYS[0], False, 0)
    world.database.available = False
    world.settle(60.0)
    assert not world.follower.in_sync
    assert len(world.requests) < 40
    world.database.available = True
    world.settle(12.0)
    assert world.follower.in_sync
    assert world.values == world.held()


def test_a_wiped_store_deletes_nothing_and_is_reported() -> None:
    world = synced(refresh_seconds=10.0, grace_seconds=20.0)
    before, epoch = dict(world.values), world.follower.epoch
    world.database.wipe()
    world.settle(100.0)
    assert world.values == before
    assert world.follower.suspect_empty
    assert world.follower.epoch != epoch
    world.refill()
    world.settle(30.0)
    assert not world.follower.suspect_empty
    assert world.values == world.held() == before


def test_a_wiped_store_may_be_refilled_slowly_within_the_grace_time() -> None:
    world = synced(refresh_seconds=5.0, grace_seconds=60.0)
    before = dict(world.values)
    world.database.wipe()
    for write in list(world.truth.values())[:-1]:
        world.store.apply([write])
        world.settle(5.0)
        assert world.values == before
    world.settle(60.0)  # The last one never came back: now it is taken for deleted.
    assert world.values == world.held()
    assert len(world.values) == len(before) - 1


def test_a_store_that_is_refilled_for_longer_than_the_grace_time_loses_nothing() -> None:
    world = synced(refresh_seconds=1e9, grace_seconds=20.0)
    before = dict(world.values)
    world.database.wipe()
    world.take(world.follower.receive(Gone("reconnected"), world.now))
    for write in list(world.truth.values())[:-1]:
        world.settle(15.0)  # Five times that is more than the grace time, but something has come back within it.
        assert world.values == before
        world.store.apply([write])
    world.settle(60.0)
    assert world.values == world.held()
    assert len(world.values) == len(before) - 1


def test_what_nodes_write_by_themselves_does_not_make_a_wiped_store_a_filled_one() -> None:
    world = synced(refresh_seconds=10.0, grace_seconds=20.0, nodes_kinds=frozenset({"chassis"}))
    before = dict(world.values)
    world.database.wipe()
    chassis = Write("/lab/-/h7/chassis/h7", 1, b"x")
    world.store.apply([chassis])
    world.settle(100.0)
    assert {key: world.values[key] for key in before} == before
    assert world.follower.suspect_empty
    world.store.apply([Write(KEYS[0], 9, b"x")])
    world.settle(60.0)
    assert not world.follower.suspect_empty
    assert world.values == world.held()


def test_an_object_that_vanished_from_the_same_store_is_deleted() -> None:
    world = synced(refresh_seconds=10.0)
    del world.database._held[KEYS[1]]  # As a store's clean-up of old tombstones does.
    world.database._keys.remove(KEYS[1])
    world.settle(30.0)
    assert KEYS[1] not in world.values
    assert world.values == world.held()


def test_what_a_notice_taught_after_the_question_is_not_removed_by_the_answer() -> None:
    world = World()
    early = ask(world.store, world.asked.pop())  # An empty listing, still on its way.
    world.write(KEYS[0], False, 0)
    world.deliver()
    world.take(world.follower.receive(early, world.now))
    world.answer_all()
    assert world.values == world.held() != {}


def test_an_object_that_came_back_at_its_old_version_is_seen_in_the_end() -> None:
    world = synced(refresh_seconds=1e9)
    del world.database._held[KEYS[1]]
    world.database._keys.remove(KEYS[1])
    world.take(world.follower.receive(Gone("reconnected"), world.now))
    world.now += 1.0
    world.take(world.follower.tick(world.now))
    while not isinstance(world.asked[0], GetKeys):
        world.take(world.follower.receive(ask(world.store, world.asked.pop(0)), world.now))
    late = ask(world.store, world.asked.pop(0))  # "Absent", said before it came back.
    world.refill()
    world.wire.append(world.publishers[0].notice(*world.truth[KEYS[1]]))
    world.deliver()
    world.take(world.follower.receive(late, world.now))
    world.settle(10.0)
    assert world.values == world.held()


def test_a_gap_is_closed_soon_even_while_a_later_comparison_is_planned() -> None:
    world = synced(refresh_seconds=1e9, grace_seconds=1000.0)
    world.database.wipe()
    world.store.apply([world.truth[key] for key in KEYS[1:]])
    world.take(world.follower.receive(Gone("reconnected"), world.now))
    world.settle(5.0)
    assert KEYS[0] in world.values  # Missing from the store, kept until the grace time is over.
    world.write(KEYS[2], False, 0)
    world.wire.clear()
    world.take(world.follower.receive(Gone("again"), world.now))
    world.settle(5.0, beats=False)
    assert world.values[KEYS[2]].version == world.truth[KEYS[2]].version


def test_changes_of_other_prefixes_are_ignored() -> None:
    world = World(SCOPES[:1])
    world.settle(1.0)
    changes = Changes([Entry(KEYS[-1], 1, b"x")], world.store.read("/").cursor)
    assert world.follower.receive(changes, world.now).changes == []


def test_a_late_notice_of_a_former_life_does_not_hide_losses_of_the_present_one() -> None:
    world = synced(refresh_seconds=1e9)
    former = world.publishers[0].epoch
    world.restart(0)
    world.write(KEYS[0], False, 0)
    world.settle(3.0)
    world.forget_requests()
    late = Notice("pub0", former, 50, 49, KEYS[0], 1, b"1")
    world.take(world.follower.receive(late, world.now))
    world.settle(3.0)
    assert world.requests == []
    world.write(KEYS[0], False, 0)
    world.wire.clear()
    world.settle(3.0)
    assert world.values == world.held()


def test_an_answer_that_a_key_is_absent_does_not_remove_what_was_learnt_since() -> None:
    world = synced(refresh_seconds=1e9)
    del world.database._held[KEYS[1]]
    world.database._keys.remove(KEYS[1])
    world.take(world.follower.receive(Gone("reconnected"), world.now))
    world.now += 1.0
    world.take(world.follower.tick(world.now))
    while not isinstance(world.asked[0], GetKeys):
        world.take(world.follower.receive(ask(world.store, world.asked.pop(0)), world.now))
    late = ask(world.store, world.asked.pop(0))
    world.write(KEYS[1], False, 0)
    world.deliver()
    world.take(world.follower.receive(late, world.now))
    assert world.values[KEYS[1]].version == world.truth[KEYS[1]].version


def test_a_new_epoch_seen_in_one_prefix_makes_all_be_compared() -> None:
    world = World(SCOPES, refresh_seconds=1e9)
    world.settle(3.0)
    world.database.wipe()
    world.forget_requests()
    world.take(world.follower.receive(Heartbeat("pub9", 1, 3, SCOPES[0]), world.now))
    world.settle(3.0)
    assert {r.prefix for r in world.requests if isinstance(r, CompareVersions)} == set(SCOPES)


def test_doubled_and_late_notices_ask_for_nothing() -> None:
    world = synced(refresh_seconds=1e9)
    for _ in range(3):
        world.write(KEYS[0], False, 0)
        world.wire += world.wire
    world.settle(3.0)
    assert world.requests == []


def test_a_number_that_only_the_publishers_own_heartbeats_give_away_makes_a_full_follower_compare() -> None:
    world = synced(refresh_seconds=1e9)
    world.write(KEYS[0], False, 0)
    for _ in range(3):  # Both the notice and its scope's heartbeat are lost.
        world.now += 1.0
        world.beat()
        world.wire = [event for event in world.wire if isinstance(event, Heartbeat) and not event.scope]
        while world.wire:
            world.deliver()
    world.settle(1.0)
    assert world.values == world.held()


def test_following_other_prefixes_lists_the_new_and_gives_up_the_old() -> None:
    world = World(SCOPES[:2])
    for key in KEYS:
        world.write(key, False, 0)
    world.settle(3.0)
    world.forget_requests()
    world.take(world.follower.follow(SCOPES[1:], world.now))
    assert not world.follower.in_sync
    assert world.follower.unlisted == {SCOPES[2]}
    world.answer_all()
    assert world.follower.in_sync
    assert [r.prefix for r in world.requests if isinstance(r, ReadPrefix)] == [SCOPES[2]]
    assert world.values == {key: e for key, e in world.held().items() if key.startswith(SCOPES[1:])}


def test_a_watch_is_followed_like_a_bus() -> None:
    world = synced(refresh_seconds=1e9)
    cursor = world.store.read("/lab/").cursor
    watch = world.store.watch("/lab/", cursor)
    world.write(KEYS[0], True, 0)
    world.wire.clear()
    changes: Changes = watch.next(0.0)
    world.take(world.follower.receive(changes, world.now))
    assert world.values == world.held()
    assert world.requests == []


def test_an_old_notice_of_a_former_life_changes_nothing() -> None:
    world = synced(refresh_seconds=1e9)
    stale = Notice("pub0", 1, 1, 0, KEYS[0], 1, b"1")
    world.write(KEYS[0], True, 0)
    world.settle(3.0)
    world.restart(0)
    world.settle(3.0)
    world.forget_requests()
    world.take(world.follower.receive(stale, world.now))
    world.settle(3.0)
    assert KEYS[0] not in world.values
    assert world.requests == []


def test_wake_at_is_when_tick_has_something_to_do() -> None:
    world = synced(refresh_seconds=20.0)
    for _ in range(20):
        at = world.follower.wake_at
        assert at > world.now
        world.now = at - 1e-6
        assert world.follower.tick(world.now).requests == []
        world.now = at
        world.take(world.follower.tick(world.now))
        world.answer_all()
    assert len([r for r in world.requests if isinstance(r, CompareVersions)]) >= 5
