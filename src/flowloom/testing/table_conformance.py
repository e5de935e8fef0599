"""The promises of `consistency.table` and `consistency.place`, as checks that every implementation of the four ports passes.

With pytest, the author of an implementation writes::

    class TestMine(TableConformance):
        def new_bench(self) -> TableBench:
            return MyBench()

Without pytest: `run_checks(CHECKS, new_bench, TableBench.end)`.  A bench is a Neutron database of its own, empty
at first.  Handles and the bench itself are used from several threads at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from flowloom.consistency.lease import LEASE_SECONDS_MAX
from flowloom.consistency.marks import SHARDS, shard_of
from flowloom.consistency.place import Move, Place, PlaceTable, Progress, Step
from flowloom.consistency.table import (
    Acknowledged,
    AuditEntry,
    AuditTable,
    Fact,
    GuardEntry,
    Lease,
    LeaseTable,
    Ref,
    Reopen,
    Row,
    ShardSum,
    SyncTable,
)
from flowloom.kernel.errors import FlowloomError, Rejected, Unavailable
from flowloom.model.records import Network, Port, Record
from flowloom.testing.conformance import Check, Skip, as_test_methods, expect, named

T = TypeVar("T")

WAIT_SECONDS = 20.0
"""How long a check waits for something that must happen."""

PROJECT, SCOPE = "project-a", "net-1"
REFUSED = "cannot become a record"
"""The content of an object whose translation is refused."""

KINDS = ("network", "port")
UNKNOWN_KIND = "hologram"
"""A kind that no translation of the bench knows."""


@dataclass(frozen=True)
class Tables:
    """One process's handles on the bench's database."""

    sync: SyncTable
    leases: LeaseTable
    audit: AuditTable
    places: PlaceTable


class TableBench:
    """What the checks need.  Subclass it; what raises NotImplementedError is required, faults are welcome.

    An object's content is one text, which becomes its record's name (`record_of`).
    locks_reach_everywhere: False: handles are on nodes that know nothing of each other's shared locks (Galera).
    """

    locks_reach_everywhere = True

    def open(self) -> Tables:
        """Handles as another process, or another node of the cluster, has them."""
        raise NotImplementedError

    def change(self, ref: Ref, content: str, project_id: str = PROJECT, scope: str = SCOPE) -> int:
        """Create or change an object as Neutron does: it and its sync row in one transaction; the row's new version.

        project_id, scope: count for an object that has no row yet, or a deleted one.
        """
        raise NotImplementedError

    def delete(self, ref: Ref) -> int:
        """Delete an object as Neutron does; the row's new version."""
        raise NotImplementedError

    def bypass(self, ref: Ref, content: str | None, project_id: str = PROJECT, scope: str = SCOPE) -> None:
        """Change the object (content None: delete it) past the capture: its sync row knows nothing of it."""
        raise NotImplementedError

    def pass_time(self, seconds: float) -> None:
        """The database's clock goes on by so much; negative: it jumps back."""
        raise NotImplementedError

    def cut(self) -> None:
        """Make the database unreachable for the handles that are open."""
        raise Skip("this bench cannot cut the database off")

    def mend(self) -> None:
        """Undo `cut`."""
        raise Skip("this bench cannot cut the database off")

    def end(self) -> None:
        """Give everything back that the check used."""


def record_of(row: Row, content: str) -> Record | Rejected:
    """What a bench's translation makes of an object of one of KINDS with this content."""
    if content == REFUSED:
        return Rejected(row.id, REFUSED)
    if row.kind == "network":
        return Network(id=row.id, version=row.version, project_id=row.project_id, key=row.key, name=content)
    return Port(
        id=row.id,
        version=row.version,
        project_id=row.project_id,
        key=row.key,
        network_id=row.scope,
        mac_address="fa:16:3e:00:00:01",
        name=content,
    )


def in_threads(number: int, work: Callable[[int], T]) -> list[T]:
    """What `work(0 … number - 1)` give, each in a thread of its own."""
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(work, range(number)))


@contextmanager
def raising(*kinds: type[FlowloomError]) -> Iterator[None]:
    """The block must raise one of `kinds`."""
    try:
        yield
    except kinds:
        return
    names = " or ".join(kind.__name__ for kind in kinds)
    expect(False, f"expected {names}, nothing was raised")


def same(found: object, wanted: object, what: str) -> None:
    """Found and wanted are equal, or the check is broken."""
    expect(found == wanted, f"{what}: expected {wanted!r}, found {found!r}")


def port(name: str) -> Ref:
    return Ref("port", name)


def row_of(tables: Tables, ref: Ref) -> Row:
    """The row of an object that has one."""
    found = tables.sync.facts([ref])
    same(len(found), 1, f"rows of {ref}")
    return found[0].row


def named_content(fact: Fact) -> str | None:
    """The content that a fact's record carries."""
    expect(fact.record is None or isinstance(fact.record, Network | Port), f"{fact.record} is not of the bench")
    return fact.record.name if isinstance(fact.record, Network | Port) else None


def taken(leases: LeaseTable, name: str, owner: str, seconds: float = 15.0) -> Lease:
    """The lease; the check is broken when it is refused."""
    lease = leases.take(name, owner, seconds)
    expect(lease is not None, f"{owner} did not get {name}")
    assert lease is not None
    return lease


