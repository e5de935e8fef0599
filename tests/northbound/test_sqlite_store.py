"""The embedded store keeps the store contract, and what is its own: files moved, replaced, damaged, options."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest

from flowloom.drivers.store.sqlite import open_store
from flowloom.kernel.errors import Misconfigured, StartOver, Unavailable
from flowloom.northbound.store import Entry, Store, Write
from flowloom.testing.store_conformance import StoreBench, StoreConformance
from flowloom.testing.waiting import wait_for


class SqliteBench(StoreBench):
    def __init__(self, options: str = "synchronous=normal") -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="store-"))
        self.directory = self.root / "store"
        self.directory.mkdir()
        self.options = options

    def connect(self, options: str = "") -> Store:
        return open_store(f"sqlite:///{self.directory}/northbound.sqlite?{options or self.options}")

    def trim(self) -> None:
        store = self.connect("log_max=1")
        store.apply([Write("/elsewhere", 1, b"")])
        store.close()

    def wipe(self) -> None:
        self.cut()
        self.directory.mkdir()
        self.connect().close()

    def cut(self) -> None:
        self.directory.rename(self.root / "away")

    def mend(self) -> None:
        (self.root / "away").rename(self.directory)

    def end(self) -> None:
        super().end()
        shutil.rmtree(self.root)


class TestSqliteStore(StoreConformance):
    def new_bench(self) -> StoreBench:
        return SqliteBench()


@pytest.fixture
def bench():  # type: ignore[no-untyped-def]
    bench = SqliteBench()
    yield bench
    bench.end()


def url(path: Path, options: str = "") -> str:
    return f"sqlite:///{path}?{options}"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("sqlite:///relative.sqlite", "four slashes"),
        ("sqlite://host/x.sqlite", "four slashes"),
        ("sqlite:////nowhere/at/all/x.sqlite", "/nowhere/at/all"),
        ("sqlite:////tmp", "directory"),
        ("sqlite:////tmp/x.sqlite?synchronous=off", "synchronous"),
        ("sqlite:////tmp/x.sqlite?log_max=0", "log_max"),
        ("sqlite:////tmp/x.sqlite?busy_seconds=soon", "busy_seconds"),
        ("sqlite:////tmp/x.sqlite?nolock=1", "nolock"),
    ],
)
def test_a_wrong_url_names_the_setting_and_what_is_wrong(bad: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        open_store(bad)
    assert caught.value.setting == "store"


def test_a_file_that_is_no_database_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not a database at all, but long enough to look at" * 100)
    with pytest.raises(Misconfigured, match="damaged or no SQLite database"):
        open_store(url(tmp_path / "x"))


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x") as other:
        other.execute("CREATE TABLE theirs (a)")
    other.close()
    with pytest.raises(Misconfigured, match="another program"):
        open_store(url(tmp_path / "x"))


def test_a_newer_schema_is_refused(bench: SqliteBench) -> None:
    bench.connect().close()
    with sqlite3.connect(bench.directory / "northbound.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Misconfigured, match="schema 99"):
        bench.connect()


def test_a_file_damaged_under_a_running_store_is_unavailable_and_says_damaged(bench: SqliteBench) -> None:
    store = bench.open_store()
    store.apply([Write(f"/k{n:05}", 1, b"x" * 500) for n in range(500)])
    store.close()
    file = bench.directory / "northbound.sqlite"
    content = bytearray(file.read_bytes())
    for page in range(3, len(content) // 4096 - 1):
        content[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    with open(file, "r+b") as handle:
        handle.write(content)
    damaged = bench.open_store()
    with pytest.raises(Unavailable, match="damaged"):
        damaged.read("/")


def test_two_handles_create_one_database(bench: SqliteBench) -> None:
    first, second = bench.open_store(), bench.open_store()
    assert first.read("/").cursor == second.read("/").cursor


def test_a_cut_store_is_not_made_anew_and_comes_back_with_its_watch(bench: SqliteBench) -> None:
    store = bench.open_store()
    store.apply([Write("/a", 1, b"")])
    watch = store.watch("/", store.read("/").cursor)
    bench.cut()
    with pytest.raises(Unavailable, match="gone"):
        store.apply([Write("/a", 2, b"")])
    assert not bench.directory.exists()
    bench.mend()
    bench.open_store().apply([Write("/a", 3, b"")])
    assert list(watch.next(5.0).entries) == [Entry("/a", 3, b"")]


def test_a_database_restored_from_a_copy_has_another_epoch(bench: SqliteBench) -> None:
    store = bench.open_store()
    store.apply([Write("/a", 1, b"old")])
    store.close()
    file = bench.directory / "northbound.sqlite"
    shutil.copy(file, bench.root / "backup")
    store = bench.open_store()
    store.apply([Write("/a", 2, b"new"), Write("/b", 1, b"")])
    cursor = store.read("/").cursor
    watch = store.watch("/", cursor)
    for name in os.listdir(bench.directory):
        if name.startswith("northbound.sqlite-"):
            (bench.directory / name).unlink()
    os.replace(bench.root / "backup", file)
    with pytest.raises(StartOver):
        watch.next(1.0)
    listing = store.read("/")
    assert list(listing.entries) == [Entry("/a", 1, b"old")]
    assert listing.cursor.epoch != cursor.epoch
    store.apply([Write("/a", 3, b"newest")])
    assert list(store.watch("/", listing.cursor).next(1.0).entries) == [Entry("/a", 3, b"newest")]


def test_a_writer_that_waits_too_long_is_unavailable(bench: SqliteBench) -> None:
    store = bench.connect("busy_seconds=0.05")
    blocker = sqlite3.connect(bench.directory / "northbound.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        store.apply([Write("/a", 1, b"")])
    assert store.get(["/a"]) == [None]  # Readers do not wait for a writer.
    blocker.execute("ROLLBACK")
    blocker.close()
    assert store.apply([Write("/a", 1, b"")])[0].applied
    store.close()


def test_the_log_is_bounded(bench: SqliteBench) -> None:
    store = bench.connect("log_max=10")
    for version in range(1, 101):
        store.apply([Write("/a", version, b"")])
    with sqlite3.connect(bench.directory / "northbound.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM change").fetchone() == (10,)
    connection.close()
    store.close()


def test_a_long_log_is_trimmed_now_and_then(bench: SqliteBench) -> None:
    store = bench.connect("log_max=2000&synchronous=normal")
    store.apply([Write(f"/{number}", 1, b"") for number in range(5000)])
    counts = set()
    with sqlite3.connect(bench.directory / "northbound.sqlite") as connection:
        for version in range(1, 11):
            store.apply([Write("/a", version, b"")])
            counts.update(connection.execute("SELECT count(*) FROM change").fetchone())
        store.apply([Write("/a", 11, b"")])
        once = bench.connect("log_max=2000&synchronous=normal")  # Whoever writes only once trims, too.
        once.apply([Write("/a", 12, b"")])
        assert connection.execute("SELECT count(*) FROM change").fetchone() == (2000,)
        once.close()
    connection.close()
    assert counts == {2000, 2001}
    store.close()


def test_bells_of_dead_watchers_are_removed_and_live_ones_kept(bench: SqliteBench) -> None:
    store = bench.open_store()
    bells = bench.directory / "northbound.sqlite.d"
    watch = store.watch("/", store.read("/").cursor)
    pid = os.fork()
    if pid == 0:  # A watcher that dies without closing.
        try:
            dead = bench.connect()
            dead.watch("/", dead.read("/").cursor)
        finally:
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert len(os.listdir(bells)) == 2
    store.apply([Write("/a", 1, b"")])
    assert len(os.listdir(bells)) == 1
    watch.close()
    assert os.listdir(bells) == []


def test_a_watch_without_a_bell_polls(bench: SqliteBench) -> None:
    store = bench.open_store()
    watch = store.watch("/", store.read("/").cursor)
    for bell in (bench.directory / "northbound.sqlite.d").iterdir():
        bell.unlink()
    store.apply([Write("/a", 1, b"")])
    assert wait_for(lambda: list(watch.next(0.1).entries)) == [Entry("/a", 1, b"")]


def test_a_store_opened_before_a_fork_refuses_to_work_in_the_child(bench: SqliteBench) -> None:
    store = bench.open_store()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            store.apply([Write("/a", 2, b"child")])
        except RuntimeError as error:
            code = 0 if "fork" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert store.get(["/a"]) == [None]


@pytest.fixture
def by_hand(bench: SqliteBench):  # type: ignore[no-untyped-def]
    """What an operator types into SQLite's own client."""

    def execute(*statements: str) -> None:
        connection = sqlite3.connect(bench.directory / "northbound.sqlite")
        with connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    return execute


