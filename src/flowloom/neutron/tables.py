"""The ports of `consistency.table` on a SQL database.

One statement decides wherever something is decided, by how many rows it matched (SQLAlchemy asks MySQL's
drivers for matched rows, not changed ones).  No SELECT FOR UPDATE: Galera knows such locks at one node only.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from flowloom.consistency.lease import LEASE_SECONDS_MAX
from flowloom.consistency.marks import shard_of
from flowloom.consistency.table import (
    Acknowledged,
    AuditEntry,
    Fact,
    GuardEntry,
    Holder,
    Lease,
    Ref,
    Reopen,
    Row,
    ShardSum,
)
from flowloom.kernel.errors import Unavailable
from flowloom.neutron.database import Contended, Database
from flowloom.neutron.database_time import database_now
from flowloom.neutron.models import AUDIT, ERROR_CHARACTERS_MAX, GUARD, LEASE, STORE, SYNC

TRIES_MAX = 20
"""How often a transaction is tried that the database gives up in favour of others (about 4 s in all)."""

LOOKS_MAX = 60
"""How often a lease is looked at that changes hands between look and word (about 3 s in all)."""

DELAY_SECONDS, DELAY_SECONDS_MAX, LOOK_SECONDS_MAX = 0.005, 0.5, 0.1
REFS_PER_SELECT = 400
GUARDS_MAX = 100
HEALED_PER_CALL = 1000

T = TypeVar("T")


class Adoptable(NamedTuple):
    """An object that went past the capture.

    version: of its row; 0: it has none.  deleted: the object is gone.
    """

    ref: Ref
    project_id: str
    scope: str
    deleted: bool
    version: int


Translate = Callable[[sa.Connection, Sequence[Row]], list[Fact]]
"""What the objects of these rows are, in the snapshot of the connection."""

Adopt = Callable[[sa.Connection, int], list[Adoptable]]
"""At most so many objects that have no row although they exist, or a row that says otherwise than they do."""

_COLUMNS = (
    SYNC.c.key,
    SYNC.c.kind,
    SYNC.c.object_id,
    SYNC.c.project_id,
    SYNC.c.scope,
    SYNC.c.version,
    SYNC.c.synced_version,
    SYNC.c.deleted,
    SYNC.c.mark,
    SYNC.c.shard,
    SYNC.c.attempts,
    SYNC.c.last_error,
)
_DIRTY = sa.and_(SYNC.c.dirty_since > 0, SYNC.c.version > SYNC.c.synced_version)
_DIRTY_SINCE = sa.case((SYNC.c.dirty_since > 0, SYNC.c.dirty_since), else_=database_now())
"""For an UPDATE that makes a row dirty: since before, if it was, else since now."""


def _parameter(name: str) -> sa.BindParameter[int]:
    return sa.bindparam(name, type_=sa.BigInteger())


class Patient:
    """Transactions that are tried again while the database gives them up."""

    def __init__(self, database: Database, random: Random | None = None) -> None:
        self._database = database
        self._random = random or Random()

    def _reading(self, work: Callable[[sa.Connection], T]) -> T:
        return self._again(lambda: self._in(self._database.reader, work))

    def _writing(self, work: Callable[[sa.Connection], T]) -> T:
        return self._again(lambda: self._once(work))

    def _once(self, work: Callable[[sa.Connection], T]) -> T:
        return self._in(self._database.writer, work)

    def _in(self, transaction: Callable[[], Any], work: Callable[[sa.Connection], T]) -> T:
        with transaction() as connection:
            return work(connection)

    def _again(self, attempt: Callable[[], T]) -> T:
        for number in range(TRIES_MAX):
            try:
                return attempt()
            except Contended as error:
                last = error
            self._pause(number)
        raise Unavailable(f"given up {TRIES_MAX} times in favour of others: {last}") from last

    def _pause(self, number: int, at_most_seconds: float = DELAY_SECONDS_MAX) -> None:
        """Before try `number` + 2; by chance, so that two who collided do not collide again."""
        time.sleep(self._random.uniform(0.0, min(at_most_seconds, DELAY_SECONDS * 2**number)))


class SqlSyncTable(Patient):
    """`table.SyncTable` on the rows that capture bumps.  Any thread may use it."""

    def __init__(self, database: Database, translate: Translate, adopt: Adopt, random: Random | None = None) -> None:
        super().__init__(database, random)
        self._translate = translate
        self._adopt = adopt

    def dirty_projects(self, dirty_for_seconds: float = 0.0, refs: Collection[Ref] | None = None) -> list[str]:
        where = [_DIRTY]
        if dirty_for_seconds > 0:
            # Dirty since a time to come: the clock went back, and nobody knows since when.
            long_ago = SYNC.c.dirty_since <= database_now() - dirty_for_seconds
            where.append(sa.or_(long_ago, SYNC.c.dirty_since > database_now()))
        selections = [sa.true()] if refs is None else [_named(page) for page in _pages(sorted(set(refs)))]
        since: dict[str, float] = {}

        def read(connection: sa.Connection) -> None:
            for selection in selections:
                oldest = sa.func.min(SYNC.c.dirty_since)
                found = sa.select(SYNC.c.project_id, oldest).where(*where, selection).group_by(SYNC.c.project_id)
                for project, dirty_since in connection.execute(found):
                    since[project] = min(dirty_since, since.get(project, dirty_since))

        if selections:
            self._reading(read)
        return sorted(since, key=lambda project: (since[project], project))

    def dirty(self, project_id: str, limit: int, skip: Collection[int] = ()) -> list[Fact]:
        # Rows to skip are left out here: so many keys in a statement would be beyond what databases take.
        of_project = {"project": project_id, "limit": limit + len(skip)}

        def read(connection: sa.Connection) -> list[Fact]:
            rows = [row for row in _rows(connection, _DIRTY_OF_PROJECT, of_project) if row.key not in skip][:limit]
            return self._facts_of(connection, rows)

        return self._reading(read)

    def facts(self, refs: Collection[Ref]) -> list[Fact]:
        def read(connection: sa.Connection) -> list[Fact]:
            rows: list[Row] = []
            for page in _pages(sorted(set(refs))):
                rows += _rows(connection, sa.select(*_COLUMNS).where(_named(page)))
            return self._facts_of(connection, rows)

        return self._reading(read) if refs else []

    def _facts_of(self, connection: sa.Connection, rows: Sequence[Row]) -> list[Fact]:
        if not rows:
            return []
        place = {row.key: number for number, row in enumerate(rows)}
        return sorted(self._translate(connection, rows), key=lambda fact: place[fact.row.key])

    def acknowledge(self, done: Sequence[Acknowledged], generation: int) -> bool:
        if not done:
            return True
        # In one order everywhere: who locks the same rows the other way round would wait for us, and we for him.
        rows = [
            {"row_key": each.key, "row_version": each.version, "row_mark": each.mark, "of_generation": generation}
            for each in sorted(done)
        ]

        def write(connection: sa.Connection) -> bool:
            # Where every row matched, the generation was in force; else there may be another reason.
            if connection.execute(_ACKNOWLEDGE, rows).rowcount == len(rows):
                return True
            return bool(connection.scalar(_IS_IN_FORCE, {"of_generation": generation}))

        return self._writing(write)

    def note(self, failures: Sequence[tuple[Row, str]]) -> None:
        if not failures:
            return
        statement = _failed(SYNC.c.key == _parameter("row_key"), SYNC.c.version == _parameter("row_version"), _DIRTY)
        rows = [
            {"row_key": row.key, "row_version": row.version, "why": storable(why, ERROR_CHARACTERS_MAX)}
            for row, why in sorted(failures, key=lambda failure: failure[0].key)
        ]
        self._writing(lambda connection: connection.execute(statement, rows))

    def note_project(self, project_id: str, why: str) -> None:
        statement = _failed(SYNC.c.project_id == project_id, _DIRTY)
        self._writing(lambda c: c.execute(statement, {"why": storable(why, ERROR_CHARACTERS_MAX)}))

    def reopen(self, lease: Lease, wanted: Sequence[Reopen], generation: int) -> bool:
        chosen = _highest(wanted)
        fence = sa.update(LEASE).where(LEASE.c.name == lease.name, LEASE.c.fence == lease.fence, _IN_FORCE)

        def write(connection: sa.Connection) -> bool:
            # It changes the lease's row, for then a take-over at the same moment, anywhere, excludes this.
            compared = fence.values(fenced=LEASE.c.fenced + 1)
            if not connection.execute(compared, {"of_generation": generation}).rowcount:
                return False
            there = _existing(connection, list(chosen))
            again = [each for ref, each in chosen.items() if ref in there]
            if again:
                connection.execute(
                    _REOPEN, [{"of_kind": w.ref.kind, "of_id": w.ref.id, "above": w.above} for w in again]
                )
            made = [
                _new_row(w.ref, w.project_id, w.scope, max(0, w.above) + 1, deleted=True)
                for ref, w in chosen.items()
                if ref not in there
            ]
            if made:
                connection.execute(_INSERT, made)
            return True

        return self._writing(write)

    def sums(self) -> dict[int, ShardSum]:
        # A mark is 0 exactly where synced_version is, and the index holds the mark.
        statement = (
            sa.select(SYNC.c.shard, sa.func.count(), sa.func.sum(SYNC.c.mark))
            .where(SYNC.c.mark > 0)
            .group_by(SYNC.c.shard)
        )
        rows = self._reading(lambda connection: connection.execute(statement).all())
        return {shard: ShardSum(int(objects), int(total) % 2**64) for shard, objects, total in rows}

    def shard(self, shard: int, after_key: int, limit: int) -> list[Row]:
        of_shard = sa.select(*_COLUMNS).where(SYNC.c.shard == shard, SYNC.c.key > after_key)
        return self._reading(lambda connection: _rows(connection, of_shard.order_by(SYNC.c.key).limit(limit)))

    def adopt(self, limit: int) -> list[Ref]:
        self._place_rows_of_older_releases()
        found = self._reading(lambda connection: self._adopt(connection, limit))
        return self._writing(lambda connection: _adopted(connection, found)) if found else []

    def _place_rows_of_older_releases(self) -> None:
        """Give a shard to rows that a release made which did not know of shards."""
        astray = sa.select(SYNC.c.key, SYNC.c.kind, SYNC.c.object_id).where(SYNC.c.shard < 0).limit(HEALED_PER_CALL)
        rows = self._reading(lambda connection: connection.execute(astray).all())
        if rows:
            place = sa.update(SYNC).where(SYNC.c.key == _parameter("row_key")).values(shard=_parameter("row_shard"))
            places = [{"row_key": r.key, "row_shard": shard_of(r.kind, r.object_id)} for r in sorted(rows)]
            self._writing(lambda connection: connection.execute(place, places))


class SqlLeaseTable(Patient):
    """`table.LeaseTable`: one row a name.  Any thread may use it."""

    def take(self, name: str, owner: str, seconds: float) -> Lease | None:
        for number in range(LOOKS_MAX):
            try:
                holder = self._look(name)
                if holder is not None and not holder.free:
                    if self._leave_word(holder):
                        return None
                    continue  # The holder has changed since: look again, or nobody would know of our asking.
                lease = self._make(name, owner, seconds) if holder is None else self._take_over(holder, owner, seconds)
                if lease is not None:
                    return lease
            except Contended:  # Somebody else's change of this row came first, here or at another node: lost.
                self._pause(number, LOOK_SECONDS_MAX)
        raise Unavailable(f"the lease {name} changes hands faster than it can be asked for")

    def renew(self, leases: Sequence[Lease], seconds: float) -> list[Lease]:
        kept: list[Lease] = []
        for start in range(0, len(leases), REFS_PER_SELECT):
            kept += self._renew(leases[start : start + REFS_PER_SELECT], seconds)
        return kept

    def _renew(self, leases: Sequence[Lease], seconds: float) -> list[Lease]:
        ours = sa.or_(*(_held_by(lease) for lease in leases))
        statement = sa.update(LEASE).where(ours).values(expires_at=database_now() + seconds)

        def write(connection: sa.Connection) -> list[Lease]:
            if connection.execute(statement).rowcount == len({lease.name for lease in leases}) == len(leases):
                return list(leases)
            # In the transaction that has just locked them: what is ours now was renewed.
            found = connection.execute(sa.select(LEASE.c.name, LEASE.c.owner, LEASE.c.fence).where(ours))
            still = {tuple(row) for row in found}
            return [lease for lease in leases if (lease.name, lease.owner, lease.fence) in still]

        return self._writing(write)

    def release(self, lease: Lease) -> Lease | None:
        ours = {**_names(lease), "seen_asked": lease.asked}
        # A certification failure is no loss here: whoever asked meanwhile relies on our looking again.
        if self._writing(lambda connection: connection.execute(_RELEASE, ours).rowcount):
            return None
        asked = sa.select(LEASE.c.asked).where(_held_by(lease))
        found = self._reading(lambda connection: connection.scalar(asked))
        return None if found is None else Lease(lease.name, lease.owner, lease.fence, int(found))

    def holders(self, prefix: str) -> list[Holder]:
        left = (LEASE.c.expires_at - database_now()).label("seconds_left")
        statement = (
            sa.select(LEASE.c.name, LEASE.c.owner, LEASE.c.fence, left)
            .where(LEASE.c.owner != "", LEASE.c.name.startswith(prefix, autoescape=True))
            .order_by(LEASE.c.name)
        )
        rows = self._reading(lambda connection: connection.execute(statement).all())
        # SQLite's LIKE takes "A" for "a".
        return [Holder(n, o, f, float(seconds)) for n, o, f, seconds in rows if n.startswith(prefix)]

    def _look(self, name: str) -> _Seen | None:
        with self._database.reader() as connection:
            row = connection.execute(_LOOK, {"seen_name": name}).first()
        return None if row is None else _Seen(row.name, row.owner, int(row.fence), bool(row.free))

    def _make(self, name: str, owner: str, seconds: float) -> Lease:
        """Contended when somebody made the row first."""
        values = {"name": name, "owner": owner, "fence": 1, "asked": 0, "expires_at": database_now() + seconds}
        self._once(lambda connection: connection.execute(sa.insert(LEASE).values(values)))
        return Lease(name, owner, 1)

    def _take_over(self, seen: _Seen, owner: str, seconds: float) -> Lease | None:
        asked = {**_names(seen), "new_owner": owner, "seconds": seconds}
        won = self._once(lambda connection: connection.execute(_TAKE_OVER, asked).rowcount)
        return Lease(seen.name, owner, seen.fence + 1) if won else None

    def _leave_word(self, seen: _Seen) -> bool:
        return bool(self._once(lambda connection: connection.execute(_LEAVE_WORD, _names(seen)).rowcount))


class _Seen(NamedTuple):
    """A lease's row as it was looked at; free: anybody may take it."""

    name: str
    owner: str
    fence: int
    free: bool