def until_taken(leases: LeaseTable, name: str, owner: str) -> Lease:
    """The lease, asked for until it is to be had."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (lease := leases.take(name, owner, 10.0)) is None:
        expect(time.monotonic() < deadline, f"{owner} did not get {name} in {WAIT_SECONDS} s")
    return lease


# --- sync rows: what is dirty ----------------------------------------------------------------


def change_makes_one_dirty_row(bench: TableBench) -> None:
    """However often an object changes, it has one row, with the newest version and content."""
    tables = bench.open()
    bench.change(port("p"), "one")
    version = bench.change(port("p"), "two")
    facts = tables.sync.dirty(PROJECT, 10)
    same([fact.row.ref for fact in facts], [port("p")], "dirty rows")
    row = facts[0].row
    same((row.version, row.synced_version, row.deleted, row.mark), (version, 0, False, 0), "the row")
    same((row.project_id, row.scope), (PROJECT, SCOPE), "where it lies")
    same(row.shard, shard_of("port", "p"), "shard")
    expect(row.dirty and facts[0].known and facts[0].refused is None, "it is dirty, known, not refused")
    same(named_content(facts[0]), "two", "content")
    assert facts[0].record is not None
    same(facts[0].record.version, row.version, "the record's version is the row's")


def deleted_object_is_a_fact_without_record(bench: TableBench) -> None:
    """After a delete the row stays, deleted and dirty, and the fact has no record; re-created, it counts on."""
    tables = bench.open()
    created = bench.change(port("p"), "one")
    deleted = bench.delete(port("p"))
    (fact,) = tables.sync.dirty(PROJECT, 10)
    same((fact.row.version, fact.row.deleted, fact.record), (deleted, True, None), "after the delete")
    again = bench.change(port("p"), "again")
    (fact,) = tables.sync.dirty(PROJECT, 10)
    same((fact.row.version, fact.row.deleted, named_content(fact)), (again, False, "again"), "re-created")
    expect(created < deleted < again, f"versions {created}, {deleted}, {again} do not rise")


def projects_wait_in_order(bench: TableBench) -> None:
    """Projects with dirty rows come the longest waiting first; those of some objects, or dirty for long, if asked."""
    sync = bench.open().sync
    for name, project in (("1", "late-in-the-alphabet"), ("2", "early"), ("3", "middle")):
        bench.change(port(name), "x", project, f"net-{project}")
        bench.pass_time(10.0)
    bench.change(port("1"), "again")
    order = ["late-in-the-alphabet", "early", "middle"]
    same(sync.dirty_projects(), order, "all")
    same(sync.dirty_projects(dirty_for_seconds=15.0), order[:2], "dirty for 15 s")
    same(sync.dirty_projects(dirty_for_seconds=3600.0), [], "dirty for an hour")
    same(sync.dirty_projects(refs=[port("3"), port("1"), port("none")]), [order[0], order[2]], "of two objects")
    same(sync.dirty_projects(refs=[]), [], "of no objects")
    same(sync.dirty_projects(15.0, [port("2"), port("3")]), ["early"], "of two objects, dirty for 15 s")
    many = [port(f"none-{number}") for number in range(1500)]
    same(sync.dirty_projects(refs=[*many, port("2")]), ["early"], "of many objects")
    row = row_of(bench.open(), port("2"))
    sync.acknowledge([Acknowledged(row.key, row.version, 1)], 0)
    same(sync.dirty_projects(), [order[0], order[2]], "without the clean one")


def clock_that_went_back_hides_no_dirty_row(bench: TableBench) -> None:
    """A row dirty since a time to come has been dirty for nobody knows how long, and does not wait for that time."""
    tables = bench.open()
    bench.change(port("p"), "one")
    bench.pass_time(-3600.0)
    same(tables.sync.dirty_projects(dirty_for_seconds=15.0), [PROJECT], "dirty for 15 s, after the clock went back")


def dirty_rows_come_in_order(bench: TableBench) -> None:
    """Dirty rows of one project come the longest dirty first, at most `limit`, without those in `skip`."""
    tables = bench.open()
    for name in ("c", "a", "b", "d"):
        bench.change(port(name), name)
        bench.pass_time(1.0)
    bench.change(Ref("network", "x"), "of another", "project-b", "x")
    bench.change(port("c"), "changed again while it waited")
    names = [fact.row.id for fact in tables.sync.dirty(PROJECT, 10)]
    same(names, ["c", "a", "b", "d"], "all")
    same([fact.row.id for fact in tables.sync.dirty(PROJECT, 2)], ["c", "a"], "two")
    skip = {row_of(tables, port(name)).key for name in ("c", "b")}
    same([fact.row.id for fact in tables.sync.dirty(PROJECT, 1, skip)], ["a"], "one, without two")
    far = {10**9 + number for number in range(40_000)}
    same([fact.row.id for fact in tables.sync.dirty(PROJECT, 9, skip | far)], ["a", "d"], "without very many")
    same(tables.sync.dirty("nobody's", 10), [], "of a project without rows")


def facts_are_what_is(bench: TableBench) -> None:
    """Facts are of the rows as they are now, clean ones too; an object without a row is left out."""
    tables = bench.open()
    same(tables.sync.facts([]), [], "of no objects")
    bench.change(port("p"), "one")
    row = row_of(tables, port("p"))
    tables.sync.acknowledge([Acknowledged(row.key, row.version, 9)], 0)
    bench.change(Ref("network", "n"), "net")
    found = {
        fact.row.ref: fact for fact in tables.sync.facts([port("p"), port("none"), Ref("network", "n"), port("p")])
    }
    same(sorted(found), [Ref("network", "n"), port("p")], "objects")
    same((named_content(found[port("p")]), found[port("p")].row.dirty), ("one", False), "the clean one")
    many = [port(f"none-{number}") for number in range(1500)]
    same([f.row.ref for f in tables.sync.facts([*many, port("p")])], [port("p")], "among many")


def refused_object_is_named(bench: TableBench) -> None:
    """An object that cannot become a record is a fact that says why, among others that can."""
    tables = bench.open()
    bench.change(port("bad"), REFUSED)
    bench.change(port("good"), "good")
    found = {fact.row.id: fact for fact in tables.sync.dirty(PROJECT, 10)}
    expect(isinstance(found["bad"].refused, Rejected), f"{found['bad']} says no reason")
    same((found["bad"].record, found["bad"].known), (None, True), "the refused one")
    same((named_content(found["good"]), found["good"].refused), ("good", None), "the other")


def unknown_kind_is_left_alone(bench: TableBench) -> None:
    """A row of a kind that is not known here is a fact that says so, and neither record nor refusal."""
    tables = bench.open()
    bench.change(Ref(UNKNOWN_KIND, "h"), "x")
    bench.change(port("p"), "x")
    found = {fact.row.kind: fact for fact in tables.sync.dirty(PROJECT, 10)}
    same(sorted(found), [UNKNOWN_KIND, "port"], "kinds")
    unknown = found[UNKNOWN_KIND]
    same((unknown.known, unknown.record, unknown.refused), (False, None, None), "the unknown one")
    expect(found["port"].known, "the other is known")


def version_and_content_belong_together(bench: TableBench) -> None:
    """While an object changes, its record never carries the version of another moment."""
    tables = bench.open()
    last = 60
    bench.change(port("p"), "1")
    stop = threading.Event()

    def change() -> None:
        try:
            for number in range(2, last + 1):
                same(bench.change(port("p"), str(number)), number, "version")
        finally:
            stop.set()

    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        while not stop.is_set():
            (fact,) = tables.sync.facts([port("p")])
            same(named_content(fact), str(fact.row.version), f"content at version {fact.row.version}")
            assert fact.record is not None
            same(fact.record.version, fact.row.version, "the record's version")
        changing.result()
    same(row_of(tables, port("p")).version, last, "last version")


def parallel_changes_all_count(bench: TableBench) -> None:
    """Of an object that many change at once, the first time too, every change has a version of its own."""
    tables = bench.open()
    start = threading.Barrier(6, timeout=WAIT_SECONDS)

    def change(worker: int) -> list[int]:
        start.wait()
        return [bench.change(port("p"), f"{worker}/{number}") for number in range(8)]

    versions = [version for found in in_threads(6, change) for version in found]
    same(sorted(versions), list(range(1, 49)), "versions")
    same(row_of(tables, port("p")).version, 48, "version")


# --- sync rows: acknowledging ----------------------------------------------------------------


def acknowledged_row_is_clean(bench: TableBench) -> None:
    """A row is clean when both versions meet, and holds the mark; its errors are forgotten."""
    tables = bench.open()
    bench.change(port("p"), "one")
    row = row_of(tables, port("p"))
    tables.sync.note([(row, "the store is away")])
    tables.sync.acknowledge([Acknowledged(row.key, row.version, 77)], 0)
    same(tables.sync.dirty(PROJECT, 10), [], "dirty rows")
    same(tables.sync.dirty_projects(), [], "dirty projects")
    row = row_of(bench.open(), port("p"))
    same((row.synced_version, row.mark, row.attempts, row.last_error), (row.version, 77, 0, ""), "the row")


def change_after_reading_stays_dirty(bench: TableBench) -> None:
    """A row that changed between reading and acknowledging stays dirty, with what was acknowledged noted."""
    tables = bench.open()
    bench.change(port("p"), "one")
    read = row_of(tables, port("p"))
    newer = bench.change(port("p"), "two")
    tables.sync.acknowledge([Acknowledged(read.key, read.version, 5)], 0)
    (fact,) = tables.sync.dirty(PROJECT, 10)
    same((fact.row.version, fact.row.synced_version, fact.row.mark), (newer, read.version, 5), "the row")


def acknowledgement_never_goes_back(bench: TableBench) -> None:
    """Acknowledgements out of order, or twice, leave the newest."""
    tables, other = bench.open(), bench.open()
    bench.change(port("p"), "one")
    old = row_of(tables, port("p"))
    bench.change(port("p"), "two")
    new = row_of(other, port("p"))
    other.sync.acknowledge([Acknowledged(new.key, new.version, 22)], 0)
    tables.sync.acknowledge([Acknowledged(old.key, old.version, 11)], 0)
    row = row_of(tables, port("p"))
    same((row.synced_version, row.mark, row.dirty), (new.version, 22, False), "after a late acknowledgement")
    same(tables.sync.dirty(PROJECT, 10), [], "dirty rows")
    tables.sync.acknowledge([], 0)


def acknowledging_the_impossible_changes_nothing(bench: TableBench) -> None:
    """An acknowledgement of a row that is not there, or above the row's version, changes nothing."""
    tables = bench.open()
    bench.change(port("p"), "one")
    row = row_of(tables, port("p"))
    tables.sync.acknowledge([Acknowledged(row.key + 10**6, 1, 5), Acknowledged(row.key, row.version + 7, 5)], 0)
    same(row_of(tables, port("p")), row, "the row")


