"""RAMCloud: the whole driver on a stand-in for its client library; a real cluster where one is named.

FLOWLOOM_TEST_RAMCLOUD=tcp:host=HOST,port=PORT (the coordinator's locator) and
FLOWLOOM_RAMCLOUD_LIBRARY=/path/libramcloud.so make the conformance suite run there, in tables of its own.
FLOWLOOM_RAMCLOUD_HEADERS=/path/RAMCloud/src makes a C compiler compare the binding with the published headers.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from following import WRITES, Follower, check_nothing_lost, write_under_fire
from ramcloud_stand_in import AFTERWARDS, BROKEN, INSTEAD, SOURCE, TWICE, StandIn, compiled

from flowloom.drivers.store import ramcloud_library as binding
from flowloom.drivers.store import ramcloud_records as records
from flowloom.drivers.store.ramcloud import BATCH_BYTES, BATCH_WRITES, VALUE_BYTES_MAX, RamcloudStore, open_store
from flowloom.drivers.store.ramcloud_database import Page
from flowloom.drivers.store.ramcloud_library import MultiOp, Put, RamcloudError, RejectRules, Status, unless_held
from flowloom.drivers.store.ramcloud_session import Calls, sentence
from flowloom.kernel.errors import Misconfigured, StartOver, Unavailable
from flowloom.northbound import plugins
from flowloom.northbound.limits import KEY_BYTES_MAX
from flowloom.northbound.store import Cursor, Entry, Outcome, Write
from flowloom.testing.store_conformance import StoreBench, StoreConformance

SERVER = os.environ.get("FLOWLOOM_TEST_RAMCLOUD", "")
LIBRARY = os.environ.get("FLOWLOOM_RAMCLOUD_LIBRARY", "")
HEADERS = os.environ.get("FLOWLOOM_RAMCLOUD_HEADERS", "")

numbers = itertools.count()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(SOURCE, tmp_path_factory.mktemp("ramcloud") / "libramcloud.so")


class StandInBench(StoreBench):
    def __init__(self, library: Path) -> None:
        super().__init__()
        self.cluster = StandIn(library)

    def connect(self) -> RamcloudStore:
        return open_store(self.cluster.url())

    def open_store(self) -> RamcloudStore:
        store = self.connect()
        self._opened.append(store)
        return store

    def trim(self) -> None:
        trim(self.open_store())

    def wipe(self) -> None:
        self.cluster.wipe()

    def cut(self) -> None:
        self.cluster.away(True)

    def mend(self) -> None:
        self.cluster.away(False)


def trim(store: RamcloudStore) -> None:
    """Forget all of the log but its newest entry, which always stays."""
    store.apply([Write("/elsewhere", 1, b"")])
    database = store.database
    kept, database._log_max = database._log_max, 1
    database.run(lambda calls: database._mark(calls, database._epoch))
    database._log_max = kept


@pytest.fixture
def bench(library: Path) -> Iterator[StandInBench]:
    bench = StandInBench(library)
    yield bench
    bench.cluster.away(False)
    bench.end()
    assert bench.cluster.violations() == 0, "a client was used by two threads at once"


class TestStandIn(StoreConformance):
    @pytest.fixture(autouse=True)
    def _bench(self, bench: StandInBench) -> None:
        self.bench = bench

    def setup_method(self) -> None:
        pass

    def teardown_method(self) -> None:
        pass


def url_of(server: str, name: str, library: str) -> str:
    """The URL of a store: `server` is the coordinator's locator, or a URL already."""
    rest = f"/{name}?library={library}&timeout_seconds=30"
    if server.startswith("ramcloud"):
        return server.split("?")[0].rstrip("/") + rest
    transport, _, options = server.partition(":")
    chosen = dict(each.split("=", 1) for each in re.split(r"\s*,\s*", options.strip()))
    return f"ramcloud://{chosen['host']}:{chosen['port']}{rest}&transport={transport.strip()}"


class RealBench(StoreBench):
    """Tables of its own in a cluster that is there."""

    def __init__(self) -> None:
        super().__init__()
        self.name = f"flowloom_test_{os.getpid()}_{next(numbers)}"

    def connect(self) -> RamcloudStore:
        return open_store(url_of(SERVER, self.name, LIBRARY))

    def trim(self) -> None:
        store = self.connect()
        trim(store)
        store.close()

    def wipe(self) -> None:
        store = self.connect()
        drop_tables(store, self.name)
        store.close()

    def end(self) -> None:
        super().end()
        self.wipe()


