"""The servers of a lab's store: started, killed, emptied, put back; and a host's way to them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.lab import build, faults, processes, store
from flowloom.lab.errors import LabFailed, NoSuch
from flowloom.lab.layout import Layout
from flowloom.lab.ports import free_port
from flowloom.lab.state import State
from flowloom.lab.stores import forms
from flowloom.lab.stores.server import missing
from flowloom.northbound.plugins import open_store
from flowloom.northbound.store import Write


@pytest.fixture
def layout() -> Iterator[Layout]:
    """A lab's directory, of which every process is ended afterwards."""
    found = Layout.of(tempfile.mkdtemp(prefix="fl-"))
    try:
        yield found
    finally:
        build.tear_down(found)
        shutil.rmtree(found.dir)


def planned(layout: Layout, form: str) -> State:
    """A lab with this store, as `up` would plan it."""
    if form in forms.FORMS and (lacking := forms.FORMS[form].lacks()):
        pytest.skip(lacking)
    layout.store_dir.mkdir()
    return build._with_ports(layout, build.plan(layout, build.Request(hosts=1, store=form)))


def held(state: State) -> dict[str, bytes | None]:
    opened = open_store(state.store)
    try:
        return {entry.key: entry.value for entry in opened.read("/lab/").entries}
    finally:
        opened.close()


def put(state: State, key: str, version: int = 1) -> None:
    opened = open_store(state.store)
    try:
        assert opened.apply([Write(key, version, b"here")])[0].applied
    finally:
        opened.close()


def pids(layout: Layout, state: State) -> dict[str, int]:
    found = {part.name: part.process() for part in store.member_parts(layout, state)}
    return {name: process.pid for name, process in found.items() if process}


@pytest.mark.parametrize("form", [forms.EMBEDDED, *forms.FORMS])
def test_store_is_saved_wiped_restored_stopped_and_started(layout: Layout, form: str) -> None:
    state = planned(layout, form)
    store.start(layout, state)
    names = store.member_names(layout, state)
    assert list(pids(layout, state)) == names
    put(state, "/lab/old")
    store.save(layout, state, "monday")
    put(state, "/lab/new")
    store.wipe(layout, state)
    assert held(state) == {}
    assert list(pids(layout, state)) == names
    store.restore(layout, state, "monday")
    assert held(state) == {"/lab/old": b"here"}
    store.stop(layout, state)
    assert pids(layout, state) == {}
    with pytest.raises((Unavailable, Misconfigured)):
        held(state)
    faults.start(layout, state, "store")
    assert held(state) == {"/lab/old": b"here"}
    with pytest.raises(Misconfigured, match="a copy 'monday' already"):
        store.save(layout, state, "monday")
    with pytest.raises(NoSuch, match="no copy 'tuesday' of its store; it has monday"):
        store.restore(layout, state, "tuesday")
    with pytest.raises(Misconfigured, match=r"'\.\./x': a copy's name"):
        store.save(layout, state, "../x")


def test_member_is_killed_paused_and_started(layout: Layout) -> None:
    state = planned(layout, "etcd3")
    store.start(layout, state)
    put(state, "/lab/a")
    before = pids(layout, state)
    faults.kill(layout, state, "store@2")
    assert pids(layout, state).keys() == {"store@1", "store@3"}
    put(state, "/lab/b")
    faults.start(layout, state, "store@2")
    after = pids(layout, state)
    assert after["store@2"] != before["store@2"] and after["store@1"] == before["store@1"]
    faults.pause(layout, state, "store")
    assert all(part.process().paused for part in store.member_parts(layout, state))  # type: ignore[union-attr]
    faults.start(layout, state, "store")
    assert held(state).keys() == {"/lab/a", "/lab/b"}
    with pytest.raises(LabFailed, match="store is processes: they can be stopped, killed or paused, not cut off"):
        faults.cut(layout, state, "store")


def test_member_without_its_quorum_is_started_and_not_waited_for(layout: Layout) -> None:
    state = planned(layout, "zookeeper3")
    store.start(layout, state)
    faults.kill(layout, state, "store")
    assert pids(layout, state) == {}
    faults.start(layout, state, "store@1")  # Serves nobody alone: waiting would end in an error.
    assert list(pids(layout, state)) == ["store@1"]
    faults.start(layout, state, "store@3")
    put(state, "/lab/a")


def test_two_labs_have_stores_of_their_own(layout: Layout) -> None:
    other = Layout.of(tempfile.mkdtemp(prefix="fl-"))
    try:
        both = [(layout, planned(layout, "redis")), (other, planned(other, "redis"))]
        for each, state in both:
            store.start(each, state)
        put(both[0][1], "/lab/mine")
        assert held(both[1][1]) == {}
        store.wipe(*both[1])
        assert held(both[0][1]) == {"/lab/mine": b"here"}
        assert build.tear_down(other)
        assert held(both[0][1]) == {"/lab/mine": b"here"}
    finally:
        build.tear_down(other)
        shutil.rmtree(other.dir)