_FREE = sa.or_(
    LEASE.c.owner == "",
    LEASE.c.expires_at <= database_now(),
    LEASE.c.expires_at > database_now() + LEASE_SECONDS_MAX,
).label("free")


# Made once: SQLAlchemy makes a statement in several times the time in which it runs one.
_SEEN = sa.and_(
    LEASE.c.name == sa.bindparam("seen_name"),
    LEASE.c.owner == sa.bindparam("seen_owner"),
    LEASE.c.fence == _parameter("seen_fence"),
)
_LOOK = sa.select(LEASE.c.name, LEASE.c.owner, LEASE.c.fence, _FREE).where(LEASE.c.name == sa.bindparam("seen_name"))
_LEAVE_WORD = sa.update(LEASE).where(_SEEN).values(asked=LEASE.c.asked + 1)
_RELEASE = (
    sa.update(LEASE)
    .where(_SEEN, LEASE.c.asked == _parameter("seen_asked"))
    .values(owner="", expires_at=sa.literal(0.0))
)
_TAKE_OVER = (
    sa.update(LEASE)
    .where(_SEEN, _FREE.element)
    .values(
        owner=sa.bindparam("new_owner"),
        fence=LEASE.c.fence + 1,
        asked=0,
        expires_at=database_now() + sa.bindparam("seconds", type_=sa.Float(53)),
    )
)