def drop_tables(store: RamcloudStore, name: str) -> None:
    def drop(calls: Calls) -> None:
        client = calls.client
        for table in ("objects", "log"):
            client._library.rc_dropTable(client._client, f"{name}.{table}".encode())

    store.database.session.run(drop)


@pytest.mark.skipif(
    not (SERVER and LIBRARY),
    reason="FLOWLOOM_TEST_RAMCLOUD names no coordinator (tcp:host=HOST,port=PORT), or FLOWLOOM_RAMCLOUD_LIBRARY no"
    " libramcloud.so",
)
class TestRealCluster(StoreConformance):
    def new_bench(self) -> StoreBench:
        return RealBench()


# --- the library -----------------------------------------------------------------------------


def test_reject_rules_lie_as_the_c_compiler_lays_them(library: Path) -> None:
    layout = (ctypes.c_size_t * 6)()
    ctypes.CDLL(str(library)).stand_in_reject_rules(layout)
    ours = [getattr(RejectRules, name).offset for name, *_ in RejectRules._fields_]
    assert [ctypes.sizeof(RejectRules), *ours] == list(layout) == [12, 0, 8, 9, 10, 11]


DECLARATIONS = """
Status rc_connect(const char *, const char *, struct rc_client **);
void rc_disconnect(struct rc_client *);
Status rc_createTable(struct rc_client *, const char *, uint32_t);
Status rc_getTableId(struct rc_client *, const char *, uint64_t *);
Status rc_read(struct rc_client *, uint64_t, const void *, uint16_t, const struct RejectRules *, uint64_t *, void *,
    uint32_t, uint32_t *);
Status rc_write(struct rc_client *, uint64_t, const void *, uint16_t, const void *, uint32_t,
    const struct RejectRules *, uint64_t *);
void rc_enumerateTablePrepare(struct rc_client *, uint64_t, int, void **);
Status rc_enumerateTableNext(struct rc_client *, void *, uint32_t *, const void **, uint32_t *, const void **);
void rc_enumerateTableFinalize(void *);
void rc_multiIncrement(struct rc_client *, void **, uint32_t);
void rc_multiReadCreate(uint64_t, const void *, uint16_t, void *, uint32_t, uint32_t *, void *);
void rc_multiWriteCreate(uint64_t, const void *, uint16_t, const void *, uint32_t, const struct RejectRules *, void *);
void rc_multiRemoveCreate(uint64_t, const void *, uint16_t, const struct RejectRules *, void *);
void rc_multiRead(struct rc_client *, void **, uint32_t);
void rc_multiWrite(struct rc_client *, void **, uint32_t);
void rc_multiRemove(struct rc_client *, void **, uint32_t);
uint16_t rc_multiOpSizeOf(MultiOp);
Status rc_multiOpStatus(const void *, MultiOp);
uint64_t rc_multiOpVersion(const void *, MultiOp);
void rc_multiOpDestroy(void *, MultiOp);
"""
"""What the binding takes the library's calls for, in C."""

OF_C = {
    "Status": ctypes.c_int,
    "MultiOp": ctypes.c_int,
    "int": ctypes.c_int,
    "uint16_t": ctypes.c_uint16,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "void": None,
}


def test_the_bindings_types_are_those_of_the_declarations() -> None:
    declared = re.findall(r"(\w+) (rc_\w+)\(([^)]*)\);", DECLARATIONS)
    assert {name for _, name, _ in declared} == set(binding._CALLS)
    pointers = (ctypes.c_char_p, ctypes.c_void_p, ctypes._Pointer)
    for result, name, arguments in declared:
        ours_result, ours = binding._CALLS[name]
        kinds = [each.strip() for each in arguments.split(",")]
        assert (ours_result, len(ours)) == (OF_C[result], len(kinds)), name
        for kind, argument in zip(kinds, ours, strict=True):
            assert issubclass(argument, pointers) if "*" in kind else argument is OF_C[kind], (name, kind)


