"""Store against agents: does each agent hold of the store what it should, to the byte?

The store is listed once, every record turned into one number (`consistency.marks`); an agent gives the same
numbers of what it holds, page by page, in the order of keys.  What differs may be on its way: it is looked at
again a moment later, and believed only where the agent still lacks what the store held at the first look.

Memory: about 0.4 kB for each object of the store, and one page of each agent that is being asked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal, NamedTuple

from flowloom.cli.answers import Marks
from flowloom.consistency.marks import mark
from flowloom.kernel.errors import Rejected
from flowloom.model.codec import decode, encode
from flowloom.model.keys import deployment_prefix, parse_key, project_prefix
from flowloom.model.records import PortStatus
from flowloom.northbound.pointer import pointer_key
from flowloom.northbound.store import Entry, Store

RELEASE = version("flowloom")

KEYS_ASKED = 200
"""Keys named in one question of at most 64 kB."""

Kind = Literal["missing", "stale", "ahead", "different", "orphan", "unreadable"]


class Held(NamedTuple):
    """What the store or an agent holds under a key.

    mark: 0 when nobody can say (unreadable to this release, or to the agent).  live: not a tombstone.
    """

    version: int
    mark: int
    live: bool = True


@dataclass(frozen=True)
class Difference:
    """An object that an agent does not hold as the store does."""

    kind: Kind
    key: str
    why: str


@dataclass(frozen=True)
class Compared:
    """An agent against the store.  objects: that it should hold.  note: what else it says of itself."""

    objects: int
    differences: tuple[Difference, ...]
    note: str = ""


AskPage = Callable[[Mapping[str, object]], Marks]
"""Puts a `records` question to an agent."""


class Listing:
    """What the store holds of a deployment: key -> Held; keys of live records in order."""

    def __init__(self, held: Mapping[str, Held]) -> None:
        self.held = held
        self.keys = sorted(key for key, one in held.items() if one.live)

    def between(self, after: str, last: str) -> Sequence[str]:
        """Live keys beyond `after` up to `last` ("": to the end)."""
        end = bisect_right(self.keys, last) if last else len(self.keys)
        return self.keys[bisect_right(self.keys, after) : end]


def list_store(store: Store, deployment: str) -> Listing:
    """Read everything, one project at a time, so that contents are in memory for one project only."""
    prefix = deployment_prefix(deployment)
    projects = {_project_of(key) for key in store.versions(prefix).versions}
    held: dict[str, Held] = {}
    projects.discard(pointer_key(deployment))
    for project in sorted(projects):
        for entry in store.read(project).entries:
            held[entry.key] = held_of(entry)
    return Listing(held)


def _project_of(key: str) -> str:
    """The prefix of a key's project: what follows the second `/` of it, up to the third."""
    try:
        parts = parse_key(key)
    except Rejected:
        return key  # Not a key of ours: a prefix of itself.
    return project_prefix(parts.deployment, parts.project)


def held_of(entry: Entry | None) -> Held:
    """An entry in one number: of what this release reads in it, as an agent of this release would write it."""
    if entry is None:
        return Held(0, 0, live=False)
    if entry.value is None:
        return Held(entry.version, 0, live=False)
    try:
        record = decode(entry.key, entry.value, parse_key(entry.key).kind)
    except Rejected:
        return Held(entry.version, 0)
    return Held(entry.version, mark(entry.key, record.version, encode(record)))


def compare(
    ask: AskPage, listing: Listing, again: Callable[[Sequence[str]], Sequence[Entry | None]], pause: Callable[[], None]
) -> Compared:
    """One agent against the store's listing.  again: what the store holds now; pause: lets a moment pass."""
    suspects, objects, note = _first_look(ask, listing)
    if not suspects:
        return Compared(objects, (), note)
    pause()
    differences: list[Difference] = []
    for keys in _cut(suspects, KEYS_ASKED):
        page = ask({"ask": "records", "keys": keys})
        by_release = page.release == RELEASE
        at_agent = {key: Held(version, mark) for key, version, mark in page.entries}
        # The store is asked after the agent: what the agent holds was in the store, then or before.
        for key, entry in zip(keys, again(keys), strict=True):
            first, now = listing.held.get(key, Held(0, 0, live=False)), held_of(entry)
            found = judge(first, now, at_agent.get(key), by_release)
            if found is not None:
                why = f"{found.why}; {page.bad[key]}" if key in page.bad else found.why
                kind: Kind = "unreadable" if key in page.bad else found.kind
                differences.append(Difference(kind, key, why))
    return Compared(objects, tuple(differences), note)


def _first_look(ask: AskPage, listing: Listing) -> tuple[list[str], int, str]:
    """Keys that differ, in order; how many the agent should hold; what it says of itself."""
    suspects: list[str] = []
    objects, after = 0, ""
    while True:
        page = ask({"ask": "records", "after": after, "limit": 2000})
        by_release = page.release == RELEASE
        at_agent = {key: Held(version, mark) for key, version, mark in page.entries}
        concerned = _followed(listing.between(after, page.next), page)
        for key in concerned:
            objects += 1
            if _differs(listing.held[key], at_agent.pop(key, None), by_release):
                suspects.append(key)
        suspects += at_agent  # What the store does not hold.
        if not page.next:
            return suspects, objects, _note(page, by_release)
        after = page.next


def _followed(keys: Iterable[str], page: Marks) -> Iterator[str]:
    """The keys that this agent should hold: under what it follows, without the statuses that other chassis report."""
    own, status = f"/{page.chassis}/{PortStatus.kind}/", f"/{PortStatus.kind}/"
    for key in keys:
        if key.startswith(page.prefixes) and (status not in key or own in key):
            yield key


def _note(page: Marks, by_release: bool) -> str:
    notes = [f"it waits for {page.waiting_for}"] if page.waiting_for else []
    notes += [] if page.in_sync or notes else ["it is not in sync with the store"]
    notes += [] if by_release else [f"versions alone: its release is {page.release or 'not known'}, this one {RELEASE}"]
    return "; ".join(notes)


def _differs(store: Held, agent: Held | None, by_release: bool) -> bool:
    if agent is None or store.version != agent.version:
        return True
    return by_release and bool(store.mark and agent.mark) and store.mark != agent.mark


class _Judged(NamedTuple):
    kind: Kind
    why: str


def judge(first: Held, now: Held, agent: Held | None, by_release: bool = True) -> _Judged | None:
    """What is wrong at one key; None: nothing, or it is on its way.

    first, now: of the store, a moment apart, the agent being asked in between.  by_release: marks can be compared.
    """
    if not now.live:
        if agent is None or first.live:
            return None
        there = f"a tombstone of version {now.version}" if now.version else "nothing"
        return _Judged("orphan", f"the agent holds version {agent.version}, the store {there}")
    if agent is None or agent.version < first.version:
        if not first.live:
            return None
        if agent is None or not agent.version:
            return _Judged("missing", f"the agent holds nothing, the store version {now.version}")
        return _Judged("stale", f"the agent holds version {agent.version}, the store version {now.version}")
    if agent.version > now.version:
        return _Judged("ahead", f"the agent holds version {agent.version}, the store version {now.version} only")
    if agent.version == now.version and _differs(now, agent, by_release):
        return _Judged("different", f"both hold version {now.version}, with different contents")
    return None


def _cut(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