def racing_acknowledgements_leave_the_newest(bench: TableBench) -> None:
    """Of acknowledgements of many rows in many orders at once, each row keeps its newest."""
    tables = bench.open()
    names = [f"p{number}" for number in range(6)]
    for version in range(1, 6):
        for name in names:
            bench.change(port(name), str(version))
    keys = [row_of(tables, port(name)).key for name in names]

    def acknowledge(worker: int) -> None:
        sync, order = bench.open().sync, keys if worker % 2 else keys[::-1]
        for version in (5, 1, 3) if worker % 3 else (2, 5, 4):
            sync.acknowledge([Acknowledged(key, version, 100 * key + version) for key in order], 0)

    in_threads(6, acknowledge)
    for fact in tables.sync.facts([port(name) for name in names]):
        row = fact.row
        same((row.version, row.synced_version, row.mark), (5, 5, 100 * row.key + 5), f"row {row.id}")
    same(tables.sync.dirty(PROJECT, 10), [], "dirty rows")


# --- sync rows: why they are still dirty -----------------------------------------------------


def note_says_why(bench: TableBench) -> None:
    """A note is written with a count on a row that is still dirty, and not on one that has changed since."""
    tables = bench.open()
    for name in ("same", "changed", "clean"):
        bench.change(port(name), "x")
    rows = {name: row_of(tables, port(name)) for name in ("same", "changed", "clean")}
    bench.change(port("changed"), "y")
    tables.sync.acknowledge([Acknowledged(rows["clean"].key, rows["clean"].version, 3)], 0)
    why = "too large \N{PILE OF POO} " + "\u00e9" * 5000
    for _ in range(2):
        tables.sync.note([(row, why) for row in rows.values()])
    tables.sync.note([])
    noted = row_of(tables, port("same"))
    same((noted.attempts, noted.last_error[:9]), (2, "too large"), "the row that is as it was")
    for name in ("changed", "clean"):
        row = row_of(tables, port(name))
        same((row.attempts, row.last_error), (0, ""), f"the row that is {name}")


def note_project_says_why(bench: TableBench) -> None:
    """A project's note is written on every dirty row of it, and on no other."""
    tables = bench.open()
    for name in ("a", "b", "clean"):
        bench.change(port(name), "x")
    bench.change(port("foreign"), "x", "project-b", "net-b")
    row = row_of(tables, port("clean"))
    tables.sync.acknowledge([Acknowledged(row.key, row.version, 3)], 0)
    tables.sync.note_project(PROJECT, "the store is away")
    found = {n: row_of(tables, port(n)) for n in ("a", "b", "clean", "foreign")}
    notes = {name: (row.attempts, row.last_error) for name, row in found.items()}
    nothing, noted = (0, ""), (1, "the store is away")
    same(notes, {"a": noted, "b": noted, "clean": nothing, "foreign": nothing}, "notes")


# --- sync rows: written again ----------------------------------------------------------------


def clean(tables: Tables, ref: Ref, mark: int = 1) -> Row:
    """Acknowledge what a row holds; the row."""
    row = row_of(tables, ref)
    tables.sync.acknowledge([Acknowledged(row.key, row.version, mark)], 0)
    return row_of(tables, ref)


