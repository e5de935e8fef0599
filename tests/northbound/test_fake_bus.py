"""The bus in memory keeps the bus contract, and its faults do what they say."""

from __future__ import annotations

import time
from random import Random

from flowloom.kernel.clock import ManualClock
from flowloom.northbound.bus import Bus, BusEvent, Gone, Heartbeat, Notice
from flowloom.testing.bus_conformance import BusBench, BusConformance
from flowloom.testing.fake_bus import MemoryBus


class MemoryBusBench(BusBench):
    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.bus = MemoryBus(self.clock, heartbeat_seconds=self.heartbeat_seconds, threaded=True)

    def connect(self) -> Bus:
        return self.bus.open()

    def pass_time(self) -> None:
        self.clock.advance(self.heartbeat_seconds / 20)
        self.bus.beat()
        time.sleep(0.0002)  # Its threads deliver.

    def interrupt(self) -> None:
        self.bus.break_connections()


class TestMemoryBus(BusConformance):
    def new_bench(self) -> BusBench:
        return MemoryBusBench()


def test_without_threads_delivery_is_immediate_and_heartbeats_follow_the_clock() -> None:
    clock = ManualClock()
    bus = MemoryBus(clock)
    heard: list[BusEvent] = []
    handle = bus.open()
    handle.subscribe(["/a/"], heard.append)
    publisher = handle.publisher("p")
    publisher.publish([("/a/p/s/port/1", 1, b"x")])
    assert [type(event) for event in heard] == [Notice]
    bus.beat()
    bus.beat()
    assert [event.scope for event in heard if isinstance(event, Heartbeat)] == ["/a/p/s/", ""]
    clock.advance(1.0)
    bus.beat()
    assert [event.scope for event in heard if isinstance(event, Heartbeat)] == ["/a/p/s/", "", ""]


def test_drop_loses_that_share_and_the_numbers_show_it() -> None:
    bus = MemoryBus(ManualClock(), Random(1))
    heard: list[BusEvent] = []
    bus.open().subscribe(["/"], heard.append)
    publisher = bus.open().publisher("p")
    bus.drop = 0.5
    publisher.publish([("/a/p/s/port/1", n, b"") for n in range(1, 1001)])
    sequences = [event.sequence for event in heard if isinstance(event, Notice)]
    assert 400 < len(sequences) < 600
    assert sequences[-1] > len(sequences)


def test_a_broken_connection_is_told() -> None:
    bus = MemoryBus(ManualClock())
    heard: list[BusEvent] = []
    bus.open().subscribe([], heard.append)
    bus.break_connections("cable")
    assert heard == [Gone("cable")]
