"""The ports of `consistency.table` on the SQL model, statement by statement as the SQL implementation does it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

from flowloom.consistency.lease import LEASE_SECONDS_MAX
from flowloom.consistency.place import NO_PROGRESS, Move, Place, Progress, Step
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
from flowloom.kernel.errors import Rejected, Unavailable
from flowloom.model.records import Record
from flowloom.testing.sql_model import Content, Deadlock, LeaseRow, SqlModel, SyncRow, Transaction, new_row
from flowloom.testing.table_conformance import KINDS, record_of

T = TypeVar("T")

ATTEMPTS_MAX: Final = 10
"""How often a transaction is tried again after a deadlock."""

GUARDS_MAX: Final = 100


class ModelTables:
    """Implements SyncTable, LeaseTable, AuditTable and PlaceTable on a `SqlModel`."""

    def __init__(self, database: SqlModel) -> None:
        self.database = database

    # SyncTable -----------------------------------------------------------------------------------

    def dirty_projects(self, dirty_for_seconds: float = 0.0, refs: Collection[Ref] | None = None) -> list[str]:
        rows = self.database.select("select dirty projects", "sync").values()
        waiting = [row for row in rows if row.version > row.synced_version]
        if refs is not None:
            waiting = [row for row in waiting if (row.kind, row.id) in refs]
        if dirty_for_seconds > 0:
            now = self.database.now()
            # Dirty since a time to come: the clock went back, and nobody knows since when.
            waiting = [r for r in waiting if r.dirty_since <= now - dirty_for_seconds or r.dirty_since > now]
        return list(dict.fromkeys(row.project_id for row in sorted(waiting, key=_longest_dirty)))

    def dirty(self, project_id: str, limit: int, skip: Collection[int] = ()) -> list[Fact]:
        def read(one: Transaction) -> list[Fact]:
            rows = one.rows("select dirty rows", "sync").values()
            waiting = [r for r in rows if r.project_id == project_id and _is_dirty(r) and r.key not in skip]
            return _facts(one, sorted(waiting, key=_longest_dirty)[:limit])

        return self._in_transaction(read)

    def facts(self, refs: Collection[Ref]) -> list[Fact]:
        def read(one: Transaction) -> list[Fact]:
            rows = one.rows("select rows", "sync")
            return _facts(one, [rows[ref] for ref in sorted(refs) if ref in rows])

        return self._in_transaction(read)

    def acknowledge(self, done: Sequence[Acknowledged], generation: int) -> bool:
        if not done:
            return True
        refs = {row.key: ref for ref, row in self.database.table("sync").items()}

        def write(one: Transaction) -> bool:
            for each in sorted(done):
                if self._in_force(one) == generation:
                    one.update("acknowledge", "sync", refs.get(each.key), self._acknowledged, each)
            return self._in_force(one) == generation

        return self._in_transaction(write)

    def note(self, failures: Sequence[tuple[Row, str]]) -> None:
        if not failures:
            return

        def write(one: Transaction) -> None:
            for failed, why in sorted(failures, key=_key_of_failure):
                one.update("note", "sync", failed.ref, _noted, failed.version, why)

        self._in_transaction(write)

    def note_project(self, project_id: str, why: str) -> None:
        def write(one: Transaction) -> None:
            for ref, row in one.rows("select dirty rows", "sync").items():
                if row.project_id == project_id and _is_dirty(row):
                    one.update("note", "sync", ref, _noted, None, why)

        self._in_transaction(write)

    def reopen(self, lease: Lease, wanted: Sequence[Reopen], generation: int) -> bool:
        def write(one: Transaction) -> bool:
            if self._in_force(one) != generation:
                return False
            # The lease's row is changed, so that a take-over elsewhere and this transaction exclude each other.
            if not one.update("compare fence", "lease", lease.name, self._fenced, lease):
                return False
            for each in {each.ref: each for each in sorted(wanted)}.values():
                one.update("reopen", "sync", each.ref, self._reopened, each)
            return True

        return self._in_transaction(write)

    def sums(self) -> dict[int, ShardSum]:
        found: dict[int, ShardSum] = {}
        for row in self.database.select("select sums", "sync").values():
            if row.mark > 0:
                objects, total = found.get(row.shard, (0, 0))
                found[row.shard] = ShardSum(objects + 1, (total + row.mark) % 2**64)
        return found

    def shard(self, shard: int, after_key: int, limit: int) -> list[Row]:
        rows = self.database.select("select shard", "sync").values()
        found = sorted((row for row in rows if row.shard == shard and row.key > after_key), key=_key_of_row)
        return [_row(row) for row in found[:limit]]

    def adopt(self, limit: int) -> list[Ref]:
        def write(one: Transaction) -> list[Ref]:
            objects, rows = one.rows("select objects", "objects"), one.rows("select rows", "sync")
            found = [ref for ref in objects if ref not in rows or rows[ref].deleted]
            found += [ref for ref, row in rows.items() if ref not in objects and not row.deleted]
            return [
                Ref(*ref)
                for ref in sorted(found)[:limit]
                if one.update("adopt", "sync", ref, self._adopted, Ref(*ref), rows.get(ref), objects.get(ref))
            ]

        return self._in_transaction(write)

    # PlaceTable ----------------------------------------------------------------------------------

    def place(self) -> Place:
        def read(one: Transaction) -> Place:
            store = one.rows("select store", "store").get(1, Place())
            moves = one.rows("select moves", "move")
            if not moves:
                return store  # type: ignore[no-any-return]
            began_at, move = moves[max(moves)]
            return store._replace(move=move._replace(seconds=max(0.0, self.database.now() - began_at)))  # type: ignore[no-any-return]

        return self._in_transaction(read)

    def begin(self, source: str, target: str, by: str) -> Move | None:
        def write(one: Transaction) -> Move | None:
            moves = one.rows("select moves", "move")
            if any(move.under_way for _, move in moves.values()):
                return None
            if 1 not in one.rows("select store", "store"):
                one.update("insert store", "store", 1, _inserted, Place(cloud=f"cloud-{self.database.next_number()}"))
            begun = Move(max(moves, default=0) + 1, Step.COPYING, source, target, by)
            if not one.update("insert move", "move", begun.number, _inserted, (self.database.now(), begun)):
                raise Deadlock("the number was given at the same moment")
            return begun

        return self._in_transaction(write)

    def advance(self, number: int, before: Step, after: Step, progress: Progress = NO_PROGRESS) -> bool:
        def write(one: Transaction) -> bool:
            if not one.update("advance move", "move", number, _advanced, before, after, progress):
                return False
            if after is Step.CUT_OVER:
                _, move = one.newest("move", number)
                one.update("cut over", "store", 1, _cut_over, number, move.target)
            return True

        return self._in_transaction(write)

    def report(self, number: int, progress: Progress) -> None:
        self._in_transaction(lambda one: one.update("report move", "move", number, _reported, progress))

    def _in_force(self, one: Transaction) -> int:
        """The generation, as a statement of this transaction compares it."""
        store = one.share("store", 1)
        return 0 if store is None else int(store.generation)

    # LeaseTable ----------------------------------------------------------------------------------

    def take(self, name: str, owner: str, seconds: float) -> Lease | None:
        for _ in range(ATTEMPTS_MAX):
            try:
                decided, lease = self._take(name, owner, seconds)
            except Deadlock:
                continue
            if decided:
                return lease
        raise Unavailable(f"the lease {name} changes hands faster than it can be read")

    def _take(self, name: str, owner: str, seconds: float) -> tuple[bool, Lease | None]:
        """Whether this attempt decided it, and what it gave."""
        seen: LeaseRow | None = self.database.select("select lease", "lease").get(name)
        database, now = self.database, self.database.now()
        if seen is None:
            fresh = LeaseRow(owner, 1, now + seconds, 0)
            return database.execute("insert lease", "lease", name, _inserted, fresh), Lease(name, owner, 1)
        if not _free(seen, now):
            return database.execute("leave word", "lease", name, self._asked, seen), None
        won = database.execute("take lease", "lease", name, self._taken, seen, owner, seconds)
        return won, Lease(name, owner, seen.fence + 1)

    def renew(self, leases: Sequence[Lease], seconds: float) -> list[Lease]:
        def write(one: Transaction) -> list[Lease]:
            until = self.database.now() + seconds
            self.database.step("renew")
            wanted = sorted(set(leases), key=_name_of_lease)
            kept = {lease for lease in wanted if one.update("", "lease", lease.name, _renewed, lease, until)}
            return [lease for lease in leases if lease in kept]

        return self._in_transaction(write)

    def release(self, lease: Lease) -> Lease | None:
        def write() -> bool:
            return self.database.execute("release", "lease", lease.name, self._released, lease)

        if self._again(write):
            return None
        found = self.database.select("select asked", "lease").get(lease.name)
        if found is None or not _same(found, lease):
            return None
        return Lease(lease.name, lease.owner, lease.fence, found.asked)

    def holders(self, prefix: str) -> list[Holder]:
        rows, now = self.database.select("select holders", "lease").items(), self.database.now()
        return [
            Holder(name, row.owner, row.fence, row.until - now)
            for name, row in sorted(rows)
            if row.owner and name.startswith(prefix)
        ]

    # AuditTable ----------------------------------------------------------------------------------

    def append(self, entries: Sequence[AuditEntry]) -> None:
        def write(one: Transaction) -> None:
            now = self.database.now()
            for entry in entries:
                kept = entry if entry.at else entry._replace(at=now)
                one.update("insert audit", "audit", self.database.next_number(), _inserted, kept)

        self._in_transaction(write)

    def recent(self, limit: int, project_id: str | None = None, ref: Ref | None = None) -> list[AuditEntry]:
        def read(one: Transaction) -> list[AuditEntry]:
            found = [
                entry
                for _, entry in sorted(one.rows("select audit", "audit").items(), reverse=True)
                if (project_id is None or entry.project_id == project_id) and (ref is None or entry.ref == ref)
            ]
            return found[:limit]

        return self._in_transaction(read)

    def prune(self, keep: int) -> int:
        def write(one: Transaction) -> int:
            numbers = sorted(one.rows("select audit", "audit"), reverse=True)[keep:]
            for number in numbers:
                one.delete("delete audit", "audit", number)
            return len(numbers)

        return self._in_transaction(write)

    def hold(self, guard: GuardEntry) -> None:
        kept = guard if guard.at else guard._replace(at=self.database.now())
        self._in_transaction(lambda one: one.update("hold guard", "guard", guard.id, _held_guard, kept))

    def guards(self) -> list[GuardEntry]:
        return sorted(self.database.select("select guards", "guard").values(), key=_newest_guard)[:GUARDS_MAX]

    def approve(self, guard_id: str, by: str) -> bool:
        return self._in_transaction(lambda one: one.update("approve guard", "guard", guard_id, _approved, by))

    def lift(self, guard_id: str) -> None:
        self._in_transaction(lambda one: one.delete("lift guard", "guard", guard_id))

    # What statements do to a row: None where their WHERE does not match.  Methods, for broken models to replace. --

    def _acknowledged(self, row: SyncRow | None, done: Acknowledged) -> SyncRow | None:
        if row is None or not row.synced_version < done.version <= row.version:
            return None
        since = 0.0 if done.version == row.version else row.dirty_since
        return row._replace(synced_version=done.version, mark=done.mark, attempts=0, last_error="", dirty_since=since)

    def _reopened(self, row: SyncRow | None, wanted: Reopen) -> SyncRow:
        now = self.database.now()
        if row is None:
            ref, project, scope = wanted.ref, wanted.project_id, wanted.scope
            above = max(0, wanted.above)
            return new_row(self.database, ref, project, scope, now, version=above + 1, deleted=True)
        version = max(row.version, wanted.above + 1)
        return row._replace(version=version, synced_version=0, mark=0, dirty_since=row.dirty_since or now)

    def _adopted(self, row: SyncRow | None, ref: Ref, seen: SyncRow | None, content: Content | None) -> SyncRow | None:
        now = self.database.now()
        if row is None:
            return None if content is None else new_row(self.database, ref, content.project_id, content.scope, now)
        if seen is None or row.version != seen.version:
            return None
        return row._replace(version=row.version + 1, deleted=content is None, dirty_since=row.dirty_since or now)

    def _fenced(self, row: LeaseRow | None, lease: Lease) -> LeaseRow | None:
        return row._replace(fenced=row.fenced + 1) if row is not None and _same(row, lease) else None

    def _asked(self, row: LeaseRow | None, seen: LeaseRow) -> LeaseRow | None:
        return row._replace(asked=row.asked + 1) if row is not None and _same(row, seen) else None

    def _taken(self, row: LeaseRow | None, seen: LeaseRow, owner: str, seconds: float) -> LeaseRow | None:
        now = self.database.now()
        if row is None or not _same(row, seen) or not _free(row, now):
            return None
        return row._replace(owner=owner, fence=seen.fence + 1, until=now + seconds, asked=0)

    def _released(self, row: LeaseRow | None, lease: Lease) -> LeaseRow | None:
        if row is None or not _same(row, lease) or row.asked != lease.asked:
            return None
        return row._replace(owner="", until=0.0)

    def _in_transaction(self, act: Callable[[Transaction], T]) -> T:
        def attempt() -> T:
            with self.database.transaction() as one:
                return act(one)

        return self._again(attempt)

    def _again(self, attempt: Callable[[], T]) -> T:
        """Attempt it, again after a deadlock.  Unavailable when that does not end."""
        for _ in range(ATTEMPTS_MAX):
            try:
                return attempt()
            except Deadlock:
                continue
        raise Unavailable(f"the database gave this transaction up {ATTEMPTS_MAX} times")


def _longest_dirty(row: SyncRow) -> tuple[float, int]:
    return row.dirty_since, row.key


def _key_of_row(row: SyncRow) -> int:
    return row.key


def _key_of_failure(failure: tuple[Row, str]) -> int:
    return failure[0].key


def _name_of_lease(lease: Lease) -> str:
    return lease.name


def _newest_guard(guard: GuardEntry) -> float:
    return -guard.at


def _is_dirty(row: SyncRow) -> bool:
    return row.version > row.synced_version


def _same(row: LeaseRow | None, holder: LeaseRow | Lease) -> bool:
    return row is not None and row.fence == holder.fence and row.owner == holder.owner


def _free(row: LeaseRow, now: float) -> bool:
    return not row.owner or row.until <= now or row.until > now + LEASE_SECONDS_MAX


def _inserted(row: Any, fresh: Any) -> Any:
    return fresh if row is None else None


def _advanced(
    row: tuple[float, Move] | None, before: Step, after: Step, progress: Progress
) -> tuple[float, Move] | None:
    if row is None or row[1].step is not before:
        return None
    return row[0], row[1]._replace(step=after, progress=progress)


def _cut_over(row: Place | None, generation: int, url: str) -> Place | None:
    return None if row is None else row._replace(generation=generation, url=url)


def _reported(row: tuple[float, Move] | None, progress: Progress) -> tuple[float, Move] | None:
    return None if row is None or not row[1].under_way else (row[0], row[1]._replace(progress=progress))


def _renewed(row: LeaseRow | None, lease: Lease, until: float) -> LeaseRow | None:
    return row._replace(until=until) if row is not None and _same(row, lease) else None


def _held_guard(row: GuardEntry | None, guard: GuardEntry) -> GuardEntry | None:
    return guard if row is None or not row.approved_by else None


def _approved(row: GuardEntry | None, by: str) -> GuardEntry | None:
    return None if row is None else row._replace(approved_by=row.approved_by or by)


def _noted(row: SyncRow | None, version: int | None, why: str) -> SyncRow | None:
    if row is None or not _is_dirty(row) or version not in (None, row.version):
        return None
    return row._replace(attempts=row.attempts + 1, last_error=why)


def _row(row: SyncRow) -> Row:
    return Row(*row[:-1])


def _facts(one: Transaction, rows: Iterable[SyncRow]) -> list[Fact]:
    chosen = list(rows)
    if not chosen:
        return []
    objects = one.rows("select objects", "objects")
    return [_fact(row, objects.get((row.kind, row.id))) for row in chosen]


def _fact(row: SyncRow, content: Content | None) -> Fact:
    public = _row(row)
    if row.kind not in KINDS:
        return Fact(public, None, known=False)
    if content is None:
        return Fact(public, None)
    found = record(row.kind, row.id, row.project_id, row.scope, row.key, row.version, content.text)
    return Fact(public, None, refused=found) if isinstance(found, Rejected) else Fact(public, found)


@lru_cache(maxsize=100_000)
def record(kind: str, id: str, project_id: str, scope: str, key: int, version: int, text: str) -> Record | Rejected:
    """The record of an object with this text, at this version of its row."""
    return record_of(Row(key, kind, id, project_id, scope, version, 0, False, 0, 0), text)
