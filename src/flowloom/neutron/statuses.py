"""Port status upward, as a loop: one pass over all ports, then single ports as their reports change."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from flowloom.consistency.differences import Kind
from flowloom.consistency.drain import Northbound
from flowloom.consistency.table import AuditEntry, Ref
from flowloom.kernel.clock import Clock
from flowloom.kernel.errors import StartOver
from flowloom.model.records import PortStatus
from flowloom.neutron.database import Database
from flowloom.neutron.reports import Reports
from flowloom.neutron.status import BoundPort, bound_ports, decide, set_active, set_down
from flowloom.northbound.store import Cursor, Store

LOG = logging.getLogger(__name__)

UNWATCHED_SECONDS = 1.0


class Statuses:
    """Brings `status` of Neutron's ports in step with what their hosts report.

    A pass that finds a port out of step although neither Neutron's port nor its host's report has changed since
    the pass before has found what no event told: `repaired` is called with audit entries.
    reports: as last read.  passes: over all ports.  counts: "made ACTIVE", "made DOWN".
    """

    def __init__(
        self,
        database: Database,
        northbound: Northbound,
        clock: Clock,
        deployment: str,
        pass_seconds: float,
        by: str,
        repaired: Callable[[Sequence[AuditEntry]], None],
    ) -> None:
        self.reports = Reports(deployment)
        self.passes = 0
        self.counts: Counter[str] = Counter()
        self._database = database
        self._northbound = northbound
        self._clock = clock
        self._pass_seconds = pass_seconds
        self._by = by
        self._repaired = repaired
        self._seen: dict[str, tuple[int, int]] = {}
        self._cursor: Cursor | None = None
        self._asked: Store | None = None
        self._due = clock.monotonic()

    def step(self, wait_seconds: float) -> float:
        """One pass if it is due, else one wait for changes; in how many seconds to go on."""
        try:
            store = self._northbound.store()
            if store is not self._asked:  # The deployment has moved: nothing is known of this one's history.
                self.reports.stop_following()
                self._asked, self._cursor = store, None
            now = self._clock.monotonic()
            if self._cursor is None or now >= self._due:
                self._cursor = self.reports.refresh(store)
                self._pass()
                self._due = self._clock.monotonic() + self._pass_seconds
                return 0.0
            if not store.capabilities.watch:
                return min(UNWATCHED_SECONDS, self._due - now)
            concerned = self.reports.follow(store, self._cursor, min(wait_seconds, self._due - now))
        except StartOver as error:
            LOG.info("Reading all port statuses again: %s", error)
            self._cursor = None
            return 0.0
        if concerned:
            self._reconcile(concerned)
        return 0.0

    def stop(self) -> None:
        """Release what is open; repeating it does nothing."""
        self.reports.stop_following()

    def _pass(self) -> None:
        before, self._seen = self._seen, {}
        changed = self._reconcile(None)
        self.passes += 1
        late = [(port, report) for port, report in changed if before.get(port.id) == _inputs(port, report)]
        if late:
            self._repaired([self._entry(port, report) for port, report in late])

    def _reconcile(self, ids: Collection[str] | None) -> list[tuple[BoundPort, PortStatus | None]]:
        """Those whose status was changed."""
        with self._database.reader() as connection:
            ports = list(bound_ports(connection, ids))
        changed: list[tuple[BoundPort, PortStatus | None]] = []
        for port in ports:
            report = self.reports.get(port.host, port.id)
            if ids is None:
                self._seen[port.id] = _inputs(port, report)
            wanted = decide(port, report)
            if wanted == "ACTIVE" and report is not None and set_active(port, report):
                self.counts["made ACTIVE"] += 1
                LOG.info("Port %s is ACTIVE: %s confirmed version %d", port.id, port.host, report.port_version)
            elif wanted == "DOWN" and set_down(port):
                self.counts["made DOWN"] += 1
                LOG.info("Port %s is DOWN: %s", port.id, report.reason if report else "")
            else:
                continue
            changed.append((port, report))
        return changed

    def _entry(self, port: BoundPort, report: PortStatus | None) -> AuditEntry:
        return AuditEntry(
            at=0.0,
            kind=Kind.STATUS,
            ref=Ref("port", port.id),
            project_id="",
            comparison="status pass",
            neutron_version=port.version,
            store_version=-1 if report is None else report.port_version,
            version=port.version,
            done=f"{port.status} made {'DOWN' if port.status == 'ACTIVE' else 'ACTIVE'}",
            verified="compared and set in one transaction",
            by=self._by,
        )


def _inputs(port: BoundPort, report: PortStatus | None) -> tuple[int, int]:
    return port.version, 0 if report is None else report.version