def reopened_objects_are_dirty(bench: TableBench) -> None:
    """Objects are reopened with nothing acknowledged and a version above; an orphan gets a row, as deleted."""
    tables = bench.open()
    lease = taken(tables.leases, "project:a", "one")
    for name in ("behind", "above", "gone"):
        bench.change(port(name), name)
    bench.change(port("above"), "above")
    bench.delete(port("gone"))
    rows = {name: clean(tables, port(name)) for name in ("behind", "above", "gone")}
    wanted = [Reopen(port(name), 1 if name == "above" else 40, PROJECT, SCOPE) for name in rows]
    wanted.append(Reopen(port("orphan"), 17, "project-b", "net-b"))
    expect(tables.sync.reopen(lease, wanted, 0), "the holder may reopen")
    found = {fact.row.id: fact for fact in tables.sync.facts([port(name) for name in (*rows, "orphan")])}
    for name, version in (("behind", 41), ("above", rows["above"].version), ("gone", 41), ("orphan", 18)):
        row = found[name].row
        same((row.version, row.synced_version, row.mark, row.dirty), (version, 0, 0, True), name)
    orphan = found["orphan"]
    same((orphan.row.project_id, orphan.row.scope), ("project-b", "net-b"), "where the orphan lies")
    same((orphan.row.deleted, orphan.record, orphan.row.shard), (True, None, shard_of("port", "orphan")), "the orphan")
    same((found["gone"].row.deleted, found["behind"].row.deleted), (True, False), "deleted")
    same(named_content(found["behind"]), "behind", "content")
    same(len(tables.sync.dirty(PROJECT, 10)), 3, "dirty rows of the project")
    expect(tables.sync.reopen(lease, [], 0), "nothing may be reopened too")
    expect(tables.sync.reopen(lease, [Reopen(port("orphan"), 30, "elsewhere", "no")], 0), "again")
    row = row_of(tables, port("orphan"))
    same((row.version, row.project_id, row.scope), (31, "project-b", "net-b"), "where it lies stays")


def old_fence_reopens_nothing(bench: TableBench) -> None:
    """Who has lost the lease, or never had it, changes nothing by reopening."""
    tables, other = bench.open(), bench.open()
    bench.change(port("p"), "one")
    before = clean(tables, port("p"))
    lost = taken(tables.leases, "project:a", "one", 10.0)
    bench.pass_time(11.0)
    new = taken(other.leases, "project:a", "two", 10.0)
    wanted = [Reopen(port("p"), 40, PROJECT, SCOPE), Reopen(port("orphan"), 4, PROJECT, SCOPE)]
    for lease in (lost, Lease("never taken", "one", 1), Lease("project:a", "two", new.fence + 1)):
        expect(not tables.sync.reopen(lease, wanted, 0), f"{lease} may reopen")
    same(row_of(tables, port("p")), before, "the row")
    same(tables.sync.facts([port("orphan")]), [], "rows of the orphan")
    expect(other.sync.reopen(new, wanted, 0), "the new holder may reopen")
    same(new, Lease("project:a", "two", new.fence), "the lease")
    same(other.leases.release(new), None, "reopening is nobody's asking")


def take_over_ends_reopening(bench: TableBench) -> None:
    """From the moment at which another has the lease, nothing is reopened under the old one."""
    old, new = bench.open(), bench.open()
    bench.change(port("p"), "one")
    for number in range(8):
        lease = taken(old.leases, f"l{number}", "old", 10.0)

        def reopen_until_refused(lease: Lease = lease) -> None:
            above = row_of(old, port("p")).version
            while old.sync.reopen(lease, [Reopen(port("p"), above, PROJECT, SCOPE)], 0):
                above += 1

        with ThreadPoolExecutor(1) as pool:
            reopening = pool.submit(reopen_until_refused)
            bench.pass_time(11.0)
            until_taken(new.leases, f"l{number}", "new")
            then = row_of(new, port("p")).version
            reopening.result()
        same(row_of(new, port("p")).version, then, "version after the take-over")


# --- sync rows: comparing --------------------------------------------------------------------


def sums_are_those_of_the_rows(bench: TableBench) -> None:
    """Sums count exactly the rows with something acknowledged, and their marks; shards hold every row, in pages."""
    tables = bench.open()
    big = 2**40 - 1
    for number in range(70):
        bench.change(port(f"p{number}"), "x")
        if number % 5:
            clean(tables, port(f"p{number}"), big - number)
    bench.change(Ref("network", "n"), "x", "project-b", "n")
    clean(tables, Ref("network", "n"), 1)
    bench.delete(port("p1"))
    clean(tables, port("p1"), 4711)
    bench.change(port("p2"), "dirty again")
    lease = taken(tables.leases, "l", "one")
    tables.sync.reopen(lease, [Reopen(port("p3"), 0, PROJECT, SCOPE)], 0)
    seen: dict[Ref, Row] = {}
    wanted: dict[int, ShardSum] = {}
    for shard in range(SHARDS):
        rows = pages(bench.open().sync, shard)
        same([row.key for row in rows], sorted(row.key for row in rows), f"order in shard {shard}")
        for row in rows:
            same((row.shard, shard_of(row.kind, row.id)), (shard, shard), f"shard of {row.ref}")
            expect(row.ref not in seen, f"{row.ref} came twice")
            seen[row.ref] = row
            if row.synced_version > 0:
                before = wanted.get(shard, ShardSum(0, 0))
                wanted[shard] = ShardSum(before.objects + 1, before.total + row.mark)
    same(len(seen), 71, "rows")
    same(seen[port("p1")].mark, 4711, "mark")
    same(tables.sync.sums(), wanted, "sums")
    same(sum(each.objects for each in wanted.values()), 71 - 14 - 1, "objects")


def pages(sync: SyncTable, shard: int, limit: int = 2) -> list[Row]:
    """All rows of a shard, page by page."""
    rows: list[Row] = []
    while page := sync.shard(shard, rows[-1].key if rows else 0, limit):
        expect(len(page) <= limit, f"{len(page)} rows in a page of {limit}")
        rows += page
    return rows


def nothing_sums_to_nothing(bench: TableBench) -> None:
    """A shard in which nothing is acknowledged has no sum."""
    tables = bench.open()
    same(tables.sync.sums(), {}, "of nothing")
    bench.change(port("p"), "x")
    same(tables.sync.sums(), {}, "of a row that the store lacks")
    same(tables.sync.shard(shard_of("port", "other-shard") % SHARDS, 10**12, 5), [], "beyond the last key")


