"""The promises of `northbound.store.Store`, as checks that every driver passes against its real server.

With pytest, a driver's author writes::

    class TestMine(StoreConformance):
        def new_bench(self) -> StoreBench:
            return MyBench()

Without pytest: `run_checks(CHECKS, new_bench, StoreBench.end)`.  Every check writes only under its bench's
prefix, so a database that holds other things may be checked; it leaves tombstones behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from flowloom.kernel.errors import FlowloomError, Rejected, StartOver, Unavailable
from flowloom.northbound.limits import KEY_BYTES_MAX, KEY_CHARACTERS, VERSION_MAX
from flowloom.northbound.store import Changes, Entry, Outcome, Store, Watch, Write
from flowloom.testing.conformance import Check, Skip, as_test_methods, expect, named

WAIT_SECONDS = 15.0
"""How long a check waits for something that must happen."""


class StoreBench:
    """What the checks need.  Subclass it: `connect` is required, the faults are welcome."""

    def __init__(self, prefix: str = "/check/") -> None:
        self.prefix = prefix
        self._opened: list[Store] = []

    def connect(self) -> Store:
        """Another handle on this bench's database."""
        raise NotImplementedError

    def trim(self) -> None:
        """Make the database forget its history up to now (its data stay)."""
        raise Skip("this bench cannot trim the history")

    def wipe(self) -> None:
        """Replace the database by an empty one at the same address."""
        raise Skip("this bench cannot wipe the database")

    def cut(self) -> None:
        """Make the database unreachable."""
        raise Skip("this bench cannot cut the database off")

    def mend(self) -> None:
        """Undo `cut`."""
        raise Skip("this bench cannot cut the database off")

    def open_store(self) -> Store:
        """Another handle, closed when the check is over."""
        store = self.connect()
        self._opened.append(store)
        return store

    def end(self) -> None:
        """Close what the check opened."""
        while self._opened:
            self._opened.pop().close()

    def key(self, name: str) -> str:
        """A key of this check."""
        return self.prefix + name


@contextmanager
def raising(*kinds: type[FlowloomError]) -> Iterator[list[FlowloomError]]:
    """The block must raise one of `kinds`; it is in the list afterwards."""
    caught: list[FlowloomError] = []
    try:
        yield caught
    except kinds as error:
        caught.append(error)
    names = " or ".join(kind.__name__ for kind in kinds)
    expect(bool(caught), f"expected {names}, nothing was raised")


def same(found: object, wanted: object, what: str) -> None:
    """Found and wanted are equal, or the check is broken."""
    expect(found == wanted, f"{what}: expected {wanted!r}, found {found!r}")


def held(store: Store, key: str) -> Entry | None:
    """What one key holds."""
    return store.get([key])[0]


def follow(watch: Watch, until: Callable[[list[Entry]], bool]) -> list[Entry]:
    """Everything a watch says until `until(all so far)`; broken after WAIT_SECONDS."""
    seen: list[Entry] = []
    deadline = time.monotonic() + WAIT_SECONDS
    while not until(seen):
        expect(time.monotonic() < deadline, f"the watch said {len(seen)} changes in {WAIT_SECONDS} s, not all")
        seen.extend(watch.next(0.5).entries)
    return seen


def rises_per_key(entries: Iterable[Entry]) -> bool:
    """No key's version goes down."""
    last: dict[str, int] = {}
    for entry in entries:
        if entry.version < last.get(entry.key, 0):
            return False
        last[entry.key] = entry.version
    return True


# --- writing ---------------------------------------------------------------------------------


def absent_key_is_no_error(bench: StoreBench) -> None:
    """A key never written is None, in its place among others."""
    store = bench.open_store()
    store.apply([Write(bench.key("here"), 1, b"x")])
    found = store.get([bench.key("no"), bench.key("here"), bench.key("nor")])
    same(found, [None, Entry(bench.key("here"), 1, b"x"), None], "get")
    same(list(store.read(bench.key("no")).entries), [], "read of an empty prefix")
    same(store.get([]), [], "get of nothing")
    same(store.apply([]), [], "apply of nothing")