def _names(lease: Lease | _Seen) -> dict[str, Any]:
    return {"seen_name": lease.name, "seen_owner": lease.owner, "seen_fence": lease.fence}


def _held_by(lease: Lease | _Seen) -> sa.ColumnElement[bool]:
    return sa.and_(LEASE.c.name == lease.name, LEASE.c.owner == lease.owner, LEASE.c.fence == lease.fence)


class SqlAuditTable(Patient):
    """`table.AuditTable`.  Any thread may use it."""

    def append(self, entries: Sequence[AuditEntry]) -> None:
        if not entries:
            return
        rows = [
            {
                "found_at": each.at,
                "kind": storable(each.kind, 32),
                "object_kind": storable(each.ref.kind, 32),
                "object_id": storable(each.ref.id, 255),
                "project_id": storable(each.project_id, 255),
                "comparison": storable(each.comparison, 64),
                "neutron_version": each.neutron_version,
                "store_version": each.store_version,
                "version": each.version,
                "done": storable(each.done, 255),
                "verified": storable(each.verified, 255),
                "by_whom": storable(each.by, 255),
                "guard": storable(each.guard, 64),
            }
            for each in entries
        ]
        self._writing(lambda connection: connection.execute(_APPEND, rows))

    def recent(self, limit: int, project_id: str | None = None, ref: Ref | None = None) -> list[AuditEntry]:
        statement = sa.select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit)
        if project_id is not None:
            statement = statement.where(AUDIT.c.project_id == project_id)
        if ref is not None:
            statement = statement.where(AUDIT.c.object_kind == ref.kind, AUDIT.c.object_id == ref.id)
        return [_entry(row) for row in self._reading(lambda connection: connection.execute(statement).all())]

    def prune(self, keep: int) -> int:
        newest_to_go = sa.select(AUDIT.c.id).order_by(AUDIT.c.id.desc()).offset(keep).limit(1)

        def write(connection: sa.Connection) -> int:
            last = connection.scalar(newest_to_go)
            return 0 if last is None else connection.execute(sa.delete(AUDIT).where(AUDIT.c.id <= last)).rowcount

        return self._writing(write)

    def hold(self, guard: GuardEntry) -> None:
        values: dict[str, Any] = {
            "at": guard.at or database_now(),
            "by_whom": storable(guard.by, 255),
            "found": json.dumps(guard.found),
            "of_objects": guard.of_objects,
            "sample": json.dumps(guard.sample),
            "approved_by": storable(guard.approved_by, 255),
        }
        beyond = sa.select(GUARD.c.id).order_by(GUARD.c.at.desc(), GUARD.c.id).offset(GUARDS_MAX).limit(GUARDS_MAX)

        def write(connection: sa.Connection) -> None:
            if connection.scalar(sa.select(GUARD.c.id).where(GUARD.c.id == guard.id)) is None:
                connection.execute(sa.insert(GUARD).values(id=guard.id, **values))
                oldest = list(connection.scalars(beyond))
                connection.execute(sa.delete(GUARD).where(GUARD.c.id.in_(oldest)))
            else:
                waiting = sa.update(GUARD).where(GUARD.c.id == guard.id, GUARD.c.approved_by == "")
                connection.execute(waiting.values(values))

        self._writing(write)

    def guards(self) -> list[GuardEntry]:
        statement = sa.select(GUARD).order_by(GUARD.c.at.desc(), GUARD.c.id).limit(GUARDS_MAX)
        return [_guard(row) for row in self._reading(lambda connection: connection.execute(statement).all())]

    def approve(self, guard_id: str, by: str) -> bool:
        first = sa.case((GUARD.c.approved_by == "", storable(by, 255)), else_=GUARD.c.approved_by)
        statement = sa.update(GUARD).where(GUARD.c.id == guard_id).values(approved_by=first)
        return bool(self._writing(lambda connection: connection.execute(statement).rowcount))

    def lift(self, guard_id: str) -> None:
        self._writing(lambda connection: connection.execute(sa.delete(GUARD).where(GUARD.c.id == guard_id)))