def test_store_that_cannot_be_is_refused_in_one_sentence(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Misconfigured, match=r"--store: 'mysql' is neither a store .*\(sqlite, etcd, .*\) nor a URL"):
        build.plan(layout, build.Request(store="mysql"))
    planned(layout, "etcd")  # Skips where it is not installed.
    with pytest.raises(Misconfigured, match="--store: etcd: a bare lab is hosts and switches alone"):
        build.plan(layout, build.Request(store="etcd", bare=True))
    monkeypatch.setenv("PATH", str(layout.dir))
    for form, package in (("etcd3", "etcd-server"), ("redis-sentinel", "redis-sentinel"), ("zookeeper", "zookeeper")):
        with pytest.raises(Misconfigured, match=f"--store: {form}: no .*: apt-get install .*{package}"):
            build.plan(layout, build.Request(store=form))
    assert missing(("some-package",), "sh") == "no sh: apt-get install --no-install-recommends some-package"


def test_lab_that_is_up_with_another_store_is_named(layout: Layout) -> None:
    state = planned(layout, "etcd")
    build.check_same(state, build.plan(layout, build.Request(hosts=1, store="etcd")), layout)
    with pytest.raises(Misconfigured, match=r"--store: the lab in .* is up with store 'etcd'"):
        build.check_same(state, build.plan(layout, build.Request(hosts=1, store="redis")), layout)


def test_external_store_on_the_loopback_is_relayed_and_nobody_elses_to_end(layout: Layout) -> None:
    url = "etcd://user:secret@127.0.0.1:2379,10.0.0.5:2379,localhost:2381/x?timeout_seconds=5"
    state = build.plan(layout, build.Request(hosts=1, store=url))
    assert store.relayed_ports(layout, state) == (2379, 2381)
    assert "relay@h1" in faults.names(layout, state) and "store" not in faults.names(layout, state)
    with pytest.raises(NoSuch, match="this lab's store is not its own"):
        store.wipe(layout, state)
    embedded = build.plan(layout, build.Request(hosts=1))
    assert store.relayed_ports(layout, embedded) == ()


def test_server_that_does_not_come_up_is_named_with_its_log(layout: Layout) -> None:
    state = planned(layout, "redis")
    taken = socket.create_server(("127.0.0.1", state.store_port))
    with taken, pytest.raises(LabFailed, match=r"store@1 ended at once; see .*store@1.log: .*"):
        store.start(layout, state)


@pytest.fixture
def way(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A namespace, and a port that a relay leads out of it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2, to make a network namespace")
    netns, port = f"fltest-{os.getpid()}", free_port()
    subprocess.run(["ip", "netns", "add", netns], check=True)
    argv = (sys.executable, "-m", "flowloom.lab.relay", netns, str(tmp_path / "ready"), str(port))
    process = None
    try:
        subprocess.run(["ip", "-n", netns, "link", "set", "lo", "up"], check=True)
        process = processes.spawn(argv, tmp_path / "relay.pid", tmp_path / "relay.log", os.environ)
        assert processes.until((tmp_path / "ready").exists, 10), (tmp_path / "relay.log").read_text()
        yield netns, port
    finally:
        processes.end([process] if process else [])
        subprocess.run(["ip", "netns", "delete", netns], check=True)


_CLIENT = """
import socket, sys
try:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20) as server:
        server.sendall(b"x" * 3_000_000)
        server.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: server.recv(65536), b""))
    print(len(got), got[-4:].decode())
except OSError as error:
    print(type(error).__name__)
"""


def inside(way: tuple[str, int]) -> str:
    """What a client inside the namespace gets."""
    netns, port = way
    command = ["ip", "netns", "exec", netns, sys.executable, "-c", _CLIENT, str(port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def answer(listener: socket.socket) -> None:
    """One client's bytes, back to it, and `done`."""
    connection, _ = listener.accept()
    with connection:
        got = b"".join(iter(lambda: connection.recv(65536), b""))
        connection.sendall(got + b"done")


@pytest.mark.lab
def test_relay_leads_to_the_loopback_outside_and_refuses_what_is_not_there(way: tuple[str, int]) -> None:
    assert inside(way) in ("ConnectionResetError", "BrokenPipeError"), "nobody listens outside"
    with socket.create_server(("127.0.0.1", way[1])) as listener:
        server = Thread(target=answer, args=(listener,))
        server.start()
        assert inside(way) == "3000004 done"
        server.join(10)
    assert inside(way) in ("ConnectionResetError", "BrokenPipeError")
