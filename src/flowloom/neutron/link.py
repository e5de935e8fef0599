"""A process's own connection to store and bus."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable

from flowloom.consistency.place import Place, PlaceTable
from flowloom.kernel.errors import Unavailable
from flowloom.neutron.config import Settings
from flowloom.northbound.bus import Bus, Publisher
from flowloom.northbound.plugins import open_bus, open_store
from flowloom.northbound.pointer import as_configured
from flowloom.northbound.store import Store

LOG = logging.getLogger(__name__)

RETIRED_SECONDS = 30.0
"""A former store stays open for so long: other threads may be in the middle of a call."""


class NorthboundLink:
    """Store and publisher of one process, opened at first use; satisfies `consistency.drain.Northbound`.

    The store is the one that SQL says is in force; the configured one where there was never a move.
    opener: opens a store by its URL, naming the setting where that is wrong.
    """

    def __init__(
        self,
        settings: Settings,
        role: str,
        places: PlaceTable,
        opener: Callable[[str, str], Store] = open_store,
    ) -> None:
        self._settings = settings
        self._name = f"{role}@{socket.gethostname()}:{os.getpid()}"
        self._places = places
        self._opener = opener
        self._place: Place | None = None
        self._store: Store | None = None
        self._retired: list[tuple[float, Store]] = []
        self._bus: Bus | None = None
        self._publisher: Publisher | None = None
        self._looking = threading.Lock()
        self._lock = threading.Lock()  # Guards what is above.

    @property
    def generation(self) -> int:
        """Of the store that is in force, as far as this process knows.  Unavailable: the database does not answer."""
        return self._known().generation

    def store(self) -> Store:
        """The store.  Unavailable while it cannot be opened."""
        place = self._known()
        with self._lock:
            self._close_retired(time.monotonic() - RETIRED_SECONDS)
            if self._store is None:
                self._store = self.open((self._place or place).url)
            return self._store

    def open(self, url: str) -> Store:
        """Another handle on the store at `url`, with what the configuration has for it; "": the configured one."""
        configured = self._settings.store
        return self._opener(as_configured(url, configured) if url else configured, "[flowloom] store")

    def look_again(self) -> Place:
        """Which store is in force; it is used from now on.  Unavailable: the database does not answer."""
        with self._looking:  # One after the other, so that what was read earlier is never used later.
            place = self._places.place()
            with self._lock:
                if self._place is not None and place.generation != self._place.generation:
                    LOG.info("The northbound store is %s now (generation %d)", place.url, place.generation)
                    if self._store is not None:
                        self._retired.append((time.monotonic(), self._store))
                        self._store = None
                self._place = place
            return place

    def _known(self) -> Place:
        return self._place or self.look_again()

    def _close_retired(self, retired_before: float) -> None:
        """Under the lock."""
        while self._retired and self._retired[0][0] <= retired_before:
            self._retired.pop(0)[1].close()

    def publisher(self) -> Publisher | None:
        """The publisher; None where no bus is configured, or while it cannot be opened."""
        with self._lock:
            if self._publisher is None and self._settings.bus:
                try:
                    self._bus = self._bus or open_bus(self._settings.bus, "[flowloom] bus")
                    self._publisher = self._bus.publisher(self._name)
                except Unavailable as error:
                    LOG.warning("No bus for now (agents find changes in the store): %s", error)
            return self._publisher

    def bus(self) -> Bus | None:
        """The bus; None where none is configured.  Unavailable while it cannot be opened."""
        with self._lock:
            if self._bus is None and self._settings.bus:
                self._bus = open_bus(self._settings.bus, "[flowloom] bus")
            return self._bus

    def close(self) -> None:
        """Send what is queued and let go; repeating it does nothing."""
        with self._lock:
            self._close_retired(float("inf"))
            for each in (self._bus, self._store):
                if each is not None:
                    each.close()
