"""A small SQL database in memory with real transactions, and Neutron's writes to it.

`SqlModel` is the database; `Transaction` reads a snapshot and writes rows, in one of two ways to settle conflicts:

- LOCKING, as InnoDB does: a write locks its row until the transaction ends, others wait for it, a circle of
  waiting ends with `Deadlock` for the one who closed it.
- CERTIFICATION, as Galera does between nodes: nobody waits, and whoever commits second fails with `Deadlock`.

A write sees the newest committed row and not the snapshot, as `UPDATE … SET version = version + 1` does.  Every
statement goes through `step`, where a simulation lets others go on, or makes the statement fail.

`NeutronTransaction` changes objects as Neutron does, with the capture's bump in the same transaction;
`sql_model_tables` puts the ports of `consistency.table` on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import Enum
from types import TracebackType
from typing import Any, Final, NamedTuple

from flowloom.consistency.marks import shard_of
from flowloom.consistency.table import Ref
from flowloom.testing.scheduler import Scheduler, Task

Key = tuple[str, Hashable]
"""Table and primary key of a row."""

TABLES: Final = ("objects", "sync", "lease", "audit", "guard", "store", "move")

LOCK_WAIT_SECONDS: Final = 50.0
"""InnoDB's own default."""


class Conflicts(Enum):
    """How two transactions that write the same row are settled."""

    LOCKING = "locking"
    CERTIFICATION = "certification"


class Deadlock(Exception):
    """The database has rolled this transaction back: begin again."""


class Content(NamedTuple):
    """What Neutron holds of one object.

    project_id, scope: where its record lies, for ever.  text: what a user changes (`table_conformance.record_of`).
    """

    project_id: str
    scope: str
    text: str


class SyncRow(NamedTuple):
    """`table.Row` as it is stored.

    dirty_since: database time of the oldest change that the store lacks; 0: none.
    """

    key: int
    kind: str
    id: str
    project_id: str
    scope: str
    version: int
    synced_version: int
    deleted: bool
    mark: int
    shard: int
    attempts: int
    last_error: str
    dirty_since: float


class LeaseRow(NamedTuple):
    """until: by the database's clock.  owner "": nobody.  fenced: transactions that compared the fence."""

    owner: str
    fence: int
    until: float
    asked: int
    fenced: int = 0


class Snapshot(NamedTuple):
    """Tables as of one commit; never changed once made."""

    number: int
    tables: dict[str, dict[Hashable, Any]]


def _nothing(_what: str) -> None:
    pass


