"""From dirty sync rows to the northbound store: idempotent, in any number of processes, in any order.

Read the rows and their objects in one snapshot; write each record if it is newer than what the store
holds; publish; move `synced_version`.  Whoever dies between two of these steps, or does them twice,
leaves a dirty row or repeats a write that the store finds stale: versions decide, nobody has to.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa

from flowloom.kernel.errors import Misconfigured, Rejected, Unavailable
from flowloom.model.keys import key_of
from flowloom.model.records import NORTHBOUND
from flowloom.neutron.capture import Ref
from flowloom.neutron.database_time import database_now
from flowloom.neutron.models import ERROR_CHARACTERS_MAX, SYNC
from flowloom.neutron.translate import SyncRow, Translated, select_rows, translate
from flowloom.northbound.bus import Publisher
from flowloom.northbound.store import Outcome, Store
from flowloom.northbound.topology import Delete, Put, Topology

LOG = logging.getLogger(__name__)

_KINDS = {kind.kind: kind for kind in NORTHBOUND}

REREADS_MAX = 5
"""How often one drain reads an object again because the store held something newer than what it had read."""


class Database(Protocol):
    """Where the sync rows are."""

    def reader(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that reads one snapshot."""
        ...

    def write(self, statement: sa.Executable, parameters: Sequence[Mapping[str, object]] = ()) -> int:
        """Execute one statement in a transaction of its own, again after a deadlock; how many rows it matched."""
        ...


class Northbound(Protocol):
    """Where records go."""

    def store(self) -> Store:
        """The store.  Unavailable while it cannot be opened."""
        ...

    def publisher(self) -> Publisher | None:
        """The publisher that tells the bus what the store has taken; None: nobody follows a bus."""
        ...


@dataclass(frozen=True)
class Drained:
    """What one drain did.

    written: records and tombstones that the store now holds through it or held already.
    refused: objects that were named and left dirty.  newer: objects at which the store keeps a version
    above Neutron's own; left dirty.
    """

    read: int = 0
    written: int = 0
    refused: tuple[Rejected, ...] = ()
    newer: tuple[str, ...] = ()


