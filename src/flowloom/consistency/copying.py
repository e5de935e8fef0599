"""One store copied into another while both are written to: what the target lacks, what changes meanwhile, what differs.

Everything goes with its version, as "write if newer", tombstones included.  So each part may be done twice, by two at
once, or left in its middle; and what is copied late never replaces what is newer.  Memory is bounded by the versions
of all keys and the contents of one project.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from flowloom.consistency.marks import NODE_KINDS
from flowloom.kernel.errors import Rejected, StartOver
from flowloom.model.keys import deployment_prefix, parse_key, project_prefix
from flowloom.northbound.keys import claims_prefix
from flowloom.northbound.limits import VERSION_MAX, is_key
from flowloom.northbound.pointer import pointer_key
from flowloom.northbound.store import Cursor, Entry, Store, Versions, Watch, Write

KEYS_PER_PAGE = 200

CHECK_PREFIX = "/flowloom-check-"
"""What `flowloom store check` leaves behind in a database is nobody's."""


class Judged(NamedTuple):
    """Keys of which the target holds less than the source, and those of which it holds something else."""

    lacking: list[str]
    conflicts: list[str]


def areas_of(deployment: str) -> tuple[str, str]:
    """Prefixes of what is a deployment's: its records, and the claims of integer keys."""
    return deployment_prefix(deployment), claims_prefix(deployment)


