"""ZooKeeper keeps the store contract, on real servers: one and three."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloom.drivers.store.zookeeper import open_store
from flowloom.northbound.store import Cursor, Store
from flowloom.testing.store_conformance import StoreBench, StoreConformance
from flowloom.testing.zookeeper_server import Ensemble, zookeeper

numbers = itertools.count()


class ZookeeperBench(StoreBench):
    """A path of its own in an ensemble that others use too."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.where = f"/check{next(numbers)}"

    def connect(self) -> Store:
        return open_store(self.ensemble.url(self.where))

    def trim(self) -> None:
        store = open_store(self.ensemble.url(self.where))
        cursor: Cursor = store.read("/nothing/").cursor
        database = store.database
        database.attempt(
            lambda requests: requests.delete(database.entry(cursor.epoch, number) for number in range(cursor.position))
        )
        store.close()

    def wipe(self) -> None:
        self.ensemble.wipe()

    def cut(self) -> None:
        self.ensemble.kill()

    def mend(self) -> None:
        self.ensemble.start()


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="zookeeper-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def single(directory: Path) -> Iterator[Ensemble]:
    with zookeeper(directory / "single") as ensemble:
        yield ensemble


@pytest.fixture(scope="module")
def three(directory: Path) -> Iterator[Ensemble]:
    with zookeeper(directory / "three", servers=3) as ensemble:
        yield ensemble


class TestSingle(StoreConformance):
    @pytest.fixture(autouse=True)
    def _ensemble(self, single: Ensemble) -> Iterator[None]:
        self.bench = ZookeeperBench(single)
        yield
        self.bench.end()

    def setup_method(self) -> None:
        pass

    def teardown_method(self) -> None:
        pass


class TestThree(TestSingle):
    @pytest.fixture(autouse=True)
    def _ensemble(self, three: Ensemble) -> Iterator[None]:
        self.bench = ZookeeperBench(three)
        yield
        self.bench.end()
