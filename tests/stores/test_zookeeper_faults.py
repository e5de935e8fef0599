"""ZooKeeper servers that die, hang, lose their quorum, are restored or wiped; limits, credentials, foreign data."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from following import Follower, check_nothing_lost, write_under_fire
from kazoo.client import KazooClient

from flowloom.drivers.store import zookeeper, zookeeper_database
from flowloom.drivers.store.zookeeper import BATCH_WRITES, VALUE_BYTES_MAX, ZookeeperStore, open_store
from flowloom.kernel.errors import Misconfigured, StartOver, Unavailable
from flowloom.northbound import plugins
from flowloom.northbound.store import Cursor, Entry, Outcome, Write, pages
from flowloom.testing import zookeeper_server
from flowloom.testing.certificates import new_authority
from flowloom.testing.proxy import Proxy
from flowloom.testing.waiting import wait_for
from flowloom.testing.zookeeper_server import Ensemble, ZookeeperServer


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="zookeeper-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def single(directory: Path) -> Iterator[Ensemble]:
    with zookeeper_server.zookeeper(directory / "single") as ensemble:
        yield ensemble


@pytest.fixture
def three(directory: Path) -> Iterator[Ensemble]:
    with zookeeper_server.zookeeper(directory / "three", servers=3) as ensemble:
        yield ensemble


@contextlib.contextmanager
def opened(url: str) -> Iterator[ZookeeperStore]:
    store = open_store(url)
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def following(store: ZookeeperStore) -> Iterator[Follower]:
    follower = Follower(store, "/d/")
    try:
        yield follower
    finally:
        follower.stop()


@contextlib.contextmanager
def by_hand(ensemble: Ensemble) -> Iterator[KazooClient]:
    """What an operator does with a client of ZooKeeper's own."""
    client = KazooClient(f"127.0.0.1:{ensemble.servers[0].port}")
    client.start()
    try:
        yield client
    finally:
        client.stop()
        client.close()


def writes(store: ZookeeperStore, write: Write) -> bool:
    with contextlib.suppress(Unavailable):
        return store.apply([write])[0].held == write.version
    return False


def in_use(store: ZookeeperStore, ensemble: Ensemble) -> ZookeeperServer:
    """The server that the store's session is on."""
    port = store.database.session._client._connection._socket.getpeername()[1]
    return next(server for server in ensemble.servers if server.port == port)


# --- dying -----------------------------------------------------------------------------------


def test_the_only_server_killed_under_writes_and_a_watch(single: Ensemble) -> None:
    def fault() -> None:
        single.kill()
        single.start()

    with opened(single.url()) as store, opened(single.url()) as other, following(other) as follower:
        acknowledged = write_under_fire(store, {300: fault, 900: fault})
        check_nothing_lost(store, follower, acknowledged)
        assert not follower.started_over


def test_servers_in_use_and_the_leader_killed_under_writes_and_a_watch(three: Ensemble) -> None:
    with opened(three.url()) as store, opened(three.url()) as other, following(other) as follower:
        faults = {
            300: lambda: in_use(other, three).kill(),
            600: three.start,
            700: lambda: in_use(store, three).kill(),
            1000: three.start,
            1100: lambda: three.leader().kill(),
        }
        acknowledged = write_under_fire(store, faults)
        check_nothing_lost(store, follower, acknowledged)
        assert not follower.started_over


def test_without_a_quorum_it_is_unavailable_and_says_so_then_goes_on(three: Ensemble) -> None:
    with opened(three.url("", "timeout_seconds=2")) as store:
        store.apply([Write("/a", 1, b"x")])
        watch = store.watch("/", store.read("/").cursor)
        for server in three.servers[:2]:
            server.kill()
        with pytest.raises(Unavailable, match="no quorum"):
            wait_for(lambda: store.apply([Write("/a", 2, b"y")]) and None, 10)
        with pytest.raises(Unavailable, match="no quorum"):
            store.get(["/a"])
        three.start()
        wait_for(lambda: writes(store, Write("/a", 3, b"z")), 30)
        seen = wait_for(lambda: list(watch.next(1.0).entries))
        assert seen[-1] == Entry("/a", 3, b"z")


