"""The recovery process: what a service of `consistency.recovery` needs of the world, and threads that call its steps.

`flowloom recovery --config-file neutron.conf`.  Any number may run: every step is idempotent and decided by
versions.  It loads Neutron's plug-ins as Neutron's own out-of-process workers do, because only they may change
a port's status.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any

from flowloom.consistency.chassis import Nodes
from flowloom.consistency.move import Mover
from flowloom.consistency.operations import Operations
from flowloom.consistency.place import PlaceTable
from flowloom.consistency.recovery import RecoveryCore
from flowloom.consistency.shards import members_of
from flowloom.consistency.table import AuditTable, LeaseTable, SyncTable
from flowloom.kernel.backoff import Backoff
from flowloom.kernel.clock import Clock, SystemClock
from flowloom.kernel.errors import FlowloomError, Misconfigured, Rejected, Unavailable
from flowloom.metrics import Samples
from flowloom.neutron import explain
from flowloom.neutron.config import Settings, settings
from flowloom.neutron.control import ControlSocket
from flowloom.neutron.database import Database
from flowloom.neutron.link import NorthboundLink
from flowloom.neutron.metrics import recovery_samples, serve_recovery

LOG = logging.getLogger(__name__)

WAIT_SECONDS = 0.5
"""The longest that a thread waits for something, and hence for `stop`."""

ERRORS_KEPT = 10
"""Errors that `status` shows."""


class Recovery:
    """Threads around one service, until `stop` is set.

    status: what brings port statuses upward; called again and again with the seconds that it may wait.
    """

    def __init__(
        self,
        found: Settings,
        database: Database,
        tables: tuple[SyncTable, LeaseTable, AuditTable],
        places: PlaceTable,
        northbound: NorthboundLink,
        stop: threading.Event,
        clock: Clock,
        owner: str,
        nodes: Nodes | None = None,
    ) -> None:
        from flowloom.neutron.statuses import Statuses

        self._database = database
        self._leases = tables[1]
        self._stop = stop
        self._clock = clock
        self._owner = owner
        self.core = RecoveryCore(*tables, northbound, clock, Random(), owner, found.recovery, nodes)
        self.operations = Operations(*tables, northbound, clock, Random(), owner, found.recovery)
        self.mover = Mover(
            places,
            tables[0],
            tables[1],
            northbound,
            northbound.open,
            found.store,
            clock,
            found.deployment,
            owner,
            found.lease_seconds,
        )
        self._statuses = Statuses(
            database,
            northbound,
            clock,
            found.deployment,
            found.status_pass_seconds,
            owner,
            self.core.status_repaired,
        )
        self._errors: deque[str] = deque(maxlen=ERRORS_KEPT)
        self._store_error = "not asked yet"
        self._contact: float | None = None
        self._wait = 0.0
        self._round_cpu_seconds = 0.0
        self.control: ControlSocket | None = None

    def run(self) -> None:
        """All loops, each in a thread; returns when all have ended after `stop`, and the leases are given back."""
        steps: dict[str, Callable[[], float]] = {
            "members": self._members,
            "drain": self._drain,
            "status": self._follow_statuses,
            "jobs": self.operations.work,
            "move": self.mover.step,
        }
        threads = [
            threading.Thread(target=self._loop, args=(step,), name=f"flowloom-{name}", daemon=True)
            for name, step in steps.items()
        ]
        for thread in threads:
            thread.start()
        self._loop(self._compare)
        for thread in threads:
            thread.join(timeout=10)
        self._statuses.stop()
        with contextlib.suppress(FlowloomError):  # What is not given back runs out.
            self.mover.stop()
            self.core.stop()

    def answer(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to one question of the control socket: status, port, or what `Operations` and `Mover` know."""
        match question.get("ask"):
            case "status":
                return self._status()
            case "port":
                return self._port(str(question.get("id", "")))
            case "move" | "move status" | "move abort":
                return self.mover.ask(question)
            case _:
                return self.operations.ask(question)

    def samples(self) -> Samples:
        """The numbers for Prometheus."""
        return recovery_samples(self._status(), self.core.counters, self._owner)

    # --- threads -----------------------------------------------------------------------------

    def _loop(self, step: Callable[[], float]) -> None:
        backoff = Backoff(Random(), cap_seconds=5.0)
        while not self._stop.is_set():
            try:
                wait = step()
                backoff.succeeded()
            except FlowloomError as error:
                LOG.warning("%s", error)
                self._errors.append(str(error))
                wait = backoff.next_delay()
            except Exception as error:  # The outermost loop of this thread: it must not end.
                LOG.exception("Recovery goes on after an error")
                self._errors.append(f"{type(error).__name__}: {error}")
                wait = backoff.next_delay()
            self._stop.wait(wait)

    def _members(self) -> float:
        if self.control is not None:
            self.control.claim()
        self.mover.keep()
        return self.core.members_step()

    def _drain(self) -> float:
        with self._asking_store():
            return self.core.drain_step()

    def _compare(self) -> float:
        """Wait for changes in the store until something is due, then do it."""
        rounds, cpu = self.core.counters.rounds, time.thread_time()
        with self._asking_store():
            self.core.follow_step(self._wait)
            wait = min(self.core.compare_step(), self.core.audit_step())
        if self.core.counters.rounds != rounds:
            self._round_cpu_seconds = time.thread_time() - cpu
        self._wait = min(WAIT_SECONDS, wait)
        return 0.0

    def _follow_statuses(self) -> float:
        with self._asking_store():
            return self._statuses.step(WAIT_SECONDS)

    def _asking_store(self) -> _Contact:
        return _Contact(self)

    def heard_from_store(self, error: BaseException | None) -> None:
        """Note that the store answered (None) or that it did not."""
        if error is None:
            self._contact, self._store_error = self._clock.monotonic(), ""
        elif isinstance(error, Unavailable | Misconfigured):
            self._store_error = str(error)

    # --- answers -----------------------------------------------------------------------------

    def _status(self) -> Mapping[str, Any]:
        with self._database.reader() as connection:
            backlog = explain.read_backlog(connection)
        contact = None if self._contact is None else self._clock.monotonic() - self._contact
        counters = self.core.counters
        return {
            "owner": self._owner,
            "backlog": backlog.rows,
            "oldest_seconds": backlog.oldest_seconds,
            "last_error": backlog.last_error,
            "store": {"connected": not self._store_error, "contact_seconds": contact, "why": self._store_error},
            "reports": len(self._statuses.reports),
            "passes": self._statuses.passes,
            "counts": {"drained": counters.drained, "refused": counters.refused, **self._statuses.counts},
            "repaired": dict(counters.repaired),
            "members": [member._asdict() for member in members_of(self._leases.holders("recovery:"))],
            "shards": self.core.shares.owned(),
            "unknown": [list(ref) for ref in self.core.unknown],
            "guards": sum(not guard.approved_by for guard in self.core.guard.waiting()),
            "drift": dict(counters.drift),
            "round": {
                "at": self._clock.wall() - (self._clock.monotonic() - counters.round_at),
                "rounds": counters.rounds,
                "seconds": counters.round_seconds,
                "cpu_seconds": self._round_cpu_seconds,
                "shards_differing": counters.shards_differing,
            },
            "errors": list(self._errors),
        }

    def _port(self, port_id: str) -> Mapping[str, Any]:
        with self._database.reader() as connection:
            found = explain.read_where_is(connection, port_id)
        if found is None:
            raise Rejected(port_id, "Neutron has no such port")
        report = self._statuses.reports.get(found.host, port_id)
        return {**asdict(found), "report": None if report is None else _plain(report), "reason": _reason(found, report)}