def newer_write_is_applied(bench: StoreBench) -> None:
    """A write is applied when its version is greater than the one held."""
    store, key = bench.open_store(), bench.key("a")
    same(store.apply([Write(key, 3, b"three")]), [Outcome(key, True, 3)], "first write")
    same(store.apply([Write(key, 4, b"")]), [Outcome(key, True, 4)], "newer write")
    same(held(store, key), Entry(key, 4, b""), "an empty value is a value, not a tombstone")


def older_or_equal_write_is_refused(bench: StoreBench) -> None:
    """A write that is not newer changes nothing and says what is held."""
    store, key = bench.open_store(), bench.key("a")
    store.apply([Write(key, 5, b"five")])
    same(store.apply([Write(key, 4, b"four")]), [Outcome(key, False, 5)], "older write")
    same(store.apply([Write(key, 5, b"other")]), [Outcome(key, False, 5)], "equal version")
    same(store.apply([Write(key, 5, None)]), [Outcome(key, False, 5)], "delete at an equal version")
    same(held(store, key), Entry(key, 5, b"five"), "value")


def deleted_object_does_not_rise_again(bench: StoreBench) -> None:
    """A delete leaves a tombstone that refuses a late older write and yields to a newer one."""
    store, key = bench.open_store(), bench.key("a")
    store.apply([Write(key, 1, b"one")])
    same(store.apply([Write(key, 3, None)]), [Outcome(key, True, 3)], "delete")
    same(store.apply([Write(key, 2, b"late")]), [Outcome(key, False, 3)], "late older write")
    same(held(store, key), Entry(key, 3, None), "tombstone")
    same(list(store.read(bench.prefix).entries), [Entry(key, 3, None)], "tombstones are listed")
    same(store.versions(bench.prefix).versions, {key: (3, True)}, "versions mark tombstones")
    same(store.apply([Write(key, 4, b"again")]), [Outcome(key, True, 4)], "re-creation")


def delete_of_an_unknown_key_is_remembered(bench: StoreBench) -> None:
    """A delete that overtook its create leaves its tombstone."""
    store, key = bench.open_store(), bench.key("a")
    same(store.apply([Write(key, 7, None)]), [Outcome(key, True, 7)], "delete first")
    same(store.apply([Write(key, 6, b"late")]), [Outcome(key, False, 7)], "create after")


def repeating_a_call_is_harmless(bench: StoreBench) -> None:
    """The second time every outcome is refused at the same version, and nothing changes."""
    store = bench.open_store()
    writes = [Write(bench.key(f"k{n}"), n + 1, None if n % 3 == 0 else b"v%d" % n) for n in range(9)]
    first = store.apply(writes)
    before = list(store.read(bench.prefix).entries)
    same(first, [Outcome(w.key, True, w.version) for w in writes], "first time")
    same(store.apply(writes), [Outcome(w.key, False, w.version) for w in writes], "second time")
    same(list(store.read(bench.prefix).entries), before, "content")


def stale_member_does_not_stop_its_batch(bench: StoreBench) -> None:
    """In a batch with one stale write the others are applied; outcomes are in the order of the writes."""
    store = bench.open_store()
    keys = [bench.key(name) for name in ("z", "m", "a")]
    store.apply([Write(keys[1], 9, b"kept")])
    found = store.apply([Write(keys[0], 1, b"z"), Write(keys[1], 8, b"m"), Write(keys[2], 1, b"a")])
    same(found, [Outcome(keys[0], True, 1), Outcome(keys[1], False, 9), Outcome(keys[2], True, 1)], "outcomes")
    same([entry and entry.value for entry in store.get(keys)], [b"z", b"kept", b"a"], "values")


def newest_of_a_key_twice_in_a_batch_counts(bench: StoreBench) -> None:
    """Of one key's writes in one call the newest counts, wherever it stands."""
    store, key = bench.open_store(), bench.key("a")
    found = store.apply([Write(key, 1, b"1"), Write(key, 3, b"3"), Write(key, 2, b"2")])
    same(found, [Outcome(key, False, 3), Outcome(key, True, 3), Outcome(key, False, 3)], "outcomes")
    same(held(store, key), Entry(key, 3, b"3"), "value")