def storable(text: str, characters_max: int) -> str:
    """What a column of MySQL's three-byte utf8, which Neutron prescribes, can hold of a text."""
    return "".join(c if c <= "\uffff" else "\ufffd" for c in text[:characters_max])


def _failed(*where: sa.ColumnElement[bool]) -> sa.Update:
    return sa.update(SYNC).where(*where).values(attempts=SYNC.c.attempts + 1, last_error=sa.bindparam("why"))


_DIRTY_OF_PROJECT = (
    sa.select(*_COLUMNS)
    .where(SYNC.c.project_id == sa.bindparam("project"), _DIRTY)
    .order_by(SYNC.c.dirty_since, SYNC.c.key)
    .limit(sa.bindparam("limit", type_=sa.Integer()))
)

# With a shared lock: acknowledgements do not wait for each other, a cut-over waits for those that have compared and
# not yet committed, and who compares after it sees what it has made.  SQLite has one writer at a time anyway.  Galera
# knows such a lock at its own node only: there one may slip through that commits elsewhere at the very moment of the
# cut-over, and recovery's comparison finds it, because its mark is not what the store in force holds.
_GENERATION = sa.select(STORE.c.generation).where(STORE.c.id == 1)
_IN_FORCE = sa.func.coalesce(_GENERATION.with_for_update(read=True).scalar_subquery(), 0) == _parameter("of_generation")
_IS_IN_FORCE = sa.select(_IN_FORCE)