class _Contact:
    """While it lasts, the store is being asked; its end says whether the store answered."""

    def __init__(self, recovery: Recovery) -> None:
        self._recovery = recovery

    def __enter__(self) -> None:
        return

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        self._recovery.heard_from_store(error)


def _plain(report: Any) -> Mapping[str, Any]:
    return {"chassis": report.chassis, "port_version": report.port_version, "up": report.up, "reason": report.reason}


def _reason(port: explain.Whereabouts, report: Any) -> str:
    """Why the port is not ACTIVE; "" when it is."""
    if port.status == "ACTIVE":
        return ""
    if port.deleted:
        return "it is deleted in Neutron"
    if not port.host or port.vif_type == "unbound":
        return "it is not bound to a host"
    if port.vif_type == "binding_failed":
        return f"Neutron could not bind it to host {port.host}"
    if port.version > port.synced_version:
        return f"version {port.version} has not reached the store: {port.last_error or 'in progress'}"
    if not port.admin_state_up:
        return "it is switched off: admin_state_up is false"
    if report is None:
        return f"host {port.host} has not reported it"
    if not report.up:
        return f"host {port.host} says: {report.reason}"
    if report.port_version < port.version:
        return f"host {port.host} has confirmed version {report.port_version}, Neutron holds {port.version}"
    return "host and version agree; Neutron's status follows within a pass"