class SqlModel:
    """The database.

    now: its clock, in seconds; may jump.  step: called at every statement of every transaction; may let others go on,
    and may raise Unavailable (the connection is gone and the transaction with it; at "committed" it is done).
    scheduler: who waits for a lock waits here; without one, waiting is a Deadlock at once.
    whole_snapshot: False: every statement reads what is committed by then (READ COMMITTED).
    """

    def __init__(
        self,
        now: Callable[[], float],
        step: Callable[[str], None] = _nothing,
        conflicts: Conflicts = Conflicts.LOCKING,
        scheduler: Scheduler | None = None,
        whole_snapshot: bool = True,
    ) -> None:
        self.now = now
        self.step = step
        self.conflicts = conflicts
        self.whole_snapshot = whole_snapshot
        self.scheduler = scheduler
        self.state = Snapshot(0, {name: {} for name in TABLES})
        self.committed: Callable[[Transaction], None] | None = None
        self._changed_at: dict[Key, int] = {}
        self._locks: dict[Key, Transaction] = {}
        self._numbers = 0
        # Real threads take turns; tasks of a scheduler are alone between two steps anyway.
        self.turn: AbstractContextManager[Any] = threading.RLock() if scheduler is None else nullcontext()

    def transaction(self) -> Transaction:
        """A block of it is committed at its end, and rolled back when it raises anything."""
        return Transaction(self)

    def table(self, name: str) -> dict[Any, Any]:
        """What is committed, for tests: look, do not change."""
        return self.state.tables[name]

    def select(self, what: str, table: str) -> dict[Any, Any]:
        """A table, by one SELECT in a transaction of its own.  Look, do not change."""
        with self.turn:
            self.step(what)
            return self.state.tables[table]

    def execute(self, what: str, table: str, key: Hashable, change: Callable[..., Any], *arguments: Any) -> bool:
        """`Transaction.update` as a transaction of its own, which holds its lock for no step."""
        one = Transaction(self)
        with one:
            matched = one.update(what, table, key, change, *arguments)
            one.at_once = True
        return matched

    def next_number(self) -> int:
        """Of an autoincrement column: a number that is taken stays taken, whatever becomes of the transaction."""
        self._numbers += 1
        return self._numbers

    # For transactions ----------------------------------------------------------------------------

    def lock(self, key: Key, one: Transaction) -> None:
        """Take the row's lock, waiting for whoever has it."""
        while (holder := self._locks.get(key)) is not None and holder is not one:
            one.waits_for = holder
            seen: Transaction | None = holder
            while seen is not None and seen is not one:
                seen = seen.waits_for
            task = None if self.scheduler is None else self.scheduler.current
            if seen is one or task is None:
                one.waits_for = None
                raise Deadlock(f"deadlock on {key}")
            assert self.scheduler is not None
            holder.waiting.append(task)
            before = self.scheduler.now
            self.scheduler.wait(LOCK_WAIT_SECONDS)
            one.waits_for = None
            if self.scheduler.now - before >= LOCK_WAIT_SECONDS:
                raise Deadlock(f"lock wait timeout on {key}")
        if holder is None:
            self._locks[key] = one
            one.locked.append(key)

    def unlock(self, one: Transaction) -> None:
        """Give all its locks back and wake who waits for them."""
        for key in one.locked:
            del self._locks[key]
        one.locked = []
        if self.scheduler is not None:
            for task in one.waiting:
                self.scheduler.wake(task)
        one.waiting = []

    def apply(self, one: Transaction) -> None:
        """Make its writes the newest state, unless somebody else's commit came between."""
        if self.conflicts is Conflicts.CERTIFICATION:
            for key, based_on in one.based_on.items():
                if self._changed_at.get(key, 0) > based_on:
                    raise Deadlock(f"certification failed on {key}")
        elif any(self._changed_at.get(key, 0) > read_at for key, read_at in one.shared.items()):
            # InnoDB would have kept the writer of that row waiting instead; for who reads the row it is the same.
            raise Deadlock(f"{one.shared} changed meanwhile")
        number = self.state.number + 1
        tables = dict(self.state.tables)
        for name in {key[0]: None for key in one.written}:
            tables[name] = dict(tables[name])
        for key, row in one.written.items():
            if row is None:
                tables[key[0]].pop(key[1], None)
            else:
                tables[key[0]][key[1]] = row
            self._changed_at[key] = number
        self.state = Snapshot(number, tables)
        if self.committed is not None:
            self.committed(one)

    def force(self, table: str, key: Hashable, row: Any) -> None:
        """Write a row (None: remove it) at once, past every transaction that is open."""
        one = Transaction(self)
        one.written[table, key] = row
        self.apply(one)

    def changed_at(self, key: Key) -> int:
        """The number of the commit that last wrote this row."""
        return self._changed_at.get(key, 0)


class Transaction:
    """One transaction of a `SqlModel`.  Reads see its own writes; a Deadlock has ended it."""

    def __init__(self, database: SqlModel) -> None:
        self.written: dict[Key, Any] = {}
        self.based_on: dict[Key, int] = {}
        self.shared: dict[Key, int] = {}
        self.locked: list[Key] = []
        self.waiting: list[Task] = []
        self.waits_for: Transaction | None = None
        self._database = database
        self._snapshot: Snapshot | None = None
        self.at_once = False
        self._ended = False

    def __enter__(self) -> Transaction:
        self._database.turn.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.rollback()
            self._database.turn.__exit__(kind, error, trace)

    def rows(self, what: str, table: str) -> dict[Any, Any]:
        """SELECT: a table as the snapshot has it.  Look, do not change."""
        self._database.step(what)
        return self._merged(self._seen(), table)

    def newest(self, table: str, key: Hashable) -> Any:
        """The row as a write would find it now."""
        own = self.written.get((table, key), self)
        return self._database.state.tables[table].get(key) if own is self else own

    def share(self, table: str, key: Hashable) -> Any:
        """The row as it is now, in a statement that writes another; it does not change before this transaction ends.

        With CERTIFICATION it may: Galera knows shared locks at one node only.
        """
        self.shared.setdefault((table, key), self._database.changed_at((table, key)))
        return self.newest(table, key)

    def update(self, what: str, table: str, key: Hashable, change: Callable[..., Any], *arguments: Any) -> bool:
        """UPDATE or upsert of one row: `change(row, *arguments)` gets the newest (None: none) and gives what is to be.

        It gives None when the row does not match; then nothing changes, and the answer is False.
        what: names the statement; "": a further row of the one before.
        """
        database = self._database
        if what:
            database.step(what)
        if database.conflicts is Conflicts.LOCKING:
            database.lock((table, key), self)
        row = self.newest(table, key)
        changed = change(row, *arguments)
        if changed is None:
            return False
        self._write(table, key, changed)
        return True

    def delete(self, what: str, table: str, key: Hashable) -> None:
        """DELETE of one row, if it is there."""
        database = self._database
        database.step(what)
        if database.conflicts is Conflicts.LOCKING:
            database.lock((table, key), self)
        self._write(table, key, None)

    def savepoint(self) -> dict[Key, Any]:
        """What `rollback_to` goes back to.  Locks stay."""
        return dict(self.written)

    def rollback_to(self, savepoint: dict[Key, Any]) -> None:
        """Undo what was written since."""
        self.written = dict(savepoint)

    def commit(self) -> None:
        """Make it last.  Deadlock when somebody else committed first; Unavailable: as `SqlModel.step` says."""
        database = self._database
        if self._ended:
            return
        if self.written:
            if not self.at_once:
                database.step("commit")
            database.apply(self)
        self._ended = True
        database.unlock(self)
        if self.written:
            database.step("committed")

    def rollback(self) -> None:
        """Nothing of it was ever there; nothing happens to one that has ended."""
        if not self._ended:
            self._ended = True
            self._database.unlock(self)

    def _write(self, table: str, key: Hashable, row: Any) -> None:
        self.based_on.setdefault((table, key), self._database.changed_at((table, key)))
        self.written[table, key] = row

    def _seen(self) -> Snapshot:
        if self._snapshot is None or not self._database.whole_snapshot:
            self._snapshot = self._database.state
        return self._snapshot

    def _merged(self, snapshot: Snapshot, table: str) -> dict[Hashable, Any]:
        rows = snapshot.tables[table]
        if not self.written:
            return rows
        merged = dict(rows)
        for (name, key), row in self.written.items():
            if name != table:
                continue
            if row is None:
                merged.pop(key, None)
            else:
                merged[key] = row
        return merged


