"""The threads and queues at the agent's rim."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest

from flowloom.agent.control import QUESTION_BYTES_MAX, ControlSocket
from flowloom.agent.events import ClaimKey, KeyClaimed, KeyNotClaimed, NotWritten, WriteRecords, Written
from flowloom.agent.northside import Heard, LateStore, StoreThreads, WatchThread
from flowloom.agent.packets import PACKETS_MAX, PacketQueues
from flowloom.cli.ask import ask
from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.northbound.bus import Gone
from flowloom.northbound.pointer import Pointer, pointer_key, write_of
from flowloom.northbound.requests import Answer, ReadPrefix
from flowloom.northbound.store import Changes, Listing, Store, Write
from flowloom.southbound.switch import PacketIn
from flowloom.testing.fake_store import MemoryDatabase
from flowloom.testing.waiting import wait_for


def packet(app: int) -> PacketIn:
    return PacketIn(0, 0, 1, 0, {}, bytes((app,)), b"frame")


def test_a_flood_of_one_app_does_not_starve_another() -> None:
    queues = PacketQueues()
    told = [queues.offer(packet(1)) for _ in range(PACKETS_MAX + 10)]
    assert told.count(True) == 1, "the loop is told once"
    queues.offer(packet(2))
    assert queues.dropped == {1: 10}
    assert [one.userdata[0] for one in queues.take(4)] == [1, 2, 1, 1]
    assert queues
    assert len(list(queues.take(10_000))) == PACKETS_MAX - 3
    assert not queues
    assert queues.offer(packet(1)), "told again"


@pytest.fixture
def control(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "c")
    opened = ControlSocket(path, lambda question: {"heard": question})
    yield path
    opened.close()


def test_questions_of_one_connection_are_answered_in_order(control: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as lines:
        connection.connect(control)
        connection.sendall(b'{"ask": 1}\n{"ask": 2}\n')
        assert [msgspec.json.decode(lines.readline())["heard"]["ask"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b"\xff\xfe\n", b"x" * (QUESTION_BYTES_MAX + 5) + b"\n"])
def test_a_question_that_cannot_be_read_is_answered_with_an_error(control: str, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as lines:
        connection.connect(control)
        connection.sendall(line)
        assert "error" in msgspec.json.decode(lines.readline())


def test_a_dead_socket_is_taken_over_and_a_live_one_is_not(control: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="control: another process answers"):
        ControlSocket(control, lambda question: {})
    dead = str(tmp_path / "dead")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(dead)
    opened = ControlSocket(dead, lambda question: {"is": "here"})
    assert ask(dead, {"ask": "x"}, dict[str, str], 5.0) == {"is": "here"}
    opened.close()


class Ear:
    """Hears what threads deliver."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self._lock = threading.Lock()

    def __call__(self, event: Heard) -> None:
        with self._lock:
            self.heard.append(event)

    def first(self, kind: type) -> bool:
        return any(isinstance(event, kind) for event in self.heard)


def claimed(store: Store) -> int:
    store.get(["/x"])
    return 7


def test_a_store_that_opens_late_is_asked_again() -> None:
    database, ear = MemoryDatabase(Random(1)), Ear()
    refusals = [Unavailable("not yet")] * 4

    def open_late(_url: str) -> Store:
        if refusals:
            raise refusals.pop()
        return database.open()

    late = LateStore("memory:", "a", open_late)
    threads = StoreThreads(late, claimed, None, ear)
    threads.write(ClaimKey())
    wait_for(lambda: ear.first(KeyNotClaimed))
    threads.write(WriteRecords([Write("/a/b/c/d/e", 1, b"x")]))
    wait_for(lambda: ear.first(NotWritten))
    threads.ask(ReadPrefix("/a/", 1))
    wait_for(lambda: ear.first(Answer))
    threads.write(WriteRecords([Write("/a/b/c/d/e", 1, b"x")]))
    wait_for(lambda: ear.first(Written))
    threads.ask(ReadPrefix("/a/", 2))
    answers = lambda: [event.result for event in ear.heard if isinstance(event, Answer)]  # noqa: E731
    wait_for(lambda: len(answers()) == 2)
    refused, listed = answers()
    assert isinstance(refused, Unavailable)
    assert isinstance(listed, Listing) and len(listed.entries) == 1
    threads.write(ClaimKey())
    wait_for(lambda: KeyClaimed(7) in ear.heard)
    threads.close(2.0)


