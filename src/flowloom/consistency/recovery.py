"""One recovery service as step functions: a shell with threads, or a simulator, calls them.

Nothing here waits, sleeps or starts a thread.  Every step does a bounded amount of work and returns in how
many seconds it wants to be called again (0: at once).  Steps may be called late, twice, or in any order, by
any number of services: what they do is decided by what is, never by what happened before.

A step raises Unavailable when the store or the database did not answer; call it again after a while.
`members_step`, `drain_step` and the rest may run in three threads; one and the same step, and those of the
group `follow_step`, `compare_step`, `audit_step`, in one thread at a time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from random import Random

from flowloom.consistency.chassis import Nodes, bury_the_dead
from flowloom.consistency.compare import (
    NOTHING,
    OBJECTS_PER_READ,
    Suspect,
    changed_past_capture,
    differing,
    project_of,
    ref_of,
    reread,
    rows_of,
    suspects,
)
from flowloom.consistency.counters import Counters
from flowloom.consistency.differences import HARMLESS, Kind
from flowloom.consistency.drain import Drain, Drained, Northbound
from flowloom.consistency.guard import SERVICES, Decision, Finding, Guard
from flowloom.consistency.index import StoreIndex
from flowloom.consistency.marks import SHARDS
from flowloom.consistency.options import Options
from flowloom.consistency.pace import Pace
from flowloom.consistency.place import Step
from flowloom.consistency.repair import Repairer
from flowloom.consistency.shards import Shares
from flowloom.consistency.table import AuditEntry, AuditTable, LeaseTable, Ref, Row, ShardSum, SyncTable
from flowloom.kernel.clock import Clock
from flowloom.kernel.errors import StartOver, Unavailable
from flowloom.model.keys import deployment_prefix
from flowloom.northbound.pointer import pointer_key
from flowloom.northbound.store import Store, Watch

QUEUE_MAX = 10_000
"""Suspects remembered; the others are found again by a later comparison."""

JUDGED_SECONDS = 60.0
"""What cannot be repaired (unknown kinds), and shards that differ by nothing else, are looked into again so often."""

FOLLOW_SECONDS = 0.5
"""How often a caller that does not wait for changes asks for them."""

HELD_SHARE = 30
"""While a guard waits, a round that costs much is made so seldom that it costs one part in so many of the time."""

CUT_OFF_SHARE, CUT_OFF_SECONDS = 2 / 3, 1.0
"""Share of a lease after which a service that does not reach the store counts itself out; how often it looks again."""

REREAD_SECONDS = 10.0
"""What is read again without a suspicion is read in portions of so many seconds: a portion costs less than its parts."""

UNWATCHED_SECONDS = 2.0
"""How often a store without a change feed is asked for its versions."""


class RecoveryCore:
    """One service.  owner: its name among all of them, for this life only.

    nodes: what is known of the nodes' lives; None: dead chassis are not looked for.
    """

    def __init__(
        self,
        table: SyncTable,
        leases: LeaseTable,
        audit: AuditTable,
        northbound: Northbound,
        clock: Clock,
        random: Random,
        owner: str,
        options: Options,
        nodes: Nodes | None = None,
    ) -> None:
        self.counters = Counters()
        self.options = options
        self.owner = owner
        self.unknown: tuple[Ref, ...] = ()
        self.shares = Shares(leases, clock, random, owner, options.lease_seconds)
        self.guard = Guard(audit, owner, options.guard_share, options.guard_objects)
        self._table = table
        self._audit = audit
        self._northbound = northbound
        self._clock = clock
        self._nodes = nodes
        self._prefix = deployment_prefix(options.deployment)
        self._pointer = pointer_key(options.deployment)
        drain_name, repair_name = (
            f"{owner}/drain",
            f"{owner}/repair",
        )  # Two threads: one must not hold the other's lock.
        self._drain = Drain(
            table,
            leases,
            northbound,
            clock,
            options.deployment,
            drain_name,
            options.drain_batch,
            options.lease_seconds,
        )
        self._repairer = Repairer(
            table,
            leases,
            audit,
            northbound,
            Drain(
                table,
                leases,
                northbound,
                clock,
                options.deployment,
                repair_name,
                options.drain_batch,
                options.lease_seconds,
            ),
            clock,
            options.deployment,
            repair_name,
            options.lease_seconds,
        )
        self._index = StoreIndex()
        self._listed: Store | None = None
        self._watch: Watch | None = None
        self._failing_since: float | None = None
        self._ahead: deque[str] = deque(maxlen=QUEUE_MAX)  # Keys at which a drain found the store ahead.
        self._queue: deque[Suspect] = deque()
        self._decision = Decision()
        self._held_until = float("-inf")
        self._words_seen: list[tuple[str, str]] = []
        self._left: dict[str, Suspect] = {}
        self._judged: dict[int, tuple[ShardSum, ShardSum]] = {}
        self._forget_at = float("-inf")
        self._uncaptured: dict[str, Suspect] = {}
        self._pace = Pace(clock, options.repairs_per_second)
        self._reread_pace = Pace(clock, options.reread_per_second, REREAD_SECONDS)
        self._reread_round: Iterator[int] = iter(())
        self._reread_keys: list[str] = []
        self._reread_rows: list[Row] = []
        self._next_versions = self._next_adopt = clock.monotonic()
        self._next_compare = clock.monotonic()

    # --- the steps ---------------------------------------------------------------------------

    def members_step(self) -> float:
        """Say that this service lives; hold a fair share of the shards; lead, if nobody does.

        A service that has not reached the store for most of a lease's time gives all of that up until it does.
        """
        self._northbound.look_again()
        if self._cut_off():
            self.shares.release()  # Who reaches the store looks after our shards, and leads.
            return CUT_OFF_SECONDS
        wait = self.shares.step()
        self.counters.takeovers = self.shares.takeovers
        return wait

    def drain_step(self) -> float:
        """Drain what was left dirty for longer than `dirty_seconds`, in all projects."""
        done = self._drain.drain(dirty_for_seconds=self.options.dirty_seconds)
        self._count_drained(done)
        # What cannot be written now is tried again, but not in a tight loop.
        return self.options.dirty_seconds / 4 if done.written == done.read else self.options.dirty_seconds * 2

    def follow_step(self, wait_seconds: float = 0.0) -> float:
        """List the store if that is to be done, else take in what changed in it, waiting at most so long.

        The wait is in the store's `Watch.next`; a store without a change feed is asked for its versions now and then.
        """
        try:
            wait = self._take_in(wait_seconds)
        except Unavailable:
            if self._failing_since is None:
                self._failing_since = self._clock.monotonic()
            raise
        self._failing_since = None
        return wait

    def _take_in(self, wait_seconds: float) -> float:
        store = self._store()
        if not self._index.complete:
            self._list(store)
            return 0.0
        if not store.capabilities.watch:
            self._compare_versions(store)
            return UNWATCHED_SECONDS
        more = self._follow(store, wait_seconds)
        return 0.0 if more or wait_seconds > 0 else FOLLOW_SECONDS

    def compare_step(self) -> float:
        """Compare the sums of own shards; look into those that differ; repair what is confirmed."""
        store = self._store()
        if not self._index.complete:
            self._list(store)
        if not self._queue:
            if (left := self._next_compare - self._clock.monotonic()) > 0:
                return left
            self._next_compare = self._clock.monotonic() + self.options.compare_seconds
            self._round(store)
        if not self._queue:
            return max(0.0, self._next_compare - self._clock.monotonic())
        return self._repair_some()

    def audit_step(self) -> float:
        """Read a little of the store and of Neutron again, difference or not; adopt objects without a row."""
        store, now = self._store(), self._clock.monotonic()
        if self._index.complete and now >= self._next_versions:
            self._next_versions = now + self.options.versions_seconds
            self._compare_versions(store)
        if self._index.complete:
            self._reread(store)
        if self.shares.leads() and now >= self._next_adopt:
            self._next_adopt = now + self.options.adopt_seconds
            self._adopt()
            self._audit.prune(self.options.audit_keep)
            if self._nodes is not None and self._index.complete:
                self._bury(store, self._nodes)
        return 1.0

    def stop(self) -> None:
        """Give back every lease, so that others take over at once; repeating it does nothing."""
        self._close_watch()
        self.shares.release()

    @property
    def complete(self) -> bool:
        """Whether the whole store is known; until then nothing is compared."""
        return self._index.complete

    def status_repaired(self, entries: Sequence[AuditEntry]) -> None:
        """Port statuses were out of step for longer than a pass, and were put right by the shell."""
        self._audit.append(entries)
        self.counters.repaired[Kind.STATUS] += len(entries)
        self.counters.audited += len(entries)

    # --- following the store -----------------------------------------------------------------

    def _store(self) -> Store:
        """The store in force.  When it is another one than before, nothing is known of it."""
        store = self._northbound.store()
        if store is not self._listed:
            self._close_watch()
            self._index.start_over()
            self._queue.clear()
            self._listed = store
        return store

    def _cut_off(self) -> bool:
        since, now = self._failing_since, self._clock.monotonic()
        return since is not None and now - since >= CUT_OFF_SHARE * self.options.lease_seconds

    def _list(self, store: Store) -> None:
        self._close_watch()
        self._index.listed(store.read(self._prefix))
        self.counters.listings += 1
        self._forget_judgements()

    def _follow(self, store: Store, wait_seconds: float) -> bool:
        """Take in one page of changes; whether there were any."""
        if self._index.cursor is None:
            return False
        try:
            if self._watch is None:
                self._watch = store.watch(self._prefix, self._index.cursor)
            changes = self._watch.next(wait_seconds)
        except StartOver:
            self._close_watch()
            self._index.start_over()
            return False
        self._index.followed(changes.entries, changes.cursor)
        if any(entry.key == self._pointer for entry in changes.entries):
            self._northbound.look_again()  # The deployment moves to another store at this moment.
        return bool(changes.entries)

    def _follow_to_end(self, store: Store) -> None:
        if store.capabilities.watch:
            while self._follow(store, 0.0):
                pass

    def _close_watch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _compare_versions(self, store: Store) -> None:
        """A full list of versions shows what a feed cannot: a key that is gone, a history that was replaced."""
        self._follow_to_end(store)
        versions = store.versions(self._prefix)
        cursor = self._index.cursor
        if cursor is None or versions.cursor.epoch != cursor.epoch:
            self._close_watch()
            self._index.start_over()
            return
        doubtful = self._index.doubtful(versions)
        for start in range(0, len(doubtful), OBJECTS_PER_READ):
            self._ask(store, doubtful[start : start + OBJECTS_PER_READ])
        if not store.capabilities.watch:
            self._index.followed((), versions.cursor)

    def _ask(self, store: Store, keys: Sequence[str]) -> None:
        self.counters.corrected += len(self._index.correct(keys, store.get(keys)))

    # --- comparing ---------------------------------------------------------------------------

    def _round(self, store: Store) -> None:
        """Compare sums; queue what differs, unless a guard holds it."""
        began = self._clock.monotonic()
        place = self._northbound.look_again()
        if place.move is not None and place.move.step is Step.CUT_OVER and not place.move.progress.why:
            return  # What the former store took last is still being brought over, and looks like differences.
        if self._northbound.store() is not store:
            return
        if self._decision.held and began < self._held_until and self._words() == self._words_seen:
            return
        if began >= self._forget_at:
            self._forget_judgements()  # What could not be repaired then may be now.
        sums = self._table.sums()
        self._follow_to_end(store)
        owned = self.shares.owned()
        if not self._index.complete or not owned:
            return
        found = [each for shard in differing(sums, self._index, owned) for each in self._look_into(store, shard, sums)]
        found += self._pending(owned)
        self._decision = self._decide(store, sums, owned, found)
        self.counters.rounds += 1
        self.counters.shards_differing = len(differing(sums, self._index, owned))
        self.counters.drift = Counter(suspect.kind for suspect in found)
        self.counters.held = Counter(suspect.kind for suspect in found if suspect.kind in self._decision.held)
        passing = [each for each in found if each.kind not in self._decision.held][:QUEUE_MAX]
        self._queue.extend(sorted(passing, key=lambda each: each.project_id))  # A lock for many, not for each.
        now = self.counters.round_at = self._clock.monotonic()
        self.counters.round_seconds = now - began
        if self._decision.held:
            # To see all that a guard holds is dear; until somebody has said a word, seldom is enough.
            self._words_seen = self._words()
            self._held_until = now + min(JUDGED_SECONDS, HELD_SHARE * self.counters.round_seconds)

    def _words(self) -> list[tuple[str, str]]:
        """What has been said about each guard in force."""
        return sorted((guard.id, guard.approved_by) for guard in self.guard.waiting())

    def _look_into(self, store: Store, shard: int, sums: dict[int, ShardSum]) -> list[Suspect]:
        """Suspects of a shard that were not judged already; none if nothing has changed since all of it was."""
        sides = (sums.get(shard, NOTHING), self._index.sum(shard))
        if self._judged.get(shard) == sides:
            return []
        rows = rows_of(self._table, shard)
        self._follow_to_end(store)  # What was acknowledged to these rows has been in the feed.
        if not self._index.complete:
            return []
        found = list(suspects(self.options.deployment, rows, self._index.shard(shard), "sums"))
        fresh = [each for each in found if self._left.get(each.key) != each]
        if not fresh:
            self._judged[shard] = sides
        return fresh

    def _pending(self, owned: Sequence[int]) -> list[Suspect]:
        """What others than the sums have found: the drain that met a newer version, the retranslation."""
        found = []
        while self._ahead:
            key = self._ahead.popleft()
            found.append(Suspect(ref_of(key), project_of(key), key, Kind.AHEAD, None, self._index.get(key), "drain"))
        return found + list(self._uncaptured.values())

    def _decide(
        self, store: Store, sums: dict[int, ShardSum], owned: Sequence[int], found: Sequence[Suspect]
    ) -> Decision:
        """Whether what was found is too much, over all shards: each service sees all of the store."""
        members = max(1, len(self.shares.members))
        if len(found) <= self.options.guard_objects / members and not self.guard.waiting():
            return Decision()
        others = set(range(SHARDS)) - set(owned)
        whole = [
            *found,
            *(each for shard in differing(sums, self._index, others) for each in self._look_into(store, shard, sums)),
        ]
        if not self._index.complete or self._index.cursor is None:
            return Decision(held=frozenset(Kind))  # It broke while we looked: nothing is concluded.
        objects = max(len(self._index), sum(shard.objects for shard in sums.values()))
        counts = self._confirmed(store, whole, objects)
        sample = tuple(f"{each.kind}: {each.ref.kind} {each.ref.id}" for each in whole[:10])
        return self.guard.decide(Finding(self._index.cursor.epoch, SERVICES, counts, objects, sample))

    def _confirmed(self, store: Store, whole: Sequence[Suspect], objects: int) -> Counter[str]:
        """Kinds among suspects, without those that are none when they are read again.

        Reading stops where the bound is certainly passed; what was not read again counts as it looks.
        """
        counts = Counter[str](suspect.kind for suspect in whole)
        bound = max(self.options.guard_objects, self.options.guard_share * objects)
        if len(whole) <= bound:
            return counts
        certain = 0
        for start in range(0, len(whole), OBJECTS_PER_READ):
            page = whole[start : start + OBJECTS_PER_READ]
            judged = reread(self._table, store, self.options.deployment, page)
            self._index.correct([suspect.key for suspect in page], judged.entries)
            counts.subtract(suspect.kind for suspect in page)
            counts.update(difference.kind for difference in judged.differences)
            certain += sum(each.kind not in HARMLESS for each in judged.differences)
            if certain > bound:
                break
        return +counts

    # --- repairing ---------------------------------------------------------------------------

    def _repair_some(self) -> float:
        """Repair from the queue as much as the pace allows; in how many seconds to go on."""
        allowed = self._pace.take(min(len(self._queue), self.options.suspects_max))
        owned = set(self.shares.owned())
        if not owned:
            self._queue.clear()  # Whoever holds our shards now finds it too.
            return 0.0
        chosen = [self._queue.popleft() for _ in range(allowed)]
        done = self._repairer.repair(chosen, self._decision.held, self._decision.guard)
        self._index.correct(list(done.answers), list(done.answers.values()))
        for suspect in chosen:
            self._uncaptured.pop(suspect.key, None)
        stay = {each.key for each in done.left}
        if len(self._left) > QUEUE_MAX:
            self._left.clear()
        self._left |= {suspect.key: suspect for suspect in chosen if suspect.key in stay}
        self.counters.repaired.update(each.kind for each in done.repaired)
        self.counters.left = Counter(each.kind for each in done.left)
        self.counters.lock_waits += len({suspect.project_id for suspect in done.again}) - done.lost
        self.counters.lock_lost += done.lost
        self.counters.audited += done.audited
        return self._pace.wait(min(len(self._queue), self.options.suspects_max))

    def _count_drained(self, done: Drained) -> None:
        self.counters.drained += done.written
        self.counters.refused += len(done.refused)
        self.counters.lock_waits += len(done.left)
        self.counters.unpublished = self._drain.unpublished
        self.unknown = done.unknown
        self._ahead.extend(done.newer)

    def _forget_judgements(self) -> None:
        self._left.clear()
        self._judged.clear()
        self._forget_at = self._clock.monotonic() + JUDGED_SECONDS

    # --- reading again what nobody suspects --------------------------------------------------

    def _reread(self, store: Store) -> None:
        """A few keys of the store and a few rows of Neutron, shard after shard of the own ones."""
        portion = self._reread_pace.take_full(OBJECTS_PER_READ)
        if not portion:
            return
        if not self._reread_keys and not self._reread_rows:
            self._next_shard()
        keys, rows = self._reread_keys[:portion], self._reread_rows[:portion]
        del self._reread_keys[:portion], self._reread_rows[:portion]
        if keys:
            self._ask(store, keys)
        for suspect in changed_past_capture(self._table, self.options.deployment, rows, "retranslation"):
            if len(self._uncaptured) < QUEUE_MAX:
                self._uncaptured[suspect.key] = suspect
        self.counters.reread += len(keys) + len(rows)

    def _next_shard(self) -> None:
        owned = self.shares.owned()
        shard = next(self._reread_round, None)
        if shard is None:
            self._reread_round = iter(owned)
            shard = next(self._reread_round, None)
        if shard is not None and shard in owned:
            self._reread_keys = list(self._index.shard(shard))
            self._reread_rows = [row for row in rows_of(self._table, shard) if not row.dirty]

    def _adopt(self) -> None:
        """Objects that have no sync row get one, and the drain writes them."""
        adopted = self._table.adopt(self.options.suspects_max)
        if not adopted:
            return
        facts = self._table.facts(adopted)
        self._audit.append(
            [
                AuditEntry(
                    at=0.0,
                    kind=Kind.NOT_ADOPTED,
                    ref=fact.row.ref,
                    project_id=fact.row.project_id,
                    comparison="adoption",
                    neutron_version=-1,
                    store_version=-1,
                    version=fact.row.version,
                    done="made dirty",
                    verified="",
                    by=self.owner,
                )
                for fact in facts
            ]
        )
        self.counters.repaired[Kind.NOT_ADOPTED] += len(adopted)
        self.counters.audited += len(facts)

    def _bury(self, store: Store, nodes: Nodes) -> None:
        buried = bury_the_dead(
            store, self._northbound.publisher(), self._index, nodes, self.options.chassis_dead_seconds, self.owner
        )
        self._audit.append(buried)
        self.counters.repaired[Kind.DEAD_CHASSIS] += len(buried)
        self.counters.audited += len(buried)
