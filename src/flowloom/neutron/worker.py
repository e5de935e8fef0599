"""One background thread a process: it drains what this process has just committed.

An API call never waits for the store.  What this thread does not get done (the process dies, the store
is away for longer than it remembers) the recovery process finds by the age of the row.
"""

from __future__ import annotations

import logging
import os
import threading
from random import Random

from flowloom.kernel.backoff import Backoff
from flowloom.kernel.errors import FlowloomError
from flowloom.neutron.capture import Ref
from flowloom.neutron.config import Settings
from flowloom.neutron.drain import Database, Drain
from flowloom.neutron.link import NorthboundLink

LOG = logging.getLogger(__name__)

REFS_MAX = 10_000
"""Objects a worker remembers; beyond that it drains whatever is dirty."""


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

    def wake(self, refs: frozenset[Ref]) -> None:
        """Have these objects drained soon.  Never waits for the store."""
        with self._condition:
            self._waiting |= refs
            if len(self._waiting) > REFS_MAX:
                self._waiting.clear()
                self._all = True
            if self._process != os.getpid():
                self._process = os.getpid()
                threading.Thread(target=self._run, name="flowloom-drain", daemon=True).start()
            self._condition.notify()

    def _run(self) -> None:
        settings = self._settings
        drain = Drain(self._database, NorthboundLink(settings, "neutron"), settings.deployment, settings.drain_batch)
        backoff = Backoff(Random())
        while True:
            refs = self._take()
            try:
                drain.drain(refs=refs)
                backoff.succeeded()
                continue
            except FlowloomError as error:
                delay = backoff.next_delay()
                LOG.warning("Changes stay dirty, next attempt in %.1f s: %s", delay, error)
            except Exception:  # The outermost loop of this thread: it must not end.
                delay = backoff.next_delay()
                LOG.exception("Changes stay dirty, next attempt in %.1f s", delay)
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
                self._waiting |= refs
