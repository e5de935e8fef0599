"""The ZeroMQ bus keeps the bus contract over both transports, through real forwarder processes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from flowloom.drivers.bus.zeromq import ZeromqSubscription, open_bus, run_forwarder
from flowloom.drivers.bus.zeromq_wire import decode, encode, parse_url
from flowloom.kernel.errors import Misconfigured
from flowloom.lab.ports import free_port
from flowloom.northbound.bus import Bus, BusEvent, Gone, Heartbeat, Notice
from flowloom.testing.bus_conformance import BusBench, BusConformance, Ear, attach
from flowloom.testing.waiting import wait_for

_FORWARDER = "import sys; from flowloom.drivers.bus.zeromq import run_forwarder; run_forwarder(sys.argv[1])"


def start_forwarder(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _FORWARDER, url])


class ZeromqBench(BusBench):
    def __init__(self, url: str = "", directory: str = "") -> None:
        super().__init__()
        self.directory = directory or tempfile.mkdtemp(prefix="bus-")
        self.url = url or f"zmq+ipc://{self.directory}"
        self.forwarders = [start_forwarder(self.url)]

    def connect(self) -> Bus:
        return open_bus(f"{self.url}?heartbeat_seconds={self.heartbeat_seconds}&hwm=2000")

    def interrupt(self) -> None:
        self.kill(0)
        self.forwarders[0] = start_forwarder(self.url)

    def kill(self, number: int) -> None:
        self.forwarders[number].kill()
        self.forwarders[number].wait()

    def end(self) -> None:
        try:
            super().end()
        finally:
            for number in range(len(self.forwarders)):
                self.kill(number)
            shutil.rmtree(self.directory)


class TestZeromqOverUnixSockets(BusConformance):
    def new_bench(self) -> BusBench:
        return ZeromqBench()


class TestZeromqOverTcp(BusConformance):
    def new_bench(self) -> BusBench:
        return ZeromqBench(f"zmq+tcp://127.0.0.1:{free_port(2)}")


class TwoForwarders(ZeromqBench):
    def __init__(self) -> None:
        first = free_port(4)
        second = first + 2
        self.single = [f"zmq+tcp://127.0.0.1:{port}" for port in (first, second)]
        super().__init__(self.single[0])
        self.forwarders.append(start_forwarder(self.single[1]))
        self.url = f"zmq+tcp://127.0.0.1:{first},127.0.0.1:{second}"


class TestZeromqThroughTwoForwarders(BusConformance):
    def new_bench(self) -> BusBench:
        return TwoForwarders()

    def test_interruption_is_noticed(self) -> None:
        """One of two forwarders dies: nothing is lost, so nothing needs to be said."""
        assert isinstance(self.bench, TwoForwarders)
        ear = Ear(self.bench, [self.bench.prefix])
        publisher = self.bench.open_bus().publisher("p")
        attach(self.bench, publisher, [ear], ["s"])
        subscription = ear.subscription
        assert isinstance(subscription, ZeromqSubscription)
        wait_for(lambda: len(subscription._live) == 2)
        self.bench.until(lambda: len(ear.beats("p")) > 5, "heartbeats")  # Both ways are open to the publisher too.
        key = self.bench.key("s", "k")
        for version in range(1, 401):
            publisher.publish([(key, version, b"")])
            if version == 200:
                self.bench.kill(0)
        self.bench.until(lambda: len(ear.notices(prefix=key)) == 400, "every notice, once")
        assert [n.version for n in ear.notices(prefix=key)] == list(range(1, 401))
        wait_for(lambda: len(subscription._live) == 1)
        assert not [event for event in ear.events if isinstance(event, Gone)]


@pytest.fixture
def bench() -> Iterator[ZeromqBench]:
    bench = ZeromqBench()
    yield bench
    bench.end()


def test_a_forwarder_that_starts_late_is_found(bench: ZeromqBench) -> None:
    bench.kill(0)
    ear = Ear(bench, [bench.prefix])
    publisher = bench.open_bus().publisher("p")
    publisher.publish([(bench.key("s", "k"), 1, b"")])  # Lost, without an error.
    bench.forwarders[0] = start_forwarder(bench.url)
    attach(bench, publisher, [ear], ["s"])
    assert not [event for event in ear.events if isinstance(event, Gone)]


def test_a_restarted_forwarder_is_told_when_lost_and_when_back(bench: ZeromqBench) -> None:
    ear = Ear(bench, [bench.prefix])
    publisher = bench.open_bus().publisher("p")
    attach(bench, publisher, [ear], ["s"])

    def gone() -> int:
        return len([event for event in ear.events if isinstance(event, Gone)])

    bench.kill(0)
    wait_for(lambda: gone() == 1)
    bench.forwarders[0] = start_forwarder(bench.url)
    wait_for(lambda: gone() == 2)


def test_a_publisher_that_lives_shortly_is_heard(bench: ZeromqBench) -> None:
    ear = Ear(bench, [bench.prefix])
    attach(bench, bench.open_bus().publisher("p"), [ear], ["s"])
    for number in range(10):
        bus = bench.connect()
        bus.publisher(f"short{number}").publish([(bench.key("s", f"k{number}"), 1, b"")])
        bus.close()
    bench.until(lambda: len(ear.notices(prefix=bench.key("s", "k"))) == 10, "ten notices of ten publishers")


def test_foreign_messages_are_counted_and_skipped(bench: ZeromqBench) -> None:
    ear = Ear(bench, [bench.prefix])
    publisher = bench.open_bus().publisher("p")
    attach(bench, publisher, [ear], ["s"])
    subscription = ear.subscription
    assert isinstance(subscription, ZeromqSubscription)
    with zmq.Context() as context, context.socket(zmq.PUB) as foreign:
        foreign.connect(parse_url(bench.url).endpoints[0].inward)

        def skipped() -> bool:
            foreign.send_multipart([b"/check/x", b"\xc1 not ours"])
            foreign.send(b"!")
            foreign.send_multipart([b"/check/x", b"\xc1", b""])
            return subscription.malformed > 5

        wait_for(skipped)
    publisher.publish([(bench.key("s", "k"), 1, b"")])
    bench.until(lambda: ear.notices(prefix=bench.key("s", "k")), "the notice after them")


def test_closing_waits_with_its_bell_for_a_slow_closer(bench: ZeromqBench, monkeypatch: pytest.MonkeyPatch) -> None:
    subscription = bench.open_bus().subscribe(["/a/"], lambda event: None)
    write = os.eventfd_write

    def slowly(bell: int, value: int) -> None:
        write(bell, value)  # The thread wakes, sees that it is closed, and ends as far as it may.
        subscription._thread.join(0.3)
        write(bell, value)

    monkeypatch.setattr(os, "eventfd_write", slowly)
    subscription.close()
    assert not subscription._thread.is_alive()


def test_a_second_forwarder_in_the_same_directory_is_refused(bench: ZeromqBench) -> None:
    wait_for(lambda: Path(bench.directory, "out.sock").exists())
    with pytest.raises(Misconfigured, match="another forwarder"):
        run_forwarder(bench.url, threading.Event())


def test_a_taken_port_is_refused_by_name() -> None:
    port = free_port(2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(Misconfigured, match=str(port)):
            run_forwarder(f"zmq+tcp://127.0.0.1:{port}", threading.Event())


def test_a_loopback_forwarder_listens_on_loopback_alone_and_ends_when_told() -> None:
    port, stop = free_port(2), threading.Event()
    thread = threading.Thread(target=run_forwarder, args=(f"zmq+tcp://localhost:{port}", stop))
    thread.start()
    try:
        wait_for(lambda: _listening(port) and _listening(port + 1))
        assert _listening(port) | _listening(port + 1) <= {"127.0.0.1", "::1"}
    finally:
        stop.set()
        thread.join(timeout=10)
    assert not thread.is_alive()


def _listening(port: int) -> set[str]:
    """Addresses that listen at `port` (proc(5): hexadecimal, in the machine's byte order by words)."""
    found = set()
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            host, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                raw = b"".join(bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8))
                found.add(socket.inet_ntop(family, raw))
    return found


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("zmq+ipc://relative", "absolute"),
        ("zmq+ipc:///" + "x" * 110, "107"),
        ("zmq+tcp://host", "host:port"),
        ("zmq+tcp://host:99999", "port"),
        ("zmq+tcp://host:1?heartbeat_seconds=often", "numbers"),
        ("zmq+tcp://host:1?heartbeat_seconds=0", "0.001"),
        ("zmq+tcp://host:1?nodrop=1", "nodrop"),
        ("amqp://host", "neither"),
    ],
)
def test_a_wrong_url_names_the_setting_and_what_is_wrong(url: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        open_bus(url)
    assert caught.value.setting == "bus"


def test_messages_are_read_back_as_they_were_written() -> None:
    events: list[BusEvent] = [
        Notice("p", 2**50, 7, -1, "/a/b", 2**63 - 1, None),
        Notice("p", 1, 7, 3, "/a/b", 1, b""),
        Heartbeat("p", 1, 9),
        Heartbeat("p", 1, 9, "/a/b/c/"),
    ]
    for event in events:
        assert not isinstance(event, Gone)
        assert decode(encode(event, 42)) == (event, 42)
    assert decode([b"/a", b"", b""]) is None
    assert decode([b"/a"]) is None