# --- sync rows: past the capture -------------------------------------------------------------


def objects_past_the_capture_are_adopted(bench: TableBench) -> None:
    """An object without a row gets one, a row whose object went is deleted; both are dirty, and found once."""
    tables = bench.open()
    bench.bypass(port("new"), "new", "project-b", "net-b")
    bench.change(port("gone"), "x")
    before = clean(tables, port("gone"))
    bench.bypass(port("gone"), None)
    bench.change(port("fine"), "x")
    fine = clean(tables, port("fine"))
    bench.change(port("deleted"), "x")
    bench.delete(port("deleted"))
    deleted = clean(tables, port("deleted"))
    bench.change(Ref(UNKNOWN_KIND, "h"), "x")
    unknown = row_of(tables, Ref(UNKNOWN_KIND, "h"))
    same(sorted(tables.sync.adopt(10)), [port("gone"), port("new")], "adopted")
    (fact,) = tables.sync.dirty("project-b", 10)
    row = fact.row
    same((row.ref, row.version, row.synced_version, row.deleted), (port("new"), 1, 0, False), "the new row")
    same((row.scope, row.shard, named_content(fact)), ("net-b", shard_of("port", "new"), "new"), "the new row")
    gone = row_of(tables, port("gone"))
    same((gone.version, gone.deleted, gone.dirty), (before.version + 1, True, True), "the row whose object went")
    same(tables.sync.adopt(10), [], "adopted again")
    same(row_of(tables, port("fine")), fine, "a row that is in order")
    same(row_of(tables, port("deleted")), deleted, "a tombstone")
    same(row_of(tables, Ref(UNKNOWN_KIND, "h")), unknown, "a row of an unknown kind")


def adopting_at_once_adopts_once(bench: TableBench) -> None:
    """Of several that adopt at once, each object is adopted by one; `limit` is kept."""
    refs = [port(f"n{number}") for number in range(12)]
    for ref in refs:
        bench.bypass(ref, "x")

    def adopt(_worker: int) -> list[Ref]:
        sync, found = bench.open().sync, list[Ref]()
        for _ in range(30):
            page = sync.adopt(5)
            expect(len(page) <= 5, f"{len(page)} adopted, asked for 5")
            found += page
        return found

    adopted = [ref for found in in_threads(4, adopt) for ref in found]
    same(sorted(adopted), sorted(refs), "adopted")
    versions = {fact.row.version for fact in bench.open().sync.facts(refs)}
    same(versions, {1}, "versions")


# --- leases ----------------------------------------------------------------------------------


def lease_has_one_holder(bench: TableBench) -> None:
    """Who holds a lease keeps it from others and from a second taking of its own; given back, the next has it."""
    one, two = bench.open().leases, bench.open().leases
    first = taken(one, "project:a", "one")
    same((first.name, first.owner), ("project:a", "one"), "lease")
    same(two.take("project:a", "two", 15.0), None, "another's taking")
    same(one.take("project:a", "one", 15.0), None, "the owner's own second taking")
    kept = one.release(first)
    expect(kept is not None, "two asked for it, and it was given back at once")
    assert kept is not None
    same(one.release(kept), None, "after looking again")
    second = taken(two, "project:a", "two")
    expect(second.fence > first.fence, f"fence {second.fence} after {first.fence}")
    taken(two, "project:b", "two")


def lease_runs_out(bench: TableBench) -> None:
    """A lease that has run out is anybody's; its old holder can neither renew nor give back what is another's."""
    one, two = bench.open().leases, bench.open().leases
    old = taken(one, "l", "one", 10.0)
    bench.pass_time(9.0)
    same(two.take("l", "two", 10.0), None, "before it runs out")
    bench.pass_time(2.0)
    new = taken(two, "l", "two", 10.0)
    expect(new.fence > old.fence, f"fence {new.fence} after {old.fence}")
    same(one.renew([old], 10.0), [], "renewing what is lost")
    same(one.release(old), None, "giving back what is lost")
    same(two.renew([new], 10.0), [new], "the new holder still has it")


def fences_only_grow(bench: TableBench) -> None:
    """Every holder of a name has a greater fence than the one before, however the lease was lost; names are exact."""
    one, two = bench.open().leases, bench.open().leases
    fences = []
    for number in range(3):
        lease = taken(one, "l", "one", 10.0)
        fences.append(lease.fence)
        same(one.release(lease), None, "given back")
        lease = taken(two, "l", f"two-{number}", 10.0)
        fences.append(lease.fence)
        bench.pass_time(11.0)
    same(fences, sorted(set(fences)), "fences")
    other = taken(one, "L", "one", 10.0)
    same(one.release(other), None, "a name in other letters is another's")


def absurd_expiry_is_not_believed(bench: TableBench) -> None:
    """A lease that claims to last longer than any may was written under a clock that jumped: anybody may take it."""
    one, two = bench.open().leases, bench.open().leases
    old = taken(one, "l", "one", LEASE_SECONDS_MAX)
    bench.pass_time(1.0)
    same(two.take("l", "two", 10.0), None, "the longest lease there may be")
    bench.pass_time(-3600.0)
    new = taken(two, "l", "two", 10.0)
    expect(new.fence > old.fence, f"fence {new.fence} after {old.fence}")
    same(one.renew([old], 10.0), [], "renewing what is lost")
    bench.pass_time(3600.0)
    expect(taken(one, "l", "one").fence > new.fence, "after the clock jumped forward it has run out")


def race_has_one_winner_a_fence(bench: TableBench) -> None:
    """Of many who take at once a lease that is new, free, or has run out, one gets it."""
    workers, rounds = 6, 9
    start = threading.Barrier(workers, timeout=WAIT_SECONDS)
    turn = iter(range(10**6))

    def race(worker: int) -> list[tuple[int, int]]:
        leases, won = bench.open().leases, list[tuple[int, int]]()
        for number in range(rounds):
            if start.wait() == 0 and number % 3 == 2:
                bench.pass_time(11.0)
            start.wait()
            lease = leases.take("raced", f"w{worker}", 10.0)
            if lease is not None:
                won.append((lease.fence, next(turn)))
            start.wait()
            if lease is not None and number % 3 != 1:
                while lease is not None:
                    lease = leases.release(lease)
            start.wait()
        return won

    wins = sorted((win for found in in_threads(workers, race) for win in found), key=lambda win: win[1])
    fences = [fence for fence, _ in wins]
    same(fences, sorted(set(fences)), "fences in the order of winning")
    # In turn it was free (at first new), free, and held by the winner of the round before, until that ran out.
    same(len(fences), rounds, "winners")


