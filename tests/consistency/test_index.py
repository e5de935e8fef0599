"""The index of the store: it equals what a listing would say, whatever was said before."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.consistency.index import StoreIndex
from flowloom.consistency.marks import SHARDS, mark, shard_of
from flowloom.model.keys import key_of
from flowloom.northbound.store import Cursor, Entry, Listing, Versions

KEYS = [key_of("d", "p", "net", "port", f"o{n}") for n in range(12)]
KEYS += [key_of("d", "", "h1", "chassis", "h1"), key_of("d", "", "h1", "port_status", "o1"), "/d/strange"]

ENTRIES = st.builds(
    Entry, st.sampled_from(KEYS), st.integers(1, 5), st.one_of(st.none(), st.sampled_from([b"a", b"b", b""]))
)


def state(index: StoreIndex) -> object:
    shards = [(dict(index.shard(shard)), index.sum(shard)) for shard in range(SHARDS)]
    return shards, index.nodes, index.strange


@settings(deadline=None)
@given(st.lists(ENTRIES, max_size=8), st.lists(st.one_of(ENTRIES, st.sampled_from(KEYS)), max_size=30))
def test_an_index_that_was_told_of_changes_equals_one_that_listed(before: list[Entry], told: list[Entry | str]) -> None:
    truth = {entry.key: entry for entry in before}
    index = StoreIndex()
    index.listed(Listing(list(truth.values()), Cursor("e", 1)))
    for each in told:
        if isinstance(each, str):
            truth.pop(each, None)
            index.correct([each], [None])
            if each == "/d/strange":
                index.strange.pop(each, None)
        else:
            truth[each.key] = each
            index.take([each])
    fresh = StoreIndex()
    fresh.listed(Listing(list(truth.values()), Cursor("e", 2)))
    assert state(index) == state(fresh)
    versions = {key: (entry.version, entry.value is None) for key, entry in truth.items()}
    assert index.doubtful(Versions(versions, Cursor("e", 2))) == []


def test_sums_count_what_is_neutrons_and_nothing_else() -> None:
    index = StoreIndex()
    entries = [Entry(key, 3, b"x") for key in KEYS]
    index.listed(Listing(entries, Cursor("e", 1)))
    assert sum(index.sum(shard).objects for shard in range(SHARDS)) == len(index) == 12
    shard = shard_of("port", "o3")
    expected = sum(mark(*e) for e in entries[:12] if shard_of("port", e.key.rsplit("/", 1)[1]) == shard)
    assert index.sum(shard).total == expected


def test_a_list_of_versions_shows_what_no_feed_told() -> None:
    index = StoreIndex()
    index.listed(Listing([Entry(KEYS[0], 1, b"x"), Entry(KEYS[1], 2, b"x"), Entry(KEYS[2], 3, b"x")], Cursor("e", 1)))
    versions = {KEYS[1]: (2, False), KEYS[2]: (3, True), KEYS[3]: (1, False)}
    assert sorted(index.doubtful(Versions(versions, Cursor("e", 9)))) == sorted([KEYS[0], KEYS[2], KEYS[3]])


def test_after_start_over_nothing_is_forgotten_and_nothing_is_complete() -> None:
    index = StoreIndex()
    assert not index.complete
    index.listed(Listing([Entry(KEYS[0], 1, b"x")], Cursor("e", 1)))
    index.start_over()
    assert not index.complete and index.get(KEYS[0]) is not None
