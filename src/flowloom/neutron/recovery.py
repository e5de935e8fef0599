"""The recovery process: drains what API workers left behind, and takes port status upward.

`flowloom recovery --config-file neutron.conf`.  Any number may run: every step is idempotent and decided
by versions.  It loads Neutron's plug-ins as Neutron's own out-of-process workers do, because only they
may change a port's status.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any

from flowloom.kernel.backoff import Backoff
from flowloom.kernel.clock import Clock, SystemClock
from flowloom.kernel.errors import FlowloomError, Misconfigured, Rejected, StartOver, Unavailable
from flowloom.neutron import explain
from flowloom.neutron.config import Settings, settings
from flowloom.neutron.control import ControlSocket
from flowloom.neutron.drain import Database, Drain, Northbound
from flowloom.neutron.reports import Reports

LOG = logging.getLogger(__name__)

DRAIN_EVERY_SECONDS = 0.25
WAIT_SECONDS = 0.5
ERRORS_KEPT = 10


class Recovery:
    """Two loops, each in a thread of its own, until `stop` is set."""

    def __init__(
        self, found: Settings, database: Database, northbound: Northbound, stop: threading.Event, clock: Clock
    ) -> None:
        self._settings = found
        self._database = database
        self._northbound = northbound
        self._stop = stop
        self._clock = clock
        self._drain = Drain(database, northbound, found.deployment, found.drain_batch)
        self._reports = Reports(found.deployment)
        self._errors: deque[str] = deque(maxlen=ERRORS_KEPT)
        self._counts: Counter[str] = Counter()
        self._passes = 0
        self._store_error = "not asked yet"
        self._contact: float | None = None

    def run(self) -> None:
        """Both loops; returns when both have ended after `stop`."""
        follower = threading.Thread(target=lambda: self._loop(self._follow), name="flowloom-status", daemon=True)
        follower.start()
        self._loop(self._drain_leftovers)
        follower.join(timeout=10)

    def answer(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to one question of the control socket: `status`, or `port` with its `id`."""
        match question.get("ask"):
            case "status":
                return self._status()
            case "port":
                return self._port(str(question.get("id", "")))
            case other:
                raise Rejected("ask", f"{other!r} is not known here; ask status or port")

    def _loop(self, step: Callable[[], None]) -> None:
        backoff = Backoff(Random(), cap_seconds=5.0)
        while not self._stop.is_set():
            try:
                step()
                backoff.succeeded()
                continue
            except FlowloomError as error:
                LOG.warning("%s", error)
                self._errors.append(str(error))
            except Exception as error:  # The outermost loop of this thread: it must not end.
                LOG.exception("Recovery goes on after an error")
                self._errors.append(f"{type(error).__name__}: {error}")
            self._stop.wait(backoff.next_delay())

    def _drain_leftovers(self) -> None:
        with self._asking_store():
            done = self._drain.drain(dirty_for_seconds=self._settings.dirty_seconds)
        self._counts["drained"] += done.written
        self._counts["refused"] += len(done.refused)
        if done.read:
            LOG.info("Drained %d of %d changes that were left behind", done.written, done.read)
        # What was refused is tried again, but not in a tight loop.
        self._stop.wait(DRAIN_EVERY_SECONDS if done.written == done.read else self._settings.status_pass_seconds)

    def _follow(self) -> None:
        """One full pass over all ports, then single ports as their reports change, until the next pass is due."""
        with self._asking_store():
            store = self._northbound.store()
            cursor = self._reports.refresh(store)
        self._reconcile(None)
        self._passes += 1
        due = self._clock.monotonic() + self._settings.status_pass_seconds
        if not store.capabilities.watch:
            self._stop.wait(min(1.0, self._settings.status_pass_seconds))
            return
        try:
            while not self._stop.is_set() and (left := due - self._clock.monotonic()) > 0:
                with self._asking_store():
                    concerned = self._reports.follow(store, cursor, min(WAIT_SECONDS, left))
                if concerned:
                    self._reconcile(concerned)
        except StartOver as error:
            LOG.info("Reading all port statuses again: %s", error)
        finally:
            self._reports.stop_following()

    def _reconcile(self, ids: Collection[str] | None) -> None:
        from flowloom.neutron import status

        with self._database.reader() as connection:
            ports = list(status.bound_ports(connection, ids))
        for port in ports:
            report = self._reports.get(port.host, port.id)
            wanted = status.decide(port, report)
            if self._stop.is_set():
                return
            if wanted == "ACTIVE" and report is not None and status.set_active(port, report):
                self._counts["made ACTIVE"] += 1
                LOG.info("Port %s is ACTIVE: %s confirmed version %d", port.id, port.host, report.port_version)
            elif wanted == "DOWN" and status.set_down(port):
                self._counts["made DOWN"] += 1
                LOG.info("Port %s is DOWN: %s", port.id, report.reason if report else "")

    def _asking_store(self) -> _Contact:
        return _Contact(self)

    def heard_from_store(self, error: BaseException | None) -> None:
        """Note that the store answered (None) or that it did not."""
        if error is None:
            self._contact, self._store_error = self._clock.monotonic(), ""
        elif isinstance(error, Unavailable | Misconfigured):
            self._store_error = str(error)

    def _status(self) -> Mapping[str, Any]:
        with self._database.reader() as connection:
            backlog = explain.read_backlog(connection)
        contact = None if self._contact is None else self._clock.monotonic() - self._contact
        return {
            "backlog": backlog.rows,
            "oldest_seconds": backlog.oldest_seconds,
            "last_error": backlog.last_error,
            "store": {"connected": not self._store_error, "contact_seconds": contact, "why": self._store_error},
            "reports": len(self._reports),
            "passes": self._passes,
            "counts": dict(self._counts),
            "errors": list(self._errors),
        }

    def _port(self, port_id: str) -> Mapping[str, Any]:
        with self._database.reader() as connection:
            found = explain.read_where_is(connection, port_id)
        if found is None:
            raise Rejected(port_id, "Neutron has no such port")
        report = self._reports.get(found.host, port_id)
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
    from flowloom.neutron.link import NorthboundLink
    from flowloom.neutron.sessions import NeutronSessions

    found = settings()
    northbound = NorthboundLink(found, "recovery")
    with contextlib.suppress(Unavailable):  # A store that is away is waited for; a wrong URL is not.
        northbound.store()
    recovery = Recovery(found, NeutronSessions(), northbound, stop, SystemClock())
    control = ControlSocket(found.control, recovery.answer) if found.control else None
    try:
        recovery.run()
    finally:
        if control is not None:
            control.close()
        northbound.close()


def run(config_files: Sequence[str]) -> int:
    """`flowloom recovery`: until SIGTERM or SIGINT; the exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_recovery(config_files, stop)
    return 0