_ACKNOWLEDGE = (
    sa.update(SYNC)
    .where(
        _IN_FORCE,
        SYNC.c.key == _parameter("row_key"),
        SYNC.c.synced_version < _parameter("row_version"),
        SYNC.c.version >= _parameter("row_version"),
    )
    .values(
        synced_version=_parameter("row_version"),
        mark=_parameter("row_mark"),
        dirty_since=sa.case((SYNC.c.version == _parameter("row_version"), 0.0), else_=SYNC.c.dirty_since),
        attempts=0,
        last_error="",
    )
)


def _rows(
    connection: sa.Connection, statement: sa.Select[Any], parameters: Mapping[str, Any] | None = None
) -> list[Row]:
    return [_row(found) for found in connection.execute(statement, parameters)]


def _row(found: Any) -> Row:
    return Row(
        key=found.key,
        kind=found.kind,
        id=found.object_id,
        project_id=found.project_id,
        scope=found.scope,
        version=found.version,
        synced_version=found.synced_version,
        deleted=bool(found.deleted),
        mark=found.mark,
        shard=found.shard if found.shard >= 0 else shard_of(found.kind, found.object_id),
        attempts=found.attempts,
        last_error=found.last_error,
    )


def _named(refs: Iterable[Ref]) -> sa.ColumnElement[bool]:
    by_kind: dict[str, list[str]] = defaultdict(list)
    for kind, identifier in refs:
        by_kind[kind].append(identifier)
    return sa.or_(*(sa.and_(SYNC.c.kind == kind, SYNC.c.object_id.in_(ids)) for kind, ids in by_kind.items()))


