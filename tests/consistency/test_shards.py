"""Members, leader and shards by lease: even, disjoint, taken over within one lease time."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.consistency.marks import SHARDS
from flowloom.consistency.shards import GROUPS, LEADER, Shares, fair_share
from flowloom.kernel.clock import ManualClock
from flowloom.kernel.errors import Unavailable
from flowloom.testing.sql_model import SqlModel
from flowloom.testing.sql_model_tables import ModelTables

LEASE = 15.0


class Members:
    """Services that share one database; each called when it wants to be."""

    def __init__(self, seed: int = 1) -> None:
        self.clock = ManualClock()
        self.cut = False
        self.jumped = 0.0
        self.sql = SqlModel(lambda: self.clock.wall() + self.jumped, self._step)
        self.random = Random(seed)
        self.shares: dict[str, Shares] = {}
        self.due: dict[str, float] = {}

    def _step(self, _what: str) -> None:
        if self.cut:
            raise Unavailable("the database does not answer")

    def join(self, name: str) -> Shares:
        shares = Shares(ModelTables(self.sql), self.clock, Random(self.random.random()), name, LEASE)
        self.shares[name], self.due[name] = shares, 0.0
        return shares

    def run(self, seconds: float) -> None:
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            for name, shares in self.shares.items():
                if self.clock.monotonic() >= self.due[name]:
                    try:
                        wait = shares.step()
                    except Unavailable:
                        wait = 1.0
                    self.due[name] = self.clock.monotonic() + wait
            if not self.jumped:
                self.check_disjoint()
            self.clock.advance(0.1)

    def check_disjoint(self) -> None:
        owned = [shard for shares in self.shares.values() for shard in shares.owned()]
        assert len(owned) == len(set(owned)), "a shard has two owners"
        assert sum(shares.leads() for shares in self.shares.values()) <= 1

    def counts(self) -> list[int]:
        return sorted(len(shares.owned()) for shares in self.shares.values())


@pytest.mark.parametrize("services", [1, 2, 3, 5, 7])
def test_shards_are_all_held_evenly_and_there_is_one_leader(services: int) -> None:
    members = Members()
    for number in range(services):
        members.join(f"s{number}")
        members.run(3)
    members.run(LEASE)
    assert sum(members.counts()) == SHARDS
    assert max(members.counts()) - min(members.counts()) <= SHARDS // GROUPS
    assert sum(shares.leads() for shares in members.shares.values()) == 1


@pytest.mark.parametrize("moment", [0.0, 1.3, 2.6, 3.9])
def test_a_dead_service_is_replaced_within_one_lease_time_of_its_last_renewal(moment: float) -> None:
    members = Members()
    dead = members.join("dead")
    members.run(moment)
    alive = members.join("alive")
    members.run(LEASE)
    assert dead.leads() and len(dead.owned()) == len(alive.owned()) == SHARDS // 2
    members.shares.pop("dead")
    members.run(LEASE + 0.3)
    assert len(alive.owned()) == SHARDS and alive.leads()
    assert alive.takeovers == GROUPS // 2 + 1


def test_a_service_that_looks_shortly_before_a_lease_ends_looks_again_when_it_ends() -> None:
    members = Members()
    dead, alive = members.join("dead"), members.join("alive")
    members.run(LEASE)
    dead.step()
    members.shares.pop("dead")
    alive.step()
    members.due["alive"] = members.clock.monotonic() + LEASE - 3.0
    members.clock.advance(LEASE / 3), alive.step()  # It keeps its own leases meanwhile.
    members.clock.advance(LEASE / 3), alive.step()
    members.run(LEASE / 3 + 0.3)
    assert len(alive.owned()) == SHARDS


def test_a_service_that_ends_properly_is_replaced_at_once() -> None:
    members = Members()
    members.join("leaving"), members.join("staying")
    members.run(LEASE)
    members.shares.pop("leaving").release()
    members.run(5.5)
    assert len(members.shares["staying"].owned()) == SHARDS


def test_a_service_that_was_stopped_for_longer_than_its_leases_owns_nothing_when_it_comes_back() -> None:
    members = Members()
    zombie = members.join("zombie")
    members.join("alive")
    members.run(LEASE)
    members.shares.pop("zombie")
    members.clock.advance(LEASE * (1 - 0.2))
    assert zombie.owned() == [] and not zombie.leads()
    members.run(LEASE)
    zombie.step()
    assert zombie.owned() == [], "all is the other's"
    members.shares["zombie"] = zombie
    members.run(2 * LEASE)
    assert members.counts() == [SHARDS // 2, SHARDS // 2]


def test_a_service_without_its_database_stops_by_its_own_clock() -> None:
    members = Members()
    members.join("s0")
    members.run(5)
    members.cut = True
    members.run(LEASE)
    assert members.counts() == [0]
    members.cut = False
    members.run(3)
    assert members.counts() == [SHARDS]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_database_clock_that_jumps_an_hour_leaves_no_shard_alone_for_long(jump: float) -> None:
    # For a moment two may hold a shard: that costs double work, and safety rests on versions and fences.
    members = Members()
    members.join("s0"), members.join("s1")
    members.run(LEASE)
    members.jumped = jump
    members.run(2 * LEASE)
    members.check_disjoint()
    assert members.counts() == [SHARDS // 2, SHARDS // 2]


def test_leases_that_a_dead_deployment_left_behind_are_taken() -> None:
    members = Members()
    old = ModelTables(members.sql)
    assert old.take(LEADER, "gone", LEASE) and old.take("recovery:shards:3", "gone", 1e9)
    members.clock.advance(LEASE)
    members.join("s0")
    members.run(2)
    assert members.counts() == [SHARDS] and members.shares["s0"].leads()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(["join", "die", "leave", "pause"]), max_size=12))
def test_whatever_services_do_no_shard_has_two_owners_and_none_stays_alone(seed: int, story: list[str]) -> None:
    members = Members(seed)
    members.join("s0")
    for number, act in enumerate(story, start=1):
        members.run(members.random.uniform(0, LEASE))
        names = sorted(members.shares)
        name = members.random.choice(names)
        if act == "join" or len(names) == 1:
            members.join(f"s{number}")
        elif act == "leave":
            members.shares.pop(name).release()
        elif act == "die":
            members.shares.pop(name)
        else:
            members.due[name] = members.clock.monotonic() + members.random.uniform(0, 3 * LEASE)
    members.due = dict.fromkeys(members.due, 0.0)
    members.run(3 * LEASE)
    assert sum(members.counts()) == SHARDS
    assert max(members.counts()) - min(members.counts()) <= SHARDS // GROUPS


@given(st.integers(1, 40))
def test_fair_shares_add_up(members: int) -> None:
    names = [f"s{n:02}" for n in range(members)]
    shares = [fair_share(name, names) for name in names]
    assert sum(shares) == GROUPS and max(shares) - min(shares) <= 1
