"""The northbound databases, each on real servers of this machine, beside a bare client of the same system.

Driver and bare client (`bare_stores`) are measured in one process and in turn: a short slice of the one, the same of
the other, the next time in the other order.  A ratio is the median of the pairs' ratios, so that what disturbs the
machine for longer than a slice disturbs both.  The first pair warms up and makes the keys.

CPU is that of this process, and of the servers' processes, while a slice runs; a write's is the median of the slices.
Of several servers those are named to both clients that the driver would end up with: the leader, the primary.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bare_stores import VALUE, Bare, BareEtcd, BareRedis, BareSqlite, BareZookeeper, BareZookeeperSet
from flowloom.northbound.plugins import open_store
from flowloom.northbound.store import Store, Write, pages
from flowloom.testing import redis_server
from flowloom.testing.conformance import Skip
from flowloom.testing.etcd_server import etcd
from flowloom.testing.zookeeper_server import zookeeper
from measure import cpu_seconds

FLIGHT = 64
"""Writes under way at once, each in a thread of its own."""

BATCH = 200
"""Writes of one call: what the drain takes at a time."""

KEYS = 8
"""That a lane writes in turn."""

LOADS = 5
"""Parts of the load; before each, single writes of new keys are measured."""

OPENING = 20
"""Changes that may find the feed still opening: their latency does not count."""

SLOW_SECONDS = 5.0
"""What takes longer is done once, and not three times."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How much of everything.  slice_seconds: of one client's writes at a time; rounds: pairs of slices."""

    objects: int = 100_000
    slice_seconds: float = 0.5
    rounds: int = 10
    notices: int = 300


QUICK = Effort(objects=5_000, slice_seconds=0.2, rounds=4, notices=50)


@dataclass(frozen=True)
class Spent:
    """On `done` things.  Seconds; client, server: of CPU."""

    done: int
    wall: float
    client: float
    server: float


@dataclass(frozen=True)
class Writes:
    """One client's.  Writes a second; seconds of CPU a write."""

    rate: float
    client: float
    server: float


@dataclass(frozen=True)
class Compared:
    """by: of "driver", "bare" and what else there was.  ratio: of the driver's rate to that of each other one."""

    by: dict[str, Writes]
    ratio: dict[str, float]


@dataclass(frozen=True)
class StoreCosts:
    """What was measured of one system.

    flights: lanes -> writes, so many under way.  load: of everything, in batches; speedup: of batches to single
    writes, both of new keys.  read_ratio: of the bare client's time to the driver's.  notices: seconds, sorted.
    """

    store: str
    objects: int
    atomic_batch: bool
    flights: dict[int, Compared]
    load: Spent
    speedup: float
    read: Spent
    read_ratio: float
    versions: Spent
    notices: Sequence[float]

    def notice(self, share: float) -> float:
        """Seconds within which this share of all changes was seen."""
        return self.notices[min(int(len(self.notices) * share), len(self.notices) - 1)]


def measure_stores(names: Sequence[str], effort: Effort, log: Log) -> list[StoreCosts]:
    """One after the other.  A system whose packages are missing is left out, and named."""
    out = []
    for name in names:
        try:
            out.append(_measure(name, effort, log))
        except Skip as why:
            log(f"{name} is left out: {why}")
    return out


def _measure(name: str, effort: Effort, log: Log) -> StoreCosts:
    with TemporaryDirectory(prefix="fls", dir="/tmp") as directory, ExitStack() as stack:
        server = stack.enter_context(SERVERS[name](Path(directory)))
        store = stack.enter_context(closing(open_store(server.url)))
        bares = {kind: stack.enter_context(closing(new())) for kind, new in server.bares.items()}
        pool = stack.enter_context(ThreadPoolExecutor(FLIGHT))
        meter = Meter(server.pids)
        flights = {}
        for lanes in (1, FLIGHT):
            flights[lanes] = _compare(store, bares, lanes, pool, meter, effort)
            said = ", ".join(f"{kind} {writes.rate:.0f}" for kind, writes in flights[lanes].by.items())
            log(f"{name}: writes a second, {lanes} under way: {said}")
        load, speedup = _load(store, meter, effort, pool)
        log(f"{name}: {load.done} objects in {load.wall:.1f} s; batches are {speedup:.1f} times as fast as singles")
        read, read_ratio = _reads(store, bares["bare"], meter, effort.objects)
        versions = median_of(meter, lambda: len(store.versions(LOADED).versions), effort.objects)
        log(f"{name}: read in {read.wall:.2f} s, {read_ratio:.2f} of bare; versions in {versions.wall:.2f} s")
        with closing(open_store(server.url)) as follower:
            notices = _notices(store, follower, effort.notices, pool)
        can = store.capabilities.atomic_batch
        return StoreCosts(
            name, effort.objects, can, flights, load, speedup, read, read_ratio, versions, sorted(notices)
        )