@pytest.mark.skipif(not HEADERS, reason="FLOWLOOM_RAMCLOUD_HEADERS names no directory with RAMCloud's CRamCloud.h")
def test_the_declarations_are_those_of_the_published_headers(tmp_path: Path) -> None:
    """The compiler compares every call's types, every status, every operation and the rules' layout."""
    checks = [f'_Static_assert(STATUS_{status.name} == {status.value}, "");' for status in Status]
    checks += [f'_Static_assert(MULTI_OP_{each.name} == {each.value}, "");' for each in MultiOp]
    checks += [f'_Static_assert(STATUS_MAX_VALUE == {len(Status) - 1}, "");']
    checks += [f'_Static_assert(sizeof(struct RejectRules) == {ctypes.sizeof(RejectRules)}, "");']
    for name, *_ in RejectRules._fields_:
        offset = getattr(RejectRules, name).offset
        checks.append(f'_Static_assert(offsetof(struct RejectRules, {name}) == {offset}, "");')
    source = tmp_path / "headers.c"
    includes = ["#include <stddef.h>", '#include "CRamCloud.h"', "enum { rules = sizeof(struct RejectRules) };"]
    source.write_text("\n".join([*includes, DECLARATIONS, *checks]))
    compiled(source, tmp_path / "headers.so", f"-I{HEADERS}")


def test_conditions_are_the_published_bytes() -> None:
    assert bytes(unless_held(0)) == bytes(8) + b"\0\1\0\0"
    assert bytes(unless_held(258)) == b"\2\1\0\0\0\0\0\0" + b"\1\0\0\1"


def test_statuses_have_the_published_numbers() -> None:
    assert [status.value for status in Status] == list(range(34))
    assert (Status.TABLE_DOESNT_EXIST, Status.OBJECT_EXISTS, Status.WRONG_VERSION) == (2, 4, 5)
    assert (Status.RETRY, Status.INTERNAL_ERROR, Status.REQUEST_TOO_LARGE, Status.EXPIRED_LEASE) == (17, 21, 27, 32)


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    for path in (str(tmp_path / "libramcloud.so"), "libramcloud-that-nobody-has.so"):
        with pytest.raises(Misconfigured, match=f"{path} is not there; install it, or name it with library="):
            open_store(f"ramcloud://h?library={path}")


def test_what_is_no_library_cannot_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "libramcloud.so"
    path.write_text("not ELF" * 1000)
    with pytest.raises(Misconfigured, match=r"cannot be loaded: .*invalid ELF header"):
        open_store(f"ramcloud://h?library={path}")


def test_a_library_that_lacks_a_call_names_it(tmp_path: Path) -> None:
    source = tmp_path / "old.c"
    names = [name for name in binding._CALLS if name != "rc_multiIncrement"]
    source.write_text("\n".join(f"void {name}(void) {{}}" for name in names))
    path = compiled(source, tmp_path / "libramcloud.so")
    with pytest.raises(Misconfigured, match="has no rc_multiIncrement: it is not RAMCloud's client library, or an old"):
        open_store(f"ramcloud://h?library={path}")


def test_the_librarys_log_goes_where_it_is_told(bench: StandInBench, tmp_path: Path) -> None:
    open_store(bench.cluster.url(log_file=tmp_path / "log")).close()
    assert (tmp_path / "log").read_text() == "the stand-in's log\n"
    with pytest.raises(Misconfigured, match=r"log_file names .*/log, which user"):
        open_store(bench.cluster.url(log_file=tmp_path / "nowhere" / "log"))


def test_one_client_serves_many_threads_one_after_the_other(bench: StandInBench) -> None:
    store = bench.open_store()
    bench.cluster.delay(0.002)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: store.apply([Write(f"/k{n}", 1, b"")])[0].applied, range(24)))
    assert done == [True] * 24


# --- keys, values, records -------------------------------------------------------------------


def test_what_is_stored_reads_well(bench: StandInBench) -> None:
    store = bench.open_store()
    store.apply([Write("/a", 7, b'{"name": "x"}'), Write("/b", 8, None)])
    assert re.fullmatch(rb'7 live [0-9a-f]{16} 1 [0-9a-f]{12}\n\{"name": "x"\}', stored(store, "objects", b"/a"))
    assert re.fullmatch(rb"8 gone [0-9a-f]{16} 1 [0-9a-f]{12}\n", stored(store, "objects", b"/b"))
    epoch = store.read("/").cursor.epoch
    assert stored(store, "log", f"{epoch}/1".encode()).startswith(b'{"token":')