def asking_is_never_missed(bench: TableBench) -> None:
    """Who is refused has left word: the holder's release fails until it has looked again.  No gap, however they meet."""
    workers, items = 6, 25
    lock, waiting, done = threading.Lock(), list[tuple[int, int]](), list[tuple[int, int]]()

    def work(worker: int) -> None:
        leases = bench.open().leases
        for number in range(items):
            with lock:
                waiting.append((worker, number))
            lease = leases.take("project:hot", f"w{worker}", 60.0)
            while lease is not None:
                with lock:
                    done.extend(waiting)
                    waiting.clear()
                lease = leases.release(lease)

    in_threads(workers, work)
    same(waiting, [], "left behind by everybody")
    same(sorted(done), [(worker, number) for worker in range(workers) for number in range(items)], "done")


def asked_counts_from_the_holder(bench: TableBench) -> None:
    """Asking counts for the holder who was asked; the next one begins with nobody's."""
    one, two = bench.open().leases, bench.open().leases
    first = taken(one, "l", "one", 10.0)
    for _ in range(3):
        same(two.take("l", "two", 10.0), None, "asking")
    kept = one.release(first)
    expect(kept is not None and kept.asked == first.asked + 3, f"{kept} after three had asked")
    expect(kept is not None and kept.fence == first.fence, "the fence stays")
    same([lease.fence for lease in one.renew([first], 10.0)], [first.fence], "it is renewed by whom, not by asked")
    bench.pass_time(11.0)
    new = taken(two, "l", "two", 10.0)
    same(two.release(new), None, "nobody asked the new holder")


def renewing_tells_what_is_left(bench: TableBench) -> None:
    """Renewing many gives those that are still ours, also when their time was over and nobody came."""
    one, two = bench.open().leases, bench.open().leases
    leases = [taken(one, f"shard:{number}", "one", 10.0) for number in range(6)]
    same(one.release(leases[0]), None, "one is given back")
    bench.pass_time(11.0)
    stolen = taken(two, "shard:1", "two", 10.0)
    same(one.renew(leases, 10.0), leases[2:], "still ours")
    bench.pass_time(9.0)
    same(two.take("shard:2", "two", 10.0), None, "it lasts from the renewal on")
    same(two.renew([stolen], 10.0), [stolen], "the other's")
    same(one.renew([], 10.0), [], "of none")
    same(sorted(one.renew(leases[2:] * 2, 10.0)[:4], key=lambda each: each.name), leases[2:], "named twice")


def holders_are_seen(bench: TableBench) -> None:
    """Holders are those whose name begins so, exactly, with the time that is left, run out or not; none that is free."""
    leases = bench.open().leases
    for name, seconds in (("project:a", 10.0), ("project:b", 60.0), ("Project:c", 10.0), ("projectX", 10.0)):
        taken(leases, name, f"owner of {name}", seconds)
    taken(leases, "100%_x", "one", 10.0)
    taken(leases, "100 percent", "one", 10.0)
    same(leases.release(taken(leases, "project:free", "one", 10.0)), None, "given back")
    bench.pass_time(20.0)
    found = {holder.name: holder for holder in bench.open().leases.holders("project:")}
    same(sorted(found), ["project:a", "project:b"], "names")
    expect(-25 < found["project:a"].seconds_left < 0, f"{found['project:a']} has run out")
    expect(25 < found["project:b"].seconds_left < 45, f"{found['project:b']} lasts")
    same(found["project:a"].owner, "owner of project:a", "owner")
    expect(found["project:a"].fence > 0, "fence")
    same([holder.name for holder in leases.holders("100%_")], ["100%_x"], "a prefix is text")
    same(leases.holders("nobody"), [], "none")


# --- audit and guards ------------------------------------------------------------------------


def entry(name: str, project_id: str = PROJECT, at: float = 0.0) -> AuditEntry:
    return AuditEntry(
        at, "missing", port(name), project_id, "index", 3, -1, 4, "written again", "read back", "svc", "g"
    )


def audit_is_kept_newest_first(bench: TableBench) -> None:
    """Entries are kept as they are, with the database's time, and found the newest first, by project or object."""
    audit = bench.open().audit
    audit.append([])
    audit.append([entry("a"), entry("b", "project-b")])
    audit.append([entry("c", at=1234.5)])
    audit.append([entry("a")])
    found = bench.open().audit.recent(10)
    same([each.ref.id for each in found], ["a", "c", "b", "a"], "order")
    same(found[1], entry("c", at=1234.5), "an entry with a time")
    expect(found[0].at > 1_000_000_000 and found[3].at <= found[0].at, f"times {found[0].at}, {found[3].at}")
    same(found[2]._replace(at=0.0), entry("b", "project-b"), "an entry without")
    same([each.ref.id for each in audit.recent(2)], ["a", "c"], "two")
    same([each.ref.id for each in audit.recent(10, project_id="project-b")], ["b"], "of a project")
    same([each.ref.id for each in audit.recent(10, ref=port("a"))], ["a", "a"], "of an object")
    same(audit.recent(10, "project-b", port("a")), [], "of both")
    audit.append([entry("x" * 600)._replace(done="\N{PILE OF POO}" * 600, verified="")])
    same(audit.recent(1)[0].ref.id[:255], "x" * 255, "too long for a column, kept in part at least")


def audit_is_pruned(bench: TableBench) -> None:
    """Pruning forgets all but the newest, and says how many went."""
    audit = bench.open().audit
    for name in "abcde":
        audit.append([entry(name)])
    same(audit.prune(5), 0, "nothing is too much")
    same(audit.prune(2), 3, "pruned")
    same([each.ref.id for each in audit.recent(10)], ["e", "d"], "left")
    same(audit.prune(0), 2, "all")
    same(audit.recent(10), [], "left")


