"""Records in and out of the store, and integer keys claimed there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.kernel.clock import ManualClock
from flowloom.kernel.errors import Rejected, Unavailable
from flowloom.model.codec import encode
from flowloom.model.keys import key_of
from flowloom.model.records import MAX_KEY, Network, Port
from flowloom.northbound import keys
from flowloom.northbound.bus import BusEvent, Notice
from flowloom.northbound.keys import claim_key
from flowloom.northbound.store import Entry, Outcome, Write
from flowloom.northbound.topology import Change, Delete, Put, Topology, entries_to_changes
from flowloom.testing.fake_bus import MemoryBus
from flowloom.testing.fake_store import MemoryDatabase


class Scene:
    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.bus = MemoryBus(ManualClock())
        self.heard: list[BusEvent] = []
        self.bus.open().subscribe(["/lab/"], self.heard.append)
        self.publisher = self.bus.open().publisher("p")
        self.topology = Topology(self.database.open(), self.publisher, "lab")

    def noticed(self) -> list[tuple[str, int, bool]]:
        return [(e.key, e.version, e.value is None) for e in self.heard if isinstance(e, Notice)]


def network(version: int, id: str = "n1") -> Network:
    return Network(id=id, version=version, project_id="p", key=5)


N1 = "/lab/p/n1/network/n1"


def test_a_record_is_stored_under_its_scope_and_announced() -> None:
    scene = Scene()
    assert scene.topology.put("p", "n1", network(3)) == Outcome(N1, True, 3)
    assert scene.database.entries() == [Entry(N1, 3, encode(network(3)))]
    assert scene.noticed() == [(N1, 3, False)]


def test_a_stale_record_is_refused_and_not_announced() -> None:
    scene = Scene()
    scene.topology.put("p", "n1", network(3))
    assert scene.topology.put("p", "n1", network(2)) == Outcome(N1, False, 3)
    assert scene.noticed() == [(N1, 3, False)]


def test_a_record_that_is_held_already_is_announced_again() -> None:
    scene = Scene()
    scene.topology.put("p", "n1", network(3))
    assert scene.topology.put("p", "n1", network(3)) == Outcome(N1, False, 3)
    assert scene.noticed() == [(N1, 3, False)] * 2


def test_a_batch_has_its_outcomes_in_order_and_a_delete_leaves_a_tombstone() -> None:
    scene = Scene()
    scene.topology.put("p", "n1", network(3))
    port = Port(id="a", version=1, key=1, network_id="n1", mac_address="02:00:00:00:00:01")
    outcomes = scene.topology.apply([Put("p", "n1", port), Delete("p", "n1", Network, "n1", 4)])
    assert outcomes == [Outcome("/lab/p/n1/port/a", True, 1), Outcome(N1, True, 4)]
    changes, bad = entries_to_changes(scene.database.entries())
    assert set(changes) == {Change(Network, "n1", None, 4), Change(Port, "a", port, 1)}
    assert bad == []


def test_a_bus_that_refuses_does_not_fail_the_write() -> None:
    scene = Scene()
    scene.publisher.close()
    assert scene.topology.put("p", "n1", network(3)).applied
    assert scene.topology.unpublished == 1


def test_an_unavailable_store_is_not_announced() -> None:
    scene = Scene()
    scene.database.available = False
    with pytest.raises(Unavailable):
        scene.topology.put("p", "n1", network(3))
    assert scene.noticed() == []


def test_entries_that_are_no_records_are_named_and_the_others_go_on() -> None:
    good = Entry(N1, 3, encode(network(3)))
    newer = encode(network(3)).replace(b'"schema":1', b'"schema":999')
    entries = [
        Entry("/lab/p/n2/network/n2", 3, b"{not json"),
        Entry("/lab/p/n3/network/n3", 3, newer),
        Entry("/lab/p/n4/lamp/r", 3, b"{}"),
        Entry("/lab/short", 3, b"{}"),
        Entry("/lab/p/n5/network/n5", 3, encode(network(3))),
        Entry("/lab/p/n1/network/n1", 4, encode(network(3))),
        good,
    ]
    changes, bad = entries_to_changes(entries)
    assert changes == [Change(Network, "n1", network(3), 3)]
    assert [b.key for b in bad] == [entry.key for entry in entries[:-1]]
    assert "newer" in bad[1].why and "lamp" in bad[2].why


@given(st.binary(max_size=200))
def test_no_bytes_make_reading_fail(value: bytes) -> None:
    changes, bad = entries_to_changes([Entry(N1, 1, value)])
    assert len(changes) + len(bad) == 1


def test_an_owner_gets_the_same_key_again_and_others_get_others() -> None:
    store = MemoryDatabase().open()
    claimed = {owner: claim_key(store, "lab", "chassis", owner) for owner in ("h1", "h2", "h3")}
    assert len(set(claimed.values())) == 3
    assert all(1 <= number <= MAX_KEY for number in claimed.values())
    assert {owner: claim_key(store, "lab", "chassis", owner) for owner in claimed} == claimed


def test_claims_are_outside_of_the_deployments_records() -> None:
    store = MemoryDatabase().open()
    claim_key(store, "lab", "chassis", "h1")
    assert store.read("/lab/").entries == []


def test_owners_racing_for_few_numbers_never_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_KEY", 40)  # A crowded space: most first choices are taken.
    database = MemoryDatabase()

    def claim(number: int) -> tuple[str, int]:
        owner = f"h{number % 20}"  # Each owner twice: two processes of one node.
        return owner, claim_key(database.open(), "lab", "chassis", owner)

    with ThreadPoolExecutor(20) as pool:
        claims = set(pool.map(claim, range(40)))
    assert len(claims) == 20
    assert len({number for _, number in claims}) == 20


def test_a_claim_whose_answer_was_lost_is_found_again() -> None:
    database = MemoryDatabase()
    first = claim_key(database.open(), "lab", "chassis", "h1")
    assert claim_key(database.open(), "lab", "chassis", "h1") == first


def test_a_full_space_is_an_error_that_names_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_KEY", 1)
    store = MemoryDatabase().open()
    claim_key(store, "lab", "chassis", "h1")
    with pytest.raises(Rejected, match="h2"):
        claim_key(store, "lab", "chassis", "h2")


def test_keys_quote_what_is_not_plain() -> None:
    assert key_of("lab", "", "a/b", "port", "x y") == "/lab/-/a%2Fb/port/x%20y"
    store = MemoryDatabase().open()
    assert claim_key(store, "l a/b", "chassis", "h 1") > 0
    assert store.apply([Write(key_of("l a", "p", "s", "port", "x"), 1, b"")])[0].applied
