"""What is known of the nodes' lives: which are heard on the bus, and which Neutron has bound ports to."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import sqlalchemy as sa
from neutron.plugins.ml2 import models as ml2_models

from flowloom.kernel.clock import Clock
from flowloom.kernel.errors import Unavailable
from flowloom.neutron.database import Database
from flowloom.northbound.bus import Bus, BusEvent, Gone, Subscription

LOG = logging.getLogger(__name__)


class Hearing:
    """Listens to the bus for signs of life; satisfies `consistency.chassis.Nodes`.

    A chassis is silent from the moment that somebody has listened without a gap and not heard it.  The bus may
    be restarted meanwhile: the silence begins anew.
    """

    def __init__(self, database: Database, open_bus: Callable[[], Bus | None], clock: Clock) -> None:
        self._database = database
        self._open_bus = open_bus
        self._clock = clock
        self._lock = threading.Lock()
        self._heard: dict[str, float] = {}
        self._since = clock.monotonic()
        self._subscription: Subscription | None = None

    def silent_seconds(self, chassis: str) -> float:
        if self._subscription is None:
            self._subscribe()
            return 0.0
        with self._lock:
            return self._clock.monotonic() - max(self._since, self._heard.get(chassis, self._since))

    def bound_hosts(self) -> set[str]:
        bindings = ml2_models.PortBinding.__table__
        with self._database.reader() as connection:
            return {host for (host,) in connection.execute(sa.select(bindings.c.host).distinct()) if host}

    def close(self) -> None:
        """Stop listening; repeating it does nothing."""
        if self._subscription is not None:
            self._subscription.close()

    def _subscribe(self) -> None:
        try:
            bus = self._open_bus()
            if bus is not None:
                self._since = self._clock.monotonic()
                self._subscription = bus.subscribe([], self._take)
        except Unavailable as error:
            LOG.warning("No bus for now, so no chassis counts as silent: %s", error)

    def _take(self, event: BusEvent) -> None:
        with self._lock:
            if isinstance(event, Gone):
                self._since = self._clock.monotonic()
                self._heard.clear()
            else:
                self._heard[event.publisher] = self._clock.monotonic()
