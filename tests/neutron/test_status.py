"""Which status a port gets from what its host reports, and what is asked of the recovery process."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from neutron_cloud import Sql

from flowloom.kernel.clock import ManualClock
from flowloom.kernel.errors import Misconfigured, Rejected, Unavailable
from flowloom.model.codec import encode
from flowloom.model.keys import key_of
from flowloom.model.records import PortStatus
from flowloom.neutron.control import ControlSocket
from flowloom.neutron.reports import Reports
from flowloom.neutron.status import BoundPort, decide
from flowloom.northbound.bus import Bus
from flowloom.northbound.store import Write
from flowloom.testing.fake_store import MemoryDatabase

PORT = BoundPort(id="p", key=1, version=5, confirmed_version=0, status="DOWN", admin_state_up=True, host="h1")
UP = PortStatus(id="p", version=1, chassis="h1", port_version=5, up=True)


@pytest.mark.parametrize(
    ("port", "report", "wanted"),
    [
        (PORT, UP, "ACTIVE"),
        (PORT, PortStatus(id="p", version=1, chassis="h1", port_version=6, up=True), "ACTIVE"),
        (PORT, PortStatus(id="p", version=1, chassis="h1", port_version=4, up=True), None),
        (PORT, PortStatus(id="p", version=1, chassis="h2", port_version=5, up=True), None),
        (PORT, PortStatus(id="p", version=1, chassis="h1", port_version=5, up=False), None),
        (PORT, None, None),
        (replace(PORT, status="ACTIVE"), UP, None),
        (replace(PORT, status="ACTIVE", version=9), UP, None),
        (replace(PORT, status="ACTIVE"), None, None),
        (replace(PORT, status="ACTIVE"), PortStatus(id="p", version=1, chassis="h2", up=False), None),
        (replace(PORT, status="ACTIVE"), PortStatus(id="p", version=1, chassis="h1", up=False), "DOWN"),
        (replace(PORT, status="ACTIVE", admin_state_up=False), UP, "DOWN"),
        (replace(PORT, admin_state_up=False), UP, None),
    ],
    ids=[
        "confirmed",
        "confirmed a later version",
        "confirmed an older version",
        "another host confirmed",
        "its host says no",
        "nobody has said anything",
        "already ACTIVE",
        "a later version of an ACTIVE port",
        "an ACTIVE port of a wiped store",
        "another host says no of an ACTIVE port",
        "its host says no of an ACTIVE port",
        "an ACTIVE port that was switched off",
        "a port that is switched off",
    ],
)
def test_the_status_of_a_port(port: BoundPort, report: PortStatus | None, wanted: str | None) -> None:
    assert decide(port, report) == wanted


def write(database: MemoryDatabase, host: str, version: int, value: bytes | None) -> None:
    database.open().apply([Write(key_of("d", "", host, PortStatus.kind, "p"), version, value)])


def test_reports_follow_the_store_and_skip_what_they_cannot_read() -> None:
    database, reports = MemoryDatabase(), Reports("d")
    write(database, "h1", 1, encode(UP))
    write(database, "h2", 1, b"not a record")
    cursor = reports.refresh(database.open())
    assert reports.get("h1", "p") == UP
    assert reports.get("h2", "p") is None
    later = PortStatus(id="p", version=2, chassis="h2", port_version=5, up=True)
    write(database, "h2", 2, encode(later))
    assert reports.follow(database.open(), cursor, 1.0) == {"p"}
    assert reports.get("h2", "p") == later
    write(database, "h2", 3, None)
    reports.refresh(database.open())
    assert reports.get("h2", "p") is None


def test_reports_of_a_wiped_store_are_forgotten() -> None:
    database, reports = MemoryDatabase(), Reports("d")
    write(database, "h1", 1, encode(UP))
    reports.refresh(database.open())
    database.wipe()
    reports.refresh(database.open())
    assert len(reports) == 0


def ask(path: Path, *lines: bytes) -> list[object]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(b"".join(lines))
        with client.makefile() as answers:
            return [json.loads(answers.readline()) for _ in lines]


def test_a_control_socket_answers_each_line_and_survives_nonsense(tmp_path: Path) -> None:
    def answer(question: object) -> dict[str, object]:
        if question == {"ask": "bad"}:
            raise Rejected("bad", "no")
        return {"you": question}

    path = tmp_path / "s"
    control = ControlSocket(str(path), answer)
    try:
        assert ask(path, b'{"ask": "x"}\n', b"nonsense\n", b"[1]\n", b'{"ask": "bad"}\n', b'{"a": 1}\n') == [
            {"you": {"ask": "x"}},
            {"error": "not a JSON object in one line"},
            {"error": "not a JSON object"},
            {"error": "bad: no"},
            {"you": {"a": 1}},
        ]
    finally:
        control.close()
    assert not path.exists()


def test_of_several_recovery_processes_one_answers_at_the_shared_path_and_another_takes_it_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = ControlSocket(str(path), lambda question: {"i am": "first"})
    second = ControlSocket(str(path), lambda question: {"i am": "second"})
    try:
        assert ask(path, b"{}\n") == [{"i am": "first"}]
        assert second.path != str(path) and ask(Path(second.path), b"{}\n") == [{"i am": "second"}]
        assert first.claim() and not second.claim()
        first.close()
        assert second.claim() and second.path == str(path)
        assert ask(path, b"{}\n") == [{"i am": "second"}]
        assert [each.name for each in tmp_path.iterdir() if each.is_socket()] == ["s"]
    finally:
        second.close()


def test_a_control_socket_that_cannot_be_made_is_misconfigured(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"cannot lock .*nowhere"):
        ControlSocket(str(tmp_path / "nowhere" / "s"), lambda question: {})


def test_a_control_socket_takes_the_place_of_a_dead_process(tmp_path: Path) -> None:
    path = tmp_path / "s"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    control = ControlSocket(str(path), lambda question: {})
    try:
        assert ask(path, b"{}\n") == [{}]
    finally:
        control.close()


def test_a_port_that_changes_while_it_is_confirmed_does_not_become_active(sql: Sql) -> None:
    import sqlalchemy as sa
    from neutron.db import models_v2
    from neutron_lib.db import api as db_api
    from neutron_objects import NETWORK, binding, network, port
    from sqlalchemy import orm

    from flowloom.neutron.capture import Capture
    from flowloom.neutron.status import bound_ports, compare_and_set

    Capture(lambda refs: None, strict=True).listen()
    try:
        with orm.Session(sql.writing) as session, session.begin():
            network(session)
            port(session)
            binding(session, "h1")
        with sql.reader() as connection:
            (read,) = bound_ports(connection)
        assert (read.host, read.version, read.status) == ("h1", 1, "DOWN")
        with orm.Session(sql.writing) as session, session.begin():
            session.scalars(
                sa.select(models_v2.Port).where(models_v2.Port.network_id == NETWORK)
            ).unique().one().name = "x"
    finally:
        db_api.sqla_remove_all()
    with sql.writing.begin() as connection:
        assert not compare_and_set(connection, read, 1)
        assert compare_and_set(connection, replace(read, version=2), 2)
        (again,) = bound_ports(connection, {"port-1"})
    assert again.confirmed_version == 2


def test_a_chassis_is_silent_from_when_somebody_listens_without_a_gap(sql: Sql) -> None:
    from flowloom.neutron.nodes import Hearing
    from flowloom.testing.fake_bus import MemoryBus

    clock = ManualClock()
    bus = MemoryBus(clock)
    agent = bus.open().publisher("h1")
    opened: list[Bus] = []

    def open_bus() -> Bus:
        if clock.monotonic() < 5:
            raise Unavailable("the bus is away")
        opened.append(bus.open())
        return opened[-1]

    hearing = Hearing(sql, open_bus, clock)

    def pass_time(seconds: int) -> None:
        for _ in range(seconds):
            clock.advance(1.0)
            bus.beat()

    assert hearing.silent_seconds("h1") == 0.0, "nobody listens"
    pass_time(5)
    assert hearing.silent_seconds("h1") == 0.0, "listening begins"
    pass_time(20)
    assert hearing.silent_seconds("h1") <= 1.0 and hearing.silent_seconds("h2") == 20.0
    agent.close()
    pass_time(10)
    assert 10.0 <= hearing.silent_seconds("h1") <= 11.0
    bus.break_connections()
    pass_time(3)
    assert hearing.silent_seconds("h1") == hearing.silent_seconds("h2") == 3.0, "what was said meanwhile nobody heard"
    hearing.close()


def test_hosts_of_ports_are_bound(sql: Sql) -> None:
    from neutron_objects import binding, network, port
    from sqlalchemy import orm

    from flowloom.neutron.nodes import Hearing

    hearing = Hearing(sql, lambda: None, ManualClock())
    assert hearing.bound_hosts() == set() and hearing.silent_seconds("h1") == 0.0, "without a bus nobody is silent"
    with orm.Session(sql.writing) as session, session.begin():
        network(session)
        port(session)
        binding(session, "h1")
    assert hearing.bound_hosts() == {"h1"}
    hearing.close()
