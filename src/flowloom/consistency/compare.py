"""Neutron compared with the store: by sums, then row by row, then by reading again what is suspected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from flowloom.consistency.differences import Difference, Kind, classify, suspicion
from flowloom.consistency.index import Held, StoreIndex
from flowloom.consistency.marks import NODE_KINDS, SHARDS, mark
from flowloom.consistency.table import Fact, Ref, Row, ShardSum, SyncTable
from flowloom.model.codec import encode
from flowloom.model.keys import NO_PROJECT, deployment_prefix, key_of, parse_key
from flowloom.model.records import NORTHBOUND
from flowloom.northbound.limits import is_key
from flowloom.northbound.store import Entry, Store

ROWS_PER_PAGE = 1000
OBJECTS_PER_READ = 200

ABOVE_MAX = 1 << 62
"""No repair goes above such a version: Neutron goes on counting from there, and must never come to the end."""

NOTHING = ShardSum(0, 0)
_LONGEST = (255, 64, 32, 64)  # Project, scope, kind and id of a sync row.

_KINDS = frozenset(kind.kind for kind in NORTHBOUND)


class Suspect(NamedTuple):
    """An object that does not look equal.  project_id: whose lock protects it; row, held: as they were seen."""

    ref: Ref
    project_id: str
    key: str
    kind: Kind
    row: Row | None
    held: Held | None
    comparison: str


def differing(sums: Mapping[int, ShardSum], index: StoreIndex, shards: Iterable[int]) -> list[int]:
    """Those of `shards` in which the sides are not equal."""
    return [shard for shard in shards if sums.get(shard, NOTHING) != index.sum(shard)]


def rows_of(table: SyncTable, shard: int) -> list[Row]:
    """All rows of a shard."""
    rows: list[Row] = []
    while True:
        page = table.shard(shard, rows[-1].key if rows else 0, ROWS_PER_PAGE)
        rows += page
        if len(page) < ROWS_PER_PAGE:
            return rows


def suspects(deployment: str, rows: Iterable[Row], held: Mapping[str, Held], comparison: str) -> Iterator[Suspect]:
    """What is not equal between all rows and all keys of the same shards."""
    seen = set()
    for row in rows:
        if row.kind in NODE_KINDS:
            continue
        key = row_key(deployment, row)
        seen.add(key)
        kind = suspicion(row, held.get(key))
        if kind is not None:
            yield Suspect(row.ref, row.project_id, key, kind, row, held.get(key), comparison)
    for key in held.keys() - seen:
        kind = suspicion(None, held[key])
        if kind is not None:
            yield Suspect(ref_of(key), project_of(key), key, kind, None, held[key], comparison)


def row_key(deployment: str, row: Row) -> str:
    """Where the store holds the row's object."""
    return key_of(deployment, row.project_id, row.scope, row.kind, row.id)


def project_of(key: str) -> str:
    """The project of a key as sync rows name it."""
    project = parse_key(key).project
    return "" if project == NO_PROJECT else project


class Judged(NamedTuple):
    """What was read again of suspects: the differences that there are, and what was read."""

    differences: list[Difference]
    entries: list[Entry | None]


def reread(table: SyncTable, store: Store, deployment: str, chosen: Sequence[Suspect]) -> Judged:
    """Read Neutron, read the store, compare: what of `chosen` is a difference by content, as things are now."""
    refs = {suspect.ref for suspect in chosen if is_plain(suspect.ref.id)}
    facts = {fact.row.ref: fact for fact in table.facts(refs)}  # Read Neutron.
    entries = store.get([suspect.key for suspect in chosen])  # Read the store.
    found = []
    for suspect, entry in zip(chosen, entries, strict=True):  # Compare.
        difference = _difference(deployment, suspect, facts.get(suspect.ref), entry)
        if difference is not None:
            found.append(difference)
    return Judged(found, entries)


