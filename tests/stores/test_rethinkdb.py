"""RethinkDB: the driver's queries on an evaluator of their language; a real server where one is named.

FLOWLOOM_TEST_RETHINKDB=rethinkdb://host:28015 makes the conformance suite run there, in databases of its own.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import reql
from rethinkdb import errors

from flowloom.drivers.store import rethinkdb as driver
from flowloom.drivers.store import rethinkdb_queries as queries
from flowloom.drivers.store.rethinkdb import RethinkdbStore, connect, open_store
from flowloom.drivers.store.rethinkdb_session import Session, Settings, may_go_better, sentence
from flowloom.drivers.store.urls import Endpoint
from flowloom.kernel.errors import Misconfigured, StartOver, Unavailable
from flowloom.northbound import plugins
from flowloom.northbound.limits import KEY_BYTES_MAX
from flowloom.northbound.store import Entry, Outcome, Store, Write
from flowloom.testing.store_conformance import StoreBench, StoreConformance

SERVER = os.environ.get("FLOWLOOM_TEST_RETHINKDB", "")
SETTINGS = Settings("rethinkdb://fake", (Endpoint("fake", 28015),), "flowloom", "", "", "", 2.0)

numbers = itertools.count()


class EvaluatorBench(StoreBench):
    def __init__(self) -> None:
        super().__init__()
        self.server = reql.Server()

    def connect(self) -> RethinkdbStore:
        return connect(SETTINGS, 1, 100_000, self.server.dial)

    def trim(self) -> None:
        self.open_store().apply([Write("/elsewhere", 1, b"")])  # The newest entry always stays.
        log = self.server.databases["flowloom"]["log"]
        for number in sorted(log)[:-1]:
            del log[number]

    def wipe(self) -> None:
        del self.server.databases["flowloom"]

    def cut(self) -> None:
        self.server.available = False

    def mend(self) -> None:
        self.server.available = True


class TestQueries(StoreConformance):
    def new_bench(self) -> StoreBench:
        return EvaluatorBench()


class RealBench(StoreBench):
    """A database of its own on a server that is there."""

    def __init__(self) -> None:
        super().__init__()
        self.database = f"flowloom_test_{os.getpid()}_{next(numbers)}"

    def connect(self) -> Store:
        return open_store(f"{SERVER.rstrip('/')}/{self.database}")

    def administer(self, query: Any) -> None:
        store = open_store(f"{SERVER.rstrip('/')}/{self.database}")
        store.session.run(query)
        store.close()

    def trim(self) -> None:
        store = open_store(f"{SERVER.rstrip('/')}/{self.database}")
        store.apply([Write("/elsewhere", 1, b"")])  # The newest entry always stays.
        store.run(queries.trim(store.read("/nothing/").cursor.position))
        store.close()

    def wipe(self) -> None:
        self.administer(queries.r.db_drop(self.database))

    def end(self) -> None:
        super().end()
        self.administer(queries.r.db_drop(self.database))


@pytest.mark.skipif(not SERVER, reason="FLOWLOOM_TEST_RETHINKDB names no server (rethinkdb://host:28015)")
class TestRealServer(StoreConformance):
    def new_bench(self) -> StoreBench:
        return RealBench()


@pytest.fixture
def bench() -> Iterator[EvaluatorBench]:
    bench = EvaluatorBench()
    yield bench
    bench.end()


# --- documents and queries -------------------------------------------------------------------


def test_a_document_reads_well_and_orders_versions_as_text(bench: EvaluatorBench) -> None:
    store = bench.open_store()
    store.apply([Write("/a", 2**53 + 1, b'{"name": "x"}'), Write("/b", 1, b"\xff\x00"), Write("/c", 7, None)])
    held = bench.server.databases["flowloom"]["object"]
    assert (held["/a"]["version"], held["/a"]["value"]) == ("0009007199254740993", '{"name": "x"}')
    assert held["/b"]["value"] == b"\xff\x00"
    assert held["/c"]["gone"] is True
    assert "value" not in held["/c"]
    assert not any("pending" in row for row in held.values())


def test_ids_fit_and_are_told_apart_and_keep_prefixes() -> None:
    longest = ["/" + "k" * (KEY_BYTES_MAX - 2) + last for last in "ab"]
    ids = [queries.id_of(key) for key in longest]
    assert len(set(ids)) == 2
    assert all(len(each) == 127 for each in ids)
    assert ids[0].startswith(longest[0][:90])
    assert queries.id_of("/" + "k" * 126) == "/" + "k" * 126


def test_keys_longer_than_an_id_are_found_by_prefixes_of_any_length(bench: EvaluatorBench) -> None:
    store = bench.open_store()
    keys = sorted("/" + "p" * length + "/x" for length in (10, 94, 95, 96, 200, 400))
    store.apply([Write(key, 1, b"") for key in keys])
    for prefix in ("/", "/" + "p" * 94, "/" + "p" * 95, "/" + "p" * 150, "/" + "p" * 400):
        assert [entry.key for entry in store.read(prefix).entries] == [k for k in keys if k.startswith(prefix)]


def test_a_write_is_one_query_that_checks_epoch_and_version() -> None:
    text = str(queries.apply([Write("/a", 3, b"x")], "token", "epoch"))
    assert (
        "r.branch((r.table('meta', read_mode='majority').get('database')['epoch'].default('') == r.expr('epoch')"
        in text
    )
    assert "'version': '0000000000000000003'" in text
    assert "return_changes='always'" in text
    assert "durability='hard'" in text
    assert "['version'].default('') < " in text


def test_the_log_is_created_only_and_read_by_majority() -> None:
    assert "conflict='error', durability='hard'" in str(queries.append(["/a"], "m"))
    for query in (queries.since(5, 10), queries.now(), queries.page("/a/", None, 10, True), queries.get(["/a"])):
        assert "read_mode='majority'" in str(query)
    assert "between(5, 15, right_bound='closed')" in str(queries.since(5, 10))
    assert "between('/a/k', '/a/\\uffff', left_bound='open')" in str(queries.page("/a/", "/a/k", 10, True)).replace(
        "\uffff", "\\uffff"
    )


# --- writers that die ------------------------------------------------------------------------


def test_what_a_dead_writer_did_not_announce_reaches_watches(
    bench: EvaluatorBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, dying = bench.open_store(), bench.open_store()
    watch = store.watch("/", store.read("/").cursor)

    def die(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dying, "_announce", die)
    with pytest.raises(KeyboardInterrupt):
        dying.apply([Write("/a", 1, b"x")])
    assert bench.server.databases["flowloom"]["log"] == {}
    held = bench.server.databases["flowloom"]["object"]["/a"]
    store.adopt_orphans()
    assert not watch.next(0.0).entries  # It may still be alive.
    held["pending"] -= queries.PENDING_SECONDS + 1
    watch._adopted = 0.0
    assert list(watch.next(5.0).entries) == [Entry("/a", 1, b"x")]
    assert "pending" not in bench.server.databases["flowloom"]["object"]["/a"]


def test_a_write_whose_answer_was_lost_is_resolved_not_guessed(bench: EvaluatorBench) -> None:
    store, other = bench.open_store(), bench.open_store()
    watch = other.watch("/", other.read("/").cursor)
    bench.server.lost_answers = 1
    assert store.apply([Write("/a", 7, b"same")]) == [Outcome("/a", True, 7)]
    assert other.apply([Write("/a", 7, b"same")]) == [Outcome("/a", False, 7)]
    assert list(watch.next(1.0).entries) == [Entry("/a", 7, b"same")]


def test_an_error_in_a_result_is_unavailable(bench: EvaluatorBench, monkeypatch: pytest.MonkeyPatch) -> None:
    store = bench.open_store()

    def failing(self: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        return {"errors": 1, "first_error": "Cannot perform write: lost contact with primary replica"}

    monkeypatch.setattr(reql.Evaluation, "on_insert", failing)
    with pytest.raises(Unavailable, match="lost contact"):
        store.apply([Write("/a", 1, b"")])


# --- another history, and what is not ours ---------------------------------------------------


def test_an_entry_that_is_another_one_than_was_read_says_start_over(bench: EvaluatorBench) -> None:
    store = bench.open_store()
    store.apply([Write("/a", 1, b"x")])
    watch = store.watch("/", store.read("/").cursor)
    watch.next(0.0)
    store.apply([Write("/b", 1, b"x")])
    assert len(watch.next(0.0).entries) == 1
    log = bench.server.databases["flowloom"]["log"]
    log[2] = {**log[2], "mark": "another"}
    store.apply([Write("/c", 1, b"x")])
    with pytest.raises(StartOver, match="another one"):
        watch.next(0.0)


def test_a_gap_in_the_log_says_start_over(bench: EvaluatorBench) -> None:
    store = bench.open_store()
    cursor = store.read("/").cursor
    for number in range(4):
        store.apply([Write(f"/k{number}", 1, b"")])
    del bench.server.databases["flowloom"]["log"][3]
    with pytest.raises(StartOver):
        store.watch("/", cursor).next(0.0)


def test_the_log_is_bounded(bench: EvaluatorBench) -> None:
    store = connect(SETTINGS, 1, 100, bench.server.dial)
    for version in range(1, 401):
        store.apply([Write("/a", version, b"")])
    assert len(bench.server.databases["flowloom"]["log"]) < 200
    store.close()


def test_data_of_another_program_are_left_alone(bench: EvaluatorBench) -> None:
    bench.server.databases["flowloom"] = {"theirs": {1: {"id": 1}}}
    with pytest.raises(Misconfigured, match="another program's"):
        bench.connect()
    bench.server.databases["flowloom"] = {"object": {1: {"id": 1}}}
    with pytest.raises(Misconfigured, match="another program's"):
        bench.connect()
    bench.server.databases["flowloom"] = {"meta": {"database": {"id": "database"}}}
    with pytest.raises(Misconfigured, match="another program's"):
        bench.connect()


def test_more_replicas_than_servers_is_said(bench: EvaluatorBench) -> None:
    with pytest.raises(Unavailable, match="Can't put 3 replicas on 1 servers"):
        connect(SETTINGS, 3, 100, bench.server.dial)


def test_a_newer_schema_is_refused(bench: EvaluatorBench) -> None:
    bench.connect().close()
    bench.server.databases["flowloom"]["meta"]["database"]["schema"] = 9
    with pytest.raises(Misconfigured, match="schema 9"):
        bench.connect()


def test_what_a_hand_left_has_version_0_and_yields_to_any_write(bench: EvaluatorBench) -> None:
    store = bench.open_store()
    bench.server.databases["flowloom"]["object"]["/a"] = {"id": "/a", "value": "by hand"}
    assert list(store.read("/").entries) == [Entry("/a", 0, b"by hand")]
    assert store.apply([Write("/a", 1, b"x")]) == [Outcome("/a", True, 1)]


def test_no_quorum_is_unavailable_never_empty(bench: EvaluatorBench) -> None:
    store = bench.open_store()
    store.apply([Write("/a", 1, b"x")])
    bench.server.refuses = errors.ReqlOpFailedError(
        "Cannot perform read: The primary replica isn't connected to a quorum of replicas."
    )
    for call in (lambda: store.get(["/a"]), lambda: store.read("/"), lambda: store.apply([Write("/b", 1, b"")])):
        with pytest.raises(Unavailable, match="quorum"):
            call()
    bench.server.refuses = None
    assert store.get(["/a"]) == [Entry("/a", 1, b"x")]


# --- errors, deadlines, getting in -----------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "again", "says"),
    [
        (errors.ReqlAuthError("Wrong password", "h", 1), False, "refuses the credentials"),
        (errors.ReqlPermissionError("User `x` does not have the required `write` permission."), False, "refuses"),
        (errors.ReqlTimeoutError("h", 1), True, "no answer"),
        (errors.ReqlDriverError("Connection is closed."), True, "no answer"),
        (AttributeError("'NoneType' object has no attribute 'settimeout'"), True, "no answer"),
        (errors.ReqlOpFailedError("Cannot perform write: ..."), True, "not done"),
        (errors.ReqlOpIndeterminateError("Cannot perform write: lost contact"), True, "not known whether"),
        (errors.ReqlInternalError("none of the servers were accessible"), True, "accessible"),
        (errors.ReqlRuntimeError("Connection is closed (0 bytes read)"), True, "Connection is closed"),
        (errors.ReqlQueryLogicError("Read mode `x` unrecognized"), False, "unrecognized"),
        (errors.ReqlResourceLimitError("Array over size limit"), False, "size limit"),
        (errors.ReqlDriverCompileError("Nesting depth limit exceeded."), False, "Nesting"),
    ],
)
def test_errors_say_who_acts_next(error: Exception, again: bool, says: str) -> None:
    assert may_go_better(error) is again
    assert says in sentence(error)


def test_wrong_credentials_are_misconfigured_without_the_secret(bench: EvaluatorBench) -> None:
    bench.server.refuses = errors.ReqlAuthError("Wrong password", "h", 1)
    settings = Settings("rethinkdb://h", SETTINGS.endpoints, "flowloom", "u", "wrong-secret", "", 1.0)
    with pytest.raises(Misconfigured, match="Wrong password") as caught:
        connect(settings, 1, 100, bench.server.dial)
    assert "wrong-secret" not in str(caught.value) + repr(settings)


def test_a_server_that_accepts_and_never_answers_is_unavailable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(Unavailable, match="no answer"):
            open_store(f"rethinkdb://127.0.0.1:{silent.getsockname()[1]}?timeout_seconds=0.5")
        assert time.monotonic() - begin < 2.0


def test_a_query_that_is_late_is_cut() -> None:
    left, right = socket.socketpair()

    class Late:
        """A connection, as the library's are inside, whose server does not answer."""

        _instance = SimpleNamespace(_socket=SimpleNamespace(_socket=left))

        def close(self, noreply_wait: bool = True) -> None:
            assert not noreply_wait

        def _start(self, term: Any) -> None:
            left.recv(1)
            raise errors.ReqlDriverError("Connection is closed.")

    settings = Settings("rethinkdb://late", SETTINGS.endpoints, "x", "", "", "", 0.5)
    session = Session(settings, Random(1), lambda *_: Late())
    begin = time.monotonic()
    with pytest.raises(Unavailable, match="Connection is closed"):
        session.run(queries.now())
    assert 0.4 < time.monotonic() - begin < 1.5
    session.close()
    right.close()


