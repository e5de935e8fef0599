"""From dirty rows to the store under the project's lock: what is written, and what happens when something is in the way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest
from sql_bench import SqlBench, create_tables

from flowloom.consistency.drain import BATCHES_PER_TURN, LOCK_PREFIX, REREADS_MAX, Drain, write_of
from flowloom.consistency.lease import LEASE_SECONDS, MARGIN
from flowloom.consistency.marks import mark
from flowloom.consistency.place import Place
from flowloom.consistency.table import Fact, Ref, Row, SyncTable
from flowloom.kernel.clock import ManualClock
from flowloom.kernel.errors import Misconfigured, Rejected, Unavailable
from flowloom.model.codec import decode
from flowloom.model.records import Network, Port
from flowloom.neutron.database import SqlDatabase
from flowloom.northbound.bus import Publisher
from flowloom.northbound.store import Entry, Outcome, Store, Write
from flowloom.testing.fake_store import MemoryDatabase, MemoryStore
from flowloom.testing.table_conformance import PROJECT, REFUSED, SCOPE, UNKNOWN_KIND, Tables, port

PREFIX = f"/test/{PROJECT}/{SCOPE}/"
LOCK = LOCK_PREFIX + PROJECT


class Sink:
    """A northbound with a given store, and a publisher that keeps what it is given where a list is passed."""

    def __init__(self, store: Store, published: list[tuple[str, int]] | None = None, refuses: bool = False) -> None:
        self._store = store
        self._published = published
        self._refuses = refuses

    def store(self) -> Store:
        return self._store

    generation = 0

    def look_again(self) -> Place:
        return Place()

    def publisher(self) -> Publisher | None:
        return None if self._published is None else self

    def publish(self, changes: Sequence[tuple[str, int, bytes | None]]) -> None:
        if self._refuses:
            raise Unavailable("the bus is away")
        assert self._published is not None
        self._published += [(key, version) for key, version, _ in changes]

    def close(self) -> None: ...


class Meddling(MemoryStore):
    """A store at which something happens just before a write arrives."""

    def __init__(self, database: MemoryDatabase, meddle: Callable[[Sequence[Write]], None]) -> None:
        super().__init__(database)
        self._meddle = meddle

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        self._meddle(writes)
        return super().apply(writes)


class World:
    """Neutron's toy database, a store, and drains that share a clock."""

    def __init__(self, bench: SqlBench) -> None:
        self.bench = bench
        self.tables: Tables = bench.open()
        self.store = MemoryDatabase()
        self.clock = ManualClock()
        self.drains = 0

    def drain(
        self, meddle: Callable[[Sequence[Write]], None] | None = None, batch: int = 2, sink: Sink | None = None
    ) -> Drain:
        """Another process's drain; `meddle` happens before each of its writes."""
        store = self.store.open() if meddle is None else Meddling(self.store, meddle)
        return self.of(self.tables.sync, sink or Sink(store), batch)

    def of(self, sync: SyncTable, sink: Sink, batch: int = 2) -> Drain:
        self.drains += 1
        return Drain(sync, self.tables.leases, sink, self.clock, "test", f"process-{self.drains}", batch)

    def row(self, name: str) -> Row:
        (fact,) = self.tables.sync.facts([port(name)])
        return fact.row

    def held(self) -> dict[str, str | None]:
        """What the store holds: object -> content; None: a tombstone."""
        return {entry.key.removeprefix(PREFIX): _content(entry) for entry in self.store.entries("/test/")}

    def lock_is_free(self) -> bool:
        return not self.tables.leases.holders(LOCK_PREFIX)

    def dirty(self) -> list[str]:
        return [fact.row.id for fact in self.tables.sync.dirty(PROJECT, 100)]


def _content(entry: Entry) -> str | None:
    record = None if entry.value is None else decode(entry.key, entry.value)
    assert record is None or isinstance(record, Network | Port)
    return None if record is None else record.name


@pytest.fixture
def world(tmp_path: Path) -> World:
    database = SqlDatabase.at(f"sqlite+immediate:///{tmp_path}/neutron.sqlite")
    create_tables(database)
    return World(SqlBench([database]))


@pytest.fixture
def filled(world: World) -> World:
    for name in ("a", "b", "c"):
        world.bench.change(port(name), name)
    return world


