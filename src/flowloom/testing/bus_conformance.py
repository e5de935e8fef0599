"""The promises of `northbound.bus.Bus`, as checks that every driver passes against its real transport.

With pytest: subclass `BusConformance` and override `new_bench`; without: `run_checks(CHECKS, …, BusBench.end)`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from flowloom.kernel.errors import Unavailable
from flowloom.northbound.bus import Bus, BusEvent, Gone, Heartbeat, Notice, Publisher, Subscription
from flowloom.northbound.numbering import scope_of
from flowloom.testing.conformance import Check, Skip, as_test_methods, expect, named

WAIT_SECONDS = 20.0


class BusBench:
    """What the checks need.  Subclass it: `connect` is required.

    heartbeat_seconds: what the buses that `connect` gives were told.
    """

    def __init__(self, prefix: str = "/check/", heartbeat_seconds: float = 0.1) -> None:
        self.prefix = prefix
        self.heartbeat_seconds = heartbeat_seconds
        self._opened: list[Bus] = []

    def connect(self) -> Bus:
        """Another handle on this bench's transport."""
        raise NotImplementedError

    def pass_time(self) -> None:
        """A small part of a heartbeat passes; a bus with a manual clock is moved on."""
        time.sleep(self.heartbeat_seconds / 20)

    def interrupt(self) -> None:
        """Break the transport and mend it: what was under way may be lost."""
        raise Skip("this bench cannot interrupt the transport")

    def open_bus(self) -> Bus:
        """Another handle, closed when the check is over."""
        bus = self.connect()
        self._opened.append(bus)
        return bus

    def end(self) -> None:
        """Close what the check opened."""
        while self._opened:
            self._opened.pop().close()

    def scope(self, name: str) -> str:
        """A scope of this check."""
        return f"{self.prefix}p/{name}/"

    def key(self, scope: str, name: str) -> str:
        """A key in that scope."""
        return f"{self.scope(scope)}port/{name}"

    def until(self, held: Callable[[], object], what: str) -> None:
        """Let time pass until `held()`; the check is broken after WAIT_SECONDS."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not held():
            expect(time.monotonic() < deadline, f"in {WAIT_SECONDS} s not seen: {what}")
            self.pass_time()


class Ear:
    """A subscriber that writes down what it hears."""

    def __init__(self, bench: BusBench, prefixes: Sequence[str]) -> None:
        self.events: list[BusEvent] = []
        self.gate = threading.Event()
        self.gate.set()
        self.subscription: Subscription = bench.open_bus().subscribe(prefixes, self._hear)

    def _hear(self, event: BusEvent) -> None:
        self.gate.wait(WAIT_SECONDS)
        self.events.append(event)

    def notices(self, publisher: str = "", prefix: str = "") -> list[Notice]:
        """Notices heard; of one publisher, under one prefix."""
        return [
            event
            for event in list(self.events)
            if isinstance(event, Notice) and publisher in ("", event.publisher) and event.key.startswith(prefix)
        ]

    def beats(self, publisher: str, scope: str = "") -> list[Heartbeat]:
        """Heartbeats heard of one publisher and scope."""
        return [
            event
            for event in list(self.events)
            if isinstance(event, Heartbeat) and event.publisher == publisher and event.scope == scope
        ]


def attach(bench: BusBench, publisher: Publisher, ears: Sequence[Ear], scopes: Sequence[str]) -> None:
    """Publish in each scope until every ear has heard it: from then on both ends are connected."""
    for scope in scopes:
        key = bench.key(scope, "attach")

        def heard(key: str = key) -> bool:
            publisher.publish([(key, 1, b"")])
            return all(ear.notices(prefix=key) for ear in ears)

        bench.until(heard, f"a notice in {scope}")


def arrives_as_it_was_sent(bench: BusBench) -> None:
    """A notice arrives with its key, version and value; a tombstone as None, an empty value as empty."""
    ear = Ear(bench, [bench.prefix])
    publisher = bench.open_bus().publisher("p")
    attach(bench, publisher, [ear], ["s"])
    sent = [
        (bench.key("s", "v"), 2**63 - 1, b"\0\xff" * 100),
        (bench.key("s", "t"), 7, None),
        (bench.key("s", "e"), 1, b""),
    ]
    publisher.publish(sent)
    bench.until(lambda: ear.notices(prefix=bench.key("s", "e")), "the last notice")
    found = [(n.key, n.version, n.value) for n in ear.notices() if not n.key.endswith("attach")]
    expect(found == sent, f"sent {sent!r}, heard {found!r}")


def order_and_numbers_are_kept(bench: BusBench) -> None:
    """Of one publisher notices arrive in order; `previous` is the last number in the same scope."""
    ear = Ear(bench, [bench.prefix])
    publisher = bench.open_bus().publisher("p")
    attach(bench, publisher, [ear], ["s0", "s1", "s2"])
    for number in range(300):
        publisher.publish([(bench.key(f"s{number % 3 if number % 7 else 0}", "k"), number + 1, b"")])
    bench.until(lambda: any(n.version == 300 for n in ear.notices()), "the last notice")
    last: dict[str, int] = {}
    sequences = [notice.sequence for notice in ear.notices("p")]
    for notice in ear.notices("p"):
        before = last.get(scope_of(notice.key))
        expect(before is None or notice.previous == before, f"{notice} after {before}")
        last[scope_of(notice.key)] = notice.sequence
    expect(sequences == sorted(set(sequences)), "sequences do not rise")
    expect(sequences[-300:] == list(range(sequences[-300], sequences[-300] + 300)), "sequences have holes")


def first_notice_says_so(bench: BusBench) -> None:
    """A publisher's first notice in a scope has previous 0."""
    ear = Ear(bench, [bench.prefix])
    publisher = bench.open_bus().publisher("p")
    attach(bench, publisher, [ear], ["s0"])
    publisher.publish([(bench.key("s1", "k"), 1, b"")])
    bench.until(lambda: ear.notices(prefix=bench.key("s1", "k")), "the notice")
    expect(ear.notices(prefix=bench.key("s1", "k"))[0].previous == 0, "previous is not 0")


