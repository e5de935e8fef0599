"""How a publisher numbers its notices: pure bookkeeping that every bus driver shares.

The numbers are what makes a loss visible (`bus.Notice.previous`, `bus.Heartbeat.scope`); see `follower`
for the other end.
"""

from __future__ import annotations

from flowloom.northbound.bus import Heartbeat, Notice


def scope_of(key: str) -> str:
    """The key without kind and id, ended by `/`: `/dep/project/scope/kind/id` -> `/dep/project/scope/`."""
    return key.rsplit("/", 2)[0] + "/"


class Numbering:
    """Sequences of one publisher in one epoch.  Not thread-safe: the driver holds its lock around it."""

    def __init__(
        self, publisher: str, epoch: int, now: float, heartbeat_seconds: float = 1.0, scopes_max: int = 100_000
    ) -> None:
        self.publisher = publisher
        self.epoch = epoch
        self.sequence = 0
        self._heartbeat_seconds = heartbeat_seconds
        self._scopes_max = scopes_max
        self._last: dict[str, int] = {}  # scope -> last sequence there; least recently used first.
        self._forgot = False
        self._owed: dict[str, int] = {}  # scope -> its last sequence, not yet repeated by a heartbeat.
        self._next_beat = now

    def notice(self, key: str, version: int, value: bytes | None) -> Notice:
        """The next notice; its scope is owed a heartbeat, which goes with the publisher's next one."""
        scope = scope_of(key)
        self.sequence += 1
        previous = self._last.pop(scope, -1 if self._forgot else 0)
        self._last[scope] = self.sequence
        if len(self._last) > self._scopes_max:
            del self._last[next(iter(self._last))]
            self._forgot = True
        self._owed[scope] = self.sequence
        return Notice(self.publisher, self.epoch, self.sequence, previous, key, version, value)

    def heartbeats(self, now: float) -> list[Heartbeat]:
        """The heartbeats that are due: those of scopes and the publisher's own sign of life, all at once.

        Together they wake a subscriber once; a busy publisher's scopes would wake it once each.
        """
        if now < self._next_beat:
            return []
        self._next_beat = now + self._heartbeat_seconds
        owed, self._owed = self._owed, {}
        beats = [Heartbeat(self.publisher, self.epoch, sequence, scope) for scope, sequence in owed.items()]
        return [*beats, Heartbeat(self.publisher, self.epoch, self.sequence)]

    def next_due(self) -> float:
        """When `heartbeats` has something again, on the clock of `now`."""
        return self._next_beat
