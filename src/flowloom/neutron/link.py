"""A process's own connection to store and bus."""

from __future__ import annotations

import logging
import os
import socket
import threading

from flowloom.kernel.errors import Unavailable
from flowloom.neutron.config import Settings
from flowloom.northbound.bus import Bus, Publisher
from flowloom.northbound.plugins import open_bus, open_store
from flowloom.northbound.store import Store

LOG = logging.getLogger(__name__)


class NorthboundLink:
    """Store and publisher of one process, opened at first use."""

    def __init__(self, settings: Settings, role: str) -> None:
        self._settings = settings
        self._name = f"{role}@{socket.gethostname()}:{os.getpid()}"
        self._store: Store | None = None
        self._bus: Bus | None = None
        self._publisher: Publisher | None = None
        self._lock = threading.Lock()

    def store(self) -> Store:
        """The store.  Unavailable while it cannot be opened."""
        with self._lock:
            if self._store is None:
                self._store = open_store(self._settings.store, "[flowloom] store")
            return self._store

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
            for each in (self._bus, self._store):
                if each is not None:
                    each.close()
