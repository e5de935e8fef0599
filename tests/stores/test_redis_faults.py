"""Redis that dies, fails over, hangs, refuses writes, loses answers, or holds what is not ours."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from following import Follower, check_nothing_lost, write_under_fire

from flowloom.drivers.store.redis import RedisStore, open_store
from flowloom.kernel.errors import Misconfigured, StartOver, Unavailable
from flowloom.lab.ports import free_port
from flowloom.northbound import plugins
from flowloom.northbound.store import Entry, Outcome, Write, pages
from flowloom.testing import redis_server
from flowloom.testing.certificates import new_authority
from flowloom.testing.proxy import Proxy
from flowloom.testing.redis_server import Redis
from flowloom.testing.waiting import wait_for

LOG = "{flowloom}:log"


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="redis-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def single(directory: Path) -> Iterator[Redis]:
    with redis_server.single(directory / "single") as redis:
        yield redis


@pytest.fixture
def sentinels(directory: Path) -> Iterator[Redis]:
    with redis_server.sentinels(directory / "sentinels") as redis:
        yield redis


@pytest.fixture
def cluster(directory: Path) -> Iterator[Redis]:
    with redis_server.cluster(directory / "cluster") as redis:
        yield redis


@contextlib.contextmanager
def opened(url: str) -> Iterator[RedisStore]:
    store = open_store(url)
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def following(store: RedisStore) -> Iterator[Follower]:
    follower = Follower(store, "/d/")
    try:
        yield follower
    finally:
        follower.stop()


# --- dying -----------------------------------------------------------------------------------


def test_the_only_server_killed_under_writes_and_a_watch(single: Redis) -> None:
    def fault() -> None:
        single.kill()
        single.servers[0].start()

    with opened(single.url()) as store, opened(single.url()) as other, following(other) as follower:
        assert store.capabilities.durable
        acknowledged = write_under_fire(store, {300: fault, 900: fault})
        check_nothing_lost(store, follower, acknowledged)


def test_the_primary_killed_under_writes_and_a_watch_with_sentinels(sentinels: Redis) -> None:
    def kill_primary() -> None:
        sentinels.primary().kill()

    def bring_back_and_kill_the_other() -> None:
        for server in sentinels.servers:
            if not server.running:
                server.start()
        wait_for(lambda: len(replicas(sentinels)) == 2, 30)
        sentinels.wait_until_in_step()
        sentinels.primary().kill()

    url = sentinels.url("wait=1")
    with opened(url) as store, opened(url) as other, following(other) as follower:
        assert store.capabilities.durable
        acknowledged = write_under_fire(store, {300: kill_primary, 900: bring_back_and_kill_the_other})
        check_nothing_lost(store, follower, acknowledged)
        assert follower.started_over


def replicas(redis: Redis) -> list[str]:
    said = redis.primary().info("replication")
    return [name for name, value in said.items() if name.startswith("slave") and "state=online" in value]


def test_the_primary_of_the_slot_killed_under_writes_and_a_watch_in_a_cluster(cluster: Redis) -> None:
    def kill_and_bring_back() -> None:
        dead = cluster.primary(LOG)
        dead.kill()
        assert cluster.primary(LOG) is not dead
        dead.start()  # Its replica was promoted and has none: with wait=1 there are no writes until one is back.

    url = cluster.url("wait=1")
    with opened(url) as store, opened(url) as other, following(other) as follower:
        acknowledged = write_under_fire(store, {400: kill_and_bring_back, 1000: kill_and_bring_back})
        check_nothing_lost(store, follower, acknowledged)
        assert follower.started_over


def test_what_a_fail_over_loses_makes_everybody_start_over(sentinels: Redis) -> None:
    """Without `wait` an acknowledged write may be lost; never silently."""
    with opened(sentinels.url("timeout_seconds=2")) as store:
        assert not store.capabilities.durable
        store.apply([Write("/a", 1, b"kept")])
        primary = sentinels.primary()
        primary.cli("WAIT", "2", "5000")
        others = [server for server in sentinels.servers if server is not primary]
        for server in others:
            server.send(signal.SIGSTOP)
        primary.cli("CLIENT", "KILL", "TYPE", "replica")  # What is sent to one that is only frozen is not lost.
        assert store.apply([Write("/a", 2, b"lost"), Write("/b", 1, b"lost")])[0].applied
        before = store.read("/").cursor
        watch = store.watch("/", before)
        primary.kill()
        for server in others:
            server.send(signal.SIGCONT)
        wait_for(lambda: writes(store, Write("/c", 1, b"new")), 30)
        # The new history is as long as the old one was: only the epoch tells them apart.
        store.apply([Write(f"/d{n}", 1, b"") for n in range(10)])
        with pytest.raises(StartOver):
            watch.next(1.0)
        listing = store.read("/")
        assert listing.cursor.epoch != before.epoch
        assert listing.cursor.position > before.position
        assert listing.entries[0] == Entry("/a", 1, b"kept")


def writes(store: RedisStore, write: Write) -> bool:
    with contextlib.suppress(Unavailable):
        return store.apply([write])[0].held == write.version
    return False


def test_with_wait_what_no_replica_has_is_not_acknowledged(sentinels: Redis) -> None:
    with opened(sentinels.url("wait=1&timeout_seconds=1")) as store:
        primary = sentinels.primary()
        others = [server for server in sentinels.servers if server is not primary]
        for server in others:
            server.send(signal.SIGSTOP)
        with pytest.raises(Unavailable, match="0 of 1 replicas"):
            store.apply([Write("/a", 1, b"x")])
        for server in others:
            server.send(signal.SIGCONT)
        wait_for(lambda: writes(store, Write("/a", 1, b"x")), 10)


def test_a_restart_is_another_epoch(single: Redis) -> None:
    with opened(single.url()) as store:
        store.apply([Write("/a", 1, b"x")])
        cursor = store.read("/").cursor
        single.kill()
        single.servers[0].start()
        assert list(store.read("/").entries) == [Entry("/a", 1, b"x")]
        with pytest.raises(StartOver):
            store.watch("/", cursor).next(1.0)


def test_one_that_keeps_nothing_on_disk_is_not_called_durable(directory: Path) -> None:
    for number, options in enumerate([{"appendonly": "no"}, {"appendfsync": "everysec"}]):
        with redis_server.single(directory / str(number), **options) as redis, opened(redis.url()) as store:
            assert not store.capabilities.durable


# --- hanging, losing answers -----------------------------------------------------------------


def test_a_server_that_accepts_and_never_answers_is_unavailable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for scheme in ("redis", "redis+cluster"):
            begin = time.monotonic()
            with pytest.raises(Unavailable, match="127"):
                open_store(f"{scheme}://127.0.0.1:{port}?timeout_seconds=0.5")
            assert time.monotonic() - begin < 1.5


def test_every_call_on_a_frozen_server_ends_in_time(single: Redis) -> None:
    with opened(single.url("timeout_seconds=0.5")) as store:
        store.apply([Write("/a", 1, b"x")])
        watch = store.watch("/", store.read("/").cursor)
        single.send(signal.SIGSTOP)
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
            assert time.monotonic() - begin < 2.0
        single.send(signal.SIGCONT)
        wait_for(lambda: writes(store, Write("/a", 3, b"z")))


def test_frozen_members_of_a_cluster_cost_no_more_than_the_deadline(cluster: Redis) -> None:
    with opened(cluster.url("timeout_seconds=1")) as store:
        cluster.send(signal.SIGSTOP)
        for _ in range(3):
            begin = time.monotonic()
            with pytest.raises(Unavailable):
                store.get(["/a"])
            assert time.monotonic() - begin < 2.0
        cluster.send(signal.SIGCONT)
        wait_for(lambda: writes(store, Write("/a", 1, b"x")), 20)


def test_a_write_whose_answer_was_lost_is_resolved_not_guessed(single: Redis) -> None:
    with (
        Proxy(single.servers[0].port) as proxy,
        opened(f"redis://127.0.0.1:{proxy.port}?timeout_seconds=5") as store,
        opened(single.url()) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        store.apply([Write("/c", 1, b"")])
        proxy.mute = True
        applying = pool.submit(store.apply, [Write("/a", 7, b"mine"), Write("/b", 7, b"mine")])
        wait_for(lambda: other.get(["/b"])[0])
        other.apply([Write("/b", 8, b"theirs")])
        proxy.mute = False
        proxy.hang_up()
        found = applying.result(10)
    assert found == [Outcome("/a", True, 7), Outcome("/b", False, 8)]


def test_an_equal_write_of_another_is_not_taken_for_ones_own(single: Redis) -> None:
    with opened(single.url()) as store, opened(single.url()) as other:
        assert store.apply([Write("/a", 7, b"same")]) == [Outcome("/a", True, 7)]
        assert other.apply([Write("/a", 7, b"same")]) == [Outcome("/a", False, 7)]


def test_scripts_that_the_server_forgot_are_sent_again(single: Redis) -> None:
    with opened(single.url()) as store:
        single.servers[0].cli("SCRIPT", "FLUSH")
        assert store.apply([Write("/a", 1, b"x")])[0].applied


# --- refusing --------------------------------------------------------------------------------


def test_a_server_that_is_full_refuses_writes_and_still_reads(single: Redis) -> None:
    with opened(single.url()) as store:
        store.apply([Write("/a", 1, b"x")])
        single.servers[0].cli("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(Unavailable, match="maxmemory"):
            store.apply([Write("/b", 1, b"x"), Write("/a", 2, b"y")])
        assert store.get(["/a", "/b"]) == [Entry("/a", 1, b"x"), None]
        single.servers[0].cli("CONFIG", "SET", "maxmemory", "0")
        assert store.apply([Write("/b", 1, b"x")])[0].applied


def test_a_server_that_cannot_save_refuses_writes_and_still_reads(directory: Path) -> None:
    with (
        redis_server.single(directory / "a", enable_protected_configs="yes") as redis,
        opened(redis.url()) as store,
    ):
        server = redis.servers[0]
        store.apply([Write("/a", 1, b"x")])
        gone = directory / "gone"
        gone.mkdir()
        server.cli("CONFIG", "SET", "appendonly", "no")
        server.cli("CONFIG", "SET", "dir", str(gone))
        server.cli("CONFIG", "SET", "save", "3600 1")
        gone.rmdir()
        server.cli("BGSAVE")
        wait_for(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err")
        with pytest.raises(Unavailable, match="cannot save"):
            store.apply([Write("/a", 2, b"y")])
        assert store.get(["/a"]) == [Entry("/a", 1, b"x")]


def test_a_primary_without_replicas_in_step_refuses_writes(single: Redis) -> None:
    with opened(single.url("timeout_seconds=0.5")) as store:
        single.servers[0].cli("CONFIG", "SET", "min-replicas-to-write", "1")
        with pytest.raises(Unavailable, match="min-replicas-to-write"):
            store.apply([Write("/a", 1, b"x")])
        assert store.get(["/a"]) == [None]


def test_a_primary_that_became_a_replica_is_left_for_the_other(directory: Path) -> None:
    with redis_server.single(directory / "a") as a, redis_server.single(directory / "b") as b:
        first, second = a.servers[0], b.servers[0]
        url = f"redis://127.0.0.1:{first.port},127.0.0.1:{second.port}?timeout_seconds=2"
        second.cli("REPLICAOF", "127.0.0.1", str(first.port))
        wait_for(lambda: second.info("replication")["master_link_status"] == "up")
        with opened(url) as store:
            store.apply([Write("/a", 1, b"x")])
            first.cli("WAIT", "1", "5000")
            watch = store.watch("/", store.read("/").cursor)
            second.cli("REPLICAOF", "NO", "ONE")
            first.cli("REPLICAOF", "127.0.0.1", str(second.port))
            wait_for(lambda: writes(store, Write("/a", 2, b"y")))
            with pytest.raises(StartOver):
                watch.next(5.0)
            assert second.cli("HGET", "{flowloom}:value", "/a") == "y"


def test_only_replicas_is_unavailable_and_says_so(directory: Path) -> None:
    with redis_server.single(directory / "a") as a, redis_server.single(directory / "b") as b:
        b.servers[0].cli("REPLICAOF", "127.0.0.1", str(a.servers[0].port))
        with pytest.raises(Unavailable, match="is a slave"):
            open_store(b.url("timeout_seconds=0.5"))


# --- what is not ours ------------------------------------------------------------------------


def test_a_key_of_another_program_is_left_alone(single: Redis) -> None:
    server = single.servers[0]
    server.cli("SET", "{mine}:meta", "theirs")
    server.cli("SET", "{other}:log", "theirs")
    server.cli("HSET", "{third}:meta", "program", "another")
    for prefix in ("mine", "other", "third"):
        with pytest.raises(Misconfigured, match=f"{{{prefix}}}:(meta|log) is another program's"):
            open_store(single.url(f"prefix={prefix}"))
    assert server.cli("GET", "{mine}:meta") == "theirs"


def test_a_newer_schema_is_refused_at_start_and_later(single: Redis) -> None:
    with opened(single.url()) as store:
        single.servers[0].cli("HSET", "{flowloom}:meta", "schema", "9")
        with pytest.raises(Misconfigured, match="schema 9"):
            store.apply([Write("/a", 1, b"")])
    with pytest.raises(Misconfigured, match="schema 9"):
        open_store(single.url())


def test_a_server_that_throws_data_away_is_refused(single: Redis) -> None:
    single.servers[0].cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(Misconfigured, match="noeviction"):
        open_store(single.url())


def test_a_member_of_a_cluster_is_refused_as_a_single_server(directory: Path) -> None:
    with (
        redis_server.single(directory / "a", cluster_enabled="yes", cluster_port=str(free_port())) as redis,
        pytest.raises(Misconfigured, match=r"redis\+cluster"),
    ):
        open_store(redis.url())


def test_a_single_server_is_refused_as_a_cluster(single: Redis) -> None:
    with pytest.raises(Misconfigured, match="cluster support disabled"):
        open_store(single.url().replace("redis://", "redis+cluster://"))


def test_a_name_that_no_sentinel_watches_is_said(sentinels: Redis) -> None:
    with pytest.raises(Misconfigured, match="no primary named elsewhere"):
        open_store(sentinels.url().replace("/northbound", "/elsewhere"))


def test_a_server_that_is_too_old_is_refused() -> None:
    def answer(listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                while asked := client.recv(65536):
                    said = b"redis_version:6.2.14\r\nrole:master\r\n"
                    client.sendall(b"$%d\r\n%s\r\n" % (len(said), said) if b"INFO" in asked else b"+OK\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        with pytest.raises(Misconfigured, match=r"Redis 6\.2\.14 is too old"):
            open_store(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        listener.shutdown(socket.SHUT_RDWR)


def test_what_a_hand_changed_is_shown_as_it_is(single: Redis) -> None:
    server = single.servers[0]
    with opened(single.url()) as store:
        store.apply([Write("/a", 5, b"five"), Write("/b", 5, b"five"), Write("/c", 5, b"five"), Write("/d", 5, b"x")])
        server.cli("HSET", "{flowloom}:value", "/a", "other")
        server.cli("HDEL", "{flowloom}:value", "/b")
        server.cli("HSET", "{flowloom}:version", "/c", "nonsense")
        server.cli("HDEL", "{flowloom}:version", "/d")
        assert list(store.read("/").entries) == [
            Entry("/a", 5, b"other"),
            Entry("/b", 5, None),
            Entry("/c", 0, b"five"),
            Entry("/d", 0, None),
        ]
        assert [each.applied for each in store.apply([Write("/c", 1, b"c"), Write("/d", 1, b"d")])] == [True, True]


def test_a_change_removed_from_the_log_says_start_over(single: Redis) -> None:
    with opened(single.url()) as store:
        cursor = store.read("/").cursor
        store.apply([Write(f"/k{n}", 1, b"") for n in range(3)])
        single.servers[0].cli("XDEL", LOG, "2-0")
        with pytest.raises(StartOver):
            store.watch("/", cursor).next(1.0)


# --- getting in ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("redis://h:port", "host or host:port"),
        ("redis://h:99999", "host or host:port"),
        ("redis://", "host or host:port"),
        ("redis://h/x", "number of a database"),
        ("redis://h?nope=1", "nope"),
        ("redis://h?wait=many", "wait"),
        ("redis://h?log_max=0", "log_max"),
        ("redis://h?timeout_seconds=soon", "timeout_seconds"),
        ("redis://h?prefix={x}", "prefix"),
        ("redis://h?tls_ca=/nowhere", "tls_ca"),
        ("rediss://h", "tls_ca"),
        ("rediss://h?tls_ca=/nowhere", "tls_ca names /nowhere"),
        ("redis+sentinel://h", "which primary"),
        ("redis+cluster://h/3", "database 0 only"),
        ("redis://u@h?password_file=/nowhere", "password_file"),
    ],
)
def test_a_wrong_url_names_what_is_wrong(bad: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        open_store(bad)
    assert caught.value.setting == "store"


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "rediss+cluster"])
def test_a_missing_client_names_the_command(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.delitem(sys.modules, "flowloom.drivers.store.redis")
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.crc", None)
    with pytest.raises(Misconfigured, match=r"pip install 'flowloom\[redis\]'"):
        plugins.open_store(f"{scheme}://h")


def test_nobody_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        open_store("redis://127.0.0.1:1?timeout_seconds=0.3")


SECRET = "correct-horse%2Fbattery"


def test_wrong_credentials_are_said_without_the_secret(directory: Path) -> None:
    with redis_server.single(directory / "a", requirepass="correct-horse/battery") as redis:
        with opened(redis.url(login=f":{SECRET}@")) as store:
            assert store.apply([Write("/a", 1, b"x")])[0].applied
            assert "correct" not in repr(store.primary.__dict__) + repr(store.__dict__)
        file = directory / "password"
        file.write_text("correct-horse/battery\n")
        with opened(redis.url(f"password_file={file}")) as store:
            assert store.get(["/a"]) == [Entry("/a", 1, b"x")]
        for login in (":wrong-secret@", "", "nobody:wrong-secret@"):
            with pytest.raises(Misconfigured, match="refuses the credentials") as caught:
                open_store(redis.url(login=login))
            chain = "".join(traceback.format_exception(caught.value))
            assert "wrong-secret" not in chain.replace(f'login="{login}"', "")


def test_a_user_with_the_documented_rights_and_no_more(single: Redis) -> None:
    rights = documented_rights()
    single.servers[0].cli("ACL", "SETUSER", "flowloom", "on", ">secret", *rights)
    with opened(single.url(login="flowloom:secret@")) as store:
        watch = store.watch("/", store.read("/").cursor)
        store.apply([Write("/a", 1, b"x")])
        assert list(watch.next(5.0).entries) == [Entry("/a", 1, b"x")]
        assert list(watch.next(0.1).entries) == []
        assert store.versions("/").versions == {"/a": (1, False)}
    single.servers[0].cli("ACL", "SETUSER", "flowloom", "-xadd")
    with (
        opened(single.url(login="flowloom:secret@")) as store,
        pytest.raises(Unavailable, match="can't run this command"),
    ):
        store.apply([Write("/a", 2, b"x")])


def documented_rights() -> Sequence[str]:
    page = (Path(__file__).parents[2] / "docs" / "stores-redis.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("ACL SETUSER flowloom"))
    return line.split()[5:]


def test_tls_with_client_certificates(directory: Path) -> None:
    authority, other = new_authority(directory / "ca"), new_authority(directory / "other")
    server, client = authority.certify("server"), authority.certify("client")
    misnamed = authority.certify("misnamed", alternative="DNS:elsewhere.example")
    options = {
        "port": "0",
        "tls-ca-cert-file": str(authority.cert),
        "tls-auth-clients": "yes",
    }
    mine = f"tls_ca={authority.cert}&tls_cert={client.cert}&tls_key={client.key}&timeout_seconds=2"

    def start(name: str, cert: Path, key: Path) -> contextlib.AbstractContextManager[Redis]:
        return redis_server.single_tls(directory / name, authority.cert, cert, key, **options)

    with start("good", server.cert, server.key) as redis:
        with opened(redis.url(mine)) as store:
            watch = store.watch("/", store.read("/").cursor)
            store.apply([Write("/a", 1, b"x" * 100_000)])
            assert list(watch.next(5.0).entries) == [Entry("/a", 1, b"x" * 100_000)]
        with pytest.raises(Misconfigured, match="no TLS connection"):
            open_store(redis.url(f"tls_ca={other.cert}&tls_cert={client.cert}&tls_key={client.key}"))
        with pytest.raises((Misconfigured, Unavailable)):
            open_store(redis.url(f"tls_ca={authority.cert}&timeout_seconds=1"))
        with pytest.raises(Unavailable):
            open_store(redis.url("timeout_seconds=1").replace("rediss:", "redis:"))
    with (
        start("misnamed", misnamed.cert, misnamed.key) as redis,
        pytest.raises(Misconfigured, match="no TLS connection"),
    ):
        open_store(redis.url(mine))


# --- many ------------------------------------------------------------------------------------


def test_a_hundred_thousand_objects_in_bounded_memory(single: Redis) -> None:
    count, value = 100_000, b"x" * 500
    single.servers[0].cli("CONFIG", "SET", "appendfsync", "no")
    with opened(single.url("log_max=200000")) as store:
        start = store.read("/").cursor
        for page in pages([Write(f"/lab/p/n{n % 100:03}/port/{n:06}", 1, value) for n in range(count)], 1000):
            store.apply(page)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        watch, seen = store.watch("/", start), 0
        while entries := watch.next(0.0).entries:
            assert len(entries) <= 1000
            seen += len(entries)
        assert seen == count
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
        assert len(store.versions("/lab/").versions) == count
        assert len(store.read("/lab/p/n042/").entries) == count // 100
        listing = store.read("/lab/")
        assert len(listing.entries) == count
        assert listing.entries[0] == Entry("/lab/p/n000/port/000000", 1, value)


def test_large_values_come_in_pages_of_some_megabytes(single: Redis) -> None:
    with opened(single.url()) as store:
        start = store.read("/").cursor
        for n in range(60):
            store.apply([Write(f"/big/{n:02}", 1, bytes([n]) * (1 << 20))])
        watch, sizes = store.watch("/", start), []
        while entries := watch.next(0.0).entries:
            sizes.append(len(entries))
        assert sum(sizes) == 60
        assert max(sizes) <= 50
        assert [entry.value[:1] for entry in store.read("/").entries if entry.value] == [bytes([n]) for n in range(60)]


def test_the_log_is_bounded(single: Redis) -> None:
    with opened(single.url("log_max=100")) as store:
        for page in pages([Write(f"/k{n}", 1, b"") for n in range(3000)], 50):
            store.apply(page)
    assert int(single.servers[0].cli("XLEN", LOG)) < 400


def test_a_store_opened_before_a_fork_refuses_to_work_in_the_child(single: Redis) -> None:
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
