"""Redis keeps the store contract, on real servers: one, with Sentinels, and a Cluster."""

from __future__ import annotations

import itertools
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloom.drivers.store.redis import open_store
from flowloom.northbound.store import Store
from flowloom.testing import redis_server
from flowloom.testing.redis_server import Redis
from flowloom.testing.store_conformance import StoreBench, StoreConformance

numbers = itertools.count()


class RedisBench(StoreBench):
    """A prefix of its own in a database that others use too."""

    def __init__(self, redis: Redis) -> None:
        super().__init__()
        self.redis = redis
        self.where = f"check{next(numbers)}"

    def connect(self) -> Store:
        return open_store(self.redis.url(f"prefix={self.where}&timeout_seconds=2"))

    def trim(self) -> None:
        log = f"{{{self.where}}}:log"
        self.redis.primary(log).cli("XTRIM", log, "MAXLEN", "0")

    def wipe(self) -> None:
        self.redis.wipe()

    def cut(self) -> None:
        self.redis.send(signal.SIGSTOP)

    def mend(self) -> None:
        self.redis.send(signal.SIGCONT)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="redis-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def single(directory: Path) -> Iterator[Redis]:
    with redis_server.single(directory / "single") as redis:
        yield redis


@pytest.fixture(scope="module")
def sentinels(directory: Path) -> Iterator[Redis]:
    with redis_server.sentinels(directory / "sentinels") as redis:
        yield redis


@pytest.fixture(scope="module")
def cluster(directory: Path) -> Iterator[Redis]:
    with redis_server.cluster(directory / "cluster") as redis:
        yield redis


class TestSingle(StoreConformance):
    @pytest.fixture(autouse=True)
    def _redis(self, single: Redis) -> Iterator[None]:
        self.bench = RedisBench(single)
        yield
        self.bench.end()

    def setup_method(self) -> None:
        pass

    def teardown_method(self) -> None:
        pass


class TestSentinels(TestSingle):
    @pytest.fixture(autouse=True)
    def _redis(self, sentinels: Redis) -> Iterator[None]:
        self.bench = RedisBench(sentinels)
        yield
        self.bench.end()


class TestCluster(TestSingle):
    @pytest.fixture(autouse=True)
    def _redis(self, cluster: Redis) -> Iterator[None]:
        self.bench = RedisBench(cluster)
        yield
        self.bench.end()
