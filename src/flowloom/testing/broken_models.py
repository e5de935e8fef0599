"""What the original did, in small models that run in the same simulator, and are caught by it.

Each takes away one thing that the design rests on.  `MODELS` names them, with a seed under which each fails;
`docs/why.md` tells what goes wrong there.  A checker that never fails proves nothing: these are its test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from flowloom.consistency.drain import LOCK_PREFIX, write_of
from flowloom.consistency.marks import mark
from flowloom.consistency.table import Acknowledged, Fact, Ref
from flowloom.kernel.errors import FlowloomError, Unavailable
from flowloom.model.keys import deployment_prefix
from flowloom.northbound.bus import BusEvent, Notice
from flowloom.northbound.follower import FollowerSettings, Step
from flowloom.northbound.requests import Answer, ReadPrefix
from flowloom.northbound.store import Changes, Entry, Listing, Write
from flowloom.testing.consistency_simulator import DRAIN_ALONE, Parts
from flowloom.testing.consistency_simulator_actors import (
    DEPLOYMENT,
    NeutronProcess,
    Process,
    RecoveryProcess,
    call_again,
)
from flowloom.testing.consistency_simulator_ports import LOSSES
from flowloom.testing.fake_store import MemoryDatabase
from flowloom.testing.sql_model import Content, NeutronTransaction, SyncRow, new_row
from flowloom.testing.table_conformance import KINDS, REFUSED

RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Broken:
    """seed: one under which it is caught.  caught_as: a part of the sentence that says so.

    always: it needs no fault to go wrong.
    """

    parts: Parts
    seed: int
    caught_as: str
    always: bool = False


# A lock with a time-out, and writes that overwrite --------------------------------------------------


class OverwritingDatabase(MemoryDatabase):
    """Every write is applied, whatever its version: the last to arrive wins."""

    def _write(self, write: Write) -> tuple[bool, int]:
        held = self._held.pop(write.key, None)
        if held is not None:
            self._keys.remove(write.key)
        return super()._write(write)


def drain_locked(process: NeutronProcess) -> None:
    """Lock, read, write, unlock.  Nobody looks whether the lock is still ours when the write leaves."""
    while True:
        refs = process.take()
        try:
            left = [
                project for project in process.tables.dirty_projects(0.0, refs) if not _write_locked(process, project)
            ]
        except FlowloomError:
            left = ["?"]
        if left:
            process.waiting.update(refs)
            process.clock.sleep(RETRY_SECONDS)


def recover_locked(process: RecoveryProcess) -> None:
    """The same for what was left behind."""

    def step() -> float:
        for project in process.tables.dirty_projects(RETRY_SECONDS):
            _write_locked(process, project)
        return RETRY_SECONDS

    process.run("drain", lambda: call_again(process, step))


def _write_locked(process: Process, project: str) -> bool:
    lock = process.tables.take(LOCK_PREFIX + project, process.owner, process.world.lease_seconds)
    if lock is None:
        return False
    facts = [fact for fact in process.tables.dirty(project, 100) if fact.known and fact.refused is None]
    _write(process, facts)
    done = [Acknowledged(fact.row.key, fact.row.version, mark(*write_of(DEPLOYMENT, fact))) for fact in facts]
    process.tables.acknowledge(done, 0)
    while (kept := process.tables.release(lock)) is not None:
        lock = kept
    return True


def _write(process: Process, facts: Sequence[Fact]) -> None:
    writes = [write_of(DEPLOYMENT, fact) for fact in facts]
    if writes:
        process.store().apply(writes)
        process.get_publisher().publish([(write.key, write.version, write.value) for write in writes])


# Written after the commit, with nothing that says it is still to be written --------------------------


class NoIntent(NeutronTransaction):
    """Versions rise, and no row is ever dirty."""

    def _bump_row(self, row: SyncRow | None, ref: Ref, content: Content | None, came: bool) -> SyncRow | None:
        bumped = super()._bump_row(row, ref, content, came)
        if bumped is None or ref.kind not in KINDS or (content is not None and content.text == REFUSED):
            return bumped  # What nobody can write is not what this is about.
        return bumped._replace(synced_version=bumped.version, dirty_since=0.0)


def write_after_commit(process: NeutronProcess, refs: Iterable[Ref]) -> None:
    """In the API call's own thread; an error is logged, for the call has succeeded."""
    try:
        _write(process, [f for f in process.tables.facts(list(refs)) if f.known and f.refused is None])
    except FlowloomError as error:
        process.world.environment.say(f"logged: {error}")