def batch_is_seen_whole(bench: StoreBench) -> None:
    """Where the driver declares atomic batches, no reader sees a part of one."""
    writer, reader = bench.open_store(), bench.open_store()
    if not (writer.capabilities.atomic_batch and writer.capabilities.consistent_read):
        raise Skip("the driver does not declare atomic batches and consistent reads")
    stop = threading.Event()
    keys = [bench.key(f"k{n:02}") for n in range(20)]
    writer.apply([Write(key, 1, b"") for key in keys])

    def write() -> None:
        version = 1
        while not stop.is_set():
            version += 1
            writer.apply([Write(key, version, b"") for key in keys])

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            for _ in range(50):
                found = {version for version, _ in reader.versions(bench.prefix).versions.values()}
                expect(len(found) == 1, f"a part of a batch was seen: versions {sorted(found)}")
        finally:
            stop.set()
        writing.result()


def one_winner_per_version(bench: StoreBench) -> None:
    """Of 20 threads racing on one key each version has at most one winner, and the highest is held."""
    stores = [bench.open_store() for _ in range(20)]
    key, rounds = bench.key("raced"), 10
    start = threading.Barrier(len(stores))

    def race(number: int) -> list[tuple[int, bytes]]:
        start.wait()
        won = []
        for version in range(1, rounds + 1):
            value = b"%d/%d" % (number, version)
            if _apply_surely(stores[number], Write(key, version, value)):
                won.append((version, value))
        return won

    with ThreadPoolExecutor(len(stores)) as pool:
        wins = [win for won in pool.map(race, range(len(stores))) for win in won]
    versions = [version for version, _ in wins]
    same(len(versions), len(set(versions)), "winners per version")
    highest = max(wins)
    same(highest[0], rounds, "the highest version was won")
    same(held(stores[0], key), Entry(key, rounds, highest[1]), "the highest winner's value is held")