# What Neutron does ---------------------------------------------------------------------------------


class NeutronTransaction:
    """One API operation's transaction: objects change, and the capture bumps their sync rows along.

    refs: objects bumped, of which the worker is told after the commit.
    """

    def __init__(self, transaction: Transaction, database: SqlModel) -> None:
        self.refs: set[Ref] = set()
        self._transaction = transaction
        self._database = database
        self._bumped: list[dict[Ref, bool]] = [{}]

    def versions(self) -> dict[Ref, int]:
        """Of the rows that it has bumped, as committed."""
        rows = {Ref(*key): row for (table, key), row in self._transaction.written.items() if table == "sync"}  # type: ignore[misc]
        return {ref: row.version for ref, row in rows.items()}

    def get(self, ref: Ref) -> Content | None:
        """The object, if there is one."""
        found: Content | None = self._transaction.newest("objects", ref)
        return found

    def write(self, ref: Ref, content: Content | None) -> None:
        """Create or change (None: delete) an object."""
        one = self._transaction
        came = self.get(ref) is None
        if content is None:
            one.delete("delete object", "objects", ref)
        else:
            one.update("update object", "objects", ref, _to, content)
        self._bump(ref, content, came)

    @contextmanager
    def nested(self) -> Iterator[None]:
        """A savepoint, rolled back when the block raises; else what it bumped is its parent's."""
        savepoint = self._transaction.savepoint()
        self._bumped.append({})
        try:
            yield
        except BaseException:
            self._transaction.rollback_to(savepoint)
            self._bumped.pop()
            raise
        released = self._bumped.pop()
        self._bumped[-1].update(released)

    def _bump(self, ref: Ref, content: Content | None, came: bool) -> None:
        """Once an object and transaction; of one that is bumped already, only that it went or came."""
        deleted = content is None
        known = next((bumped[ref] for bumped in reversed(self._bumped) if ref in bumped), None)
        self._bumped[-1][ref] = deleted
        self.refs.add(ref)
        if known is None:
            self._transaction.update("bump", "sync", ref, self._bump_row, ref, content, came)
        elif known is not deleted:
            self._transaction.update("set deleted", "sync", ref, _set_deleted, deleted)

    def _bump_row(self, row: SyncRow | None, ref: Ref, content: Content | None, came: bool) -> SyncRow | None:
        now = self._database.now()
        if row is not None:
            if came and content is not None:  # It may lie elsewhere than its predecessor of the same name.
                row = row._replace(project_id=content.project_id, scope=content.scope)
            return row._replace(
                version=row.version + 1,
                deleted=content is None,
                dirty_since=row.dirty_since or now,
            )
        if content is None:
            return None  # It never had a record.
        return new_row(self._database, ref, content.project_id, content.scope, now)


def _set_deleted(row: SyncRow | None, deleted: bool) -> SyncRow | None:
    return None if row is None else row._replace(deleted=deleted)


def _to(_row: Any, content: Any) -> Any:
    return content


def new_row(
    database: SqlModel, ref: Ref, project_id: str, scope: str, now: float, version: int = 1, deleted: bool = False
) -> SyncRow:
    """The first row of an object."""
    return SyncRow(
        key=database.next_number(),
        kind=ref.kind,
        id=ref.id,
        project_id=project_id,
        scope=scope,
        version=version,
        synced_version=0,
        deleted=deleted,
        mark=0,
        shard=shard_of(ref.kind, ref.id),
        attempts=0,
        last_error="",
        dirty_since=now,
    )
