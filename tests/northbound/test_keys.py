"""Integer keys: each owner one, for ever, whoever races."""

from __future__ import annotations

import threading
from random import Random

import pytest

from flowloom.kernel.errors import Unavailable
from flowloom.northbound import keys
from flowloom.northbound.keys import claim_key
from flowloom.testing.fake_store import MemoryDatabase


def claim(store, id: str, seed: int = 1) -> int:  # type: ignore[no-untyped-def]
    return claim_key(store, deployment="d", kind="chassis", id=id, random=Random(seed))


def test_an_owner_keeps_its_key() -> None:
    store = MemoryDatabase().open()
    assert claim(store, "h1", seed=1) == claim(store, "h1", seed=2)


def test_two_owners_that_try_the_same_number_do_not_share_it() -> None:
    store = MemoryDatabase().open()
    assert claim(store, "h1", seed=1) != claim(store, "h2", seed=1)


def test_deployments_and_kinds_are_apart() -> None:
    store = MemoryDatabase().open()
    one = claim_key(store, deployment="a", kind="chassis", id="h1", random=Random(1))
    assert claim_key(store, deployment="b", kind="chassis", id="h1", random=Random(1)) == one


def test_many_racing_owners_and_lives_end_with_one_key_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_KEY", 40)  # So few numbers that every claim collides.
    monkeypatch.setattr(keys, "ATTEMPTS_MAX", 10_000)
    database, results = MemoryDatabase(), []

    def life(id: str, seed: int) -> None:
        results.append((id, claim(database.open(), id, seed)))

    threads = [threading.Thread(target=life, args=(f"h{n % 10}", n)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 30
    by_owner = dict(results)
    assert set(results) == set(by_owner.items())
    assert len(set(by_owner.values())) == 10


def test_a_life_that_died_between_the_two_entries_leaves_a_number_unused_and_nothing_else() -> None:
    database = MemoryDatabase()
    store = database.open()
    keys._take(store, "d", "chassis", "h1", 7)
    first = claim(store, "h1")
    assert claim(store, "h1", seed=9) == first
    assert not keys._take(store, "d", "chassis", "h2", 7)


def test_a_store_that_is_down_says_so() -> None:
    database = MemoryDatabase()
    store = database.open()
    database.available = False
    with pytest.raises(Unavailable):
        claim(store, "h1")