@dataclass
class Sides:
    """A source, and the target that is made equal to it.  skipped: keys that no store takes; they stay behind."""

    deployment: str
    source: Store
    target: Store
    skipped: set[str] = field(default_factory=set)
    copied: int = 0
    _cursor: Cursor | None = None
    _watch: Watch | None = None

    @property
    def areas(self) -> tuple[str, ...]:
        """Prefixes of what is the deployment's."""
        return areas_of(self.deployment)

    def close(self) -> None:
        """Both; repeating it does nothing."""
        self._stop_following()
        self.source.close()
        self.target.close()

    # --- what is lacking -----------------------------------------------------------------------

    def lacking(self) -> list[str]:
        """Keys of which the target holds nothing, or an older version.  `follow` goes on from before this."""
        self._stop_following()
        wanted: list[str] = []
        for area in self.areas:
            held = self.target.versions(area).versions
            versions = self.source.versions(area)
            self._cursor = self._cursor or versions.cursor
            wanted += [key for key in self._ours(versions) if held.get(key, (0, False))[0] < versions.versions[key][0]]
        return wanted

    def bring(self, keys: Sequence[str]) -> None:
        """Copy what the source holds under `keys` now, at most KEYS_PER_PAGE of them."""
        self._write(entry for entry in self.source.get(keys) if entry is not None)

    def follow(self, wait_seconds: float) -> list[str]:
        """Copy what changed in the source since the last call, waiting at most so long; the keys that changed.

        StartOver: ask `lacking` again.  A source without a change feed has no news.
        """
        if self._cursor is None or not self.source.capabilities.watch:
            return []
        if self._watch is None:
            root = self.areas[0][:-1]
            self._watch = self.source.watch(root if self.areas[1].startswith(root) else "/", self._cursor)
        try:
            changes = self._watch.next(wait_seconds)
        except StartOver:
            self._stop_following()
            raise
        self._cursor = changes.cursor
        self._write(entry for entry in changes.entries if self._is_ours(entry.key))
        return [entry.key for entry in changes.entries]

    @property
    def follows(self) -> bool:
        """Whether `follow` sees everything since `lacking` was asked."""
        return self._cursor is not None and self.source.capabilities.watch

    def _write(self, entries: Iterable[Entry]) -> None:
        writes = [Write(*entry) for entry in entries if self._fits(entry)]
        for start in range(0, len(writes), KEYS_PER_PAGE):
            self.target.apply(writes[start : start + KEYS_PER_PAGE])
        self.copied += len(writes)

    def _fits(self, entry: Entry) -> bool:
        """Whether it can be written at all: hands put things into a store that no store takes."""
        if is_key(entry.key) and 1 <= entry.version <= VERSION_MAX:
            return True
        self.skipped.add(entry.key)
        return False

    def _stop_following(self) -> None:
        self._cursor = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    # --- what differs --------------------------------------------------------------------------

    def parts(self) -> list[str]:
        """Prefixes that hold everything of both sides, each little enough to be read at once."""
        found = {claims_prefix(self.deployment)}
        for store in (self.source, self.target):
            found |= {self._part_of(key) for key in self._ours(store.versions(self.areas[0]))}
        return sorted(found)

    def differing(self, part: str) -> list[str]:
        """Keys of a part that do not look equal on both sides, by version and content."""
        source = {entry.key: entry for entry in self.source.read(part).entries if self._is_ours(entry.key)}
        target = {entry.key: entry for entry in self.target.read(part).entries if self._is_ours(entry.key)}
        return [key for key in source.keys() | target.keys() if not self._equal(key, source.get(key), target.get(key))]

    def judge(self, keys: Sequence[str]) -> Judged:
        """What both sides hold of at most KEYS_PER_PAGE keys, read again: the source first."""
        judged = Judged([], [])
        for key, old, new in zip(keys, self.source.get(keys), self.target.get(keys), strict=True):
            if self._equal(key, old, new):
                continue
            if old is not None and (new is None or new.version < old.version):
                judged.lacking.append(key)
            else:
                judged.conflicts.append(key)
        return judged

    def _equal(self, key: str, old: Entry | None, new: Entry | None) -> bool:
        if key in self.skipped or (old is not None and not self._fits(old)):
            return True
        if old == new:
            return True
        if new is None or (old is not None and new.version <= old.version):
            return False
        # The target is ahead: a tombstone that the source lost does no harm, and what a node has written there
        # last it knows by itself.
        return (old is None and new.value is None) or _is_nodes(key)

    def _ours(self, versions: Versions) -> Iterator[str]:
        return (key for key in versions.versions if self._is_ours(key))

    def _is_ours(self, key: str) -> bool:
        """Whether it is to be copied: pointers say something about one store."""
        return key.startswith(self.areas) and key != pointer_key(self.deployment)

    def _part_of(self, key: str) -> str:
        try:
            place = parse_key(key)
        except Rejected:
            return key  # None of ours by its form: a part of its own.
        return project_prefix(place.deployment, place.project)

    def check_two(self) -> None:
        """Rejected when both sides are one database."""
        if self.target.versions(self.areas[0]).cursor.epoch == self.source.versions(self.areas[1]).cursor.epoch:
            raise Rejected("--to", "it is the same database as --from, by another name")


def check_target(target: Store, deployment: str, is_own: bool) -> None:
    """Rejected, in one sentence, when the target holds what is not this deployment's.

    is_own: the target says of itself that it was, or was to become, the store of this deployment.
    """
    areas = areas_of(deployment)
    held = target.versions("/").versions
    own = (*areas, f"{areas[0][:-1]}!")
    foreign = sorted(_living(held, lambda key: not key.startswith((*own, CHECK_PREFIX))))
    if foreign:
        raise Rejected(
            "--to", f"it holds {len(foreign)} keys of something else, such as {foreign[0]}: name an empty one"
        )
    records = sorted(_living(held, lambda key: key.startswith(areas)))
    if records and not is_own:
        why = f"it holds {len(records)} records of a deployment of this name that is not this one, such as {records[0]}"
        raise Rejected("--to", f"{why}: empty it, or name another prefix")


def _living(held: Mapping[str, tuple[int, bool]], chosen: Callable[[str], bool]) -> Iterator[str]:
    return (key for key, (_, dead) in held.items() if not dead and chosen(key))


def _is_nodes(key: str) -> bool:
    try:
        return parse_key(key).kind in NODE_KINDS
    except Rejected:
        return False