# Writes -------------------------------------------------------------------------------------------

PREFIX = "/bench/project-1/net:1"
LOADED = f"{PREFIX}/port/"


class Meter:
    """Wall and CPU of what is done, in this process and in the servers."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids

    def of(self, do: Callable[[], int]) -> Spent:
        """`do` once; it returns how many things it did."""
        server, client, began = self._servers(), time.process_time(), time.perf_counter()
        done = do()
        wall = time.perf_counter() - began
        return Spent(done, wall, time.process_time() - client, self._servers() - server)

    def _servers(self) -> float:
        return sum(map(cpu_seconds, self._pids))


class Writer:
    """Writes in lanes, each of which writes its own keys in turn, always at their next version."""

    def __init__(self, write: Callable[[str, int], bool], prefix: str) -> None:
        self._write = write
        self._prefix = prefix
        self._done: defaultdict[int, int] = defaultdict(int)

    def run(self, lanes: int, seconds: float, pool: ThreadPoolExecutor) -> int:
        """For so long; how many writes it was."""
        until = time.perf_counter() + seconds
        if lanes == 1:
            return self._lane(0, until)
        return sum(pool.map(lambda lane: self._lane(lane, until), range(lanes)))

    def _lane(self, lane: int, until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            number = self._done[lane]
            self._done[lane] = number + 1
            if not self._write(f"{self._prefix}{lane}-{number % KEYS}", number // KEYS + 1):
                raise RuntimeError(f"a write to {self._prefix}{lane}-{number % KEYS} was not applied")
            done += 1
        return done


def _write(store: Store, key: str, version: int) -> bool:
    return store.apply([Write(key, version, VALUE)])[0].applied


def _compare(
    store: Store, bares: dict[str, Bare], lanes: int, pool: ThreadPoolExecutor, meter: Meter, effort: Effort
) -> Compared:
    """Driver and bare clients in turn, each time in the other order."""
    clients = {"driver": partial(_write, store), **{kind: bare.write for kind, bare in bares.items()}}
    writers = {kind: Writer(write, f"{PREFIX}/network/{lanes}-") for kind, write in clients.items()}
    slices: dict[str, list[Spent]] = {kind: [] for kind in writers}
    for number in range(effort.rounds + 1):
        for kind in list(writers)[:: 1 if number % 2 else -1]:
            run = partial(writers[kind].run, lanes, effort.slice_seconds, pool)
            spent = meter.of(run)
            if number:
                slices[kind].append(spent)
    rates = {kind: [each.done / each.wall for each in spent] for kind, spent in slices.items()}
    by = {
        kind: Writes(
            median(rates[kind]),
            median(each.client / each.done for each in spent),
            median(each.server / each.done for each in spent),
        )
        for kind, spent in slices.items()
    }
    pairs = {kind: zip(rates["driver"], rates[kind], strict=True) for kind in bares}
    return Compared(by, {kind: median(ours / theirs for ours, theirs in pair) for kind, pair in pairs.items()})


def _load(store: Store, meter: Meter, effort: Effort, pool: ThreadPoolExecutor) -> tuple[Spent, float]:
    """Everything, in batches; and how much faster that is than single writes."""
    writes = [Write(f"{LOADED}{number:08}", 1, VALUE) for number in range(effort.objects)]
    spent, ratios = [], []
    fresh = iter(range(10**9))
    single = Writer(lambda _key, _version: _write(store, f"{PREFIX}/trunk/{next(fresh):08}", 1), "")
    for part in pages(writes, -(-effort.objects // LOADS)):
        alone = meter.of(partial(single.run, 1, effort.slice_seconds, pool))
        spent.append(meter.of(partial(_apply_all, store, part)))
        ratios.append((spent[-1].done / spent[-1].wall) / (alone.done / alone.wall))
    parts = ((each.done, each.wall, each.client, each.server) for each in spent)
    done, wall, client, server = map(sum, zip(*parts, strict=True))
    return Spent(int(done), wall, client, server), median(ratios)


def _apply_all(store: Store, writes: Sequence[Write]) -> int:
    return sum(outcome.applied for page in pages(writes, BATCH) for outcome in store.apply(page))


# Reads and the feed -------------------------------------------------------------------------------


def median_of(meter: Meter, do: Callable[[], int], expected: int) -> Spent:
    """The median, by wall time, of three times, or of one that is slow."""
    spent: list[Spent] = []
    while len(spent) < 3 and not (spent and spent[0].wall > SLOW_SECONDS):
        spent.append(meter.of(do))
        if spent[-1].done != expected:
            raise RuntimeError(f"{spent[-1].done} objects were read, there are {expected}")
    return sorted(spent, key=lambda each: each.wall)[len(spent) // 2]


def _reads(store: Store, bare: Bare, meter: Meter, objects: int) -> tuple[Spent, float]:
    theirs = median_of(meter, lambda: bare.read(LOADED), objects)
    ours = median_of(meter, lambda: len(store.read(LOADED).entries), objects)
    return ours, theirs.wall / ours.wall


def _notices(store: Store, follower: Store, changes: int, pool: ThreadPoolExecutor) -> list[float]:
    """Seconds from the call of `apply` until a watch of another handle has returned the change."""
    changes += OPENING
    prefix = f"{PREFIX}/notice/"
    watch = follower.watch(prefix, follower.versions(prefix).cursor)
    seen: dict[str, float] = {}

    def follow() -> None:
        deadline = time.monotonic() + 60
        while len(seen) < changes and time.monotonic() < deadline:
            entries = watch.next(1.0).entries
            now = time.perf_counter()
            seen.update((entry.key, now) for entry in entries)

    following = pool.submit(follow)
    sent: dict[str, float] = {}
    for number in range(changes):
        key = f"{prefix}{number}"
        sent[key] = time.perf_counter()
        _write(store, key, 1)
        time.sleep(0.01)
    following.result()
    watch.close()
    if len(seen) < changes:
        raise RuntimeError(f"the watch showed {len(seen)} of {changes} changes in 60 s")
    return [seen[key] - at for key, at in sent.items()][OPENING:]


# Servers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """pids: of its processes.  bares: how to make each bare client; the first one does the same as the driver."""

    url: str
    pids: Sequence[int]
    bares: dict[str, Callable[[], Bare]]


@contextmanager
def _sqlite(directory: Path) -> Iterator[Server]:
    file = directory / "northbound.sqlite"
    yield Server(f"sqlite:///{file}", (), {"bare": lambda: BareSqlite(directory / "bare.sqlite", file)})


@contextmanager
def _etcd(directory: Path, members: int = 1) -> Iterator[Server]:
    with etcd(directory, members) as cluster:
        endpoint = cluster.members[cluster.leader()].endpoint
        pids = [member.pid for member in cluster.members]
        yield Server(f"etcd://{endpoint}/flowloom", pids, {"bare": lambda: BareEtcd(endpoint)})


@contextmanager
def _redis(directory: Path, start: Callable[[Path], AbstractContextManager[redis_server.Redis]]) -> Iterator[Server]:
    with start(directory) as redis:
        primary = redis.primary("{flowloom}:log")
        pids = [server.pid for server in (*redis.servers, *redis.watchers)]
        yield Server(redis.url(), pids, {"bare": lambda: BareRedis(primary.port)})


@contextmanager
def _zookeeper(directory: Path, servers: int = 1) -> Iterator[Server]:
    with zookeeper(directory, servers) as ensemble:
        port = ensemble.leader().port
        pids = [server.pid for server in ensemble.servers]
        bares = {"bare": lambda: BareZookeeper(port), "bare_set": lambda: BareZookeeperSet(port)}
        yield Server(f"zookeeper://127.0.0.1:{port}/flowloom", pids, bares)


SERVERS: dict[str, Callable[[Path], AbstractContextManager[Server]]] = {
    "sqlite": _sqlite,
    "etcd": _etcd,
    "redis": partial(_redis, start=redis_server.single),
    "zookeeper": _zookeeper,
    "etcd3": partial(_etcd, members=3),
    "redis-sentinel": partial(_redis, start=redis_server.sentinels),
    "redis-cluster": partial(_redis, start=redis_server.cluster),
    "zookeeper3": partial(_zookeeper, servers=3),
}
"""Named as in `flowloom lab up --store`."""

USUAL = ("sqlite", "etcd", "redis", "zookeeper")