def _apply_surely(store: Store, write: Write) -> bool:
    """Apply, retrying Unavailable; after one the truth is read, as the contract says."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            outcome = store.apply([write])[0]
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            continue
        return outcome.applied or held(store, write.key) == Entry(*write)


# --- keys, values, versions ------------------------------------------------------------------


def prefix_is_exact(bench: StoreBench) -> None:
    """`/a/b/` covers neither `/a/bc/x` nor `/a/b`, and keys are listed in order."""
    store = bench.open_store()
    names = ["a/b/x", "a/b/", "a/b/~", "a/b", "a/bc/x", "a/b!x", "a/b0", "a/B/x", "a/b/x/y"]
    store.apply([Write(bench.key(name), 1, name.encode()) for name in names])
    wanted = sorted(bench.key(name) for name in names if name.startswith("a/b/"))
    same([entry.key for entry in store.read(bench.key("a/b/")).entries], wanted, "read")
    same(sorted(store.versions(bench.key("a/b/")).versions), wanted, "versions")


def prefix_special_characters_are_ordinary(bench: StoreBench) -> None:
    """`%`, `_`, `*`-like characters in a prefix stand for themselves."""
    store = bench.open_store()
    names = ["a%b/x", "a_b/x", "axb/x", "a%25b/x", "a.b/x"]
    store.apply([Write(bench.key(name), 1, b"") for name in names])
    for prefix in ("a%b/", "a_b/", "a.b/", "a%25b/"):
        same([e.key for e in store.read(bench.key(prefix)).entries], [bench.key(prefix + "x")], f"read {prefix}")


def every_legal_character_is_kept(bench: StoreBench) -> None:
    """Keys keep every legal character and their full length."""
    store = bench.open_store()
    keys = [bench.key(f"c{character}c") for character in KEY_CHARACTERS if character != "/"]
    keys.append(bench.key("l" * (KEY_BYTES_MAX - len(bench.prefix))))
    store.apply([Write(key, 1, key.encode()) for key in keys])
    same([entry and entry.value for entry in store.get(keys)], [key.encode() for key in keys], "values")
    same([entry.key for entry in store.read(bench.prefix).entries], sorted(keys), "listing")


def illegal_write_is_rejected_by_name(bench: StoreBench) -> None:
    """A key, version or value that is out of bounds is Rejected, naming the key; nothing is written."""
    store, good = bench.open_store(), Write(bench.key("good"), 1, b"x")
    bad = [
        Write(bench.key("space here"), 1, b""),
        Write(bench.key("zero"), 0, b""),
        Write(bench.key("huge"), VERSION_MAX + 1, b""),
        Write(bench.key("v\u00e9"), 1, b""),
        Write("no-slash", 1, b""),
    ]
    for write in bad:
        with raising(Rejected) as caught:
            store.apply([good, write])
        expect(isinstance(caught[0], Rejected) and caught[0].ref == write.key, f"{caught[0]} does not name {write.key}")
    same(held(store, good.key), None, "the rest of a rejected call")


def largest_version_is_kept(bench: StoreBench) -> None:
    """Versions up to 2**63-1 are kept exactly and compared as numbers."""
    store, key = bench.open_store(), bench.key("a")
    for version in (9, 10, 2**31, 2**32 + 1, 2**53 + 1, VERSION_MAX):
        same(store.apply([Write(key, version, b"")]), [Outcome(key, True, version)], f"version {version}")
    same(store.apply([Write(key, VERSION_MAX - 1, b"")]), [Outcome(key, False, VERSION_MAX)], "older")


def value_at_the_limit_is_kept(bench: StoreBench) -> None:
    """A value of the declared size is kept byte for byte; one byte more is Rejected, naming the key."""
    store, key = bench.open_store(), bench.key("big")
    limit = store.capabilities.value_bytes_max
    value = bytes(range(256)) * (limit // 256) + b"\0" * (limit % 256)
    same(store.apply([Write(key, 1, value)]), [Outcome(key, True, 1)], "value at the limit")
    entry = held(store, key)
    expect(entry is not None and entry.value == value, "the value at the limit came back different")
    with raising(Rejected) as caught:
        store.apply([Write(key, 2, value + b"\0")])
    expect(isinstance(caught[0], Rejected) and caught[0].ref == key, f"{caught[0]} does not name {key}")


# --- reading and watching --------------------------------------------------------------------


def reads_agree_and_watch_goes_on(bench: StoreBench) -> None:
    """Listing and versions agree, and a watch from either cursor shows exactly what came after."""
    store, other = bench.open_store(), bench.open_store()
    writes = [Write(bench.key(f"k{n:03}"), n + 1, None if n % 7 == 0 else b"%d" % n) for n in range(100)]
    store.apply(writes)
    listing, versions = other.read(bench.prefix), other.versions(bench.prefix)
    same(list(listing.entries), [Entry(*w) for w in writes], "listing")
    same(versions.versions, {w.key: (w.version, w.value is None) for w in writes}, "versions")
    later = Write(bench.key("later"), 1, b"x")
    store.apply([later])
    for cursor in (listing.cursor, versions.cursor):
        watch = other.watch(bench.prefix, cursor)
        same(follow(watch, bool), [Entry(*later)], "changes after the cursor")
        watch.close()


def read_is_a_snapshot_of_its_cursor(bench: StoreBench) -> None:
    """Listing plus the watch from its cursor equals the store, while a writer runs."""
    writer, reader = bench.open_store(), bench.open_store()
    keys = [bench.key(f"k{n:04}") for n in range(1000)]
    writer.apply([Write(key, 1, b"") for key in keys])
    enough = threading.Event()

    def write() -> None:
        version = 1
        while not enough.is_set():
            version += 1
            writer.apply([Write(key, version, b"%d" % version) for key in (keys[0], keys[-1])])

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            listings = [reader.read(bench.prefix) for _ in range(25)]
        finally:
            enough.set()
        writing.result()
    final = {entry.key: entry for entry in reader.read(bench.prefix).entries}
    for listing in listings:
        state = {entry.key: entry for entry in listing.entries}
        watch = reader.watch(bench.prefix, listing.cursor)
        while entries := watch.next(0.0).entries:
            state.update((entry.key, entry) for entry in entries)
        watch.close()
        same(state, final, f"listing at {listing.cursor.position} plus what followed")


def watch_loses_nothing(bench: StoreBench) -> None:
    """A watch sees every key's newest write once or more, in order per key, and nothing of other prefixes."""
    writer, reader = bench.open_store(), bench.open_store()
    watch = reader.watch(bench.key("in/"), reader.read(bench.key("in/")).cursor)
    newest = {bench.key(f"in/k{n}"): 40 for n in range(5)}

    def write() -> None:
        for version in range(1, 41):
            writer.apply([Write(key, version, b"%d" % version) for key in newest])
            writer.apply([Write(bench.key("out/k"), version, b"")])

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = follow(watch, lambda seen: {entry.key: entry.version for entry in seen} == newest)
        writing.result()
    expect(rises_per_key(seen), "versions of one key went down")
    expect(all(entry.value == b"%d" % entry.version for entry in seen), "a value of another version was shown")
    expect(all(entry.key in newest for entry in seen), "a key outside the prefix was shown")