def test_what_somebody_changes_by_hand_is_seen_by_every_watch(bench: SqliteBench, by_hand) -> None:  # type: ignore[no-untyped-def]
    store = bench.open_store()
    store.apply([Write("/a", 5, b"five"), Write("/b", 5, b"five")])
    watch = store.watch("/", store.read("/").cursor)
    by_hand("UPDATE object SET value = 'other' WHERE key = '/a'", "UPDATE object SET version = 3 WHERE key = '/b'")
    assert list(watch.next(5.0).entries) == [Entry("/a", 5, b"other"), Entry("/b", 3, b"five")]
    by_hand("INSERT INTO object VALUES ('/c', 7, 'new')", "REPLACE INTO object VALUES ('/a', 'nine', NULL)")
    assert list(watch.next(5.0).entries) == [Entry("/c", 7, b"new"), Entry("/a", 0, None)]
    assert store.apply([Write("/a", 1, b"again")])[0].applied


def test_what_a_hand_left_that_is_no_version_counts_as_older_than_any(bench: SqliteBench, by_hand) -> None:  # type: ignore[no-untyped-def]
    store = bench.open_store()
    store.apply([Write("/a", 7, b"1")])
    by_hand("UPDATE object SET version = 'nine' WHERE key = '/a'")
    assert store.apply([Write("/a", 1, b"2")])[0] == ("/a", True, 1)
    assert store.get(["/a"]) == [Entry("/a", 1, b"2")]


