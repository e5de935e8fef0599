"""The port statuses that the hosts have written to the store, as last read."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from flowloom.kernel.errors import Rejected
from flowloom.model.codec import decode
from flowloom.model.keys import NO_PROJECT, parse_key, project_prefix
from flowloom.model.records import PortStatus
from flowloom.northbound.store import Cursor, Entry, Store, Watch

LOG = logging.getLogger(__name__)

KEYS_PER_GET = 500


class Reports:
    """A copy of every PortStatus of a deployment, brought up to date by `refresh` and `follow`."""

    def __init__(self, deployment: str) -> None:
        self.prefix = project_prefix(deployment, NO_PROJECT)
        self._versions: dict[str, int] = {}
        self._reports: dict[tuple[str, str], PortStatus] = {}
        self._watch: Watch | None = None

    def get(self, chassis: str, port_id: str) -> PortStatus | None:
        """What `chassis` says of the port; None: nothing."""
        return self._reports.get((chassis, port_id))

    def __len__(self) -> int:
        return len(self._reports)

    def refresh(self, store: Store) -> Cursor:
        """Read what differs from the copy; errors are the store's.  Ends an open watch."""
        self.stop_following()
        versions, cursor = store.versions(self.prefix)
        for key in self._versions.keys() - versions.keys():
            self._forget(key)
        changed = [key for key, (version, _) in versions.items() if self._versions.get(key) != version]
        for start in range(0, len(changed), KEYS_PER_GET):
            self._learn(entry for entry in store.get(changed[start : start + KEYS_PER_GET]) if entry)
        return cursor

    def follow(self, store: Store, cursor: Cursor, timeout_seconds: float) -> set[str]:
        """Wait for changes after `cursor`, which counts only where no watch is open; ids of ports concerned."""
        if self._watch is None:
            self._watch = store.watch(self.prefix, cursor)
        return self._learn(self._watch.next(timeout_seconds).entries)

    def stop_following(self) -> None:
        """Close the watch, if one is open."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _learn(self, entries: Iterable[Entry]) -> set[str]:
        concerned: set[str] = set()
        for entry in entries:
            self._versions[entry.key] = entry.version
            try:
                key = parse_key(entry.key)
                if key.kind != PortStatus.kind:
                    continue
                concerned.add(key.id)
                if entry.value is None:
                    self._reports.pop((key.scope, key.id), None)
                    continue
                record = decode(entry.key, entry.value, PortStatus.kind)
            except Rejected as error:
                LOG.error("A port status cannot be read and is skipped: %s", error)
                continue
            if isinstance(record, PortStatus):
                self._reports[key.scope, key.id] = record
        return concerned

    def _forget(self, key: str) -> None:
        del self._versions[key]
        parsed = parse_key(key)
        self._reports.pop((parsed.scope, parsed.id), None)
