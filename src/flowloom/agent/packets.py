"""Frames that wait for an answer: one bounded queue an app, so that a flood for one does not starve another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Final

from flowloom.southbound.switch import PacketIn

PACKETS_MAX: Final = 256
"""Frames that wait, for each app; at 100 microseconds an answer, 25 ms of work."""


class PacketQueues:
    """Filled by the switch's thread, emptied by the loop; the app is the first byte of a frame's userdata."""

    def __init__(self) -> None:
        self.dropped: dict[int, int] = {}
        self._lock = threading.Lock()
        self._queues: dict[int, deque[PacketIn]] = {}
        self._announced = False

    def offer(self, packet: PacketIn) -> bool:
        """Append or, when its app's queue is full, drop and count; True when the loop must be told."""
        app = packet.userdata[0] if packet.userdata else -1
        with self._lock:
            waiting = self._queues.setdefault(app, deque())
            if len(waiting) >= PACKETS_MAX:
                self.dropped[app] = self.dropped.get(app, 0) + 1
                return False
            waiting.append(packet)
            tell, self._announced = not self._announced, True
            return tell

    def take(self, packets_max: int) -> Iterator[PacketIn]:
        """At most `packets_max` frames, the queues in turn."""
        taken = 0
        while taken < packets_max:
            with self._lock:
                ready = [waiting.popleft() for waiting in self._queues.values() if waiting]
                if not ready:
                    self._announced = False
                    return
            yield from ready
            taken += len(ready)

    def __bool__(self) -> bool:
        """Some are waiting, and have been announced."""
        return self._announced