@pytest.mark.parametrize(
    "hand",
    ["DELETE FROM object WHERE key = '/a'", "DELETE FROM object", "UPDATE object SET key = '/z' WHERE key = '/a'"],
)
def test_a_key_that_a_hand_took_away_makes_followers_start_over(bench: SqliteBench, by_hand, hand: str) -> None:  # type: ignore[no-untyped-def]
    store = bench.open_store()
    store.apply([Write("/a", 5, b"five"), Write("/b", 5, b"five")])
    watch = store.watch("/", store.read("/").cursor)
    by_hand(hand)
    with pytest.raises(StartOver):
        watch.next(5.0)
    listing = store.read("/")
    assert "/a" not in {entry.key for entry in listing.entries}
    again = store.watch("/", listing.cursor)
    store.apply([Write("/a", 1, b"one")])
    assert list(again.next(5.0).entries) == [Entry("/a", 1, b"one")]


def test_a_file_of_the_first_release_is_upgraded_in_place_and_keeps_its_history(bench: SqliteBench, by_hand) -> None:  # type: ignore[no-untyped-def]
    store = bench.open_store()
    store.apply([Write("/a", 5, b"five")])
    cursor = store.read("/").cursor
    store.close()
    triggers = ("object_inserted", "object_updated", "object_deleted", "object_renamed")
    by_hand(*(f"DROP TRIGGER {name}" for name in triggers), "PRAGMA user_version = 1")
    by_hand("REPLACE INTO object VALUES ('/b', 1, x'31')", "INSERT INTO change (key) VALUES ('/b')")
    upgraded = bench.open_store()
    assert [entry.key for entry in upgraded.read("/").entries] == ["/a", "/b"]
    watch = upgraded.watch("/", cursor)
    by_hand("UPDATE object SET value = x'36' WHERE key = '/a'")
    assert set(watch.next(5.0).entries) == {Entry("/a", 5, b"6"), Entry("/b", 1, b"1")}
