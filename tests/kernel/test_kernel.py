"""Inbox, back-off and clocks."""

from __future__ import annotations

import threading
from random import Random

import pytest

from flowloom.kernel.backoff import Backoff
from flowloom.kernel.clock import ManualClock, SystemClock
from flowloom.kernel.inbox import Inbox


def test_items_come_out_in_the_order_they_went_in() -> None:
    inbox: Inbox[int] = Inbox()
    for n in range(5):
        inbox.put(n)
    assert inbox.take(0) == 0
    seen: list[int] = []
    assert inbox.drain(seen.append, items_max=3) == 3
    assert seen == [1, 2, 3]
    assert len(inbox) == 1
    assert inbox.take(None) == 4
    assert inbox.take(0) is None
    assert inbox.take(0.01) is None


def test_a_full_inbox_makes_facts_wait_and_drops_what_may_be_lost() -> None:
    inbox: Inbox[int] = Inbox(max_items=2)
    assert inbox.offer(1)
    assert inbox.offer(2)
    assert not inbox.offer(3)
    assert inbox.dropped == 1
    producer = threading.Thread(target=inbox.put, args=(4,))
    producer.start()
    producer.join(0.1)
    assert producer.is_alive()
    assert inbox.take(1) == 1
    producer.join(5)
    assert not producer.is_alive()
    assert [inbox.take(1), inbox.take(1)] == [2, 4]


def test_nothing_is_lost_between_many_producers_and_one_taker() -> None:
    inbox: Inbox[tuple[int, int]] = Inbox(max_items=10)
    producers = [
        threading.Thread(target=lambda p=p: [inbox.put((p, n)) for n in range(2000)], daemon=True) for p in range(4)
    ]
    for producer in producers:
        producer.start()
    seen = [inbox.take(10) for _ in range(8000)]
    assert inbox.take(0) is None
    for p in range(4):
        assert [item[1] for item in seen if item and item[0] == p] == list(range(2000))
    assert max(len(inbox), 0) == 0


def test_backoff_grows_is_jittered_and_capped() -> None:
    backoff = Backoff(Random(1), first_seconds=0.1, cap_seconds=2.0)
    delays = [backoff.next_delay() for _ in range(50)]
    assert all(0 < delay <= min(2.0, 0.1 * 2**n) for n, delay in enumerate(delays))
    assert len(set(delays[10:])) > 30
    backoff.succeeded()
    assert backoff.next_delay() <= 0.1


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock()
    before, wall = clock.monotonic(), clock.wall()
    clock.sleep(1.5)
    assert (clock.monotonic() - before, clock.wall() - wall) == (1.5, 1.5)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)


def test_the_systems_clock_goes_forward() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    clock.sleep(0.001)
    assert clock.monotonic() > before