def test_the_change_feed_goes_on_after_an_outage_and_says_where_it_has_a_gap() -> None:
    database, ear = MemoryDatabase(Random(1)), Ear()
    writer = database.open()
    watch = WatchThread(LateStore("memory:", "a", lambda _url: database.open()), "/a/", Random(1), ear)
    watch.wait_open(5.0)
    writer.apply([Write("/a/b/c/d/1", 1, b"x")])
    wait_for(lambda: ear.first(Changes))
    assert not ear.first(Gone), "a feed that began in time misses nothing"
    database.available = False
    database.available = True
    writer.apply([Write("/a/b/c/d/2", 1, b"x")])
    wait_for(lambda: sum(len(event.entries) for event in ear.heard if isinstance(event, Changes)) == 2)
    assert not ear.first(Gone)
    database.wipe()
    wait_for(lambda: ear.first(Gone))
    watch.close(10.0)


class Deployment:
    """Two databases by URL, and pointers between them.  refused: URLs that cannot be opened here, and why."""

    def __init__(self) -> None:
        self.databases = {
            url: MemoryDatabase(Random(seed)) for seed, url in enumerate(("memory://one", "memory://two"))
        }
        self.refused: dict[str, Exception] = {}

    def open(self, url: str) -> Store:
        if url in self.refused:
            raise self.refused[url]
        return self.databases[url].open()

    def point(self, at: str, generation: int, to: str) -> Pointer:
        """Write a pointer into a store."""
        pointer = Pointer(generation, to, "cloud")
        self.databases[at].open().apply([write_of("a", pointer)])
        return pointer


def test_an_agent_goes_where_the_pointer_leads_and_nothing_is_asked_of_the_former_store() -> None:
    there, ear = Deployment(), Ear()
    late = LateStore("memory://one", "a", there.open)
    threads, watch = StoreThreads(late, claimed, None, ear), WatchThread(late, "/a/", Random(1), ear)
    watch.wait_open(5.0)
    threads.follow(there.point("memory://one", 1, "memory://two"))
    wait_for(lambda: ear.first(Gone))
    there.databases["memory://one"].available = False
    threads.write(WriteRecords([Write("/a/b/c/d/e", 1, b"x")]))
    wait_for(lambda: ear.first(Written))
    assert len(there.databases["memory://two"].entries()) == 1
    there.databases["memory://two"].open().apply([Write("/a/b/c/d/f", 1, b"x")])
    keys = lambda: {e.key for event in ear.heard if isinstance(event, Changes) for e in event.entries}  # noqa: E731
    wait_for(lambda: "/a/b/c/d/f" in keys() or sum(isinstance(event, Gone) for event in ear.heard) == 2)
    watch.close(10.0)
    threads.close(2.0)


def test_an_older_pointer_leads_nobody_away() -> None:
    there = Deployment()
    late = LateStore("memory://one", "a", there.open)
    assert late.follow(Pointer(2, "memory://two", "cloud"))
    assert not late.follow(Pointer(1, "memory://one", "cloud")) and not late.follow(Pointer(3, "memory://two", "cloud"))
    assert not late.follow(Pointer(2, "memory://one", "cloud"))
    late.get().apply([Write("/a/b/c/d/e", 1, b"x")])
    assert there.databases["memory://two"].entries()


def test_an_agent_that_starts_with_an_old_configuration_finds_the_store_in_force() -> None:
    there = Deployment()
    there.point("memory://one", 1, "memory://two")
    there.point("memory://two", 1, "memory://two")
    LateStore("memory://one", "a", there.open).get().apply([Write("/a/b/c/d/e", 1, b"x")])
    assert len(there.databases["memory://two"].entries()) == 2


@pytest.mark.parametrize("error", [Misconfigured("store", "install the client"), Unavailable("it is down")])
def test_a_store_that_cannot_be_used_here_is_told_and_the_way_back_is_found(error: Exception) -> None:
    there = Deployment()
    late = LateStore("memory://one", "a", there.open)
    there.refused["memory://two"] = error
    assert late.follow(there.point("memory://one", 1, "memory://two"))
    with pytest.raises(
        Unavailable, match=f"the deployment moved to memory://two, which cannot be used here: .*{error}"
    ):
        late.get()
    there.point("memory://one", 2, "memory://one")
    with pytest.raises(Unavailable):
        late.get()
    late.get().apply([Write("/a/b/c/d/e", 1, b"x")])
    assert len(there.databases["memory://one"].entries()) == 2


def test_a_pointer_that_cannot_be_read_is_refused_at_the_start() -> None:
    there = Deployment()
    there.databases["memory://one"].open().apply([Write(pointer_key("a"), 1, b"{")])
    with pytest.raises(Misconfigured, match="this is no pointer to a store"):
        LateStore("memory://one", "a", there.open)


def test_a_change_feed_that_begins_late_says_so() -> None:
    database, ear = MemoryDatabase(Random(1)), Ear()
    database.available = False
    watch = WatchThread(LateStore("memory:", "a", lambda _url: database.open()), "/a/", Random(1), ear)
    watch.wait_open(0.05)
    database.available = True
    wait_for(lambda: ear.first(Gone))
    watch.close(10.0)
