"""The embedded store among real processes: killed writers, several writers, many objects."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloom.drivers.store.sqlite import open_store
from flowloom.northbound.store import Entry, Write, pages
from flowloom.testing.waiting import wait_for

# Writes batches of two keys for ever; says on stdout what was acknowledged.
_WRITER = """
import os, sys
from flowloom.drivers.store.sqlite import open_store
from flowloom.northbound.store import Write
store = open_store(sys.argv[1])
name, version = sys.argv[2], int(sys.argv[3])
while True:
    version += 1
    store.apply([Write(f"/{name}/k{version % 50}/{side}", version, b"%d" % version) for side in "ab"])
    os.write(1, b"%d\\n" % version)
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="store-"))
    yield path
    shutil.rmtree(path)


def start_writer(url: str, name: str, version: int, out: Path) -> subprocess.Popen[bytes]:
    with open(out, "ab") as handle:
        return subprocess.Popen([sys.executable, "-c", _WRITER, url, name, str(version)], stdout=handle)


def acknowledged(out: Path) -> int:
    lines = out.read_bytes().split(b"\n")
    return int(lines[-2]) if len(lines) > 1 else 0


def check_file(path: Path) -> None:
    """The log and the objects agree: every position names a key that is there, none is missing between."""
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        lonely = "SELECT count(*) FROM change WHERE key NOT IN (SELECT key FROM object)"
        assert connection.execute(lonely).fetchone() == (0,)
        unlogged = "SELECT count(*) FROM object WHERE key NOT IN (SELECT key FROM change)"
        assert connection.execute(unlogged).fetchone() == (0,)
        count, low, high = connection.execute("SELECT count(*), min(position), max(position) FROM change").fetchone()
        assert count == high - low + 1
    connection.close()


def test_nothing_acknowledged_is_missing_after_kill_9(directory: Path) -> None:
    url = f"sqlite:///{directory}/nb.sqlite?synchronous=normal"
    store = open_store(url)
    watch = store.watch("/w/", store.read("/w/").cursor)
    seen: dict[str, int] = {}
    version, rounds = 0, 6
    for _ in range(rounds):
        out = directory / "acknowledged"
        writer = start_writer(url, "w", version, out)
        try:
            wait_for(lambda: acknowledged(out) > version + 400)  # noqa: B023 - called within this round
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        said = acknowledged(out)
        held = store.versions("/w/").versions
        for number in range(max(1, said - 49), said + 1):
            for side in "ab":
                assert held[f"/w/k{number % 50}/{side}"][0] >= number
        halves = {key[:-1] for key in held}
        assert all(held[half + "a"] == held[half + "b"] for half in halves)  # Batches are whole.
        while entries := watch.next(0.0).entries:
            seen.update((entry.key, entry.version) for entry in entries)
        assert seen == {key: found for key, (found, _) in held.items()}
        version = max(found for found, _ in held.values())
    assert version > rounds * 400
    store.close()
    check_file(directory / "nb.sqlite")


def test_four_writing_processes_lose_nothing_and_starve_nobody(directory: Path) -> None:
    url = f"sqlite:///{directory}/nb.sqlite?synchronous=normal"
    store = open_store(url)
    watch = store.watch("/", store.read("/").cursor)
    outs = [directory / f"out{n}" for n in range(4)]
    writers = [start_writer(url, f"w{n}", 0, out) for n, out in enumerate(outs)]
    try:
        wait_for(lambda: all(acknowledged(out) >= 100 for out in outs), seconds=40)
        assert all(writer.poll() is None for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    seen: dict[str, int] = {}
    while entries := watch.next(0.0).entries:
        seen.update((entry.key, entry.version) for entry in entries)
    held = {key: version for key, (version, _) in store.versions("/").versions.items()}
    assert seen == held
    for number, out in enumerate(outs):
        assert max(version for key, version in held.items() if key.startswith(f"/w{number}/")) >= acknowledged(out)
    store.close()
    check_file(directory / "nb.sqlite")


def _create_at_once(url: str, gate: object, found: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    store = open_store(url)
    store.apply([Write(f"/{os.getpid()}", 1, b"")])
    found.put(store.read("/").cursor.epoch)  # type: ignore[attr-defined]
    store.close()


def test_processes_that_create_the_file_at_once_share_one_database(directory: Path) -> None:
    url = f"sqlite:///{directory}/nb.sqlite?synchronous=normal&busy_seconds=20"
    spawn = multiprocessing.get_context("spawn")
    gate, found = spawn.Barrier(4), spawn.Queue()
    processes = [spawn.Process(target=_create_at_once, args=(url, gate, found)) for _ in range(4)]
    for process in processes:
        process.start()
    epochs = {found.get(timeout=40) for _ in processes}
    for process in processes:
        process.join()
    assert len(epochs) == 1
    store = open_store(url)
    assert len(store.read("/").entries) == 4
    store.close()


def test_a_hundred_thousand_objects_in_bounded_memory(directory: Path) -> None:
    count, value = 100_000, b"x" * 500
    store = open_store(f"sqlite:///{directory}/nb.sqlite?synchronous=normal&log_max=200000")
    start = store.read("/").cursor
    writes = [Write(f"/lab/p/n{n % 100:03}/port/{n:06}", 1, value) for n in range(count)]
    for page in pages(writes, 1000):
        store.apply(page)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watch = store.watch("/", start)
    seen = 0
    while entries := watch.next(0.0).entries:
        assert len(entries) <= 1000
        seen += len(entries)
    assert seen == count
    # A watch from the very beginning holds a page at a time, never the whole history.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    assert len(store.versions("/lab/").versions) == count
    one = store.read("/lab/p/n042/")
    assert len(one.entries) == count // 100
    listing = store.read("/lab/")
    assert len(listing.entries) == count
    assert listing.entries[0] == Entry("/lab/p/n000/port/000000", 1, value)
    store.close()