def restart_is_a_greater_epoch(bench: BusBench) -> None:
    """The same name opened again has a greater epoch and numbers from 1."""
    ear = Ear(bench, [bench.prefix])
    epochs = []
    for life in range(3):
        publisher = bench.open_bus().publisher("p")
        key = bench.key("s", f"life{life}")
        attach(bench, publisher, [ear], [f"life{life}"])
        first = ear.notices("p", prefix=bench.scope(f"life{life}"))[0]
        epochs.append(first.epoch)
        publisher.publish([(key, 1, b"")])
        bench.until(lambda key=key: ear.notices(prefix=key), "the notice")  # type: ignore[misc]
        publisher.close()
    expect(epochs == sorted(set(epochs)), f"epochs {epochs} do not rise")


def heartbeats_go_to_every_subscriber(bench: BusBench) -> None:
    """Heartbeats carry the last number and reach subscribers of any prefix, even of none; they start at once."""
    near, far, none = Ear(bench, [bench.prefix]), Ear(bench, ["/elsewhere/"]), Ear(bench, [])
    publisher = bench.open_bus().publisher("p")
    for ear in (near, far, none):
        bench.until(lambda ear=ear: ear.beats("p"), "a heartbeat of a publisher that said nothing")  # type: ignore[misc]
    attach(bench, publisher, [near], ["s"])
    publisher.publish([(bench.key("s", "k"), 1, b"")])
    bench.until(lambda: near.notices(prefix=bench.key("s", "k")), "the notice")
    last = near.notices(prefix=bench.key("s", "k"))[-1].sequence
    for ear in (near, far, none):
        bench.until(lambda ear=ear: ear.beats("p")[-1].sequence == last, "a heartbeat with the last number")  # type: ignore[misc]
    expect(not far.notices() and not none.notices(), "a notice went to a subscriber of another prefix")


def heartbeats_go_on(bench: BusBench) -> None:
    """Heartbeats are repeated while nothing is published, and end with the publisher."""
    ear = Ear(bench, [bench.prefix])
    publisher = bench.open_bus().publisher("p")
    bench.until(lambda: len(ear.beats("p")) >= 5, "five heartbeats")
    publisher.close()
    other = bench.open_bus().publisher("other")
    before = len(ear.beats("p"))
    bench.until(lambda: len(ear.beats("other")) >= 5, "five heartbeats of another")
    expect(len(ear.beats("p")) <= before + 1, "a closed publisher goes on beating")
    other.close()


def scope_heartbeat_follows_a_notice(bench: BusBench) -> None:
    """After a notice the scope's last number is repeated, to the subscribers of that scope alone."""
    here, there = Ear(bench, [bench.scope("s")]), Ear(bench, [bench.scope("t")])
    publisher = bench.open_bus().publisher("p")
    attach(bench, publisher, [here], ["s"])
    attach(bench, publisher, [there], ["t"])
    publisher.publish([(bench.key("s", "k"), n, b"") for n in range(1, 4)])
    bench.until(lambda: len(here.notices(prefix=bench.key("s", "k"))) == 3, "three notices")
    last = here.notices(prefix=bench.key("s", "k"))[-1].sequence
    scope = bench.scope("s")
    bench.until(lambda: any(b.sequence == last for b in here.beats("p", scope)), "the scope's heartbeat")
    place = next(i for i, event in enumerate(here.events) if isinstance(event, Heartbeat) and event.sequence == last)
    expect(any(isinstance(e, Notice) and e.sequence == last for e in here.events[:place]), "it came before its notice")
    expect(not there.beats("p", scope), "it went to a subscriber of another scope")