def load_neutron(config_files: Sequence[str]) -> None:
    """Read Neutron's configuration and load its plug-ins into this process, once.  Misconfigured names a wrong setting."""
    from oslo_service import backend

    backend.init_backend(backend.BackendType.THREADING)  # Before anything of Neutron is imported.

    from neutron.api import extensions
    from neutron.common import config
    from neutron_lib.api import attributes
    from oslo_config import cfg
    from oslo_db import exception as db_exception

    from neutron import manager

    config.register_common_config_options()
    arguments = [argument for file in config_files for argument in ("--config-file", file)]
    try:
        config.init(arguments, prog="flowloom-recovery")
    except (cfg.ConfigFilesNotFoundError, cfg.ConfigFileParseError) as error:
        raise Misconfigured("--config-file", str(error)) from error
    config.setup_logging()
    config.set_config_defaults()
    try:
        manager.init()
    except (db_exception.DBNonExistentDatabase, db_exception.DBNonExistentTable) as error:
        why = f"{error}; create the schema, or correct the URL in neutron.conf".replace("\n", " ")
        raise Misconfigured("[database] connection", why) from error
    extensions.PluginAwareExtensionManager.get_instance().extend_resources("2.0", attributes.RESOURCES)


def run_recovery(config_files: Sequence[str], stop: threading.Event) -> None:
    """Load Neutron and recover until `stop` is set.  Misconfigured names a wrong setting."""
    load_neutron(config_files)
    from flowloom.neutron.adoption import adoptable
    from flowloom.neutron.nodes import Hearing
    from flowloom.neutron.places import SqlPlaceTable
    from flowloom.neutron.sessions import NeutronDatabase
    from flowloom.neutron.tables import SqlAuditTable, SqlLeaseTable, SqlSyncTable
    from flowloom.neutron.translate import facts

    found, clock, database = settings(), SystemClock(), NeutronDatabase()
    places = SqlPlaceTable(database)
    northbound = NorthboundLink(found, "recovery", places)
    with contextlib.suppress(Unavailable):  # A store that is away is waited for; a wrong URL is not.
        northbound.store()
    tables = SqlSyncTable(database, facts, adoptable), SqlLeaseTable(database), SqlAuditTable(database)
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    nodes = Hearing(database, northbound.bus, clock)
    recovery = Recovery(found, database, tables, places, northbound, stop, clock, owner, nodes)
    recovery.control = ControlSocket(found.control, recovery.answer) if found.control else None
    exported = serve_recovery(found, recovery.samples)
    try:
        recovery.run()
    finally:
        if exported is not None:
            exported.close()
        if recovery.control is not None:
            recovery.control.close()
        nodes.close()
        northbound.close()


def run(config_files: Sequence[str]) -> int:
    """`flowloom recovery`: until SIGTERM or SIGINT; the exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_recovery(config_files, stop)
    return 0
