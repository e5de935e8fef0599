"""Store against agents: a real agent core, and a store that holds the same, or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import msgspec
import pytest
from one_host import Host, key_for, network, port, subnet

from flowloom.agent import answers
from flowloom.cli.answers import Marks
from flowloom.cli.replicas import Compared, Held, compare, judge, list_store
from flowloom.model.codec import encode
from flowloom.model.records import Port, PortStatus, Record
from flowloom.northbound.bus import Gone
from flowloom.northbound.pointer import Pointer, write_of
from flowloom.northbound.store import Write
from flowloom.testing.fake_store import MemoryDatabase

WORLD: tuple[Record, ...] = (network(), subnet(), port(1), port(2), port(3, host="h2"))


def far(n: int, **more: Any) -> Port:
    """A port of another host: this agent reports no status of it."""
    return port(n, host="h2", **more)


class Pair:
    """An agent that has followed one store to its end, and is compared with a copy of it that may differ."""

    def __init__(self, *, release: str = "") -> None:
        self.host = Host()
        self.host.tell(*WORLD)
        self.host.snapshot()
        self.host.wait(1)
        self.copy = MemoryDatabase(Random(5)).open()
        self.copy.apply([Write(*entry) for entry in self.host.store.read("/").entries])
        self.meanwhile: Callable[[], None] = lambda: None
        self.pauses = 0
        self.questions: list[Mapping[str, Any]] = []
        self._release = release

    def ask(self, question: Mapping[str, object]) -> Marks:
        assert len(msgspec.json.encode(question)) < 1 << 16
        self.questions.append(question)
        making = answers.marks(self.host.core, question)
        while True:
            try:
                next(making)
            except StopIteration as done:
                said = done.value | ({"release": self._release} if self._release else {})
                return msgspec.json.decode(msgspec.json.encode(said), type=Marks)

    def compare(self) -> Compared:
        def pause() -> None:
            self.pauses += 1
            self.meanwhile()

        return compare(self.ask, list_store(self.copy, "lab"), self.copy.get, pause)

    def put(self, record: Record) -> None:
        self.copy.apply([Write(key_for(record), record.version, encode(record))])

    def found(self) -> list[tuple[str, str]]:
        return [(one.kind, one.key) for one in self.compare().differences]


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_agent_that_holds_what_the_store_holds_is_equal_at_one_look(pair: Pair) -> None:
    found = pair.compare()
    assert found == Compared(objects=len(WORLD) + 3, differences=(), note="")  # Chassis and two statuses of its own.
    assert pair.pauses == 0


def test_tombstones_and_statuses_of_other_hosts_are_no_difference(pair: Pair) -> None:
    pair.copy.apply([Write(key_for(far(9)), 5, None)])
    theirs = PortStatus(id="p3", version=1, chassis="h2", port_version=1, up=True)
    pair.copy.apply([Write("/lab/-/h2/port_status/p3", 1, encode(theirs))])
    assert pair.found() == []


def test_pointers_between_stores_are_no_difference(pair: Pair) -> None:
    pair.copy.apply([write_of("lab", Pointer(1, "etcd://here", "cloud"))])
    assert pair.found() == []
    pair.host.store.apply([write_of("lab", Pointer(1, "etcd://here", "cloud"))])
    pair.host.event(Gone("a restart of the bus"))
    pair.host.wait(5)
    assert pair.host.followed and pair.found() == []


def test_what_the_agent_lacks_is_missing_or_stale(pair: Pair) -> None:
    pair.put(far(4))
    pair.put(port(2, version=2, name="new"))
    assert sorted(pair.found()) == [("missing", key_for(far(4))), ("stale", key_for(port(2)))]
    assert pair.pauses == 2 - 1


def test_what_the_store_lost_is_an_orphan(pair: Pair) -> None:
    pair.host.tell(far(5))
    pair.copy.apply([Write(key_for(port(1)), 2, None)])
    found = {one.key: one for one in pair.compare().differences}
    assert {one.kind for one in found.values()} == {"orphan"}
    assert found[key_for(far(5))].why == "the agent holds version 1, the store nothing"
    assert found[key_for(port(1))].why == "the agent holds version 1, the store a tombstone of version 2"


def test_equal_version_with_other_content_is_different(pair: Pair) -> None:
    pair.host.tell(far(6, name="one"))
    pair.put(far(6, name="another"))
    assert pair.found() == [("different", key_for(far(6)))]


def test_own_status_that_was_tampered_with_is_different() -> None:
    pair = Pair()
    key = "/lab/-/h1/port_status/p1"
    (entry,) = pair.copy.get([key])
    assert entry is not None
    other = MemoryDatabase(Random(6)).open()
    lie = PortStatus(id="p1", version=entry.version, chassis="h1", port_version=1, up=True)
    other.apply([Write(*one) for one in pair.copy.read("/").entries if one.key != key])
    other.apply([Write(key, entry.version, encode(lie))])
    pair.copy = other
    assert pair.found() == [("different", key)]


def test_version_above_the_stores_is_ahead(pair: Pair) -> None:
    pair.host.tell(far(7, version=9))
    pair.put(far(7, version=4))
    assert pair.found() == [("ahead", key_for(far(7)))]


def test_change_that_arrives_within_a_moment_is_no_difference(pair: Pair) -> None:
    pair.put(port(2, version=2))
    pair.put(far(8))
    pair.copy.apply([Write(key_for(port(1)), 2, None)])

    def arrive() -> None:
        pair.host.tell(port(2, version=2), far(8))
        pair.host.untell(port(1), 2)

    pair.meanwhile = arrive
    assert pair.found() == []
    assert pair.pauses == 1


def test_object_that_changes_all_the_time_is_no_difference(pair: Pair) -> None:
    pair.put(port(2, version=2))

    def change() -> None:
        pair.host.tell(port(2, version=2))
        pair.put(port(2, version=3))

    pair.meanwhile = change
    assert pair.found() == []


def test_record_that_the_agent_cannot_read_is_named_with_its_reason(pair: Pair) -> None:
    bad = Write(key_for(port(1)), 2, b'{"schema":1,"kind":"port","id":1}')
    pair.host.say(bad)
    pair.copy.apply([bad])
    (one,) = pair.compare().differences
    assert (one.kind, one.key) == ("unreadable", key_for(port(1)))
    assert "not a readable record" in one.why


def test_agent_of_another_release_is_compared_by_version_alone() -> None:
    pair = Pair(release="0.0.9")
    pair.host.tell(far(6, name="one"))
    pair.put(far(6, name="another"))
    pair.put(far(4))
    found = pair.compare()
    assert [one.kind for one in found.differences] == ["missing"]
    assert found.note.startswith("versions alone: its release is 0.0.9")


def test_large_replica_is_compared_in_pages(pair: Pair) -> None:
    more = [far(n) for n in range(100, 100 + 4500)]
    pair.host.tell(*more)
    pair.copy.apply([Write(key_for(one), one.version, encode(one)) for one in more if one.id != "p4000"])
    assert pair.found() == [("orphan", key_for(far(4000)))]
    assert len(pair.questions) == 3 + 1


LIVE_3, LIVE_4, DEAD_4, NONE = Held(3, 7), Held(4, 8), Held(4, 0, live=False), Held(0, 0, live=False)


@pytest.mark.parametrize(
    ("first", "now", "agent", "kind"),
    [
        (LIVE_3, LIVE_3, Held(3, 7), None),
        (LIVE_3, LIVE_4, Held(3, 7), None),  # Changed since the first look: on its way.
        (LIVE_4, LIVE_4, Held(3, 7), "stale"),
        (LIVE_4, LIVE_4, None, "missing"),
        (LIVE_4, LIVE_4, Held(0, 0), "missing"),
        (NONE, LIVE_4, None, None),
        (DEAD_4, Held(5, 9), Held(3, 7), None),
        (DEAD_4, Held(5, 9), Held(5, 9), None),
        (LIVE_3, DEAD_4, Held(3, 7), None),
        (DEAD_4, DEAD_4, Held(3, 7), "orphan"),
        (NONE, NONE, Held(3, 7), "orphan"),
        (NONE, NONE, None, None),
        (LIVE_3, LIVE_3, Held(4, 8), "ahead"),
        (LIVE_3, LIVE_3, Held(3, 6), "different"),
        (LIVE_3, Held(3, 0), Held(3, 6), None),  # Unreadable to this command: the agent's word is as good.
    ],
)
def test_second_look_decides(first: Held, now: Held, agent: Held | None, kind: str | None) -> None:
    found = judge(first, now, agent)
    assert (found.kind if found else None) == kind