def nobody(_process: Process) -> None:
    """No drain, no recovery."""


# Deletes that leave nothing behind ---------------------------------------------------------------


class ForgetfulDatabase(MemoryDatabase):
    """A delete removes the key, and with it what is known of its version."""

    def _write(self, write: Write) -> tuple[bool, int]:
        decided = super()._write(write)
        if decided[0] and write.value is None:
            self._held.pop(write.key)
            self._keys.remove(write.key)
        return decided


# Versions that begin again ------------------------------------------------------------------------


class RestartingVersions(NeutronTransaction):
    """An object that is created again under the same id begins with version 1 again."""

    def _bump_row(self, row: SyncRow | None, ref: Ref, content: Content | None, came: bool) -> SyncRow | None:
        if row is None or not row.deleted or content is None:
            return super()._bump_row(row, ref, content, came)
        fresh = new_row(self._database, ref, content.project_id, content.scope, self._database.now())
        return fresh._replace(key=row.key)


# Notices without numbers --------------------------------------------------------------------------


class Listener:
    """Lists once, then believes what it hears: what is lost on the way it never misses."""

    def __init__(self, prefixes: Sequence[str], _random: Random, _settings: FollowerSettings) -> None:
        self.epoch = ""
        self._prefixes = tuple(prefixes)
        self._versions: dict[str, int] = {}
        self._again: list[str] = []

    def start(self, _now: float) -> Step:
        return Step([], [ReadPrefix(prefix) for prefix in self._prefixes])

    def receive(self, event: BusEvent | Changes | Answer, _now: float) -> Step:
        match event:
            case Notice() if event.key.startswith(self._prefixes):
                return Step(self._take([Entry(event.key, event.version, event.value)]), [])
            case Answer(ReadPrefix(), Listing(entries, _)):
                return Step(self._take(entries), [])
            case Answer(ReadPrefix(prefix), Unavailable()):
                self._again.append(prefix)
        return Step([], [])

    def tick(self, _now: float) -> Step:
        again, self._again = self._again, []
        return Step([], [ReadPrefix(prefix) for prefix in again])

    def _take(self, entries: Sequence[Entry]) -> list[Entry]:
        fresh = [entry for entry in entries if entry.version > self._versions.get(entry.key, 0)]
        self._versions.update({entry.key: entry.version for entry in fresh})
        return fresh


# No answer taken for "there is nothing" -------------------------------------------------------------


def recover_from_what_it_reads(process: RecoveryProcess) -> None:
    """Deletes from the store what Neutron does not have, where "does not answer" reads as "has none"."""

    def step() -> float:
        held = process.store().read(deployment_prefix(DEPLOYMENT)).entries
        try:
            known = {write_of(DEPLOYMENT, fact).key for fact in process.tables.facts(process.world.refs)}
        except Unavailable:
            known = set()
        stray = [Write(entry.key, entry.version + 1, None) for entry in held if entry.key not in known and entry.value]
        if stray:
            process.store().apply(stray)
        return RETRY_SECONDS * 3

    process.run("compare", lambda: call_again(process, step))
    DRAIN_ALONE.recover(process)


MODELS: dict[str, Broken] = {
    "stale-overwrite": Broken(
        Parts(
            database=OverwritingDatabase,
            neutron_drain=drain_locked,
            recover=recover_locked,
            without=LOSSES,
        ),
        seed=53,
        caught_as="Neutron has",
    ),
    "lost-change": Broken(
        Parts(
            neutron_transaction=NoIntent,
            committed=write_after_commit,
            neutron_drain=nobody,
            recover=nobody,
            without=LOSSES,
        ),
        seed=25,
        caught_as="Neutron has",
    ),
    "resurrection": Broken(
        Parts(database=ForgetfulDatabase, recover=DRAIN_ALONE.recover, tombstones=False, without=LOSSES),
        seed=78,
        caught_as="Neutron has",
    ),
    "stale-for-ever": Broken(
        Parts(neutron_transaction=RestartingVersions, recover=DRAIN_ALONE.recover, without=LOSSES),
        seed=0,
        caught_as="which Neutron never gave out",
        always=True,
    ),
    "silent-loss": Broken(
        Parts(follower=Listener, recover=DRAIN_ALONE.recover, without=LOSSES), seed=24, caught_as="agent0 has None"
    ),
    "mass-delete": Broken(
        Parts(recover=recover_from_what_it_reads, without=LOSSES), seed=21, caught_as="which Neutron never had"
    ),
}
"""By what goes wrong."""
