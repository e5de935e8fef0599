"""What an agent says of the records it holds: pages in order, each record in one number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from one_host import Host, key_for, network, port, subnet

from flowloom.agent import answers
from flowloom.consistency.marks import mark
from flowloom.kernel.errors import Rejected
from flowloom.model.codec import encode
from flowloom.model.records import Chassis, PortStatus, Record, Router
from flowloom.northbound.store import Write


def ask(host: Host, **question: Any) -> Mapping[str, Any]:
    making = answers.marks(host.core, {"ask": "records", **question})
    while True:
        try:
            next(making)
        except StopIteration as done:
            answer: Mapping[str, Any] = done.value
            return answer


def marked(*records: Record) -> list[tuple[str, int, int]]:
    return sorted(
        (key_for(record), record.version, mark(key_for(record), record.version, encode(record))) for record in records
    )


def entries(host: Host, kind: str = "", **question: Any) -> list[tuple[str, int, int]]:
    return [entry for entry in ask(host, **question)["entries"] if f"/{kind}" in entry[0]]


@pytest.fixture
def host() -> Host:
    made = Host()
    made.tell(network(), subnet(), port(1), port(2), port(3, host="h2"))
    made.snapshot()
    made.wait(1)
    return made


def test_every_record_is_told_by_its_mark(host: Host) -> None:
    wanted = marked(network(), subnet(), port(1), port(2), port(3, host="h2"))
    told = ask(host, limit=100)
    assert [entry for entry in told["entries"] if "/h1/" not in entry[0]] == wanted
    assert (told["next"], told["bad"], told["chassis"], told["in_sync"]) == ("", {}, "h1", True)


def test_pages_are_in_the_order_of_keys_and_miss_nothing(host: Host) -> None:
    whole, after, seen = ask(host, limit=100)["entries"], "", []
    while True:
        page = ask(host, after=after, limit=2)
        seen += page["entries"]
        after = page["next"]
        if not after:
            break
    assert seen == whole == sorted(whole)


def test_records_are_asked_for_by_name(host: Host) -> None:
    keys = [key_for(port(2)), key_for(port(9))]
    assert entries(host, keys=keys) == marked(port(2))


def test_deleted_record_is_not_told(host: Host) -> None:
    host.untell(port(2), 2)
    assert entries(host, keys=[key_for(port(2))]) == []
    assert entries(host, "port/", limit=100) == marked(port(1), port(3, host="h2"))


def test_record_that_cannot_be_read_has_version_0_and_a_reason(host: Host) -> None:
    key = key_for(port(4))
    host.say(Write(key, 1, b'{"schema":1,"kind":"port","id":7}'))
    told = ask(host, keys=[key])
    assert told["entries"] == [(key, 0, 0)]
    assert "not a readable record" in told["bad"][key]


def test_unreadable_newer_version_leaves_the_older_one_told(host: Host) -> None:
    key = key_for(port(1))
    host.say(Write(key, 2, b"{"))
    told = ask(host, keys=[key])
    assert told["entries"] == marked(port(1))
    assert key in told["bad"]


def test_own_records_are_told_and_those_of_other_chassis_passed_over(host: Host) -> None:
    theirs = PortStatus(id="p3", version=1, chassis="h2", port_version=1, up=True)
    host.say(Write("/lab/-/h2/port_status/p3", 1, encode(theirs)))
    host.work()
    told = entries(host, "port_status/", limit=100)
    stored = [entry for entry in host.store.read("/lab/-/h1/port_status/").entries if entry.value]
    assert told == [(entry.key, entry.version, mark(*entry)) for entry in stored]
    assert len(told) == 2
    assert [key for key, _, _ in entries(host, "chassis/", limit=100)] == [f"/lab/-/h1/{Chassis.kind}/h1"]


def test_kind_that_no_app_looks_at_is_told_too(host: Host) -> None:
    routers = [Router(id=f"r{n}", version=n, key=n) for n in (1, 2)]
    host.tell(*routers)
    assert entries(host, "router/", limit=100) == marked(*routers)


def test_key_that_is_none_of_ours_does_no_harm(host: Host) -> None:
    host.say(Write("/lab/strange", 3, b"x"))
    told = ask(host, keys=["/lab/strange"])
    assert told["entries"] == [("/lab/strange", 0, 0)]
    assert "/lab/strange" in told["bad"]


@pytest.mark.parametrize("question", [{"limit": "many"}, {"keys": [1]}, {"limit": 5, "after": None}])
def test_question_of_another_form_is_refused(host: Host, question: dict[str, Any]) -> None:
    with pytest.raises(Rejected, match="records"):
        answers.marks(host.core, question)