def once(what: Callable[[], object]) -> Callable[[Sequence[Write]], None]:
    """Meddle the first time only."""
    pending = [what]

    def meddle(_writes: Sequence[Write]) -> None:
        while pending:
            pending.pop()()

    return meddle


# --- what is written -------------------------------------------------------------------------


def test_what_is_written_is_clean_marked_and_not_written_again(filled: World) -> None:
    done = filled.drain().drain()
    assert (done.read, done.written, done.refused, done.newer, done.unknown, done.left) == (3, 3, (), (), (), ())
    assert filled.held() == {"port/a": "a", "port/b": "b", "port/c": "c"}
    for name in ("a", "b", "c"):
        row, (entry,) = filled.row(name), filled.store.entries(PREFIX + f"port/{name}")
        assert (row.synced_version, row.mark) == (row.version, mark(entry.key, entry.version, entry.value))
    assert filled.drain().drain().read == 0
    assert filled.lock_is_free()


def test_a_deleted_object_becomes_a_tombstone_and_a_new_one_of_its_id_rises_above_it(filled: World) -> None:
    filled.drain().drain()
    filled.bench.delete(port("a"))
    filled.drain().drain()
    assert filled.held()["port/a"] is None
    (entry,) = filled.store.entries(PREFIX + "port/a")
    assert filled.row("a").mark == mark(entry.key, entry.version, None)
    filled.bench.change(port("a"), "again")
    filled.drain().drain()
    assert filled.held()["port/a"] == "again"
    (entry,) = filled.store.entries(PREFIX + "port/a")
    assert entry.version == 3


def test_an_object_deleted_before_anybody_drained_it_cannot_be_raised_by_a_late_writer(filled: World) -> None:
    filled.bench.delete(port("a"))
    filled.drain().drain()
    late = Write(PREFIX + "port/a", 1, b"what a stalled worker had read")
    assert not filled.store.open().apply([late])[0].applied


def test_only_projects_of_the_chosen_objects_or_long_dirty_ones_are_drained(filled: World) -> None:
    filled.bench.change(port("d"), "d", "project-b", "net-2")
    assert filled.drain().drain(refs=[port("none")]).read == 0
    assert filled.drain().drain(dirty_for_seconds=3600).read == 0
    assert filled.drain().drain(refs=[port("d")]).written == 1
    assert filled.dirty() == ["a", "b", "c"]
    assert filled.drain().drain(refs=[port("b")]).written == 3, "with what else is dirty in the project"


def test_projects_take_turns_so_that_none_waits_behind_anothers_backlog(world: World) -> None:
    backlog = 3 * BATCHES_PER_TURN
    for number in range(backlog):
        world.bench.change(port(f"a{number:02}"), "x")
    world.bench.pass_time(10.0)
    world.bench.change(port("late"), "x", "project-b", "net-2")
    order: list[str] = []
    done = world.drain(lambda writes: order.extend(write.key for write in writes), batch=1).drain()
    assert done.written == backlog + 1
    assert order.index("/test/project-b/net-2/port/late") == BATCHES_PER_TURN


# --- stores and buses that fail --------------------------------------------------------------


def test_a_store_that_is_away_leaves_every_row_dirty_with_the_reason_and_the_lock_free(filled: World) -> None:
    filled.store.available = False
    for _ in range(2):
        with pytest.raises(Unavailable):
            filled.drain().drain()
        assert filled.lock_is_free()
    for name in ("a", "b", "c"):
        row = filled.row(name)
        assert row.dirty and row.last_error and row.attempts == 2
    filled.store.available = True
    filled.drain().drain()
    assert [(filled.row(n).last_error, filled.row(n).attempts) for n in ("a", "b", "c")] == [("", 0)] * 3


def test_a_misconfigured_store_is_said_on_the_rows_too(filled: World) -> None:
    class Wrong(Sink):
        def store(self) -> Store:
            raise Misconfigured("[flowloom] store", "no such scheme")

    with pytest.raises(Misconfigured):
        filled.drain(sink=Wrong(filled.store.open())).drain()
    assert "no such scheme" in filled.row("a").last_error
    assert filled.lock_is_free()


def test_an_answer_that_was_lost_is_found_in_the_store(filled: World) -> None:
    def write_and_lose_the_answer(writes: Sequence[Write]) -> None:
        filled.store.open().apply(writes)
        raise Unavailable("the connection broke")

    with pytest.raises(Unavailable):
        filled.drain(write_and_lose_the_answer).drain()
    assert filled.drain().drain().written == 3
    assert filled.dirty() == []


