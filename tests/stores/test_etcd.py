"""etcd keeps the store contract, on real servers: one member and three."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloom.cli.main import main
from flowloom.drivers.store.etcd import open_store
from flowloom.northbound.store import Store
from flowloom.testing.etcd_server import Cluster, etcd
from flowloom.testing.store_conformance import StoreBench, StoreConformance

numbers = itertools.count()


class EtcdBench(StoreBench):
    """A prefix of its own in a cluster that others use too."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster = cluster
        self.where = f"/check{next(numbers)}"

    def connect(self) -> Store:
        return open_store(self.cluster.url(self.where, "timeout_seconds=2"))

    def trim(self) -> None:
        self.cluster.compact()

    def wipe(self) -> None:
        self.cluster.wipe()

    def cut(self) -> None:
        self.cluster.kill()

    def mend(self) -> None:
        self.cluster.start()


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="etcd-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def single(directory: Path) -> Iterator[Cluster]:
    with etcd(directory / "single") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def three(directory: Path) -> Iterator[Cluster]:
    with etcd(directory / "three", members=3) as cluster:
        yield cluster


class TestOneMember(StoreConformance):
    @pytest.fixture(autouse=True)
    def _cluster(self, single: Cluster) -> Iterator[None]:
        self.bench = EtcdBench(single)
        yield
        self.bench.end()

    def setup_method(self) -> None:
        pass

    def teardown_method(self) -> None:
        pass


class TestThreeMembers(TestOneMember):
    @pytest.fixture(autouse=True)
    def _cluster(self, three: Cluster) -> Iterator[None]:
        self.bench = EtcdBench(three)
        yield
        self.bench.end()


def test_the_operators_check_finds_every_guarantee_kept(three: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "check", three.url("/checked"), "--objects", "200", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "kept: 24 checks; 3 not tried here"
    assert report["store"] == f"etcd://{three.endpoints}/checked"