def test_the_fullest_entries_fit_into_an_object(bench: StandInBench) -> None:
    store = bench.open_store()
    long = "/" + "k" * (KEY_BYTES_MAX - 4)
    last = 2**63 - 1
    assert store.apply([Write(long, last, b"\xff" * VALUE_BYTES_MAX)])[0].applied
    share = BATCH_BYTES // BATCH_WRITES - KEY_BYTES_MAX
    full = [Write(f"{long}{n:03}", last, b"\0" * share) for n in range(BATCH_WRITES)]
    assert all(outcome.applied for outcome in store.apply(full))
    assert store.read("/").cursor.position == 2
    assert [entry and entry.value for entry in store.get([write.key for write in full])] == [b"\0" * share] * 80


def test_a_call_beyond_one_object_is_several_steps(bench: StandInBench) -> None:
    store = bench.open_store()
    writes = [Write(f"/k{n}", 1, bytes(400_000)) for n in range(5)] + [Write(f"/s{n}", 1, b"") for n in range(200)]
    assert all(outcome.applied for outcome in store.apply(writes))
    listing = store.read("/")
    assert (len(listing.entries), listing.cursor.position) == (205, 3 + 2)


def test_a_listing_of_several_parts_is_complete(bench: StandInBench) -> None:
    store = bench.open_store()
    store.apply([Write(f"/k{n:04}", 1, b"%d" % n) for n in range(2500)])
    assert [entry.value for entry in store.read("/").entries] == [b"%d" % n for n in range(2500)]
    assert len(store.versions("/k1").versions) == 1000


def test_a_large_entry_is_cut_when_it_is_carried_out(bench: StandInBench) -> None:
    store, other = bench.open_store(), bench.open_store()
    begin = other.read("/").cursor
    store.apply([Write("/big", 1, b"x" * 100_000), Write("/gone", 1, None)])
    epoch = store.read("/").cursor.epoch  # Also: what was to be done later is done.
    entry = records.decode_entry(stored(store, "log", f"{epoch}/1".encode()))
    assert (entry.whole, entry.size()) == (False, 100_000)
    changes = other.watch("/", begin).next(1.0)
    assert set(changes.entries) == {Entry("/big", 1, b"x" * 100_000), Entry("/gone", 1, None)}


def test_the_log_is_bounded(bench: StandInBench) -> None:
    store = open_store(bench.cluster.url(log_max=100))
    for version in range(1, 401):
        store.apply([Write("/a", version, b"")])
    assert store.read("/").cursor.position == 400
    assert 100 <= len(everything(store, "log")) < 200
    store.close()


# --- writers that die or hang ----------------------------------------------------------------


def test_what_a_dead_writer_began_is_carried_out_by_whoever_comes_by(bench: StandInBench) -> None:
    dying, other = bench.open_store(), bench.open_store()
    watch = other.watch("/", other.read("/").cursor)
    bench.cluster.fail("rc_multiWrite", Status.REQUEST_TOO_LARGE)
    with pytest.raises(Unavailable, match="too large"):
        dying.apply([Write("/a", 1, b"x"), Write("/b", 1, b"y")])
    assert "/a" not in str(everything(dying, "objects"))
    assert set(watch.next(1.0).entries) == {Entry("/a", 1, b"x"), Entry("/b", 1, b"y")}
    assert other.get(["/b", "/a"]) == [Entry("/b", 1, b"y"), Entry("/a", 1, b"x")]


@pytest.mark.parametrize("reader", ["get", "read", "versions"])
def test_a_batch_that_is_halfway_is_seen_whole(bench: StandInBench, reader: str) -> None:
    writer, other = bench.open_store(), bench.open_store()
    writer.apply([Write("/a", 1, b"old"), Write("/b", 1, b"old")])
    database = writer.database
    entry = records.new_entry([Write("/a", 2, b"new"), Write("/b", 2, b"new"), Write("/c", 2, b"new")], "0123456789ab")

    def halfway(calls: Calls) -> None:
        number = database._append(calls, entry)
        held = database.held(calls, ["/b"])["/b"]
        data = records.encode_object(entry.writes[1], database._epoch, number, entry.token)
        assert calls.client.write(Put(database._objects, b"/b", data, held.stored))

    database.run(halfway)
    match reader:
        case "get":
            assert [each and each.version for each in other.get(["/a", "/b", "/c"])] == [2, 2, 2]
        case "read":
            assert [each.version for each in other.read("/").entries] == [2, 2, 2]
        case _:
            assert other.versions("/").versions == {"/a": (2, False), "/b": (2, False), "/c": (2, False)}


