"""The incremental compiler: replica in, desired facts out, and why.

`merge` takes changes in and marks whoever asked; `work` runs what is marked until told to stop.
When nothing is marked, `ledger.desired` equals `oracle()`: what every rule over every record yields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar
from zlib import crc32

from flowloom.compiler.answers import ExplainingView, PlainView, RecordingView
from flowloom.compiler.replica import Shelf, members
from flowloom.compiler.schema import KINDS
from flowloom.compiler.unit import App, Readers, Rule, Unit, Yielded
from flowloom.compiler.view import View
from flowloom.model.records import Port, Record
from flowloom.openflow import facts
from flowloom.southbound.ledger import Ledger

R = TypeVar("R", bound=Record)

_NO_FACTS: Mapping[bytes, bytes] = {}
_RUNS_A_LOOK = 8
"""Rule runs between two looks at the clock: about 40 microseconds."""


class Cause(NamedTuple):
    """Why a fact is desired: one claimant, and the records its rule looked at.

    reads: (kind, id, version; None: looked for and absent), the claimant's own record first.
    """

    app: str
    rule: str
    kind: str
    id: str
    version: int
    reads: tuple[tuple[str, str, int | None], ...]


class Failure(NamedTuple):
    """A rule that raised: its facts for this record are withheld until one of its inputs changes."""

    app: str
    rule: str
    kind: str
    id: str
    error: str


class Compiler:
    """Not thread-safe: the agent's loop owns it.

    site: the id of the chassis it compiles for.  runs: rule runs so far, the measure of work that tests use.
    """

    def __init__(self, apps: Sequence[App], site: str, ledger: Ledger | None = None) -> None:
        self.site = site
        self.ledger = ledger if ledger is not None else Ledger()
        self.runs = 0
        self.failures: dict[tuple[int, str], Failure] = {}
        self._shelves: dict[type[Record], Shelf] = {kind.type: Shelf(kind) for kind in KINDS}
        self._view = RecordingView(self._shelves)
        self._rules: list[Rule] = [rule for app in apps for rule in app.rules]
        self._apps = [app for app in apps for _ in app.rules]
        self._units: list[dict[str, Unit]] = [{} for _ in self._rules]
        self._cookies = [facts.make_cookie(rule.number, 0) for rule in self._rules]
        self._of_kind: dict[type[Record], tuple[int, ...]] = {
            kind.type: tuple(n for n, rule in enumerate(self._rules) if rule.kind is kind.type) for kind in KINDS
        }
        self._sites: dict[str, list[int]] = {}
        for n, rule in enumerate(self._rules):
            if rule.scope is not None and rule.scope.site:
                self._sites.setdefault(rule.scope.site, []).append(n)
        self._marked: dict[tuple[int, str], None] = {}
        numbers = [rule.number for rule in self._rules]
        if len(set(numbers)) != len(numbers):
            raise ValueError("two rules have one number")

    # Facts in -------------------------------------------------------------------------------------

    def load(self, records: Iterable[Record]) -> None:
        """Cold start: fill an empty replica, then mark what is in scope.  Cheaper than `merge` of the same."""
        for record in records:
            self._shelves[type(record)].put(record)
        for n in range(len(self._rules)):
            for id in self._inside(n):
                self._marked[n, id] = None

    def merge(self, changes: Iterable[tuple[type[Record], str, Record | None]]) -> None:
        """Take in changes (kind, id, record or None: gone) and mark every unit whose answers changed."""
        marked = self._marked
        flips: list[tuple[str, object]] = []
        for kind, id, new in changes:
            shelf = self._shelves[kind]
            if shelf.rows.get(id) == new:
                continue
            for n in self._of_kind[kind]:
                marked[n, id] = None
            before = len(flips)
            for readers in shelf.change(id, new, flips):
                self._mark(readers)
            if kind is not Port:
                del flips[before:]
        for site, value in flips:
            if site in self._sites and isinstance(value, tuple) and value[1] == self.site:
                self._scope_moved(site, value[0])

    def _mark(self, readers: Readers) -> None:
        marked = self._marked
        for unit in readers:
            marked[unit.rule, unit.id] = None

    def _scope_moved(self, site: str, value: object) -> None:
        """The first port here appeared or the last one left: everything in that scope is to be run."""
        for n in self._sites[site]:
            scope = self._rules[n].scope
            assert scope is not None
            for record in members(self._shelves[self._rules[n].kind].index[scope.index].get(value)):
                self._marked[n, record.id] = None

    # Work -----------------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """Units marked and not yet run; at 0 the desired facts are exact."""
        return len(self._marked)

    def work(self, until: Callable[[], bool] = lambda: False) -> int:
        """Run marked units, newest mark first, until none is left or `until()`; how many were run."""
        marked, ran = self._marked, 0
        while marked:
            (n, id), _ = marked.popitem()
            self._run(n, id)
            ran += 1
            if not ran % _RUNS_A_LOOK and until():
                break
        self.runs += ran
        return ran

    def _run(self, n: int, id: str) -> None:
        rule, units = self._rules[n], self._units[n]
        record = self._shelves[rule.kind].rows.get(id)
        if record is not None and rule.scope is not None and not self._in_scope(rule, record):
            record = None
        unit = units.get(id)
        known = unit is not None
        if unit is None:
            if record is None:
                return
            unit = Unit(n, id)
        view = self._view
        view.unit, view.reads = unit, []
        out = self._claims(n, id, record, view) if record is not None else {}
        reads = view.reads
        if unit.reads:
            self._forget(unit, reads)
        unit.reads = tuple(reads)
        if out or reads:
            units[id] = unit
        elif known:
            del units[id]
        if out != unit.facts:
            self.ledger.replace(unit.facts, out)
            unit.facts = out or _NO_FACTS

    def _claims(self, n: int, id: str, record: Record, view: View) -> dict[bytes, bytes]:
        key = (n, id)
        try:
            out = self._collect(n, id, self._rules[n].function(record, view))
        except Exception as error:  # noqa: BLE001 - the boundary to an app: one broken record must not stop the others
            rule = self._rules[n]
            self.failures[key] = Failure(
                self._apps[n].name, rule.name, rule.kind.kind, id, f"{type(error).__name__}: {error}"
            )
            return {}
        if self.failures:
            self.failures.pop(key, None)
        return out

    def _collect(self, n: int, id: str, yielded: Iterator[Yielded]) -> dict[bytes, bytes]:
        """Yielded facts as claims: cookies added, and of two values for one key the smaller."""
        cookie = (self._cookies[n] | crc32(id.encode())).to_bytes(8, "big")
        out: dict[bytes, bytes] = {}
        for key, value in yielded:
            if key[0] == facts.FLOW:
                value = cookie + value
            if key in out and out[key] <= value:
                continue
            out[key] = value
        return out

    def _forget(self, unit: Unit, reads: list[Readers]) -> None:
        """Strike the unit out of the questions that it no longer asks."""
        kept = {id(readers) for readers in reads}
        for readers in unit.reads:
            if id(readers) not in kept:
                readers.discard(unit)

    # Scopes ---------------------------------------------------------------------------------------

    def _in_scope(self, rule: Rule, record: Record) -> bool:
        scope = rule.scope
        assert scope is not None
        values = self._shelves[rule.kind].kind.indexes[scope.index](record)
        if not scope.site:
            return self.site in values
        local = self._shelves[Port].index[scope.site]
        return any((value, self.site) in local for value in values)

    def _inside(self, n: int) -> list[str]:
        """Ids of the records that rule `n` applies to."""
        rule = self._rules[n]
        shelf = self._shelves[rule.kind]
        if rule.scope is None:
            return list(shelf.rows)
        index = shelf.index[rule.scope.index]
        if not rule.scope.site:
            return [record.id for record in members(index.get(self.site))]
        local = self._shelves[Port].index[rule.scope.site]
        return [
            record.id for value, bucket in index.items() if (value, self.site) in local for record in members(bucket)
        ]

    # Answers --------------------------------------------------------------------------------------

    def get(self, kind: type[R], id: str) -> R | None:
        """The record as the replica holds it."""
        return self._shelves[kind].rows.get(id)  # type: ignore[return-value]

    def records(self, kind: type[R]) -> Iterable[R]:
        """All records of one kind."""
        return self._shelves[kind].rows.values()  # type: ignore[return-value]

    def view(self) -> View:
        """A view without notes, for packet answers."""
        return PlainView(self._shelves)

    def oracle(self) -> dict[bytes, bytes]:
        """Every rule over every record, from nothing: what `ledger.desired` must be once the backlog is 0."""
        view = PlainView(self._shelves)
        out: dict[bytes, bytes] = {}
        for n, rule in enumerate(self._rules):
            for id in self._inside(n):
                record = self._shelves[rule.kind].rows[id]
                try:
                    claims = self._collect(n, id, rule.function(record, view))
                except Exception:  # noqa: BLE001 - withheld, as in `_claims`
                    continue
                for key, value in claims.items():
                    if key not in out or value < out[key]:
                        out[key] = value
        return out

    def owners(self) -> dict[bytes, list[tuple[int, str]]]:
        """fact key -> the (rule index, record id) pairs that claim it: built on request, linear."""
        out: dict[bytes, list[tuple[int, str]]] = {}
        for n, units in enumerate(self._units):
            for id, unit in units.items():
                for key in unit.facts:
                    out.setdefault(key, []).append((n, id))
        return out

    def why(self, key: bytes) -> list[Cause]:
        """Who claims the fact at `key`, and after a look at which records."""
        return [self.cause(n, id) for n, id in self.owners().get(key, ())]

    def cause(self, n: int, id: str) -> Cause:
        """One claimant, explained by running its rule once more with a view that remembers."""
        rule = self._rules[n]
        view = ExplainingView(self._shelves)
        record = self._shelves[rule.kind].rows.get(id)
        if record is not None:
            self._collect(n, id, rule.function(record, view))
        view.seen.pop((rule.kind.kind, id), None)
        own = (rule.kind.kind, id, None if record is None else record.version)
        reads = (own, *((kind, other, version) for (kind, other), version in view.seen.items()))
        return Cause(self._apps[n].name, rule.name, rule.kind.kind, id, record.version if record else 0, reads)

    def questions(self) -> int:
        """Notes held, for tests of exactness: every unit is noted once a question it asks."""
        return sum(
            len(readers)
            for shelf in self._shelves.values()
            for asked in shelf.questions()
            for readers in asked.values()
        )

    def noted(self) -> int:
        """The same number seen from the units."""
        return sum(len({id(readers) for readers in unit.reads}) for units in self._units for unit in units.values())

    def sweep(self) -> int:
        """Forget questions about things that are gone; for idle moments.  How many were forgotten."""
        return sum(shelf.sweep() for shelf in self._shelves.values())
