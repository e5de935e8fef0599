"""The SQL model of the simulator keeps the promises of the SQL side."""

from __future__ import annotations

from flowloom.consistency.table import Ref
from flowloom.kernel.errors import Unavailable
from flowloom.testing.sql_model import Conflicts, Content, NeutronTransaction, SqlModel
from flowloom.testing.sql_model_tables import ModelTables
from flowloom.testing.table_conformance import PROJECT, SCOPE, TableBench, TableConformance, Tables


class ModelBench(TableBench):
    """The model, with its own clock."""

    def __init__(self, conflicts: Conflicts) -> None:
        self._now = 1_700_000_000.0
        self._reachable = True
        self.database = SqlModel(lambda: self._now, self._step, conflicts)
        self.locks_reach_everywhere = conflicts is Conflicts.LOCKING

    def open(self) -> Tables:
        tables = ModelTables(self.database)
        return Tables(tables, tables, tables, tables)

    def change(self, ref: Ref, content: str, project_id: str = PROJECT, scope: str = SCOPE) -> int:
        return self._write(ref, Content(project_id, scope, content))

    def delete(self, ref: Ref) -> int:
        return self._write(ref, None)

    def bypass(self, ref: Ref, content: str | None, project_id: str = PROJECT, scope: str = SCOPE) -> None:
        with self.database.transaction() as one:
            if content is None:
                one.delete("delete object", "objects", ref)
            else:
                one.update("update object", "objects", ref, lambda _row: Content(project_id, scope, content))

    def pass_time(self, seconds: float) -> None:
        self._now += seconds

    def cut(self) -> None:
        self._reachable = False

    def mend(self) -> None:
        self._reachable = True

    def _write(self, ref: Ref, content: Content | None) -> int:
        with self.database.transaction() as one:
            NeutronTransaction(one, self.database).write(ref, content)
        return int(self.database.table("sync")[ref].version)

    def _step(self, _what: str) -> None:
        if not self._reachable:
            raise Unavailable("the database is cut off")


class TestModelWithLocks(TableConformance):
    def new_bench(self) -> TableBench:
        return ModelBench(Conflicts.LOCKING)


class TestModelWithCertification(TableConformance):
    def new_bench(self) -> TableBench:
        return ModelBench(Conflicts.CERTIFICATION)