def test_a_listing_shows_no_part_of_a_batch_that_it_ran_into(bench: StandInBench) -> None:
    store, other = bench.open_store(), bench.open_store()
    store.apply([Write("/a", 1, b"old"), Write("/b", 1, b"old")])
    once = iter([True])

    class RunsInto(RamcloudStore):
        """As if the batch came between the log's end and the values that are read after it."""

        def changes(self, prefix: str, cursor: Cursor, token: str) -> Page:
            page = super().changes(prefix, cursor, token)
            if next(once, False):
                other.apply([Write("/a", 2, b"new"), Write("/b", 2, b"new")])
                return page._replace(found=self.database.run(lambda calls: self.database.held(calls, ["/a"])))
            return page

    found = RunsInto(store.database, 0.1).read("/")
    assert [entry.version for entry in found.entries] == [2, 2]
    assert found.cursor.position == 2


@pytest.mark.parametrize("status", [Status.OK, Status.INTERNAL_ERROR, Status.EXPIRED_LEASE, Status.STALE_RPC, 34])
@pytest.mark.parametrize("mode", [INSTEAD, AFTERWARDS, TWICE, BROKEN])
@pytest.mark.parametrize("call", ["rc_multiWrite", "rc_multiRead", "rc_write"])
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_an_answer_that_is_lost_or_wrong_is_resolved_by_reading(
    bench: StandInBench, call: str, mode: int, status: int, skip: int
) -> None:
    if (status == Status.OK and mode == BROKEN) or (call == "rc_write" and (status == Status.OK or mode == TWICE)):
        return  # That call is done once, and says nothing that it did not do.
    store, other = bench.open_store(), bench.open_store()
    store.apply([Write("/a", 1, b"old")])
    watch = other.watch("/", other.read("/").cursor)
    bench.cluster.fail(call, status, mode=mode, skip=skip)
    writes = [Write("/a", 2, b"a"), Write("/b", 2, b"b")]
    assert store.apply(writes) == [Outcome("/a", True, 2), Outcome("/b", True, 2)]
    bench.cluster.fail("", 0, times=0)
    assert other.apply(writes) == [Outcome("/a", False, 2), Outcome("/b", False, 2)]
    assert set(watch.next(1.0).entries) == {Entry("/a", 2, b"a"), Entry("/b", 2, b"b")}


def test_a_swallowed_exception_is_never_an_absent_or_empty_value(bench: StandInBench) -> None:
    store = bench.open_store()
    store.apply([Write("/a", 1, b"x")])
    bench.cluster.fail("rc_multiRead", Status.OK, times=10**6)
    with pytest.raises(Unavailable, match="not known whether"):
        store.get(["/a"])
    bench.cluster.fail("", 0, times=0)
    assert store.get(["/a"]) == [Entry("/a", 1, b"x")]


def test_a_write_left_behind_passes_no_newer_one(bench: StandInBench) -> None:
    slow, other = open_store(bench.cluster.url(timeout_seconds=0.5)), bench.open_store()
    other.apply([Write("/a", 1, b"one")])
    bench.cluster.away(True)
    begin = time.monotonic()
    with pytest.raises(Unavailable, match=r"does not answer in 0.5 s \(what was begun may still be done\)"):
        slow.apply([Write("/a", 2, b"two")])
    with pytest.raises(Unavailable, match="an earlier call still waits, nothing was done"):
        slow.apply([Write("/a", 4, b"never")])
    assert time.monotonic() - begin < 2.0
    bench.cluster.away(False)
    assert other.apply([Write("/a", 3, b"three")])[0].held == 3
    assert slow.get(["/a"]) == [Entry("/a", 3, b"three")]
    slow.close()


def test_a_slow_cluster_stops_a_job_at_its_deadline(bench: StandInBench) -> None:
    store = open_store(bench.cluster.url(timeout_seconds=0.5))
    bench.cluster.delay(0.3)
    with pytest.raises(Unavailable):
        store.apply([Write("/a", 1, b"")])
    bench.cluster.delay(0.0)
    time.sleep(0.4)  # The call that was under way ends; none follows it.
    assert store.get(["/a"]) == [None]
    store.close()