# --- hanging, losing answers -----------------------------------------------------------------


def test_a_server_that_accepts_and_never_answers_is_unavailable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(Unavailable, match="timed out"):
            open_store(f"zookeeper://127.0.0.1:{silent.getsockname()[1]}?timeout_seconds=0.5")
        assert time.monotonic() - begin < 2.5


def test_every_call_on_a_frozen_server_ends_in_time(single: Ensemble) -> None:
    with opened(single.url("", "timeout_seconds=0.5")) as store:
        store.apply([Write("/a", 1, b"x")])
        watch = store.watch("/", store.read("/").cursor)
        single.servers[0].send(signal.SIGSTOP)
        calls = (
            lambda: store.get(["/a"]),
            lambda: store.read("/"),
            lambda: store.apply([Write("/a", 2, b"y")]),
            lambda: watch.next(0.2),
        )
        for call in calls:
            begin = time.monotonic()
            with pytest.raises(Unavailable):
                call()
            assert time.monotonic() - begin < 2.5
        single.servers[0].send(signal.SIGCONT)
        wait_for(lambda: writes(store, Write("/a", 3, b"z")), 20)


def test_a_member_that_hangs_is_left_and_no_change_is_missed(three: Ensemble) -> None:
    with opened(three.url()) as store, opened(three.url()) as other, following(other) as follower:
        follower_of = next(server for server in three.servers if server.mode() == "follower")
        faults = {300: lambda: follower_of.send(signal.SIGSTOP)}
        acknowledged = write_under_fire(store, faults)
        check_nothing_lost(store, follower, acknowledged)
        follower_of.send(signal.SIGCONT)
        assert not follower.started_over