def _pages(refs: Sequence[Ref]) -> Iterator[Sequence[Ref]]:
    return (refs[start : start + REFS_PER_SELECT] for start in range(0, len(refs), REFS_PER_SELECT))


def _existing(connection: sa.Connection, refs: Sequence[Ref]) -> dict[Ref, int]:
    """Versions of the rows that there are."""
    found: dict[Ref, int] = {}
    for page in _pages(refs):
        statement = sa.select(SYNC.c.kind, SYNC.c.object_id, SYNC.c.version).where(_named(page))
        found |= {Ref(row.kind, row.object_id): row.version for row in connection.execute(statement)}
    return found


def _highest(wanted: Iterable[Reopen]) -> dict[Ref, Reopen]:
    """One wish an object, in the order in which everybody locks."""
    chosen: dict[Ref, Reopen] = {}
    for each in sorted(wanted):
        chosen[each.ref] = each
    return chosen


def _new_row(ref: Ref, project_id: str, scope: str, version: int, deleted: bool) -> dict[str, Any]:
    return {
        "kind": ref.kind,
        "object_id": ref.id,
        "project_id": project_id,
        "scope": scope,
        "version": version,
        "deleted": deleted,
        "shard": shard_of(*ref),
    }


def _adopted(connection: sa.Connection, found: Sequence[Adoptable]) -> list[Ref]:
    """Make them dirty, but for those whose row has come or changed since they were found."""
    there = _existing(connection, [each.ref for each in found])
    made = [each for each in found if each.version == 0 and each.ref not in there]
    if made:
        connection.execute(_INSERT, [_new_row(e.ref, e.project_id, e.scope, 1, e.deleted) for e in made])
    adopted = [each.ref for each in made]
    for each in sorted(found):
        if each.version and there.get(each.ref) == each.version:
            values = {
                "of_kind": each.ref.kind,
                "of_id": each.ref.id,
                "of_version": each.version,
                "is_deleted": each.deleted,
            }
            if connection.execute(_TOUCH, values).rowcount:
                adopted.append(each.ref)
    return adopted