def test_a_coordinator_that_is_away_is_unavailable_in_time_and_costs_one_thread(bench: StandInBench) -> None:
    bench.cluster.away(True)
    for _ in range(3):
        begin = time.monotonic()
        with pytest.raises(Unavailable, match="its coordinator, or a server that holds the data, is away"):
            open_store(bench.cluster.url(timeout_seconds=0.5))
        assert time.monotonic() - begin < 2.0
    assert sum(thread.name == "ramcloud" for thread in threading.enumerate()) == 1
    bench.cluster.away(False)
    assert bench.open_store().get(["/a"]) == [None]


def test_a_listing_that_is_interrupted_is_no_listing(bench: StandInBench) -> None:
    store = bench.open_store()
    store.apply([Write(f"/k{n}", 1, b"") for n in range(50)])
    bench.cluster.fail("rc_enumerateTableNext", Status.INTERNAL_ERROR, skip=20)
    with pytest.raises(Unavailable, match="rc_enumerateTableNext: INTERNAL_ERROR"):
        store.read("/")
    assert len(store.read("/").entries) == 50


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_under_writes_a_watch_and_whatever_goes_wrong(bench: StandInBench, seed: int) -> None:
    """Statuses, swallowed errors, broken clients, writes done twice, and a cluster that is away now and then."""
    random, cluster = Random(seed), bench.cluster

    def goes_wrong() -> None:
        call = random.choice(["rc_multiRead", "rc_multiWrite", "rc_write", "rc_read", "rc_getTableId"])
        mode = random.choice([INSTEAD, AFTERWARDS, BROKEN] if call == "rc_write" else [INSTEAD, AFTERWARDS, TWICE])
        status = random.choice([Status.INTERNAL_ERROR, Status.TIMEOUT, Status.EXPIRED_LEASE, Status.STALE_RPC])
        cluster.fail(call, status, times=random.randint(1, 3), mode=mode, skip=random.randint(0, 6))

    def is_away() -> None:
        cluster.away(True)
        threading.Timer(1.2, cluster.away, [False]).start()

    faults = dict.fromkeys(range(10, WRITES, 10), goes_wrong) | {500: is_away, 1000: is_away}
    store, other = open_store(cluster.url(timeout_seconds=0.5)), open_store(cluster.url(timeout_seconds=0.5))
    follower = Follower(other, "/d/")
    try:
        acknowledged = write_under_fire(store, faults)
        cluster.fail("", 0, times=0)
        check_nothing_lost(store, follower, acknowledged)
        assert not follower.started_over
    finally:
        follower.stop()
        store.close()
        other.close()


# --- another history, and what is not ours ---------------------------------------------------


def test_a_gap_in_the_log_says_start_over(bench: StandInBench) -> None:
    store, other = bench.open_store(), bench.open_store()
    cursor = other.read("/").cursor
    for number in range(1, 5):
        store.apply([Write(f"/k{number}", 1, b"")])
    remove(store, "log", f"{cursor.epoch}/3".encode())
    with pytest.raises(StartOver, match="epoch"):
        other.watch("/", cursor).next(0.0)
    assert len(other.read("/").entries) == 4
    assert store.apply([Write("/k5", 1, b"")])[0].applied


def test_a_log_that_lost_its_end_says_start_over(bench: StandInBench) -> None:
    store, other = bench.open_store(), bench.open_store()
    for number in range(1, 5):
        store.apply([Write(f"/k{number}", 1, b"")])
    cursor = other.read("/").cursor
    remove(store, "log", f"{cursor.epoch}/4".encode())
    store.apply([Write("/k5", 1, b"")])
    with pytest.raises(StartOver, match="epoch"):
        other.watch("/", cursor).next(0.0)


def test_an_entry_that_is_another_one_than_was_read_says_start_over(bench: StandInBench) -> None:
    store = bench.open_store()
    store.apply([Write("/a", 1, b"x")])
    watch = store.watch("/", store.read("/").cursor)
    watch.next(0.0)
    key = f"{store.read('/').cursor.epoch}/1".encode()
    other = records.encode_entry(records.new_entry([Write("/b", 1, b"")], "ffffffffffff"))
    leave(store, "log", key, other)
    with pytest.raises(StartOver, match="another one"):
        watch.next(0.0)


def test_a_dropped_table_says_start_over(bench: StandInBench) -> None:
    store = bench.open_store()
    store.apply([Write("/a", 1, b"x")])
    watch = store.watch("/", store.read("/").cursor)
    dropping(store, "flowloom.objects")
    with pytest.raises(StartOver, match="epoch"):
        watch.next(0.0)
    assert list(store.read("/").entries) == []
    assert store.apply([Write("/a", 1, b"x")]) == [Outcome("/a", True, 1)]