def test_what_a_writer_stored_before_it_died_is_still_published(filled: World) -> None:
    def write_and_die(writes: Sequence[Write]) -> None:
        filled.store.open().apply(writes)
        raise Unavailable("killed")

    with pytest.raises(Unavailable):
        filled.drain(write_and_die).drain()
    published: list[tuple[str, int]] = []
    filled.drain(sink=Sink(filled.store.open(), published)).drain()
    assert sorted(published) == [(PREFIX + f"port/{name}", 1) for name in "abc"]


def test_a_bus_that_is_away_costs_notices_and_nothing_else(filled: World) -> None:
    drain = filled.drain(sink=Sink(filled.store.open(), [], refuses=True))
    assert drain.drain().written == 3
    assert drain.unpublished == 3
    assert filled.dirty() == []


def test_a_record_that_the_store_refuses_is_named_and_the_others_go_on(filled: World) -> None:
    def refuse_b(writes: Sequence[Write]) -> None:
        for write in writes:
            if write.key.endswith("/b"):
                raise Rejected(write.key, "too large")

    done = filled.drain(refuse_b).drain()
    assert [error.ref for error in done.refused] == [PREFIX + "port/b"]
    assert (done.written, filled.dirty(), filled.row("b").last_error) == (2, ["b"], "too large")


def test_a_store_that_refuses_without_a_name_is_asked_one_by_one(filled: World) -> None:
    def refuse_b_without_saying(writes: Sequence[Write]) -> None:
        if any(write.key.endswith("/b") for write in writes):
            raise Rejected("batch", "something in it")

    done = filled.drain(refuse_b_without_saying, batch=10).drain()
    assert [error.ref for error in done.refused] == [PREFIX + "port/b"]
    assert (done.written, filled.dirty()) == (2, ["b"])


def test_an_object_that_cannot_become_a_record_is_named_and_the_others_go_on(filled: World) -> None:
    filled.bench.change(port("b"), REFUSED)
    done = filled.drain(batch=1).drain()
    assert (done.written, [error.ref for error in done.refused]) == (2, ["b"])
    assert filled.row("b").last_error == REFUSED


def test_a_row_of_a_kind_that_this_release_does_not_know_stays_dirty_and_is_named(filled: World) -> None:
    filled.bench.change(Ref(UNKNOWN_KIND, "h"), "x")
    done = filled.drain(batch=1).drain()
    assert (done.written, done.unknown, done.refused) == (3, (Ref(UNKNOWN_KIND, "h"),), ())
    (fact,) = filled.tables.sync.dirty(PROJECT, 10)
    assert fact.row.kind == UNKNOWN_KIND and UNKNOWN_KIND in fact.row.last_error
    assert f"{UNKNOWN_KIND}/h" not in filled.held()


# --- others at the same objects --------------------------------------------------------------


def test_a_change_between_reading_and_writing_stays_dirty_until_it_is_written(filled: World) -> None:
    def change_and_ask() -> None:
        filled.bench.change(port("a"), "changed meanwhile")
        assert filled.drain().drain(refs=[port("a")]).left == (PROJECT,)

    done, more = filled.drain(once(change_and_ask), batch=10).drain_project(PROJECT, set())
    assert (done.written, more) == (4, False), "it was read again under the same lock"
    assert filled.held()["port/a"] == "changed meanwhile"
    assert filled.dirty() == []


def test_somebody_newer_is_read_again_and_not_taken_for_written(filled: World) -> None:
    def a_rival_without_the_lock() -> None:
        filled.bench.change(port("a"), "by the rival")
        (fact,) = filled.tables.sync.facts([port("a")])
        filled.store.open().apply([write_of("test", fact)])

    done = filled.drain(once(a_rival_without_the_lock), batch=10).drain()
    row = filled.row("a")
    assert (row.version, row.synced_version, row.last_error, done.newer) == (2, 2, "", ())
    assert filled.held()["port/a"] == "by the rival"