def watch_wakes_another_thread(bench: StoreBench) -> None:
    """A waiting watch is woken by a write of another handle, well before its time is out."""
    writer, reader = bench.open_store(), bench.open_store()
    watch = reader.watch(bench.prefix, reader.read(bench.prefix).cursor)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(watch.next, 4 * WAIT_SECONDS)
        writer.apply([Write(bench.key("a"), 1, b"")])
        changes: Changes = waiting.result(timeout=WAIT_SECONDS)
    same(list(changes.entries), [Entry(bench.key("a"), 1, b"")], "changes")


def quiet_watch_returns_in_time(bench: StoreBench) -> None:
    """Without a change `next` returns empty when its time is out, with a cursor that can be resumed."""
    store = bench.open_store()
    watch = store.watch(bench.prefix, store.read(bench.prefix).cursor)
    changes = watch.next(0.1)
    same(list(changes.entries), [], "changes")
    store.apply([Write(bench.key("a"), 1, b"")])
    resumed = store.watch(bench.prefix, changes.cursor)
    same(follow(resumed, bool), [Entry(bench.key("a"), 1, b"")], "resumed")


def watch_resumes_after_reopening(bench: StoreBench) -> None:
    """A cursor outlives its handle: another one goes on from it and misses nothing."""
    first = bench.open_store()
    first.apply([Write(bench.key("a"), 1, b"")])
    cursor = first.read(bench.prefix).cursor
    first.close()
    second = bench.open_store()
    second.apply([Write(bench.key("b"), 1, b""), Write(bench.key("a"), 2, None)])
    third = bench.open_store()
    watch = third.watch(bench.prefix, cursor)
    seen = follow(watch, lambda seen: len({entry.key for entry in seen}) == 2)
    same(set(seen), {Entry(bench.key("b"), 1, b""), Entry(bench.key("a"), 2, None)}, "changes")


def slow_consumer_is_never_silently_behind(bench: StoreBench) -> None:
    """Who watches slowly gets everything, or is told to start over."""
    writer, reader = bench.open_store(), bench.open_store()
    watch = reader.watch(bench.prefix, reader.read(bench.prefix).cursor)
    newest = {bench.key(f"k{n:04}"): 3 for n in range(1500)}
    for version in (1, 2, 3):
        keys = list(newest)
        for start in range(0, len(keys), 100):
            writer.apply([Write(key, version, b"x" * 100) for key in keys[start : start + 100]])
    try:
        seen = follow(watch, lambda seen: {entry.key: entry.version for entry in seen} == newest)
        expect(rises_per_key(seen), "versions of one key went down")
    except StartOver:
        found = {key: version for key, (version, _) in reader.versions(bench.prefix).versions.items()}
        same(found, newest, "what a new listing shows")


def trimmed_history_says_start_over(bench: StoreBench) -> None:
    """A cursor before the remembered history raises StartOver; one after it goes on."""
    store = bench.open_store()
    old = store.read(bench.prefix).cursor
    store.apply([Write(bench.key(f"k{n}"), 1, b"") for n in range(10)])
    waiting = store.watch(bench.prefix, old)
    bench.trim()
    with raising(StartOver):
        store.watch(bench.prefix, old).next(1.0)
    with raising(StartOver):
        waiting.next(1.0)
    listing = store.read(bench.prefix)
    same(len(listing.entries), 10, "entries after trimming")
    watch = store.watch(bench.prefix, listing.cursor)
    store.apply([Write(bench.key("new"), 1, b"")])
    same(follow(watch, bool), [Entry(bench.key("new"), 1, b"")], "changes after the new cursor")