def guard_waits_for_a_word(bench: TableBench) -> None:
    """A guard is replaced while it waits, stays as it was approved, and is forgotten when it is lifted."""
    audit, other = bench.open().audit, bench.open().audit
    first = GuardEntry("g1", 1000.0, "svc", {"missing": 70, "stale": 2}, 900, ("port p1", "\u00e9"))
    audit.hold(first)
    same(other.guards(), [first], "held")
    second = first._replace(found={"missing": 80}, sample=())
    audit.hold(second)
    same(other.guards(), [second], "replaced")
    same(other.approve("g1", "alice"), True, "approved")
    same(other.approve("nobody's", "alice"), False, "a guard that there is not")
    audit.hold(first)
    same(audit.guards(), [second._replace(approved_by="alice")], "held again after the approval")
    same(other.approve("g1", "alice"), True, "approved again")
    audit.hold(first._replace(id="g2", at=2000.0))
    audit.hold(first._replace(id="g0", at=0.0))
    found = audit.guards()
    same([guard.id for guard in found], ["g0", "g2", "g1"], "the newest first")
    expect(found[0].at > 1_000_000_000, f"{found[0].at} is not the database's time")
    audit.lift("g1")
    audit.lift("g1")
    same([guard.id for guard in other.guards()], ["g0", "g2"], "lifted")
    for number in range(103):
        audit.hold(first._replace(id=f"n{number}", at=3000.0 + number))
    same(len(audit.guards()), 100, "at most a hundred")


# --- which store is in force -----------------------------------------------------------------


def begun(tables: Tables, target: str = "etcd://b/") -> Move:
    """A move that begins; the check is broken when it does not."""
    move = tables.places.begin("sqlite:////a", target, "anna")
    expect(move is not None, f"no move to {target} begins")
    assert move is not None
    return move


def cut_over(tables: Tables, target: str = "etcd://b/") -> int:
    """Move all the way; the generation that is then in force."""
    number = begun(tables, target).number
    for before, after in ((Step.COPYING, Step.CUT_OVER), (Step.CUT_OVER, Step.SETTLING), (Step.SETTLING, Step.DONE)):
        expect(tables.places.advance(number, before, after), f"{before} does not become {after}")
    return number


def before_a_move_the_configured_store_is_in_force(bench: TableBench) -> None:
    """Generation 0 is in force, whether anything was ever written about it or not; no other one is."""
    tables = bench.open()
    same(tables.places.place()._replace(cloud=""), Place(), "place")
    bench.change(port("p"), "one")
    row = row_of(tables, port("p"))
    expect(not tables.sync.acknowledge([Acknowledged(row.key, row.version, 1)], 1), "generation 1 acknowledges")
    same(row_of(tables, port("p")), row, "what generation 1 acknowledged")
    expect(tables.sync.acknowledge([Acknowledged(row.key, row.version, 1)], 0), "generation 0 does not acknowledge")


def move_goes_step_by_step(bench: TableBench) -> None:
    """A move is seen by everybody as far as it is, one at a time; the next one has another number."""
    tables, other = bench.open(), bench.open()
    move = begun(tables)
    same(move[:5], (move.number, Step.COPYING, "sqlite:////a", "etcd://b/", "anna"), "what begins")
    same(other.places.begin("sqlite:////a", "redis://c", "bert"), None, "a second one meanwhile")
    expect(not other.places.advance(move.number + 1, Step.COPYING, Step.CUT_OVER), "an unknown one goes on")
    expect(not other.places.advance(move.number, Step.CUT_OVER, Step.SETTLING), "it leaves a step that it is not in")
    progress = Progress("copying", 3, 10, 1.5, "slowly")
    other.places.report(move.number, progress)
    bench.pass_time(60.0)
    place = tables.places.place()
    assert place.move is not None
    same((place.generation, place.url), (0, ""), "in force while it copies")
    expect(bool(place.cloud), "the cloud has no id")
    same(place.move.progress, progress, "progress")
    expect(place.move.under_way and 55.0 < place.move.seconds < 120.0, f"{place.move.seconds} s since it began")
    expect(other.places.advance(move.number, Step.COPYING, Step.ABORTED, Progress(why="told to")), "it does not end")
    expect(not tables.places.advance(move.number, Step.COPYING, Step.CUT_OVER), "an aborted one is cut over")
    tables.places.report(move.number, progress)
    place = tables.places.place()
    assert place.move is not None
    same((place.generation, place.move.step, place.move.progress), (0, Step.ABORTED, Progress(why="told to")), "after")
    again = begun(other, "redis://c")
    expect(again.number > move.number, f"number {again.number} after {move.number}")
    same(tables.places.place().cloud, place.cloud, "the cloud's id")


def former_generation_acknowledges_nothing(bench: TableBench) -> None:
    """After a cut-over the new generation counts alone, for acknowledging and for reopening."""
    tables, other = bench.open(), bench.open()
    bench.change(port("p"), "one")
    row = row_of(tables, port("p"))
    lease = taken(tables.leases, "l", "one")
    first = cut_over(tables)
    same(other.places.place()[:2], (first, "etcd://b/"), "in force")
    second = cut_over(other, "redis://c")
    same(tables.places.place()[:2], (second, "redis://c"), "in force after the second one")
    wanted = [Reopen(port("p"), 30, PROJECT, SCOPE)]
    for generation in (0, first, second + 1):
        done = [Acknowledged(row.key, row.version, 1), Acknowledged(row.key + 10**6, 1, 1)]
        expect(not tables.sync.acknowledge(done, generation), f"{generation} acknowledges")
        expect(not other.sync.reopen(lease, wanted, generation), f"{generation} reopens")
        same(row_of(other, port("p")), row, f"the row after generation {generation}")
    expect(other.sync.acknowledge([Acknowledged(row.key, row.version, 7)], second), "the one in force is refused")
    same(row_of(tables, port("p")).mark, 7, "its mark")
    again = tables.sync.acknowledge([Acknowledged(row.key, row.version, 7)], second)
    expect(again, "what is acknowledged already counts as another generation")
    expect(tables.sync.reopen(lease, wanted, second), "the one in force does not reopen")
    expect(row_of(tables, port("p")).dirty, "it was reopened")


def moves_that_begin_at_once_are_one(bench: TableBench) -> None:
    """Of several that begin at the same moment one does."""
    handles = [bench.open() for _ in range(4)]
    moves = in_threads(4, lambda worker: handles[worker].places.begin("a", f"target {worker}", "racer"))
    won = [move for move in moves if move is not None]
    same(len(won), 1, "moves begun")
    seen = handles[0].places.place().move
    assert seen is not None
    same((seen.number, seen.target), (won[0].number, won[0].target), "the move that is seen")