def test_a_store_ahead_of_neutron_is_named_and_stays_dirty(filled: World) -> None:
    key = PREFIX + "port/a"
    filled.store.open().apply([Write(key, 99, b"from a later life of this cloud")])
    done = filled.drain().drain()
    assert (done.newer, done.written, filled.dirty()) == ((key,), 2, ["a"])
    assert "99" in filled.row("a").last_error


def test_an_object_that_always_changes_first_does_not_hold_its_project_for_ever(filled: World) -> None:
    attempts = 0

    def overtake(writes: Sequence[Write]) -> None:
        nonlocal attempts
        if any(write.key.endswith("/a") for write in writes):
            attempts += 1
            filled.bench.change(port("a"), f"rival {attempts}")
            (fact,) = filled.tables.sync.facts([port("a")])
            filled.store.open().apply([write_of("test", fact)])

    done = filled.drain(overtake, batch=10).drain()
    assert (attempts <= REREADS_MAX + 1, done.written) == (True, 2)
    assert filled.dirty() == ["a"]
    assert filled.drain().drain().written == 1


# --- the lock --------------------------------------------------------------------------------


def test_a_lock_that_another_holds_is_left_to_him_and_he_looks_again(filled: World) -> None:
    second = filled.drain()
    left: list[tuple[str, ...]] = []

    def a_worker_comes() -> None:
        filled.bench.change(port("late"), "late")
        left.append(second.drain(refs=[port("late")]).left)

    published: list[tuple[str, int]] = []

    class Late(Sink):
        """Somebody comes at the last moment: after the last batch was read."""

        def publish(self, changes: Sequence[tuple[str, int, bytes | None]]) -> None:
            super().publish(changes)
            if len(published) == 3:
                a_worker_comes()

    done = filled.drain(sink=Late(filled.store.open(), published), batch=10).drain()
    assert left == [(PROJECT,)]
    assert done.written == 4
    assert (filled.dirty(), filled.held()["port/late"], filled.lock_is_free()) == ([], "late", True)


def test_who_was_held_up_beyond_its_lease_stops_and_loses_nothing(filled: World) -> None:
    def sleep_too_long() -> None:
        filled.clock.advance(LEASE_SECONDS * 2)
        filled.bench.pass_time(LEASE_SECONDS * 2)
        filled.drain(batch=10).drain()  # Another takes the lock over and does the work.
        filled.bench.change(port("b"), "newest")

    filled.drain(once(sleep_too_long), batch=10).drain()
    assert filled.dirty() == ["b"], "what was under way ended, and the next batch was not begun"
    filled.drain().drain()
    assert filled.held() == {"port/a": "a", "port/b": "newest", "port/c": "c"}


def test_a_lock_is_renewed_while_there_is_work(filled: World) -> None:
    step = LEASE_SECONDS * (1 - MARGIN) / 2

    def slowly(_writes: Sequence[Write]) -> None:
        filled.clock.advance(step)
        filled.bench.pass_time(step)

    for number in range(8):
        filled.bench.change(port(f"more{number}"), "x")
    assert filled.drain(slowly, batch=1).drain().written == 11
    assert filled.dirty() == []


def test_two_drains_without_a_common_clock_leave_the_store_right(filled: World) -> None:
    """The lock saves work; safety is the versions'."""
    first = filled.drain(
        once(lambda: (filled.bench.pass_time(LEASE_SECONDS * 2), filled.drain(batch=10).drain())), batch=10
    )
    assert not first.drain().newer
    assert filled.dirty() == []
    assert filled.held() == {"port/a": "a", "port/b": "b", "port/c": "c"}


def test_a_database_that_goes_away_in_between_is_said_and_repeated_without_loss(filled: World) -> None:
    class Failing:
        """The sync table of a process whose connection breaks before its acknowledgement."""

        def __init__(self, table: SyncTable) -> None:
            self._table = table

        def acknowledge(self, _done: object, _generation: int) -> bool:
            raise Unavailable("the connection broke")

        def dirty(self, project_id: str, limit: int, skip: Collection[int] = ()) -> list[Fact]:
            return self._table.dirty(project_id, limit, skip)

        def __getattr__(self, name: str) -> object:
            return getattr(self._table, name)

    with pytest.raises(Unavailable):
        filled.of(Failing(filled.tables.sync), Sink(filled.store.open())).drain()  # type: ignore[arg-type]
    assert filled.dirty() == ["a", "b", "c"]
    assert filled.lock_is_free()
    assert filled.drain().drain().written == 3