def _difference(deployment: str, suspect: Suspect, fact: Fact | None, entry: Entry | None) -> Difference | None:
    elsewhere = fact is not None and row_key(deployment, fact.row) != suspect.key
    kind = classify(None if elsewhere else fact, entry)
    if kind is None:
        return None
    left, version = "", -1 if entry is None else entry.version
    if suspect.ref.kind not in _KINDS:
        left = f"objects of kind {suspect.ref.kind!r} are not known to this release"
    elif fact is not None and fact.refused is not None and not elsewhere:
        left = f"no record: {fact.refused.why}"
    elif version > ABOVE_MAX:
        left = f"the store holds version {version}, which is too large to go above; remove the key by hand"
    elif not is_key(suspect.key):
        left = "the store's own client made a key that no store takes; remove it by hand"
    return Difference(
        kind=kind,
        ref=suspect.ref,
        project_id=suspect.project_id,
        scope=parse_key(suspect.key).scope,
        key=suspect.key,
        neutron_version=-1 if fact is None or elsewhere else fact.row.version,
        store_version=version,
        comparison=suspect.comparison,
        left=left,
        misplaced=elsewhere or (fact is None and not _has_room(deployment, suspect.key)),
        changed=not elsewhere and fact is not None and _changed(suspect.key, fact),
    )


def _has_room(deployment: str, key: str) -> bool:
    """Whether a sync row can stand for `key`: it fits, and leads back to the key."""
    place = parse_key(key)
    fits = all(len(part) <= longest and is_plain(part) for part, longest in zip(place[1:], _LONGEST, strict=True))
    return fits and key_of(deployment, project_of(key), place.scope, place.kind, place.id) == key


def is_plain(part: str) -> bool:
    """What an id of Neutron's consists of; not every database takes more."""
    return part.isascii() and part.isprintable()


def _changed(key: str, fact: Fact) -> bool:
    """Whether Neutron holds something else than was acknowledged at the version that the row is at."""
    row = fact.row
    if row.dirty or not row.mark or not fact.known or fact.refused is not None:
        return False
    return mark(key, row.version, None if fact.record is None else encode(fact.record)) != row.mark


@dataclass
class Survey:
    """Everything compared once.  objects: rows and store keys, each object once.  dirty: rows the drain has in hand.

    epoch: of the store's history.  differences: read again, hence certain as of then.
    """

    epoch: str = ""
    objects: int = 0
    dirty: int = 0
    differences: list[Difference] = field(default_factory=list)


def survey(
    table: SyncTable,
    store: Store,
    deployment: str,
    deep: bool = True,
    wanted: Callable[[str, Ref], bool] = lambda _project, _ref: True,
    progress: Callable[[int], None] = lambda _objects: None,
) -> Survey:
    """A full comparison, now: a listing of the store, all rows, and (`deep`) every object translated again.

    wanted: what of it counts (project, object).  progress: told how many objects were compared.
    The listing comes first: what is written meanwhile looks like a difference and is read again.
    Errors: Unavailable, and then nothing is known.
    """
    index = StoreIndex()
    index.listed(store.read(deployment_prefix(deployment)))
    assert index.cursor is not None
    result = Survey(epoch=index.cursor.epoch)
    found: list[Suspect] = []
    for shard in range(SHARDS):
        rows = [row for row in rows_of(table, shard) if wanted(row.project_id, row.ref)]
        held = {key: value for key, value in index.shard(shard).items() if wanted(project_of(key), ref_of(key))}
        keys = {row_key(deployment, row) for row in rows}
        result.objects += len(keys | held.keys())
        result.dirty += sum(row.dirty for row in rows)
        suspected = list(suspects(deployment, rows, held, "survey"))
        found += suspected
        if deep:
            known = {suspect.key for suspect in suspected}
            clean = [row for row in rows if not row.dirty and row_key(deployment, row) not in known]
            found += changed_past_capture(table, deployment, clean, "retranslation")
        progress(len(keys | held.keys()))
    for start in range(0, len(found), OBJECTS_PER_READ):
        result.differences += reread(table, store, deployment, found[start : start + OBJECTS_PER_READ]).differences
    return result


def changed_past_capture(table: SyncTable, deployment: str, rows: Sequence[Row], comparison: str) -> Iterator[Suspect]:
    """Clean rows whose object is not what was acknowledged of it: translated again, in pages."""
    for start in range(0, len(rows), OBJECTS_PER_READ):
        refs = {row.ref for row in rows[start : start + OBJECTS_PER_READ] if row.kind not in NODE_KINDS}
        for fact in table.facts(refs):
            row, key = fact.row, row_key(deployment, fact.row)
            if row.dirty or not fact.known or fact.refused is not None:
                continue
            value = None if fact.record is None else encode(fact.record)
            if mark(key, row.version, value) != row.mark:
                yield Suspect(row.ref, row.project_id, key, Kind.UNCAPTURED, row, None, comparison)


def ref_of(key: str) -> Ref:
    """The object that a key names."""
    place = parse_key(key)
    return Ref(place.kind, place.id)