_OF_OBJECT = sa.and_(SYNC.c.kind == sa.bindparam("of_kind"), SYNC.c.object_id == sa.bindparam("of_id"))

_REOPEN = (
    sa.update(SYNC)
    .where(_OF_OBJECT)
    .values(
        version=sa.case((SYNC.c.version > _parameter("above"), SYNC.c.version), else_=_parameter("above") + 1),
        synced_version=0,
        mark=0,
        dirty_since=_DIRTY_SINCE,
    )
)

_TOUCH = (
    sa.update(SYNC)
    .where(_OF_OBJECT, SYNC.c.version == _parameter("of_version"))
    .values(version=SYNC.c.version + 1, deleted=sa.bindparam("is_deleted"), dirty_since=_DIRTY_SINCE)
)

_INSERT = sa.insert(SYNC).values(
    {name: sa.bindparam(name, type_=SYNC.c[name].type) for name in _new_row(Ref("", ""), "", "", 0, False)}
    | {"dirty_since": database_now()}
)

_AT = sa.bindparam("found_at", type_=sa.Float(53))
_APPEND = sa.insert(AUDIT).values(
    {c.name: sa.bindparam(c.name, type_=c.type) for c in AUDIT.c if c.name not in ("id", "at")}
    | {"at": sa.case((_AT > 0, _AT), else_=database_now())}
)


def _entry(row: Any) -> AuditEntry:
    return AuditEntry(
        at=row.at,
        kind=row.kind,
        ref=Ref(row.object_kind, row.object_id),
        project_id=row.project_id,
        comparison=row.comparison,
        neutron_version=row.neutron_version,
        store_version=row.store_version,
        version=row.version,
        done=row.done,
        verified=row.verified,
        by=row.by_whom,
        guard=row.guard,
    )


def _guard(row: Any) -> GuardEntry:
    found: Mapping[str, int] = json.loads(row.found)
    return GuardEntry(
        id=row.id,
        at=row.at,
        by=row.by_whom,
        found=dict(found),
        of_objects=row.of_objects,
        sample=tuple(json.loads(row.sample)),
        approved_by=row.approved_by,
    )
