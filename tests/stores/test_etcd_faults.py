"""etcd members that die, hang, lose their quorum, run out of space, are restored from a copy or written by hand."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flowloom.drivers.store.etcd import BATCH_BYTES, BATCH_WRITES, VALUE_BYTES_MAX, EtcdStore, open_store
from flowloom.kernel.errors import Misconfigured, Rejected, StartOver, Unavailable
from flowloom.northbound.store import Cursor, Entry, Outcome, Watch, Write
from flowloom.testing.etcd_server import Cluster, Member, etcd
from flowloom.testing.proxy import Proxy
from flowloom.testing.waiting import wait_for

WRITES = 1500


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="etcd-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def single(tmp_path: Path) -> Iterator[Cluster]:
    with etcd(tmp_path / "etcd") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shared_three(directory: Path) -> Iterator[Cluster]:
    with etcd(directory / "three", members=3) as cluster:
        yield cluster


@pytest.fixture
def three(shared_three: Cluster) -> Iterator[Cluster]:
    """Three members, all up before and after each test."""
    yield shared_three
    for member in shared_three.members:
        if member.running:
            member.send(signal.SIGCONT)
    if not all(member.running for member in shared_three.members):
        shared_three.start()


@contextlib.contextmanager
def opened(url: str) -> Iterator[EtcdStore]:
    store = open_store(url)
    try:
        yield store
    finally:
        store.close()


def in_use(store: EtcdStore, cluster: Cluster) -> Member:
    address = store._database.client.endpoint().address
    return next(member for member in cluster.members if member.endpoint == address)


class Follower:
    """A thread that keeps what a watch says, and starts anew only where it is told to."""

    def __init__(self, store: EtcdStore, prefix: str) -> None:
        self.held: dict[str, Entry] = {}
        self.unordered: list[Entry] = []
        self.started_over: list[StartOver] = []
        self._store, self._prefix = store, prefix
        self._stop = threading.Event()
        self._watch: Watch = store.watch(prefix, store.read(prefix).cursor)
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._watch.close()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                entries = self._watch.next(0.2).entries
            except Unavailable:
                continue
            except StartOver as error:
                self.started_over.append(error)
                listing = self._store.read(self._prefix)
                self._watch = self._store.watch(self._prefix, listing.cursor)
                entries = listing.entries
            for entry in entries:
                if (before := self.held.get(entry.key)) and before.version > entry.version:
                    self.unordered.append(entry)
                self.held[entry.key] = entry


def write_under_fire(store: EtcdStore, at: Sequence[int], fault: Callable[[], None]) -> dict[str, Entry]:
    """WRITES writes one after the other, `fault` before those numbered `at`; what was acknowledged."""
    acknowledged: dict[str, Entry] = {}
    for number in range(WRITES):
        if number in at:
            fault()
        write = Write(f"/d/k{number % 300:03}", number // 300 + 1, b"%d" % number)
        deadline = time.monotonic() + 30
        while True:
            try:
                (outcome,) = store.apply([write])
                break
            except Unavailable:
                assert time.monotonic() < deadline, "not available again"
        # A refused one was an earlier attempt's, of which the answer was lost even to the driver: Unavailable.
        assert outcome.held == write.version
        acknowledged[write.key] = Entry(*write)
    return acknowledged


def check_nothing_lost(store: EtcdStore, follower: Follower, acknowledged: dict[str, Entry]) -> None:
    assert {entry.key: entry for entry in store.read("/d/").entries} == acknowledged
    wait_for(lambda: follower.held == acknowledged, 30.0)
    assert not follower.unordered
    assert not follower.started_over


def test_the_only_member_killed_under_writes_and_a_watch(single: Cluster) -> None:
    def fault() -> None:
        single.kill()
        single.start()

    with opened(single.url()) as store, opened(single.url()) as other:
        follower = Follower(other, "/d/")
        try:
            acknowledged = write_under_fire(store, (400, 1100), fault)
            check_nothing_lost(store, follower, acknowledged)
        finally:
            follower.stop()


def test_member_in_use_then_leader_killed_under_writes_and_a_watch(three: Cluster) -> None:
    with opened(three.url("/killed")) as store, opened(three.url("/killed")) as other:
        follower = Follower(other, "/d/")
        faults = iter(
            (lambda: in_use(store, three), lambda: in_use(other, three), lambda: three.members[three.leader()])
        )

        def fault() -> None:
            three.start()
            next(faults)().kill()

        try:
            acknowledged = write_under_fire(store, (300, 700, 1100), fault)
            check_nothing_lost(store, follower, acknowledged)
        finally:
            follower.stop()


def test_without_a_quorum_it_is_unavailable_and_says_so_then_goes_on(three: Cluster) -> None:
    with opened(three.url("/quorum", "timeout_seconds=3")) as store:
        store.apply([Write("/d/a", 1, b"")])
        watch = store.watch("/d/", store.read("/d/").cursor)
        assert not watch.next(0.1).entries
        for member in [three.members[three.leader()], *three.members][:2]:
            member.kill()
        while sum(member.running for member in three.members) > 1:
            next(member for member in three.members if member.running).kill()
        with pytest.raises(Unavailable, match=r"no leader|does not answer"):
            store.apply([Write("/d/a", 2, b"")])
        with pytest.raises(Unavailable, match="no leader: too few members"):
            store.read("/d/")
        wait_for(lambda: silent(watch), 20.0)
        three.start()
        assert store.apply([Write("/d/a", 3, b"back")]) == [Outcome("/d/a", True, 3)]
        assert wait_for(lambda: seen(watch))[-1] == Entry("/d/a", 3, b"back")


def silent(watch: Watch) -> bool:
    """It said that it hears nothing."""
    try:
        watch.next(1.0)
    except Unavailable:
        return True
    return False


def seen(watch: Watch) -> Sequence[Entry]:
    try:
        return watch.next(1.0).entries
    except Unavailable:
        return ()


def test_a_member_that_hangs_costs_a_share_of_one_call_and_no_event(three: Cluster) -> None:
    with opened(three.url("/hangs", "timeout_seconds=3")) as store, opened(three.url("/hangs")) as other:
        watch = store.watch("/d/", store.read("/d/").cursor)
        assert not watch.next(0.1).entries
        in_use(store, three).send(signal.SIGSTOP)
        began = time.monotonic()
        store.apply([Write("/d/a", 1, b"")])
        assert time.monotonic() - began < 3.0
        began = time.monotonic()
        store.apply([Write("/d/a", 2, b"")])
        assert time.monotonic() - began < 1.0, "the one that hangs was asked again"
        other.apply([Write("/d/b", 1, b"")])
        wanted = {"/d/a": 2, "/d/b": 1}
        found: dict[str, int] = {}
        wait_for(lambda: found.update((e.key, e.version) for e in seen(watch)) or found == wanted, 20.0)


def test_a_server_that_accepts_and_never_answers_is_unavailable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="does not answer"):
            open_store(f"etcd://127.0.0.1:{deaf.getsockname()[1]}/x?timeout_seconds=1")
        assert time.monotonic() - began < 2.0


def test_nobody_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        open_store(f"etcd://127.0.0.1:{port}/x?timeout_seconds=1")


def test_a_write_whose_answer_was_lost_is_resolved_by_reading(single: Cluster) -> None:
    with (
        Proxy(single.members[0].client) as proxy,
        opened(single.url()) as direct,
        opened(f"etcd://127.0.0.1:{proxy.port}/flowloom?timeout_seconds=4") as store,
        ThreadPoolExecutor(1) as pool,
    ):
        store.apply([Write("/d/a", 1, b"")])
        proxy.mute = True
        writing = pool.submit(store.apply, [Write("/d/a", 2, b"mine"), Write("/d/b", 1, b"mine")])
        wait_for(lambda: direct.get(["/d/b"])[0])
        assert not writing.done()
        proxy.mute = False
        proxy.hang_up()
        assert writing.result() == [Outcome("/d/a", True, 2), Outcome("/d/b", True, 1)]


def test_a_write_whose_answer_was_lost_and_was_overtaken_is_refused(single: Cluster) -> None:
    with (
        Proxy(single.members[0].client) as proxy,
        opened(single.url()) as direct,
        opened(f"etcd://127.0.0.1:{proxy.port}/flowloom?timeout_seconds=4") as store,
        ThreadPoolExecutor(1) as pool,
    ):
        proxy.mute = True
        writing = pool.submit(store.apply, [Write("/d/a", 2, b"mine")])
        wait_for(lambda: direct.get(["/d/a"])[0])
        direct.apply([Write("/d/a", 3, b"theirs")])
        proxy.mute = False
        proxy.hang_up()
        assert writing.result() == [Outcome("/d/a", False, 3)]


def test_out_of_space_is_unavailable_says_what_to_do_and_loses_nothing(tmp_path: Path) -> None:
    small, large = ([f"--quota-backend-bytes={mebibytes << 20}"] for mebibytes in (8, 64))
    with etcd(tmp_path / "small", flags=small) as cluster, opened(cluster.url()) as store:
        written = fill(store)
        assert [entry.key for entry in store.read("/d/").entries] == written
        with pytest.raises(Unavailable, match="out of space"):
            store.apply([Write(written[0], 2, None)])
        with opened(cluster.url()) as late:
            assert late.get([written[0]])[0], "what is full can be opened and read"
        # What the sentence says: compact, defragment, more room, disarm.
        cluster.compact_without_writing()
        cluster.ctl("defrag")
        cluster.kill()
        cluster.members[0].flags = large
        cluster.start(healthy=False)
        wait_for(lambda: disarmed(cluster))
        assert store.apply([Write(written[0], 2, None)]) == [Outcome(written[0], True, 2)]
        assert [entry.key for entry in store.read("/d/").entries] == written


def fill(store: EtcdStore) -> list[str]:
    """The keys that were written before there was no more space."""
    written: list[str] = []
    for number in range(64):
        key = f"/d/k{number:02}"
        try:
            store.apply([Write(key, 1, bytes(VALUE_BYTES_MAX))])
        except Unavailable as error:
            if not re.search("out of space.*etcdctl alarm disarm", str(error)):
                raise
            return written
        written.append(key)
    raise AssertionError("the quota was not minded")


def disarmed(cluster: Cluster) -> bool:
    cluster.ctl("alarm", "disarm")
    return not cluster.ctl("alarm", "list").strip()


def test_a_listing_goes_on_when_its_revision_is_compacted_meanwhile(single: Cluster) -> None:
    with opened(single.url()) as store, opened(single.url()) as other:
        keys = [f"/d/k{number:04}" for number in range(3000)]
        store.apply([Write(key, 1, b"x" * 100) for key in keys])
        reading, pages = store._database.read, []

        def read(ranges):  # type: ignore[no-untyped-def]
            pages.append(ranges)
            if len(pages) == 2:
                other.apply([Write(keys[0], 2, b"new"), Write(keys[-1], 2, b"new")])
                single.compact()
            return reading(ranges)

        store._database.read = read  # type: ignore[method-assign]
        entries = store.read("/d/").entries
        assert len(pages) > 3
        assert [entry.key for entry in entries] == keys
        assert entries[0].version == entries[-1].version == 2, "a page of one listing, the rest of another"


@pytest.mark.parametrize("caught_up", [False, True], ids=["behind", "grown past the cursor"])
def test_a_cluster_restored_from_an_old_copy_is_another_epoch(single: Cluster, tmp_path: Path, caught_up: bool) -> None:
    with opened(single.url()) as store, opened(single.url()) as other:
        store.apply([Write("/d/a", 1, b"")])
        single.snapshot(tmp_path / "copy")
        store.apply([Write(f"/d/lost{number}", 1, b"") for number in range(5)])
        store.apply([Write("/d/a", 2, b"")])
        watch = other.watch("/d/", other.read("/d/").cursor)
        assert not watch.next(0.1).entries
        before = store.read("/d/").cursor
        single.restore(tmp_path / "copy")
        if caught_up:
            # `store` knew a newer revision: it sees that the history is another one, before others forget.
            for number in range(10):
                assert store.apply([Write("/d/a", 3 + number, b"")])[0].held == 3 + number
        with pytest.raises(StartOver):
            follow_until_told(watch)
        listing = other.read("/d/")
        assert listing.cursor.epoch != before.epoch
        assert [entry.key for entry in listing.entries] == ["/d/a"]
        assert store.read("/d/").cursor.epoch == listing.cursor.epoch
        with pytest.raises(StartOver):
            store.watch("/d/", before).next(1.0)


def test_a_cursor_beyond_a_restored_history_is_told_by_whoever_never_knew_the_old_one(
    single: Cluster, tmp_path: Path
) -> None:
    with opened(single.url()) as store:
        store.apply([Write("/d/a", 1, b"")])
        single.snapshot(tmp_path / "copy")
        store.apply([Write("/d/a", 2, b"")])
        old = store.read("/d/").cursor
    single.restore(tmp_path / "copy")
    with opened(single.url()) as late:
        with pytest.raises(StartOver, match="before the cursor's"):
            late.watch("/d/", old).next(1.0)
        assert late.read("/d/").cursor.epoch != old.epoch


def follow_until_told(watch: Watch) -> None:
    for _ in range(10):
        with contextlib.suppress(Unavailable):
            watch.next(1.0)


def test_a_prefix_removed_under_a_running_store_is_a_new_database(single: Cluster) -> None:
    with opened(single.url()) as store:
        store.apply([Write("/d/a", 5, b"")])
        old = store.read("/d/").cursor
        watches = [store.watch("/d/", old), store.watch("/nothing/here/", old)]
        assert not any(watch.next(0.1).entries for watch in watches)
        single.ctl("del", "--prefix", "/flowloom")
        for watch in watches:
            with pytest.raises(StartOver):
                watch.next(5.0)
        assert store.apply([Write("/d/a", 1, b"")]) == [Outcome("/d/a", True, 1)]
        assert store.read("/d/").cursor.epoch != old.epoch


def test_a_key_removed_by_hand_says_start_over(single: Cluster) -> None:
    with opened(single.url()) as store:
        store.apply([Write("/d/a", 1, b""), Write("/d/b", 1, b"")])
        watch = store.watch("/d/", store.read("/d/").cursor)
        single.ctl("del", "/flowloom/d/a")
        with pytest.raises(StartOver, match="removed"):
            watch.next(5.0)


def test_what_another_hand_wrote_is_seen_as_version_0_and_yields_to_any_write(single: Cluster) -> None:
    with opened(single.url()) as store:
        store.apply([Write("/d/a", 1, b"ours"), Write("/d/c", 1, None)])
        watch = store.watch("/d/", store.read("/d/").cursor)
        single.ctl("put", "/flowloom/d/b", "zzz")
        assert list(watch.next(5.0).entries) == [Entry("/d/b", 0, b"zzz")]
        assert list(store.read("/d/").entries) == [
            Entry("/d/a", 1, b"ours"),
            Entry("/d/b", 0, b"zzz"),
            Entry("/d/c", 1, None),
        ]
        assert store.apply([Write("/d/a", 1, b""), Write("/d/b", 7, b"ours")]) == [
            Outcome("/d/a", False, 1),
            Outcome("/d/b", True, 7),
        ]
        assert single.ctl("get", "/flowloom/d/b", "--print-value-only").strip() == "0000000000000000007=ours"


def test_a_call_beyond_one_transaction_is_cut(single: Cluster) -> None:
    with opened(single.url()) as store:
        many = [Write(f"/d/k{number:04}", 1, b"x") for number in range(3 * BATCH_WRITES + 1)]
        assert all(outcome.applied for outcome in store.apply(many))
        large = [Write(f"/d/big{number}", 1, bytes(BATCH_BYTES // 3)) for number in range(7)]
        assert all(outcome.applied for outcome in store.apply(large))
        assert len(store.versions("/d/").versions) == len(many) + len(large)


def test_one_transaction_holds_what_the_store_declares(single: Cluster) -> None:
    with opened(single.url()) as store:
        full = [Write(f"/d/k{number:04}", 1, bytes(8000)) for number in range(store.capabilities.batch_writes_max)]
        before = single.revision()
        store.apply(full)
        assert single.revision() == before + 1


def test_a_server_that_takes_less_names_the_key_it_refuses(tmp_path: Path) -> None:
    with etcd(tmp_path / "low", flags=[f"--max-request-bytes={100_000}"]) as cluster, opened(cluster.url()) as store:
        writes = [Write(f"/d/k{number:03}", 1, bytes(3000)) for number in range(100)]
        assert all(outcome.applied for outcome in store.apply(writes)), "larger than one request, cut until it fits"
        with pytest.raises(Rejected, match="max-request-bytes") as caught:
            store.apply([Write("/d/a", 1, b""), Write("/d/large", 1, bytes(200_000))])
        assert caught.value.ref == "/d/large"


def test_a_server_that_takes_fewer_operations_is_refused_at_start(tmp_path: Path) -> None:
    with etcd(tmp_path / "few", flags=["--max-txn-ops=64"]) as cluster, pytest.raises(Misconfigured, match="max-txn"):
        open_store(cluster.url())


def test_a_cursor_of_a_watch_that_still_catches_up_can_be_resumed(single: Cluster) -> None:
    with opened(single.url()) as store:
        start = store.read("/d/").cursor
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda number: store.apply([Write(f"/d/k{number:04}", 1, b"")]), range(2500)))
        first = store.watch("/d/", start)
        changes = first.next(5.0)
        first.close()
        assert 0 < len(changes.entries) < 2500, "all came at once: nothing is shown here"
        seen_keys = {entry.key for entry in changes.entries}
        second = store.watch("/d/", changes.cursor)
        while len(seen_keys) < 2500:
            entries = second.next(5.0).entries
            assert entries, f"{2500 - len(seen_keys)} are missing"
            seen_keys.update(entry.key for entry in entries)


def test_a_batch_is_shown_whole_however_it_is_cut_on_the_way(single: Cluster) -> None:
    with opened(single.url()) as store:
        start = store.read("/d/").cursor
        batch = [f"/d/k{number:03}" for number in range(BATCH_WRITES)]
        for version in range(1, 9):
            store.apply([Write(key, version, bytes(8000)) for key in batch])
        watch = store.watch("/d/", start)
        shown: list[int] = []
        while sum(shown) < 8 * BATCH_WRITES:
            entries = watch.next(5.0).entries
            assert entries
            shown.append(len(entries))
        assert len(shown) > 1, "all came at once: nothing is shown here"
        assert all(number % BATCH_WRITES == 0 for number in shown), shown


OBJECTS = 100_000


def test_a_hundred_thousand_objects_pass_within_bounded_memory(single: Cluster) -> None:
    value = bytes(500)
    with opened(single.url()) as store:
        start = store.read("/d/").cursor
        for first in range(0, OBJECTS, 10 * BATCH_WRITES):
            last = min(first + 10 * BATCH_WRITES, OBJECTS)
            store.apply([Write(f"/d/{number % 100:02}/{number:06}", 1, value) for number in range(first, last)])
        before = memory_bytes()
        idle = store.watch("/d/", start)
        assert idle.next(5.0).entries
        ends = time.monotonic() + 2
        while time.monotonic() < ends:  # Nobody takes the rest, so that it stays with the server.
            assert memory_bytes() - before < 50 << 20
            time.sleep(0.05)
        idle.close()
        found = follow_all(store, start)
        assert memory_bytes() - before < 100 << 20
        assert found == OBJECTS
        listing = store.read("/d/")
        assert len(listing.entries) == OBJECTS
        del listing
        assert len(store.versions("/d/").versions) == OBJECTS
        assert len(store.read("/d/07/").entries) == OBJECTS // 100
        assert memory_bytes() - before < 300 << 20


def follow_all(store: EtcdStore, start: Cursor) -> int:
    """How many different keys a watch shows; the entries themselves are let go."""
    watch = store.watch("/d/", start)
    found: set[int] = set()
    while len(found) < OBJECTS:
        entries = watch.next(5.0).entries
        assert entries
        found.update(int(entry.key.rpartition("/")[2]) for entry in entries)
    watch.close()
    return len(found)


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
