"""One background thread a process: it drains what this process has just committed.

An API call never waits for the store, nor for a lock: where another process drains the project, that one
is told to look again.  What this thread does not get done (the process dies, the store is away for longer than
it remembers) the recovery process finds by the age of the row.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from random import Random

from flowloom.consistency.drain import Drain
from flowloom.consistency.table import Ref
from flowloom.kernel.backoff import Backoff
from flowloom.kernel.clock import SystemClock
from flowloom.kernel.errors import FlowloomError
from flowloom.neutron.adoption import adoptable
from flowloom.neutron.config import Settings
from flowloom.neutron.database import Database
from flowloom.neutron.link import NorthboundLink
from flowloom.neutron.metrics import WorkerCounts
from flowloom.neutron.places import SqlPlaceTable
from flowloom.neutron.tables import SqlLeaseTable, SqlSyncTable
from flowloom.neutron.translate import facts

LOG = logging.getLogger(__name__)

REFS_MAX = 10_000
"""Objects a worker remembers; beyond that it drains whatever is dirty."""


def owner_of_this_process() -> str:
    """The name under which this process holds locks; no other has it, not even a later one with this pid."""
    return f"{socket.gethostname()}:{os.getpid()}:{Random().getrandbits(32):08x}"


def drain_of_this_process(settings: Settings, database: Database) -> Drain:
    """An API worker's drain; to be made after the fork."""
    return Drain(
        SqlSyncTable(database, facts, adoptable),
        SqlLeaseTable(database),
        NorthboundLink(settings, "neutron", SqlPlaceTable(database)),
        SystemClock(),
        settings.deployment,
        owner_of_this_process(),
        settings.drain_batch,
        settings.lease_seconds,
    )


class DrainWorker:
    """Wakes after commits and drains the objects that they touched.

    The thread is made at the first wake in a process, hence after the fork of an API worker.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._condition = threading.Condition()
        self._waiting: set[Ref] = set()
        self._all = False
        self._process = 0
        self.counts = WorkerCounts()

    @property
    def waiting(self) -> int:
        """Objects that the drain has not come to; beyond REFS_MAX nobody counts them."""
        return REFS_MAX if self._all else len(self._waiting)

    def wake(self, refs: frozenset[Ref]) -> None:
        """Have these objects drained soon.  Never waits for the store."""
        with self._condition:
            self.counts.captured += len(refs)
            self._remember(refs)
            if self._process != os.getpid():
                self._process = os.getpid()
                threading.Thread(target=self._run, name="flowloom-drain", daemon=True).start()
            self._condition.notify()

    def _run(self) -> None:
        drain = drain_of_this_process(self._settings, self._database)
        backoff = Backoff(Random())
        while True:
            self.counts.cpu_seconds = time.thread_time()
            refs = self._take()
            try:
                self.counts.count(drain.drain(refs=refs))
                backoff.succeeded()
                continue
            except FlowloomError as error:
                delay = backoff.next_delay()
                LOG.warning("Changes stay dirty, next attempt in %.1f s: %s", delay, error)
            except Exception:  # The outermost loop of this thread: it must not end.
                delay = backoff.next_delay()
                LOG.exception("Changes stay dirty, next attempt in %.1f s", delay)
            self.counts.errors += 1
            self._put_back(refs)
            threading.Event().wait(delay)

    def _take(self) -> frozenset[Ref] | None:
        """What to drain next (None: all that is dirty); waits until there is something."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._all)
            taken = None if self._all else frozenset(self._waiting)
            self._waiting.clear()
            self._all = False
            return taken

    def _put_back(self, refs: frozenset[Ref] | None) -> None:
        with self._condition:
            if refs is None:
                self._all = True
            else:
                self._remember(refs)

    def _remember(self, refs: frozenset[Ref]) -> None:
        """Under the condition's lock."""
        self._waiting |= refs
        if len(self._waiting) > REFS_MAX:
            self._waiting.clear()
            self._all = True