def move_is_cut_over_or_aborted(bench: TableBench) -> None:
    """Of those who bring a move on and those who abort it at the same moment one wins."""
    for _ in range(5):
        handles = [bench.open() for _ in range(4)]
        number = begun(handles[0]).number

        def race(worker: int, handles: list[Tables] = handles, number: int = number) -> bool:
            after = Step.CUT_OVER if worker % 2 else Step.ABORTED
            return handles[worker].places.advance(number, Step.COPYING, after)

        won = in_threads(4, race)
        same(sum(won), 1, "winners")
        place = handles[0].places.place()
        assert place.move is not None
        is_cut_over = won[1] or won[3]
        same(place.move.step, Step.CUT_OVER if is_cut_over else Step.ABORTED, "the step")
        same(place.generation == number, is_cut_over, "whether the target is in force")
        handles[0].places.advance(number, Step.CUT_OVER, Step.DONE)


def acknowledged_before_a_cut_over_is_seen_after_it(bench: TableBench) -> None:
    """What the former generation acknowledges is seen by whoever reads after the cut-over; nothing comes later."""
    tables = bench.open()
    number, refs = begun(tables).number, [port(f"p{worker}") for worker in range(4)]
    handles = [bench.open() for _ in refs]

    counts = [0] * len(refs)

    def acknowledge(worker: int) -> None:
        """Until it is refused."""
        sync, ref = handles[worker].sync, refs[worker]
        deadline = time.monotonic() + 2 * WAIT_SECONDS
        while time.monotonic() < deadline:
            version = bench.change(ref, "again")
            row = row_of(handles[worker], ref)
            if not sync.acknowledge([Acknowledged(row.key, version, version)], 0):
                return
            counts[worker] += 1
        raise AssertionError("the former generation is never refused")

    with ThreadPoolExecutor(len(refs)) as pool:
        workers = [pool.submit(acknowledge, worker) for worker in range(len(refs))]
        deadline = time.monotonic() + WAIT_SECONDS
        while min(counts) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        expect(tables.places.advance(number, Step.COPYING, Step.CUT_OVER), "it is not cut over")
        seen = {fact.row.ref: fact.row.synced_version for fact in tables.sync.facts(refs)}
        for each in workers:
            each.result()
    expect(min(counts) > 0, f"acknowledged before: {counts}")
    if bench.locks_reach_everywhere:
        after = {fact.row.ref: fact.row.synced_version for fact in tables.sync.facts(refs)}
        same(after, seen, "acknowledged")


# --- failing ---------------------------------------------------------------------------------


def cut_database_is_unavailable_not_empty(bench: TableBench) -> None:
    """While the database is away every call raises Unavailable, never "nothing"; then all goes on by itself."""
    tables = bench.open()
    bench.change(port("p"), "one")
    row = row_of(tables, port("p"))
    lease = taken(tables.leases, "l", "one", LEASE_SECONDS_MAX)
    calls: list[Callable[[], object]] = [
        tables.sync.dirty_projects,
        lambda: tables.sync.dirty(PROJECT, 10),
        lambda: tables.sync.facts([port("p")]),
        lambda: tables.sync.acknowledge([Acknowledged(row.key, row.version, 1)], 0),
        lambda: tables.sync.note([(row, "why")]),
        lambda: tables.sync.note_project(PROJECT, "why"),
        lambda: tables.sync.reopen(lease, [Reopen(port("p"), 1, PROJECT, SCOPE)], 0),
        tables.sync.sums,
        lambda: tables.sync.shard(row.shard, 0, 10),
        lambda: tables.sync.adopt(10),
        lambda: tables.leases.take("l", "two", 10.0),
        lambda: tables.leases.renew([lease], 10.0),
        lambda: tables.leases.release(lease),
        lambda: tables.leases.holders(""),
        lambda: tables.audit.append([entry("a")]),
        lambda: tables.audit.recent(10),
        lambda: tables.audit.prune(1),
        tables.audit.guards,
        tables.places.place,
        lambda: tables.places.begin("a", "b", "somebody"),
        lambda: tables.places.advance(1, Step.COPYING, Step.CUT_OVER),
        lambda: tables.places.report(1, Progress("copying")),
    ]
    bench.cut()
    try:
        for call in calls:
            with raising(Unavailable):
                call()
    finally:
        bench.mend()
    same(surely(lambda: row_of(tables, port("p"))), row, "the row afterwards")
    same(surely(lambda: tables.leases.renew([lease], 10.0)), [lease], "the lease afterwards")
    same(surely(lambda: tables.audit.recent(10)), [], "audit")


def surely(call: Callable[[], T]) -> T:
    """What a call gives once the database is back."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return call()
        except Unavailable:
            if time.monotonic() > deadline:
                raise


CHECKS: tuple[Check[TableBench], ...] = named(
    change_makes_one_dirty_row,
    deleted_object_is_a_fact_without_record,
    projects_wait_in_order,
    clock_that_went_back_hides_no_dirty_row,
    dirty_rows_come_in_order,
    facts_are_what_is,
    refused_object_is_named,
    unknown_kind_is_left_alone,
    version_and_content_belong_together,
    parallel_changes_all_count,
    acknowledged_row_is_clean,
    change_after_reading_stays_dirty,
    acknowledgement_never_goes_back,
    acknowledging_the_impossible_changes_nothing,
    racing_acknowledgements_leave_the_newest,
    note_says_why,
    note_project_says_why,
    reopened_objects_are_dirty,
    old_fence_reopens_nothing,
    take_over_ends_reopening,
    sums_are_those_of_the_rows,
    nothing_sums_to_nothing,
    objects_past_the_capture_are_adopted,
    adopting_at_once_adopts_once,
    lease_has_one_holder,
    lease_runs_out,
    fences_only_grow,
    absurd_expiry_is_not_believed,
    race_has_one_winner_a_fence,
    asking_is_never_missed,
    asked_counts_from_the_holder,
    renewing_tells_what_is_left,
    holders_are_seen,
    audit_is_kept_newest_first,
    audit_is_pruned,
    guard_waits_for_a_word,
    before_a_move_the_configured_store_is_in_force,
    move_goes_step_by_step,
    former_generation_acknowledges_nothing,
    moves_that_begin_at_once_are_one,
    move_is_cut_over_or_aborted,
    acknowledged_before_a_cut_over_is_seen_after_it,
    cut_database_is_unavailable_not_empty,
)


class TableConformance:
    """The suite for pytest: subclass it and override `new_bench`."""

    bench: TableBench

    def new_bench(self) -> TableBench:
        """A bench on an empty database."""
        raise NotImplementedError

    def setup_method(self) -> None:
        self.bench = self.new_bench()

    def teardown_method(self) -> None:
        self.bench.end()


as_test_methods(TableConformance, CHECKS)
