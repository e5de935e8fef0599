"""Keep a replica of some prefixes equal to the store: a state machine without I/O.

The owner passes events in (notices and heartbeats from the bus, changes from a watch, answers of the
store) and the time; it gets back what changed and what to ask the store (`requests.ask` does that).
Notices make it fast; comparing versions makes it right: after any loss, doubling, reordering, outage or
restart, once store and bus answer, the replica equals the store.

What may not be assumed of the input: that notices arrive, arrive once, in order or soon; that an answer
is still true when it arrives; that the store is the one it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, assert_never

from flowloom.kernel.backoff import Backoff
from flowloom.kernel.errors import Unavailable
from flowloom.northbound.bus import BusEvent, Gone, Heartbeat, Notice
from flowloom.northbound.gaps import Gaps
from flowloom.northbound.numbering import scope_of
from flowloom.northbound.replica import Replica
from flowloom.northbound.requests import Answer, CompareVersions, GetKeys, ReadPrefix, Request
from flowloom.northbound.store import Changes, Cursor, Entry, Listing, Versions

_SCOPES_MAX = 50
"""More scopes than this in doubt at once are compared as a whole."""

_COMPARED_MAX = 1000
"""So many prefixes are remembered as compared lately."""


@dataclass(frozen=True)
class FollowerSettings:
    """own_publisher: name whose heartbeats must come back over the bus ("": there is no bus or none of ours).

    suspect_beats: so many missing heartbeats of our own make the bus suspect; then everything is compared
        every poll_seconds until they come back.
    refresh_seconds: everything is compared once in about this time anyway.
    own_scope: a small prefix that is compared every own_seconds, so that a store that was wiped or restored is
        noticed that soon ("": none).  Whoever owns this follower is its only writer: what such a store has there again
        though it was deleted is told, for the owner to delete anew.
    gap_seconds: a comparison after a gap waits up to this long, so that a thousand agents do not ask at once,
        and the same prefix is compared at most once in this time.
    nodes_kinds: kinds of record that nodes write by themselves; they are back in a wiped store at once and say
        nothing of the others.
    grace_seconds: in a store of another epoch (wiped, restored), what is missing is not taken for deleted
        before this time has passed: whoever refills it needs a while.
    answer_seconds: a request unanswered for so long is asked again.
    """

    own_publisher: str = ""
    heartbeat_seconds: float = 1.0
    suspect_beats: int = 3
    poll_seconds: float = 3.0
    refresh_seconds: float = 300.0
    own_scope: str = ""
    own_seconds: float = 30.0
    gap_seconds: float = 0.1
    nodes_kinds: frozenset[str] = frozenset()
    grace_seconds: float = 120.0
    answer_seconds: float = 60.0
    retry_first_seconds: float = 0.1
    retry_cap_seconds: float = 10.0
    requests_max: int = 4
    keys_per_request: int = 500
    tombstones_max: int = 100_000


class Step(NamedTuple):
    """changes: what is new, in order (value None: gone).  requests: each wants exactly one `Answer`."""

    changes: list[Entry]
    requests: list[Request]


@dataclass
class _Sent:
    """A request under way: since when, and how much had been learnt before it left."""

    at: float
    learnt: int


@dataclass
class _Work:
    """What is still to be asked.  reads, compares: prefix -> not before.  keys: in order."""

    reads: dict[str, float] = field(default_factory=dict)
    compares: dict[str, float] = field(default_factory=dict)
    keys: dict[str, None] = field(default_factory=dict)


class Follower:
    """A replica of `prefixes`, each of which ends at a scope's boundary or above (`…/scope/`, `…/project/`).

    Read freely: `in_sync`, `unlisted`, `epoch`, `suspect_bus`, `suspect_empty`.
    """

    def __init__(self, prefixes: Sequence[str], random: Random, settings: FollowerSettings) -> None:
        self.settings = settings
        self.prefixes = _outermost(prefixes)
        self.unlisted = set(self.prefixes)
        self.epoch = ""
        self.suspect_bus = False
        self.comparisons = 0
        self._random = random
        self._replica = Replica(settings.tombstones_max)
        self._gaps = Gaps()
        self._backoff = Backoff(random, settings.retry_first_seconds, settings.retry_cap_seconds)
        self._work = _Work()
        self._sent: dict[Request, _Sent] = {}
        self._number = 0
        self._not_before = 0.0
        self._refresh_at: dict[str, float] = {}
        self._poll_at = 0.0
        self._own_heard_at = 0.0
        self._own_at = 0.0
        self._grace_until = 0.0
        self._doubted: set[str] = set()  # Prefixes in which the store, since its epoch changed, had nothing.
        self._missing: dict[str, int] = {}  # Prefix -> what was missing there when it was last compared.
        self._empty: set[str] = set()  # Prefixes, or scopes in them, where that means something is withheld.
        self._compared_at: dict[str, float] = {}

    @property
    def in_sync(self) -> bool:
        """Every prefix has been listed completely at least once."""
        return not self.unlisted

    @property
    def suspect_empty(self) -> bool:
        """A store of another epoch is empty where things are known: they are kept until it holds something there."""
        return bool(self._empty)

    def keys(self, prefix: str, after: str, limit: int) -> list[str]:
        """The first `limit` keys beyond `after` that hold a value here, in order: a page of the replica."""
        return self._replica.page(prefix, after, limit)

    @property
    def values(self) -> int:
        """How many values are held."""
        return len(self._replica)

    def holds(self, key: str) -> int:
        """The version of the value held at `key`; 0: none is."""
        return self._replica.holds(key)

    def start(self, now: float) -> Step:
        """Begin: list everything."""
        self._own_heard_at = now
        self._own_at = now + self._about(self.settings.own_seconds)
        for prefix in self.prefixes:
            self._work.reads[prefix] = now
        return self._step([], now)

    def follow(self, prefixes: Sequence[str], now: float) -> Step:
        """From now on follow `prefixes`: new ones are listed, what no prefix covers any more is given up."""
        old, self.prefixes = set(self.prefixes), _outermost(prefixes)
        for prefix in set(self.prefixes) - old:
            self.unlisted.add(prefix)
            self._work.reads[prefix] = now
        self.unlisted &= set(self.prefixes)
        self._empty = {prefix for prefix in self._empty if self._covers(prefix)}
        self._doubted &= set(self.prefixes)
        for asked in (self._work.reads, self._work.compares, self._refresh_at, self._compared_at):
            for prefix in [prefix for prefix in asked if not self._covers(prefix)]:
                del asked[prefix]
        self._gaps.forget_scopes(self.prefixes)
        return self._step(self._replica.forget_where(lambda key: not self._covers(key)), now)

    def receive(self, event: BusEvent | Changes | Answer, now: float) -> Step:
        """Take in one event."""
        changes: list[Entry] = []
        match event:
            case Notice():
                self._notice(event, changes, now)
            case Heartbeat():
                self._heartbeat(event, now)
            case Gone():
                self._compare_all(now)
            case Changes(entries, cursor):
                self._see_epoch(cursor, now)
                self._take(entries, changes)
            case Answer(request, result):
                self._answer(request, result, changes, now)
            case _:
                assert_never(event)
        return self._step(changes, now)

    def tick(self, now: float) -> Step:
        """Let time pass; call it at `wake_at` or oftener."""
        for request in [r for r, sent in self._sent.items() if now - sent.at > self.settings.answer_seconds]:
            self._again(request, now)
        self._watch_own_heartbeat(now)
        if self.settings.own_scope and self._own_at <= now:
            self._own_at = now + self._about(self.settings.own_seconds)
            self._compare(self.settings.own_scope, now)
        for prefix, due in list(self._refresh_at.items()):
            if due <= now:
                self._refresh_at[prefix] = now + self._about(self.settings.refresh_seconds)
                self._compare(prefix, now)
        return self._step([], now)

    @property
    def wake_at(self) -> float:
        """When `tick` has something to do, on the clock of `now`."""
        times = [*self._refresh_at.values(), *(sent.at + self.settings.answer_seconds for sent in self._sent.values())]
        if self.settings.own_scope:
            times.append(self._own_at)
        if self.settings.own_publisher:
            patience = self.settings.suspect_beats * self.settings.heartbeat_seconds
            times.append(self._poll_at if self.suspect_bus else self._own_heard_at + patience)
        if len(self._sent) < self.settings.requests_max:
            asked = [*self._work.reads.values(), *self._work.compares.values(), *([0.0] if self._work.keys else [])]
            times += [max(at, self._not_before) for at in asked]
        return min(times, default=float("inf"))

    # --- what the bus says ---------------------------------------------------------------------

    def _notice(self, notice: Notice, changes: list[Entry], now: float) -> None:
        if not self._covers(notice.key):
            return
        self._take([Entry(notice.key, notice.version, notice.value)], changes)
        self._compare_scopes(self._gaps.notice(notice), now)

    def _heartbeat(self, beat: Heartbeat, now: float) -> None:
        if beat.publisher == self.settings.own_publisher and not beat.scope:
            self._own_heard_at = now
            if self.suspect_bus:
                self.suspect_bus = False
                self._compare_all(now)
        if beat.scope and not self._covers(beat.scope):
            return
        scopes, any_scope = self._gaps.heartbeat(beat, self._everything)
        self._compare_scopes(scopes, now)
        if any_scope:
            self._compare_all(now)

    def _watch_own_heartbeat(self, now: float) -> None:
        settings = self.settings
        if not settings.own_publisher or now - self._own_heard_at < settings.suspect_beats * settings.heartbeat_seconds:
            return
        if not self.suspect_bus or self._poll_at <= now:
            self.suspect_bus = True
            self._poll_at = now + self._about(settings.poll_seconds)
            self._compare_all(now)

    # --- what the store says -------------------------------------------------------------------

    def _answer(
        self,
        request: Request,
        result: Listing | Versions | Sequence[Entry | None] | Unavailable,
        changes: list[Entry],
        now: float,
    ) -> None:
        sent = self._sent.get(request)
        if sent is None:
            return  # Given up, or answered before.
        if isinstance(result, Unavailable):
            if self._not_before <= now:
                self._not_before = now + self._backoff.next_delay()
            self._again(request, now)
            return
        del self._sent[request]
        self._backoff.succeeded()
        self._not_before = 0.0
        match result:
            case Listing(entries, cursor):
                self._listed(_prefix(request), entries, cursor, sent, changes, now)
            case Versions(versions, cursor):
                self._compared(_prefix(request), versions, cursor, sent, changes, now)
            case _:
                self._got(request, result, sent, changes, now)

    def _listed(
        self,
        prefix: str,
        entries: Sequence[Entry],
        cursor: Cursor,
        sent: _Sent,
        changes: list[Entry],
        now: float,
    ) -> None:
        self._see_epoch(cursor, now)
        self._take(entries, changes)
        self.unlisted.discard(prefix)
        if prefix in self.prefixes:
            self._refresh_at.setdefault(prefix, now + self._about(self.settings.refresh_seconds))
        self._doubt_missing(prefix, {entry.key for entry in entries}, sent, now)

    def _compared(
        self,
        prefix: str,
        versions: dict[str, tuple[int, bool]],
        cursor: Cursor,
        sent: _Sent,
        changes: list[Entry],
        now: float,
    ) -> None:
        self.comparisons += prefix != self.settings.own_scope
        self._see_epoch(cursor, now)
        for key, (version, dead) in versions.items():
            if version > self._replica.version(key):
                if dead:
                    self._take([Entry(key, version, None)], changes)
                else:
                    self._work.keys[key] = None
        self._doubt_missing(prefix, versions, sent, now)

    def _doubt_missing(
        self, prefix: str, present: dict[str, tuple[int, bool]] | set[str], sent: _Sent, now: float
    ) -> None:
        """Ask by name for what we know and the store did not list: only "absent" said of a key removes it."""
        missing = [
            key
            for key, known in self._replica.items(prefix)
            if key not in present and known.learnt <= sent.learnt and self._covers(key)
        ]
        self._empty = {empty for empty in self._empty if not empty.startswith(prefix)}
        if prefix in self._doubted:
            if len(missing) < self._missing.get(prefix, 0):
                self._grace_until = now + self.settings.grace_seconds  # It is being refilled: give it time.
            self._missing[prefix] = len(missing)
        if now < self._grace_until:
            if missing:
                self._compare(prefix, self._grace_until)
            return
        holds_anything = any(_kind(key) not in self.settings.nodes_kinds for key in present)
        if missing and not holds_anything and prefix.startswith(tuple(self._doubted)):
            self._empty.add(prefix)
            self._compare(prefix, now + self.settings.poll_seconds)
            return
        if holds_anything:
            self._doubted.discard(prefix)
        if missing:
            self._work.keys.update(dict.fromkeys(missing))

    def _got(
        self, request: Request, entries: Sequence[Entry | None], sent: _Sent, changes: list[Entry], now: float
    ) -> None:
        keys = request.keys if isinstance(request, GetKeys) else ()
        for key, entry in zip(keys, entries, strict=True):
            if entry is not None:
                self._take([entry], changes)
            elif gone := self._replica.forget(key, sent.learnt):
                changes.append(gone)
                # It may come back at the very version that a notice named before this answer: look again.
                self._compare(scope_of(key), now + self.settings.poll_seconds)

    def _see_epoch(self, cursor: Cursor, now: float) -> None:
        if self.epoch and cursor.epoch != self.epoch:
            self._grace_until = now + self.settings.grace_seconds
            self._doubted = set(self.prefixes)
            self._missing = {}
            if self.settings.own_scope:
                self._replica.forget_tombstones(self.settings.own_scope)
            self._compare_all(now)
        self.epoch = cursor.epoch

    # --- taking in and asking ------------------------------------------------------------------

    def _take(self, entries: Sequence[Entry], changes: list[Entry]) -> None:
        for entry in entries:
            if self._covers(entry.key) and (change := self._replica.take(entry)) is not None:
                changes.append(change)

    def _covers(self, key: str) -> bool:
        return key.startswith(self.prefixes)

    @property
    def _everything(self) -> bool:
        return any(prefix.count("/") <= 2 for prefix in self.prefixes)

    def _compare(self, prefix: str, now: float) -> None:
        """Compare `prefix` at `now` or a little later, or when that is planned already if that is sooner."""
        if prefix in self._work.reads:
            return
        soon = now + self._random.uniform(0.0, self.settings.gap_seconds)
        soon = max(soon, self._compared_at.get(prefix, 0.0) + self.settings.gap_seconds)
        self._work.compares[prefix] = min(soon, self._work.compares.get(prefix, soon))

    def _compare_scopes(self, scopes: set[str], now: float) -> None:
        if len(scopes) > _SCOPES_MAX:
            self._compare_all(now)
            return
        for scope in sorted(scopes):
            self._compare(scope, now)

    def _compare_all(self, now: float) -> None:
        for prefix in self.prefixes:
            self._compare(prefix, now)

    def _again(self, request: Request, now: float) -> None:
        del self._sent[request]
        match request:
            case ReadPrefix(prefix) if self._covers(prefix):
                self._work.reads[prefix] = now
            case CompareVersions(prefix) if self._covers(prefix):
                self._work.compares[prefix] = now
            case GetKeys(keys):
                self._work.keys.update(dict.fromkeys(keys))
            case _:
                pass

    def _about(self, seconds: float) -> float:
        return self._random.uniform(0.5, 1.5) * seconds

    def _step(self, changes: list[Entry], now: float) -> Step:
        requests: list[Request] = []
        while now >= self._not_before and len(self._sent) < self.settings.requests_max:
            request = self._next_request(now)
            if request is None:
                break
            self._sent[request] = _Sent(now, self._replica.learnt)
            requests.append(request)
        return Step(changes, requests)

    def _next_request(self, now: float) -> Request | None:
        self._number += 1
        if (prefix := _due(self._work.reads, now)) is not None:
            return ReadPrefix(prefix, self._number)
        if self._work.keys:
            keys = list(self._work.keys)[: self.settings.keys_per_request]
            for key in keys:
                del self._work.keys[key]
            return GetKeys(tuple(keys), self._number)
        if (prefix := _due(self._work.compares, now)) is not None:
            self._compared_at.pop(prefix, None)
            self._compared_at[prefix] = now
            if len(self._compared_at) > _COMPARED_MAX:
                del self._compared_at[next(iter(self._compared_at))]
            return CompareVersions(prefix, self._number)
        return None


def _due(asked: dict[str, float], now: float) -> str | None:
    for prefix, at in asked.items():
        if at <= now:
            del asked[prefix]
            return prefix
    return None


def _prefix(request: Request) -> str:
    return "" if isinstance(request, GetKeys) else request.prefix


def _outermost(prefixes: Sequence[str]) -> tuple[str, ...]:
    """Sorted, without doubles and without those that another one covers."""
    out: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not (out and prefix.startswith(out[-1])):
            out.append(prefix)
    return tuple(out)


def _kind(key: str) -> str:
    """The last but one part of a key."""
    return key.rpartition("/")[0].rpartition("/")[2]
