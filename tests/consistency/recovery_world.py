"""A Neutron and a store in memory, recovery services on a clock that is moved by hand, and hands that tamper."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from flowloom.consistency.chassis import Nodes
from flowloom.consistency.drain import Drain
from flowloom.consistency.marks import NODE_KINDS
from flowloom.consistency.operations import Operations
from flowloom.consistency.options import Options
from flowloom.consistency.place import Place
from flowloom.consistency.recovery import RecoveryCore
from flowloom.consistency.table import AuditEntry, Ref
from flowloom.kernel.clock import ManualClock
from flowloom.kernel.errors import Unavailable
from flowloom.model.codec import encode
from flowloom.model.keys import deployment_prefix, key_of, parse_key
from flowloom.northbound.bus import Publisher
from flowloom.northbound.pointer import pointer_key
from flowloom.northbound.store import Entry, Store
from flowloom.testing.fake_store import MemoryDatabase
from flowloom.testing.sql_model import Content, NeutronTransaction, SqlModel
from flowloom.testing.sql_model_tables import ModelTables
from flowloom.testing.table_conformance import record_of

DEPLOYMENT = "cloud"
OPTIONS = Options(DEPLOYMENT, guard_objects=50, reread_per_second=1000.0, versions_seconds=10.0, adopt_seconds=5.0)


class Link:
    """Satisfies `drain.Northbound`; cut: the store does not answer this service."""

    generation = 0

    def __init__(self, database: MemoryDatabase) -> None:
        self.cut = False
        self._store = database.open()

    def store(self) -> Store:
        if self.cut:
            raise Unavailable("this service cannot reach the store")
        return self._store

    def publisher(self) -> Publisher | None:
        return None

    def look_again(self) -> Place:
        return Place()


class World:
    def __init__(self, seed: int = 1) -> None:
        self.random = Random(seed)
        self.clock = ManualClock()
        self.jumped = 0.0  # What the database's clock shows beside ours.
        self.sql = SqlModel(lambda: self.clock.wall() + self.jumped)
        self.tables = ModelTables(self.sql)
        self.store = MemoryDatabase(Random(seed))
        self.services: list[RecoveryCore] = []
        self.links: list[Link] = []

    # --- services ----------------------------------------------------------------------------

    def service(self, options: Options = OPTIONS, nodes: Nodes | None = None) -> RecoveryCore:
        """Another service."""
        link, owner = Link(self.store), f"service-{len(self.services)}"
        tables = ModelTables(self.sql)
        core = RecoveryCore(
            tables, tables, tables, link, self.clock, Random(self.random.random()), owner, options, nodes
        )
        self.services.append(core)
        self.links.append(link)
        return core

    def operations(self, options: Options = OPTIONS) -> Operations:
        """Those of a service without loops."""
        tables = ModelTables(self.sql)
        link, owner = Link(self.store), f"asked-{self.random.getrandbits(16)}"
        return Operations(tables, tables, tables, link, self.clock, Random(self.random.random()), owner, options)

    def finish(self, operations: Operations, job: str) -> dict[str, object]:
        """What a job says when it does not run any more."""
        for _ in range(1000):
            told = dict(operations.ask({"ask": "job", "id": job}))
            if told["state"] != "running":
                return told
            self.clock.advance(operations.work())
        raise AssertionError("the job does not end")

    def run(self, seconds: float, *services: RecoveryCore) -> None:
        """Let services do their steps for so long; those that are not named are paused."""
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            for service in services or self.services:
                for step in (
                    service.members_step,
                    service.drain_step,
                    service.follow_step,
                    service.compare_step,
                    service.audit_step,
                ):
                    try:
                        step()
                    except Unavailable:
                        continue
            self.clock.advance(0.5)

    # --- Neutron -----------------------------------------------------------------------------

    def change(self, name: str, text: str | None, project: str = "p1", kind: str = "port") -> Ref:
        """Create, change or (text None) delete an object as Neutron does."""
        ref = Ref(kind, name)
        with self.sql.transaction() as one:
            NeutronTransaction(one, self.sql).write(ref, None if text is None else Content(project, "net", text))
        return ref

    def bypass(self, name: str, text: str | None, project: str = "p1", kind: str = "port") -> Ref:
        """The same past the capture."""
        ref = Ref(kind, name)
        with self.sql.transaction() as one:
            if text is None:
                one.delete("by hand", "objects", ref)
            else:
                one.update("by hand", "objects", ref, lambda _row: Content(project, "net", text))
        return ref

    def set_row(self, ref: Ref, **changes: object) -> None:
        """UPDATE flowloom_sync, by hand."""
        with self.sql.transaction() as one:
            one.update("by hand", "sync", ref, lambda row: row._replace(**changes))

    def drain(self) -> None:
        """As an API worker does after its commits."""
        Drain(self.tables, self.tables, Link(self.store), self.clock, DEPLOYMENT, "worker").drain()

    def fill(self, objects: int, projects: int = 3) -> list[Ref]:
        """Objects that are in the store; every tenth is deleted."""
        refs = [self.change(f"o{n:04}", f"text {n}", f"p{n % projects}") for n in range(objects)]
        self.drain()
        for n in range(0, objects, 10):
            self.change(f"o{n:04}", None)
        self.drain()
        return refs

    def key(self, ref: Ref) -> str:
        row = self.sql.table("sync")[ref]
        return key_of(DEPLOYMENT, row.project_id, row.scope, row.kind, row.id)

    # --- the store, by hand ------------------------------------------------------------------

    def held(self, key: str) -> Entry | None:
        return next((entry for entry in self.store.entries() if entry.key == key), None)

    def put(self, entry: Entry, silently: bool = False) -> None:
        """Whatever the key holds, it holds this now; silently: no feed tells."""
        database = self.store
        with database.changed:
            if entry.key not in database._held:
                database._keys = sorted([*database._keys, entry.key])
            database._held[entry.key] = entry
            if not silently:
                database._position += 1
                database._log.append(entry.key)
            database.changed.notify_all()

    def remove(self, key: str, silently: bool = False) -> None:
        """The key is gone; not silently: followers start over, as `Watch` promises."""
        database = self.store
        with database.changed:
            del database._held[key]
            database._keys.remove(key)
        if not silently:
            database._position += 2
            database.trim()

    def backup(self) -> list[Entry]:
        return self.store.entries()

    def restore(self, entries: list[Entry]) -> None:
        """Another history with what was held then."""
        self.store.wipe()
        for entry in entries:
            self.put(entry)

    # --- judging -----------------------------------------------------------------------------

    def wanted(self) -> dict[str, bytes | None]:
        """What the store is to hold, by Neutron alone: value by key, None where it may hold a tombstone or nothing."""
        objects, wanted = self.sql.table("objects"), dict[str, bytes | None]()
        for ref, row in self.sql.table("sync").items():
            content = objects.get(ref)
            if content is None:
                wanted[self.key(ref)] = None
                continue
            record = record_of(row, content.text)
            assert not isinstance(record, Exception)
            wanted[self.key(ref)] = encode(record)
        return wanted

    def unequal(self) -> list[str]:
        """In words, what is not as it should be; empty: all is equal, clean, and marked."""
        wanted = self.wanted()
        found = []
        for entry in self.store.entries(deployment_prefix(DEPLOYMENT)):
            if entry.key == pointer_key(DEPLOYMENT):
                continue
            if entry.key.count("/") == 5 and parse_key(entry.key).kind in NODE_KINDS:
                continue
            should = wanted.pop(entry.key, None)
            if entry.value != should:
                found.append(f"{entry.key}: {entry.value!r}, not {should!r}")
        found += [f"{key}: missing" for key, value in wanted.items() if value is not None]
        found += [f"{ref}: dirty" for ref, row in self.sql.table("sync").items() if row.version > row.synced_version]
        found += [f"{ref}: no row" for ref in self.sql.table("objects") if ref not in self.sql.table("sync")]
        return found

    def audit(self) -> list[AuditEntry]:
        """Entries of what was done, the oldest first; without those written before."""
        entries = reversed(self.tables.recent(100_000))
        return [entry for entry in entries if entry.done != "to be written again"]

    def audited(self) -> list[tuple[str, str]]:
        """Kind and id of what was repaired, sorted."""
        return sorted((entry.kind, entry.ref.id) for entry in self.audit())


def other_content(entry: Entry) -> Entry:
    """The same version with other content."""
    assert entry.value is not None
    return replace_value(entry, entry.value.replace(b'"name":"', b'"name":"tampered '))


def replace_value(entry: Entry, value: bytes | None) -> Entry:
    return Entry(entry.key, entry.version, value)


__all__ = ["DEPLOYMENT", "OPTIONS", "Link", "World", "other_content", "replace", "replace_value"]
