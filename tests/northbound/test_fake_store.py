"""The store in memory keeps the store contract."""

from __future__ import annotations

from flowloom.northbound.store import Store
from flowloom.testing.conformance import run_checks
from flowloom.testing.fake_store import MemoryDatabase
from flowloom.testing.store_conformance import CHECKS, StoreBench, StoreConformance


class MemoryBench(StoreBench):
    def __init__(self) -> None:
        super().__init__()
        self.database = MemoryDatabase()

    def connect(self) -> Store:
        return self.database.open()

    def trim(self) -> None:
        self.database.trim()

    def wipe(self) -> None:
        self.database.wipe()

    def cut(self) -> None:
        self.database.available = False

    def mend(self) -> None:
        self.database.available = True


class TestMemoryStore(StoreConformance):
    def new_bench(self) -> StoreBench:
        return MemoryBench()


class _Forgetful(MemoryBench):
    """A database that claims to be written but drops one delete in two: the checks must notice."""

    def connect(self) -> Store:
        store = super().connect()
        apply = store.apply

        def forget_deletes(writes):  # type: ignore[no-untyped-def]
            return apply([w for w in writes if w.value is not None])

        store.apply = forget_deletes  # type: ignore[method-assign]
        return store


def test_run_checks_names_what_is_broken() -> None:
    results = {r.name: r for r in run_checks(CHECKS[:4], lambda name: _Forgetful(), StoreBench.end)}
    assert results["newer_write_is_applied"].outcome == "kept"
    assert results["deleted_object_does_not_rise_again"].outcome == "broken"
    assert "delete" in results["deleted_object_does_not_rise_again"].why


def test_a_bench_without_faults_skips_their_checks() -> None:
    class Plain(StoreBench):
        def connect(self) -> Store:
            return MemoryDatabase().open()

    results = {r.name: r for r in run_checks(CHECKS[-3:], lambda name: Plain(), StoreBench.end)}
    assert results["cut_database_is_unavailable_not_empty"].outcome == "skipped"
