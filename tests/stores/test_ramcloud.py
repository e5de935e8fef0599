"""RAMCloud: the whole driver on a stand-in for its client library; a real cluster where one is named.

FLOWLOOM_TEST_RAMCLOUD=tcp:host=HOST,port=PORT (the coordinator's locator, or a ramcloud:// URL) and
FLOWLOOM_RAMCLOUD_LIBRARY=/path/libramcloud.so make the conformance suite run there, in tables of its own.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ramcloud_stand_in import SOURCE, StandIn, compiled

from flowloom.drivers.store.ramcloud import RamcloudStore, open_store
from flowloom.drivers.store.ramcloud_records import IDENTITY_KEY
from flowloom.drivers.store.ramcloud_session import Calls
from flowloom.northbound.store import Store, Write
from flowloom.testing.store_conformance import StoreBench, StoreConformance

SERVER = os.environ.get("FLOWLOOM_TEST_RAMCLOUD", "")
LIBRARY = os.environ.get("FLOWLOOM_RAMCLOUD_LIBRARY", "")

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

    def trim(self) -> None:
        trim(self.open_store())

    def wipe(self) -> None:
        self.cluster.wipe()

    def cut(self) -> None:
        self.cluster.away(True)

    def mend(self) -> None:
        self.cluster.away(False)

    def end(self) -> None:
        super().end()
        assert self.cluster.violations() == 0


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


class TestStandIn(StoreConformance):
    @pytest.fixture(autouse=True)
    def _bench(self, bench: StandInBench) -> None:
        self.bench = bench

    def setup_method(self) -> None:
        pass

    def teardown_method(self) -> None:
        pass