@pytest.mark.parametrize("before", [0, 1])
def test_a_cluster_made_anew_under_a_writer_gets_its_writes(bench: StandInBench, before: int) -> None:
    store = bench.open_store()
    store.apply([Write("/a", 1, b"x")] * before)
    bench.cluster.wipe()
    bench.open_store().apply([Write("/b", 1, b"y"), Write("/c", 1, b"z")])
    watch = bench.open_store().watch("/", bench.open_store().read("/").cursor)
    assert store.apply([Write("/a", 1, b"x")]) == [Outcome("/a", True, 1)]
    assert list(watch.next(1.0).entries) == [Entry("/a", 1, b"x")]


class BetweenTheSteps:
    """Something happens after a writer's log entry was made, before it is carried out."""

    def __init__(self, store: RamcloudStore, happens: Callable[[], None], back: int = 0) -> None:
        self.database = store.database
        self.append = store.database._append
        self.happens = happens
        self.back = back
        store.database._append = self  # type: ignore[method-assign]

    def __call__(self, calls: Calls, entry: records.LogEntry) -> int:
        self.database._append = self.append  # type: ignore[method-assign]
        if self.back:  # Before the entry is made: it lands where the log was long ago.
            number = self.database._tail
            self.happens()
            self.database._tail = number
            return self.append(calls, entry)
        number = self.append(calls, entry)
        self.happens()
        return number


def test_a_cluster_made_anew_in_the_middle_of_a_write_hears_of_it(bench: StandInBench) -> None:
    store = bench.open_store()
    begun: list[Cursor] = []

    def anew() -> None:
        bench.cluster.wipe()
        begun.append(bench.open_store().read("/").cursor)

    BetweenTheSteps(store, anew)
    assert store.apply([Write("/a", 1, b"x")]) == [Outcome("/a", True, 1)]
    assert list(bench.open_store().watch("/", begun[0]).next(1.0).entries) == [Entry("/a", 1, b"x")]


def test_an_entry_that_lands_below_the_logs_beginning_is_made_again(bench: StandInBench) -> None:
    store, other = bench.open_store(), bench.open_store()
    begun: list[Cursor] = []

    def move_on() -> None:
        for version in (1, 2, 3):
            other.apply([Write("/b", version, b"")])
        trim(other)
        begun.append(other.read("/").cursor)

    BetweenTheSteps(store, move_on, back=1)
    assert store.apply([Write("/a", 1, b"x")]) == [Outcome("/a", True, 1)]
    assert list(other.watch("/", begun[0]).next(1.0).entries) == [Entry("/a", 1, b"x")]


def test_data_of_another_program_are_left_alone(bench: StandInBench) -> None:
    store = bench.open_store()
    dropping(store, "flowloom.log")
    leave(store, "objects", b"theirs", b"1")
    with pytest.raises(Misconfigured, match="another program's data"):
        bench.connect()
    remove(store, "objects", b"theirs")
    bench.connect().close()
    leave(bench.open_store(), "log", records.IDENTITY_KEY, b"theirs")
    with pytest.raises(Misconfigured, match=r"flowloom\.log is another program's"):
        bench.connect()


def test_a_newer_schema_is_refused(bench: StandInBench) -> None:
    leave(bench.open_store(), "log", records.IDENTITY_KEY, b'{"program":"%s","schema":9,"epoch":"e"}' % PROGRAM)
    with pytest.raises(Misconfigured, match="schema 9, this release knows 1; upgrade this node"):
        bench.connect()


def test_what_a_hand_left_has_version_0_and_yields_to_any_write(bench: StandInBench) -> None:
    store = bench.open_store()
    leave(store, "objects", b"/a", b"by hand")
    assert list(store.read("/").entries) == store.get(["/a"]) == [Entry("/a", 0, b"by hand")]
    assert store.apply([Write("/a", 1, b"x")]) == [Outcome("/a", True, 1)]
    leave(store, "log", f"{store.read('/').cursor.epoch}/2".encode(), b"\xff")
    store.apply([Write("/b", 1, b"y")])
    assert [entry.key for entry in store.read("/").entries] == ["/a", "/b"]