def another_epoch_says_start_over(bench: StoreBench) -> None:
    """A database that was replaced has another epoch: old cursors raise StartOver, new ones work."""
    store = bench.open_store()
    store.apply([Write(bench.key("a"), 1, b"")])
    old = store.read(bench.prefix).cursor
    watch = store.watch(bench.prefix, old)
    bench.wipe()
    with raising(StartOver):
        watch.next(1.0)
    fresh = bench.open_store()
    listing = fresh.read(bench.prefix)
    same(list(listing.entries), [], "a wiped database")
    expect(listing.cursor.epoch != old.epoch, "the epoch is the old one")
    fresh.apply([Write(bench.key("a"), 1, b"again")])
    fresh.apply([Write(bench.key("b"), 1, b"")])  # The new history is now as long as the old one was.
    with raising(StartOver):
        fresh.watch(bench.prefix, old).next(1.0)
    seen = follow(fresh.watch(bench.prefix, listing.cursor), lambda seen: len(seen) >= 2)
    same(seen, [Entry(bench.key("a"), 1, b"again"), Entry(bench.key("b"), 1, b"")], "changes")


# --- failing ---------------------------------------------------------------------------------


def cut_database_is_unavailable_not_empty(bench: StoreBench) -> None:
    """While the database is away every call raises Unavailable, never "empty"; then all goes on by itself."""
    store = bench.open_store()
    store.apply([Write(bench.key("a"), 1, b"")])
    watch = store.watch(bench.prefix, store.read(bench.prefix).cursor)
    bench.cut()
    try:
        calls: Sequence[Callable[[], object]] = (
            lambda: store.apply([Write(bench.key("a"), 2, b"")]),
            lambda: store.get([bench.key("a")]),
            lambda: store.read(bench.prefix),
            lambda: store.versions(bench.prefix),
            lambda: watch.next(1.0),
        )
        for call in calls:
            with raising(Unavailable):
                call()
    finally:
        bench.mend()
    _apply_surely(store, Write(bench.key("a"), 3, b"3"))
    same(held(store, bench.key("a")), Entry(bench.key("a"), 3, b"3"), "after the cut")
    seen = follow(watch, lambda seen: Entry(bench.key("a"), 3, b"3") in seen)
    expect(rises_per_key(seen), "versions of one key went down")


def closed_store_says_so(bench: StoreBench) -> None:
    """After `close` every call raises Unavailable with a text that says so; closing twice is harmless."""
    store = bench.open_store()
    watch = store.watch(bench.prefix, store.read(bench.prefix).cursor)
    watch.close()
    watch.close()
    store.close()
    store.close()
    for call in (lambda: store.get([bench.key("a")]), lambda: store.apply([]), lambda: watch.next(1.0)):
        with raising(Unavailable) as caught:
            call()
        expect("closed" in str(caught[0]), f"{caught[0]} does not say that the store is closed")


CHECKS: tuple[Check[StoreBench], ...] = named(
    absent_key_is_no_error,
    newer_write_is_applied,
    older_or_equal_write_is_refused,
    deleted_object_does_not_rise_again,
    delete_of_an_unknown_key_is_remembered,
    repeating_a_call_is_harmless,
    stale_member_does_not_stop_its_batch,
    newest_of_a_key_twice_in_a_batch_counts,
    batch_is_seen_whole,
    one_winner_per_version,
    prefix_is_exact,
    prefix_special_characters_are_ordinary,
    every_legal_character_is_kept,
    illegal_write_is_rejected_by_name,
    largest_version_is_kept,
    value_at_the_limit_is_kept,
    reads_agree_and_watch_goes_on,
    read_is_a_snapshot_of_its_cursor,
    watch_loses_nothing,
    watch_wakes_another_thread,
    quiet_watch_returns_in_time,
    watch_resumes_after_reopening,
    slow_consumer_is_never_silently_behind,
    trimmed_history_says_start_over,
    another_epoch_says_start_over,
    cut_database_is_unavailable_not_empty,
    closed_store_says_so,
)


class StoreConformance:
    """The suite for pytest: subclass it and override `new_bench`."""

    bench: StoreBench

    def new_bench(self) -> StoreBench:
        """A bench on a fresh database."""
        raise NotImplementedError

    def setup_method(self) -> None:
        self.bench = self.new_bench()

    def teardown_method(self) -> None:
        self.bench.end()


as_test_methods(StoreConformance, CHECKS)
