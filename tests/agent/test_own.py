"""A node's own records reach the store, whatever happens to writes and answers."""

from __future__ import annotations

from random import Random

from msgspec.structs import replace

from flowloom.agent.own import OwnRecords
from flowloom.model.records import PortStatus
from flowloom.northbound.store import Outcome

KEY = "/lab/-/h1/port_status/p1"
UP = PortStatus(id="p1", version=0, chassis="h1", up=True)
DOWN = PortStatus(id="p1", version=0, chassis="h1", reason="unplugged")


def book(first_version: int = 100) -> OwnRecords:
    return OwnRecords(first_version, Random(1))


def test_only_the_newest_content_is_written_and_one_call_at_a_time() -> None:
    own = book()
    own.want(KEY, DOWN)
    own.want(KEY, UP)
    (write,) = own.due(0.0)
    assert write.version == 101 and write.value is not None and b'"up":true' in write.value
    own.want(KEY, DOWN)
    assert own.due(0.0) == []
    own.written([Outcome(KEY, True, 101)])
    (write,) = own.due(0.0)
    assert write.version == 102
    own.written([Outcome(KEY, True, 102)])
    assert own.due(0.0) == [] and own.undone == 0


def test_after_an_unknown_outcome_what_should_not_be_there_is_deleted() -> None:
    own = book()
    own.want(KEY, UP)
    own.due(0.0)
    delay = own.not_written(0.0)  # It may have been applied all the same.
    own.want(KEY, None)
    assert own.due(delay / 2) == [], "with back-off"
    (write,) = own.due(delay)
    assert write.value is None and write.version == 102


def test_a_newer_version_in_the_store_is_overtaken() -> None:
    own = book()
    own.want(KEY, UP)
    own.due(0.0)
    assert own.written([Outcome(KEY, False, 5000)]) == [KEY]
    own.want(KEY, None)
    (write,) = own.due(0.0)
    assert write.value is None and write.version == 5001


def test_an_outcome_that_was_applied_by_an_earlier_repeat_counts() -> None:
    own = book()
    own.want(KEY, UP)
    (write,) = own.due(0.0)
    assert own.written([Outcome(KEY, False, write.version)]) == []
    assert own.due(0.0) == []


def test_nothing_is_kept_of_keys_that_are_gone() -> None:
    own = book()
    for n in range(1000):
        key = f"{KEY}{n}"
        own.want(key, UP)
        own.written([Outcome(key, True, write.version) for write in own.due(0.0)])
        own.want(key, None)
        own.written([Outcome(key, True, write.version) for write in own.due(0.0)])
    assert not own._held and not own._held_version and own._last_version == 2100


def test_two_writers_of_one_record_are_counted_and_slow_each_other_down() -> None:
    one, other, now, writes, held = book(), book(200), 0.0, 0, 0
    one.want(KEY, UP)
    other.want(KEY, DOWN)
    while now < 60.0:
        for me, you in ((one, other), (other, one)):
            for write in me.due(now):
                writes += 1
                applied, held = write.version > held, max(held, write.version)
                me.written([Outcome(KEY, applied, held)])
                if applied:
                    you.found(KEY, replace(UP if me is one else DOWN, version=held))
        now += 0.01
    assert one.contests > 2 and other.contests > 2
    assert writes < 200, "6000 without a pause"


def test_what_a_former_life_with_a_fast_clock_wrote_is_no_contest() -> None:
    own = book()
    own.want(KEY, UP)
    own.found(KEY, replace(DOWN, version=900))
    (write,) = own.due(0.0)
    assert write.version == 901
    own.written([Outcome(KEY, False, 950)])
    (write,) = own.due(0.0)
    own.written([Outcome(KEY, True, write.version)])
    own.found(KEY, replace(UP, version=write.version))  # An echo.
    assert own.contests == 0 and own.undone == 0