# --- errors, URLs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "status", "says"),
    [
        ("rc_write", Status.TIMEOUT, "not known whether this was done (rc_write: TIMEOUT)"),
        ("rc_write", Status.EXPIRED_LEASE, "not known whether this was done (rc_write: EXPIRED_LEASE)"),
        ("rc_multiRead", 34, "not known whether this was done (rc_multiRead: 34)"),
        ("rc_createTable", Status.NO_TABLE_SPACE, "no room for another table"),
        ("rc_write", Status.REQUEST_TOO_LARGE, "too large for one request"),
        ("rc_read", Status.UNIMPLEMENTED_REQUEST, "not of the same version"),
        ("rc_connect", Status.INTERNAL_ERROR, "cannot use this coordinator's address"),
    ],
)
def test_errors_say_what_is_wrong(call: str, status: int, says: str) -> None:
    assert says in sentence(RamcloudError(call, status))


def test_a_library_without_zookeeper_says_so(bench: StandInBench) -> None:
    with pytest.raises(Unavailable, match="cannot use this coordinator's address"):
        open_store(f"ramcloud+zk://z1,z2:2182?library={bench.cluster.path}&timeout_seconds=0.5")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("ramcloud://h:port", "host or host:port"),
        ("ramcloud://[::1]:1", "neither a name nor an IPv4 address"),
        ("ramcloud://h,port=1/x", "host or host:port|neither a name"),
        ("ramcloud://u:secret@h", "RAMCloud knows no users"),
        ("ramcloud://h/a/b", "name of tables"),
        ("ramcloud://h?nope=1", "nope"),
        ("ramcloud://h?transport=tcp:host", "transport"),
        ("ramcloud://h?cluster=", "cluster"),
        ("ramcloud://h?library=", "library"),
        ("ramcloud://h?span=0", "span"),
        ("ramcloud://h?timeout_seconds=soon", "timeout_seconds"),
    ],
)
def test_a_wrong_url_names_what_is_wrong(bad: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        plugins.open_store(bad)
    assert "secret" not in str(caught.value)


def test_several_coordinators_are_one_locator(bench: StandInBench) -> None:
    store = open_store(f"ramcloud://h1,h2:7?library={bench.cluster.path}&transport=basic%2Budp")
    assert store.database.session.settings.locator == "basic+udp:host=h1,port=12246;basic+udp:host=h2,port=7"
    store.close()


def test_a_locator_becomes_the_url_of_the_real_suite() -> None:
    rest = "/n?library=/l.so&timeout_seconds=30"
    assert url_of("tcp:host=h,port=1", "n", "/l.so") == f"ramcloud://h:1{rest}&transport=tcp"
    assert url_of("ramcloud://h:1/", "n", "/l.so") == f"ramcloud://h:1{rest}"


# --- by hand ---

PROGRAM = records.PROGRAM.encode()


def table(store: RamcloudStore, calls: Calls, name: str) -> int:
    number = calls.client.table(f"flowloom.{name}")
    if number is None:
        calls.client.create_table(f"flowloom.{name}", 1)
        number = calls.client.table(f"flowloom.{name}")
    assert number is not None
    return number


def stored(store: RamcloudStore, name: str, key: bytes) -> bytes:
    found = store.database.session.run(lambda calls: calls.client.read(table(store, calls, name), key))
    assert found is not None
    return found.value


def leave(store: RamcloudStore, name: str, key: bytes, value: bytes) -> None:
    def write(calls: Calls) -> None:
        number = table(store, calls, name)
        held = calls.client.read(number, key)
        assert calls.client.write(Put(number, key, value, held.version if held else 0))

    store.database.session.run(write)


def remove(store: RamcloudStore, name: str, key: bytes) -> None:
    store.database.session.run(lambda calls: calls.client.remove_many(table(store, calls, name), [key]))


def everything(store: RamcloudStore, name: str) -> list[tuple[bytes, bytes]]:
    def walk(calls: Calls) -> list[tuple[bytes, bytes]]:
        enumeration = calls.client.enumerate(table(store, calls, name))
        found = list(iter(enumeration.next, None))
        enumeration.close()
        return [each for each in found if each]

    return store.database.session.run(walk)


def dropping(store: RamcloudStore, name: str) -> None:
    def drop(calls: Calls) -> None:
        calls.client._library.rc_dropTable(calls.client._client, name.encode())

    store.database.session.run(drop)