def prefixes_filter(bench: BusBench) -> None:
    """Only what is under a prefix arrives; a prefix is text: `…/s/` does not cover `…/s2/`."""
    one, all_ = Ear(bench, [bench.scope("s")]), Ear(bench, [bench.prefix])
    publisher = bench.open_bus().publisher("p")
    attach(bench, publisher, [one, all_], ["s"])
    publisher.publish([(bench.key(scope, "k"), 1, b"") for scope in ("s2", "other", "s")])
    bench.until(lambda: len(all_.notices(prefix=bench.key("s", "k"))) == 1, "the last notice")
    bench.until(lambda: one.notices(prefix=bench.key("s", "k")), "the notice under the prefix")
    expect({scope_of(n.key) for n in one.notices()} == {bench.scope("s")}, "a foreign notice arrived")


def overlapping_prefixes_deliver_once(bench: BusBench) -> None:
    """A notice under two of one subscription's prefixes arrives once."""
    ear = Ear(bench, [bench.prefix, bench.scope("s")])
    publisher = bench.open_bus().publisher("p")
    attach(bench, publisher, [ear], ["s"])
    publisher.publish([(bench.key("s", "k"), 1, b""), (bench.key("s", "end"), 1, b"")])
    bench.until(lambda: ear.notices(prefix=bench.key("s", "end")), "the last notice")
    expect(len(ear.notices(prefix=bench.key("s", "k"))) == 1, "it arrived more than once")


def prefixes_are_replaced_without_interruption(bench: BusBench) -> None:
    """While prefixes are replaced, what both sets hold loses nothing; new ones arrive, old ones cease."""
    ear = Ear(bench, [bench.scope("kept"), bench.scope("old")])
    publisher = bench.open_bus().publisher("p")
    attach(bench, publisher, [ear], ["kept", "old"])
    stop = threading.Event()
    sent = [0]

    def send() -> None:
        while not stop.is_set():
            sent[0] += 1
            publisher.publish([(bench.key("kept", "k"), sent[0], b"")])
            time.sleep(0.001)

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        try:
            for round_ in range(20):
                ear.subscription.replace_prefixes([bench.scope("kept"), bench.scope(f"new{round_}")])
                bench.pass_time()
        finally:
            stop.set()
        sending.result()
    attach(bench, publisher, [ear], ["new19"])
    bench.until(lambda: len(ear.notices(prefix=bench.key("kept", "k"))) >= sent[0], "every notice of the kept scope")
    versions = [notice.version for notice in ear.notices(prefix=bench.key("kept", "k"))]
    expect(versions == list(range(1, sent[0] + 1)), "a notice of the kept scope was lost, doubled or out of order")
    publisher.publish([(bench.key("old", "late"), 1, b""), (bench.key("kept", "end"), 1, b"")])
    bench.until(lambda: ear.notices(prefix=bench.key("kept", "end")), "the last notice")
    expect(not ear.notices(prefix=bench.key("old", "late")), "the old prefix still arrives")


def big_values_arrive(bench: BusBench) -> None:
    """A value of a mebibyte arrives whole."""
    ear = Ear(bench, [bench.prefix])
    publisher = bench.open_bus().publisher("p")
    attach(bench, publisher, [ear], ["s"])
    value = bytes(range(256)) * 4096
    publisher.publish([(bench.key("s", "big"), 1, value)])
    bench.until(lambda: ear.notices(prefix=bench.key("s", "big")), "the notice")
    expect(ear.notices(prefix=bench.key("s", "big"))[0].value == value, "the value is another one")


def many_publishers_many_threads(bench: BusBench) -> None:
    """Many publishers, each used from several threads: every notice arrives, numbered without a hole."""
    ear = Ear(bench, [bench.prefix])
    publishers = [bench.open_bus().publisher(f"p{n}") for n in range(5)]
    for publisher in publishers:
        attach(bench, publisher, [ear], [f"a{publishers.index(publisher)}"])

    def send(number: int) -> None:
        for version in range(1, 51):
            publishers[number % 5].publish([(bench.key(f"s{number}", "k"), version, b"x" * 50)])

    with ThreadPoolExecutor(15) as pool:
        list(pool.map(send, range(15)))
    for number in range(15):
        prefix = bench.key(f"s{number}", "k")
        bench.until(lambda prefix=prefix: len(ear.notices(prefix=prefix)) == 50, f"50 notices in {prefix}")  # type: ignore[misc]
        expect([n.version for n in ear.notices(prefix=prefix)] == list(range(1, 51)), f"order in {prefix}")
    for n in range(5):
        sequences = [notice.sequence for notice in ear.notices(f"p{n}")]
        expect(sequences[-150:] == list(range(sequences[-1] - 149, sequences[-1] + 1)), f"holes in p{n}")


