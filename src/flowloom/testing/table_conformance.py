"""The promises of `consistency.table`, as checks that every implementation of its three ports passes.

With pytest, the author of an implementation writes::

    class TestMine(TableConformance):
        def new_bench(self) -> TableBench:
            return MyBench()

Without pytest: `run_checks(CHECKS, new_bench, TableBench.end)`.  A bench is a Neutron database of its own, empty
at first.  Handles and the bench itself are used from several threads at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flowloom.consistency.marks import shard_of
from flowloom.consistency.table import (
    Acknowledged,
    AuditTable,
    Fact,
    Lease,
    LeaseTable,
    Ref,
    Row,
    SyncTable,
)
from flowloom.kernel.errors import FlowloomError, Rejected
from flowloom.model.records import Network, Port, Record
from flowloom.testing.conformance import Check, Skip, as_test_methods, expect, named

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


class TableBench:
    """What the checks need.  Subclass it; what raises NotImplementedError is required, faults are welcome.

    An object's content is one text, which becomes its record's name (`record_of`).
    """

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


# --- sync rows: acknowledging ----------------------------------------------------------------


def acknowledged_row_is_clean(bench: TableBench) -> None:
    """A row is clean when both versions meet, and holds the mark; its errors are forgotten."""
    tables = bench.open()
    bench.change(port("p"), "one")
    row = row_of(tables, port("p"))
    tables.sync.note([(row, "the store is away")])
    tables.sync.acknowledge([Acknowledged(row.key, row.version, 77)])
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
    tables.sync.acknowledge([Acknowledged(read.key, read.version, 5)])
    (fact,) = tables.sync.dirty(PROJECT, 10)
    same((fact.row.version, fact.row.synced_version, fact.row.mark), (newer, read.version, 5), "the row")


def acknowledgement_never_goes_back(bench: TableBench) -> None:
    """Acknowledgements out of order, or twice, leave the newest."""
    tables, other = bench.open(), bench.open()
    bench.change(port("p"), "one")
    old = row_of(tables, port("p"))
    bench.change(port("p"), "two")
    new = row_of(other, port("p"))
    other.sync.acknowledge([Acknowledged(new.key, new.version, 22)])
    tables.sync.acknowledge([Acknowledged(old.key, old.version, 11)])
    row = row_of(tables, port("p"))
    same((row.synced_version, row.mark, row.dirty), (new.version, 22, False), "after a late acknowledgement")
    same(tables.sync.dirty(PROJECT, 10), [], "dirty rows")
    tables.sync.acknowledge([])


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


CHECKS: tuple[Check[TableBench], ...] = named(
    change_makes_one_dirty_row,
    deleted_object_is_a_fact_without_record,
    acknowledged_row_is_clean,
    change_after_reading_stays_dirty,
    acknowledgement_never_goes_back,
    lease_has_one_holder,
    lease_runs_out,
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