def test_another_server_is_asked_when_one_is_away(bench: EvaluatorBench) -> None:
    asked: list[str] = []

    def dial(settings: Any, endpoint: Endpoint, seconds: float) -> Any:
        asked.append(endpoint.host)
        if endpoint.host == "dead":
            raise errors.ReqlDriverError("Could not connect")
        return bench.server.dial(settings, endpoint, seconds)

    endpoints = (Endpoint("dead", 1), Endpoint("alive", 1))
    settings = Settings("rethinkdb://two", endpoints, "flowloom", "", "", "", 2.0)
    store = connect(settings, 1, 100, dial)
    assert store.apply([Write("/a", 1, b"")])[0].applied
    assert asked.count("dead") == 1
    store.close()


def test_a_silent_feed_costs_the_polling_time_and_no_change(
    bench: EvaluatorBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: reql.Feed, wait: float) -> Any:
        time.sleep(wait)
        raise errors.ReqlTimeoutError()

    monkeypatch.setattr(reql.Feed, "next", silent)
    monkeypatch.setattr(driver, "_POLL_SECONDS", 0.2)
    store, other = bench.open_store(), bench.open_store()
    watch = store.watch("/", store.read("/").cursor)
    threading.Timer(0.3, lambda: other.apply([Write("/a", 1, b"x")])).start()
    assert list(watch.next(5.0).entries) == [Entry("/a", 1, b"x")]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("rethinkdb://h:port", "host or host:port"),
        ("rethinkdb://h/rethinkdb", "database's name"),
        ("rethinkdb://h/a/b", "database's name"),
        ("rethinkdb://h?nope=1", "nope"),
        ("rethinkdb://h?replicas=0", "replicas"),
        ("rethinkdb://h?timeout_seconds=soon", "timeout_seconds"),
        ("rethinkdb+tls://h", "tls_ca"),
        ("rethinkdb://h?tls_ca=/nowhere", "tls_ca"),
    ],
)
def test_a_wrong_url_names_what_is_wrong(bad: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        open_store(bad)


@pytest.mark.parametrize("scheme", ["rethinkdb", "rethinkdb+tls"])
def test_a_missing_client_names_the_command(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    for name in ("rethinkdb", "rethinkdb_queries", "rethinkdb_session"):
        monkeypatch.delitem(sys.modules, f"flowloom.drivers.store.{name}")
    monkeypatch.setitem(sys.modules, "rethinkdb", None)
    with pytest.raises(Misconfigured, match=r"pip install 'flowloom\[rethinkdb\]'"):
        plugins.open_store(f"{scheme}://h")