def test_a_write_whose_answer_was_lost_is_resolved_not_guessed(single: Ensemble) -> None:
    with (
        Proxy(single.servers[0].port) as proxy,
        opened(f"zookeeper://127.0.0.1:{proxy.port}?timeout_seconds=10") as store,
        opened(single.url()) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        store.apply([Write("/a", 1, b""), Write("/b", 1, b"")])
        commit = store._commit

        def commit_without_an_answer(*arguments: object) -> bool:
            proxy.mute = True
            return commit(*arguments)  # type: ignore[arg-type]

        store._commit = commit_without_an_answer  # type: ignore[method-assign]
        applying = pool.submit(store.apply, [Write("/a", 7, b"mine"), Write("/b", 7, b"mine")])
        wait_for(lambda: other.get(["/b"]) == [Entry("/b", 7, b"mine")])
        other.apply([Write("/b", 8, b"theirs")])
        store._commit = commit  # type: ignore[method-assign]
        proxy.mute = False
        proxy.hang_up()
        assert applying.result(20) == [Outcome("/a", True, 7), Outcome("/b", False, 8)]


def test_an_equal_write_of_another_is_not_taken_for_ones_own(single: Ensemble) -> None:
    with opened(single.url()) as store, opened(single.url()) as other:
        assert store.apply([Write("/a", 7, b"same")]) == [Outcome("/a", True, 7)]
        assert other.apply([Write("/a", 7, b"same")]) == [Outcome("/a", False, 7)]


# --- another history -------------------------------------------------------------------------


@pytest.mark.parametrize("overtaken", [False, True])
def test_an_ensemble_restored_from_a_copy_is_another_epoch(single: Ensemble, directory: Path, overtaken: bool) -> None:
    """overtaken: the new history is as long as the lost one before anybody looks who knew that."""
    with opened(single.url()) as store, opened(single.url()) as other:
        store.apply([Write("/a", 1, b"old")])
        single.save(directory / "copy")
        wait_for(lambda: writes(store, Write("/a", 2, b"new")), 30)
        for number in range(20):
            store.apply([Write(f"/k{number}", 1, b"")])
        before = other.read("/").cursor
        watch = other.watch("/", Cursor(before.epoch, before.position - 1))
        assert len(watch.next(1.0).entries) == 1
        single.restore(directory / "copy")
        with opened(single.url()) if overtaken else contextlib.nullcontext(store) as writer:
            for number in range(40):
                wait_for(lambda: writes(writer, Write(f"/m{number}", 1, b"")), 30)  # noqa: B023
        with pytest.raises(StartOver):
            wait_for(lambda: watch.next(1.0).entries and None, 30)
        listing = other.read("/")
        assert listing.entries[0] == Entry("/a", 1, b"old")
        assert listing.cursor.epoch != before.epoch


def test_a_path_removed_under_a_running_store_is_a_new_database(single: Ensemble) -> None:
    with opened(single.url()) as store, by_hand(single) as client:
        store.apply([Write("/a/b/c", 1, b"x")])
        before = store.read("/").cursor
        watch = store.watch("/", before)
        client.delete("/flowloom", recursive=True)
        with pytest.raises(StartOver):
            watch.next(1.0)
        assert store.apply([Write("/a/b/c", 1, b"again")]) == [Outcome("/a/b/c", True, 1)]
        listing = store.read("/")
        assert list(listing.entries) == [Entry("/a/b/c", 1, b"again")]
        assert listing.cursor.epoch != before.epoch


def test_a_log_whose_numbers_are_used_up_goes_on_under_another_epoch(
    single: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zookeeper_database, "NUMBERS_MAX", 30)
    with opened(single.url()) as store, by_hand(single) as client, following(store) as follower:
        first = store.read("/").cursor.epoch
        for version in range(1, 51):
            assert store.apply([Write("/d/a", version, b"")])[0].applied
        wait_for(lambda: follower.held == {"/d/a": Entry("/d/a", 50, b"")})
        assert follower.started_over
        assert client.get_children("/flowloom/log") == [store.read("/").cursor.epoch] != [first]


def test_the_log_is_bounded(single: Ensemble) -> None:
    with opened(single.url("", "log_max=100")) as store, by_hand(single) as client:
        for version in range(1, 601):
            store.apply([Write("/a", version, b"")])
        cursor = store.read("/").cursor
        assert cursor.position == 600
        assert len(client.get_children(f"/flowloom/log/{cursor.epoch}")) < 300


# --- limits ----------------------------------------------------------------------------------


def test_a_large_call_is_cut_into_transactions(single: Ensemble) -> None:
    with opened(single.url()) as store:
        many = [Write(f"/k{number:04}", 1, b"") for number in range(BATCH_WRITES + 1)]
        assert all(outcome.applied for outcome in store.apply(many))
        assert store.read("/").cursor.position == 2
        large = [Write(f"/l{number}", 1, bytes(VALUE_BYTES_MAX)) for number in range(3)]
        assert all(outcome.applied for outcome in store.apply(large))
        assert store.read("/").cursor.position == 5


def test_servers_that_take_less_are_named_as_the_cause(directory: Path) -> None:
    with (
        zookeeper_server.zookeeper(directory / "small", java=["-Djute.maxbuffer=100000"]) as ensemble,
        opened(ensemble.url("", "timeout_seconds=3")) as store,
    ):
        with pytest.raises(Unavailable, match=r"jute\.maxbuffer is below the 200002 bytes"):
            store.apply([Write("/a", 1, bytes(200_000))])
        wait_for(lambda: writes(store, Write("/a", 1, b"small")), 20)


def test_more_children_than_fit_into_one_request_are_listed(single: Ensemble) -> None:
    count = 12_000
    with opened(single.url()) as store:
        name = "n" * 90
        for page in pages([Write(f"/d/{name}{number:05}", 1, b"") for number in range(count)], BATCH_WRITES):
            store.apply(page)
        found = store.versions("/d/").versions
        assert len(found) == count
        assert len(store.read(f"/d/{name}0000").entries) == 10


def test_a_hundred_thousand_objects_in_bounded_memory(single: Ensemble) -> None:
    count, watched, value = 100_000, 20_000, b"x" * 500
    with opened(single.url("", "timeout_seconds=20")) as store:
        many = [Write(f"/lab/p/n{n % 100:03}/port/{n:06}", 1, value) for n in range(count)]
        for page in pages(many[:-watched], BATCH_WRITES):
            store.apply(page)
        start = store.read("/nothing/").cursor
        for page in pages(many[-watched:], BATCH_WRITES):
            store.apply(page)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        watch, seen = store.watch("/", start), 0
        while entries := watch.next(0.0).entries:
            assert len(entries) <= 10_000
            seen += len(entries)
        assert seen == watched
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
        listing = store.read("/lab/")
        assert len(listing.entries) == count
        assert listing.entries[0] == Entry("/lab/p/n000/port/000000", 1, value)
        assert len(store.read("/lab/p/n042/").entries) == count // 100


# --- what is not ours ------------------------------------------------------------------------


def test_a_path_of_another_program_is_left_alone(single: Ensemble) -> None:
    with by_hand(single) as client:
        client.create("/theirs/leader", b"x", makepath=True)
        client.create("/valued", b"x")
        client.create("/similar/database", b"mine", makepath=True)
        for path in ("/theirs", "/valued", "/similar"):
            with pytest.raises(Misconfigured, match=f"{path}.* is another program's"):
                open_store(single.url(path))
        assert client.get_children("/theirs") == ["leader"]


def test_a_newer_schema_is_refused_at_start_and_later(single: Ensemble) -> None:
    with opened(single.url()) as store, by_hand(single) as client:
        client.set("/flowloom/database", b"flowloom northbound store\nschema 9\nepoch x\n")
        with pytest.raises(Misconfigured, match="schema 9"):
            store.apply([Write("/a", 1, b"")])
        with pytest.raises(Misconfigured, match="schema 9"):
            open_store(single.url())


def test_what_a_hand_changed_is_shown_as_it_is(single: Ensemble) -> None:
    with opened(single.url()) as store, by_hand(single) as client:
        store.apply([Write("/a", 5, b"five"), Write("/b", 5, b"five"), Write("/c/d", 5, b"five")])
        client.set("/flowloom/objects/a", b"nonsense")
        client.delete("/flowloom/objects/b")
        client.create("/flowloom/objects/e", b"")
        assert list(store.read("/").entries) == [Entry("/a", 0, b"nonsense"), Entry("/c/d", 5, b"five")]
        found = store.apply([Write("/a", 1, b"a"), Write("/b", 1, b"b"), Write("/e", 1, b"e")])
        assert [each.applied for each in found] == [True, True, True]


def test_servers_that_are_too_old_are_refused() -> None:
    old = SimpleNamespace(version=lambda: "3.4.14", where="zookeeper://h")
    with pytest.raises(Misconfigured, match=r"3\.4\.14 is too old"):
        zookeeper._check_version(old)  # type: ignore[arg-type]


# --- getting in ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("zookeeper://h:port", "host or host:port"),
        ("zookeeper://", "host or host:port"),
        ("zookeeper://h/zookeeper/x", "not /zookeeper"),
        ("zookeeper://h/a//b", "a path is made of"),
        ("zookeeper://h/..", "a path is made of"),
        ("zookeeper://h?nope=1", "nope"),
        ("zookeeper://h?log_max=0", "log_max"),
        ("zookeeper://h?timeout_seconds=soon", "timeout_seconds"),
        ("zookeeper://h?tls_ca=/nowhere", "tls_ca"),
        ("zookeeper+tls://h", "tls_ca"),
        ("zookeeper://user@h", "go together"),
    ],
)
def test_a_wrong_url_names_what_is_wrong(bad: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        open_store(bad)
    assert caught.value.setting == "store"


@pytest.mark.parametrize("scheme", ["zookeeper", "zookeeper+tls"])
def test_a_missing_client_names_the_command(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    for name in ("zookeeper", "zookeeper_database", "zookeeper_session"):
        monkeypatch.delitem(sys.modules, f"flowloom.drivers.store.{name}")
    for name in ("kazoo", "kazoo.client", "kazoo.protocol.states"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Misconfigured, match=r"pip install 'flowloom\[zookeeper\]'"):
        plugins.open_store(f"{scheme}://h")


def test_nobody_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1: .*refused"):
        open_store("zookeeper://127.0.0.1:1?timeout_seconds=0.5")


def test_another_user_is_refused_without_the_secret(single: Ensemble, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    logging.getLogger("flowloom.zookeeper").setLevel(1)
    with opened(single.url(login="mine:correct%20horse@")) as store:
        assert store.apply([Write("/a/b", 1, b"x")])[0].applied
        assert "horse" not in repr(store.database.session.settings)
        with opened(single.url(login="mine:correct%20horse@")) as same:
            assert same.get(["/a/b"]) == [Entry("/a/b", 1, b"x")]
        for login in ("mine:wrong-secret@", "theirs:wrong-secret@", ""):
            with pytest.raises(Misconfigured, match="refuses the credentials") as caught:
                open_store(single.url(login=login))
            assert "wrong-secret" not in "".join(traceback.format_exception_only(caught.value))
    logging.getLogger("flowloom.zookeeper").setLevel(logging.NOTSET)
    assert "horse" not in caplog.text
    assert "wrong-secret" not in caplog.text


def test_tls_with_client_certificates(directory: Path) -> None:
    authority, other = new_authority(directory / "ca"), new_authority(directory / "other")
    client = authority.certify("client")

    @contextlib.contextmanager
    def secured(name: str, alternative: str) -> Iterator[Ensemble]:
        pair = authority.certify(name, alternative)
        store = directory / f"{name}-store.pem"
        store.write_text(pair.key.read_text() + pair.cert.read_text())
        port = zookeeper_server.free_port()
        options = {
            "secureClientPort": str(port),
            "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
            "ssl.keyStore.location": str(store),
            "ssl.keyStore.type": "PEM",
            "ssl.trustStore.location": str(authority.cert),
            "ssl.trustStore.type": "PEM",
            "ssl.clientAuth": "need",
        }
        with zookeeper_server.zookeeper(directory / name, options=options) as ensemble:
            ensemble.secure = port
            yield ensemble

    mine = f"tls_ca={authority.cert}&tls_cert={client.cert}&tls_key={client.key}"
    with secured("good", "IP:127.0.0.1") as ensemble:
        with opened(ensemble.url("", mine)) as store:
            watch = store.watch("/", store.read("/").cursor)
            store.apply([Write("/a", 1, b"x" * 100_000)])
            assert list(watch.next(5.0).entries) == [Entry("/a", 1, b"x" * 100_000)]
        wrong = f"tls_ca={other.cert}&tls_cert={client.cert}&tls_key={client.key}&timeout_seconds=1"
        with pytest.raises(Misconfigured, match="no TLS connection"):
            open_store(ensemble.url("", wrong))
        with pytest.raises((Misconfigured, Unavailable)):
            open_store(ensemble.url("", f"tls_ca={authority.cert}&timeout_seconds=1"))
    with (
        secured("misnamed", "DNS:elsewhere.example") as ensemble,
        pytest.raises(Misconfigured, match="no TLS connection"),
    ):
        open_store(ensemble.url("", f"{mine}&timeout_seconds=1"))


def test_a_store_opened_before_a_fork_refuses_to_work_in_the_child(single: Ensemble) -> None:
    with opened(single.url()) as store:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                store.get(["/a"])
            except RuntimeError as error:
                code = 0 if "fork" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert store.get(["/a"]) == [None]