def publishing_to_nobody_does_not_wait(bench: BusBench) -> None:
    """Without a subscriber any number of notices is published without waiting or failing."""
    publisher = bench.open_bus().publisher("p")
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(publisher.publish, [(bench.key("s", f"k{n}"), 1, b"x" * 100) for n in range(20_000)])
        sending.result(timeout=WAIT_SECONDS)


def slow_subscriber_is_alone_with_its_loss(bench: BusBench) -> None:
    """A subscriber that stands still blocks neither publisher nor others, and can tell what it lost."""
    slow, fast = Ear(bench, [bench.prefix]), Ear(bench, [bench.prefix])
    publisher = bench.open_bus().publisher("p")
    attach(bench, publisher, [slow, fast], ["s"])
    slow.gate.clear()
    total = 5000
    for start in range(0, total, 50):
        publisher.publish([(bench.key("s", "k"), start + n + 1, b"x" * 2000) for n in range(50)])
        bench.until(lambda start=start: fast.notices()[-1].version >= start + 50, "the fast one keeps up")  # type: ignore[misc]
    slow.gate.set()
    last = fast.notices()[-1].sequence

    def informed() -> bool:
        numbers = [e.sequence for e in list(slow.events) if isinstance(e, Notice | Heartbeat) and e.publisher == "p"]
        return numbers[-1] >= last

    bench.until(informed, "the slow one hears the last number")
    _every_loss_shows(slow, "p")


def _every_loss_shows(ear: Ear, publisher: str) -> None:
    """Each missing number is followed by a notice or heartbeat that gives it away."""
    heard, first = 0, True
    for event in list(ear.events):
        if isinstance(event, Notice) and event.publisher == publisher:
            expect(event.sequence > heard, f"{event.sequence} after {heard}")
            if event.sequence != heard + 1 and not first:
                expect(event.previous != heard, "previous hides a loss")
            heard, first = event.sequence, False


def interruption_is_noticed(bench: BusBench) -> None:
    """When the transport was interrupted subscribers hear Gone or see the numbers, and then notices again."""
    ear = Ear(bench, [bench.prefix])
    publisher = bench.open_bus().publisher("p")
    attach(bench, publisher, [ear], ["s"])
    bench.interrupt()
    attach(bench, publisher, [ear], ["t"])
    bench.until(lambda: any(isinstance(event, Gone) for event in list(ear.events)), "Gone")


def closing_ends_delivery(bench: BusBench) -> None:
    """After `close` returned nothing is delivered; closing twice is harmless; a closed publisher says so."""
    ear = Ear(bench, [bench.prefix])
    bus = bench.open_bus()
    publisher = bus.publisher("p")
    attach(bench, publisher, [ear], ["s"])
    publisher.publish([(bench.key("s", "k"), n, b"") for n in range(1, 100)])
    ear.subscription.close()
    heard = len(ear.events)
    publisher.publish([(bench.key("s", "k"), n, b"") for n in range(100, 200)])
    for _ in range(30):
        bench.pass_time()
    expect(len(ear.events) == heard, "delivered after close")
    ear.subscription.close()
    publisher.close()
    publisher.close()
    bus.close()
    bus.close()
    try:
        publisher.publish([(bench.key("s", "k"), 1, b"")])
    except Unavailable:
        return
    expect(False, "a closed publisher took a notice")


CHECKS: tuple[Check[BusBench], ...] = named(
    arrives_as_it_was_sent,
    order_and_numbers_are_kept,
    first_notice_says_so,
    restart_is_a_greater_epoch,
    heartbeats_go_to_every_subscriber,
    heartbeats_go_on,
    scope_heartbeat_follows_a_notice,
    prefixes_filter,
    overlapping_prefixes_deliver_once,
    prefixes_are_replaced_without_interruption,
    big_values_arrive,
    many_publishers_many_threads,
    publishing_to_nobody_does_not_wait,
    slow_subscriber_is_alone_with_its_loss,
    interruption_is_noticed,
    closing_ends_delivery,
)


class BusConformance:
    """The suite for pytest: subclass it and override `new_bench`."""

    bench: BusBench

    def new_bench(self) -> BusBench:
        """A bench on a transport of its own."""
        raise NotImplementedError

    def setup_method(self) -> None:
        self.bench = self.new_bench()

    def teardown_method(self) -> None:
        self.bench.end()


as_test_methods(BusConformance, CHECKS)