class Drain:
    """Empties the sync table into one store.

    batch: objects a round; so much is read in one snapshot and written in one call.
    """

    def __init__(self, database: Database, northbound: Northbound, deployment: str, batch: int = 200) -> None:
        self._database = database
        self._northbound = northbound
        self._deployment = deployment
        self._batch = batch

    def drain(
        self,
        project: str | None = None,
        limit: int | None = None,
        refs: Collection[Ref] | None = None,
        dirty_for_seconds: float = 0.0,
    ) -> Drained:
        """Write what is dirty: of one project, of these objects, or dirty for at least so long; None: all.

        limit: at most so many objects.  An object that is refused, or at which the store is ahead, is
        attempted once a call.  Unavailable when the store does not answer: what was written until then
        counts, and the rows of the failed batch say why they are still dirty.
        """
        where = [SYNC.c.dirty_since > 0, SYNC.c.version > SYNC.c.synced_version]
        if project is not None:
            where.append(SYNC.c.project_id == project)
        if dirty_for_seconds > 0:
            where.append(SYNC.c.dirty_since <= database_now() - dirty_for_seconds)
        done = Drained()
        if refs is not None:
            for chosen in _pages(sorted(refs), self._batch):
                done = _sum(done, self._attempt([*where, _named(chosen)], limit))
            return done
        return self._attempt(where, limit)

    def _attempt(self, where: Sequence[sa.ColumnElement[bool]], limit: int | None) -> Drained:
        try:
            return self._rounds(where, limit)
        except (Unavailable, Misconfigured) as error:
            self._note_all(where, str(error))
            raise

    def _rounds(self, where: Sequence[sa.ColumnElement[bool]], limit: int | None) -> Drained:
        done = Drained()
        attempts: Counter[int] = Counter()
        while limit is None or done.read < limit:
            size = self._batch if limit is None else min(self._batch, limit - done.read)
            with self._database.reader() as connection:
                tired = [key for key, count in attempts.items() if count >= REREADS_MAX]
                rows = select_rows(connection, *where, SYNC.c.key.not_in(tired), limit=size)
                translated = translate(connection, rows)
            if not rows:
                return done
            round_done, again = self._write(translated)
            done = _sum(done, round_done)
            for row in rows:
                attempts[row.key] += 1 if row.key in again else REREADS_MAX
        return done

    def _write(self, translated: Sequence[Translated]) -> tuple[Drained, set[int]]:
        """Store, publish, acknowledge one batch; with it the keys of rows to be read again at once."""
        rows = {self._key(each.row): each.row for each in translated if each.refused is None}
        refused = [(each.row, each.refused) for each in translated if each.refused is not None]
        outcomes, bad = self._apply({self._key(each.row): _intent(each) for each in translated if not each.refused})
        by_key = {outcome.key: outcome for outcome in outcomes}
        refused += [(rows[error.ref], error) for error in bad]
        held = [row for key, row in rows.items() if key in by_key and by_key[key].held == row.version]
        ahead = {key: row for key, row in rows.items() if key in by_key and by_key[key].held > row.version}
        self._acknowledge(held)
        self._note([(row, error.why) for row, error in refused])
        for row, error in refused:
            LOG.error("%s %s stays dirty: %s", row.kind, row.object_id, error.why)
        newer = self._still_behind(ahead, by_key)
        done = Drained(len(translated), len(held), tuple(error for _, error in refused), tuple(newer))
        return done, {row.key for key, row in ahead.items() if key not in newer}

    def _key(self, row: SyncRow) -> str:
        return key_of(self._deployment, row.project_id, row.scope, row.kind, row.object_id)

    def _apply(self, intents: Mapping[str, Put | Delete]) -> tuple[list[Outcome], list[Rejected]]:
        """Outcomes of those that the store took; those it refuses are left out, named, one after the other."""
        topology = Topology(self._northbound.store(), self._northbound.publisher(), self._deployment)
        pending, bad = dict(intents), list[Rejected]()
        while pending:
            try:
                return topology.apply(list(pending.values())), bad
            except Rejected as error:
                if pending.pop(error.ref, None) is None:  # It names none of ours: find the guilty ones one by one.
                    return _apply_singly(topology, pending, bad)
                bad.append(error)
            finally:
                if topology.unpublished:
                    LOG.warning("The bus did not take %d notices; the facts are in the store", topology.unpublished)
        return [], bad

    def _acknowledge(self, rows: Sequence[SyncRow]) -> None:
        if not rows:
            return
        key = sa.bindparam("row_key", type_=sa.BigInteger())
        version = sa.bindparam("row_version", type_=sa.BigInteger())
        clean = sa.case((SYNC.c.version == version, 0.0), else_=SYNC.c.dirty_since)
        statement = (
            sa.update(SYNC)
            .where(SYNC.c.key == key, SYNC.c.synced_version < version)
            .values(synced_version=version, dirty_since=clean, attempts=0, last_error="")
        )
        self._database.write(statement, [{"row_key": row.key, "row_version": row.version} for row in rows])

    def _note(self, failures: Sequence[tuple[SyncRow, str]]) -> None:
        """Write on each row why it is still dirty."""
        if not failures:
            return
        statement = _failed(SYNC.c.key == sa.bindparam("row_key"), SYNC.c.version == sa.bindparam("row_version"))
        self._database.write(
            statement,
            [
                {"row_key": row.key, "row_version": row.version, "why": why[:ERROR_CHARACTERS_MAX]}
                for row, why in failures
            ],
        )

    def _note_all(self, where: Sequence[sa.ColumnElement[bool]], why: str) -> None:
        """Write on every row of the selection why it is still dirty."""
        self._database.write(_failed(*where), [{"why": why[:ERROR_CHARACTERS_MAX]}])

    def _still_behind(self, ahead: dict[str, SyncRow], outcomes: dict[str, Outcome]) -> list[str]:
        """Keys at which the store holds a version that Neutron has not even given out yet."""
        if not ahead:
            return []
        with self._database.reader() as connection:
            now = {row.key: row for row in select_rows(connection, SYNC.c.key.in_([r.key for r in ahead.values()]))}
        behind = [key for key, row in ahead.items() if now[row.key].version < outcomes[key].held]
        why = "the store holds version {} of it, which Neutron never gave out (was Neutron's database restored?)"
        self._note([(ahead[key], why.format(outcomes[key].held)) for key in behind])
        return behind


def _intent(each: Translated) -> Put | Delete:
    row = each.row
    if each.record is not None:
        return Put(row.project_id, row.scope, each.record)
    return Delete(row.project_id, row.scope, _KINDS[row.kind], row.object_id, row.version)


def _apply_singly(
    topology: Topology, intents: Mapping[str, Put | Delete], bad: list[Rejected]
) -> tuple[list[Outcome], list[Rejected]]:
    outcomes: list[Outcome] = []
    for key, intent in intents.items():
        try:
            outcomes += topology.apply([intent])
        except Rejected as error:
            bad.append(Rejected(key, error.why))
    return outcomes, bad


def _failed(*where: sa.ColumnElement[bool]) -> sa.Update:
    return sa.update(SYNC).where(*where).values(attempts=SYNC.c.attempts + 1, last_error=sa.bindparam("why"))


def _named(refs: Iterable[Ref]) -> sa.ColumnElement[bool]:
    by_kind: dict[str, list[str]] = {}
    for kind, identifier in refs:
        by_kind.setdefault(kind, []).append(identifier)
    return sa.or_(*(sa.and_(SYNC.c.kind == kind, SYNC.c.object_id.in_(ids)) for kind, ids in by_kind.items()))


def _pages(refs: Sequence[Ref], size: int) -> Iterable[Sequence[Ref]]:
    return (refs[start : start + size] for start in range(0, len(refs), size))


def _sum(one: Drained, other: Drained) -> Drained:
    return Drained(
        one.read + other.read, one.written + other.written, one.refused + other.refused, one.newer + other.newer
    )
