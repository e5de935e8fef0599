"""One bounded first-in-first-out queue between the threads at the rim and the loop that owns the state."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Bounded FIFO.  A full inbox makes producers of facts wait; what may be lost is offered instead.

    `put` blocks (a fact must not be lost); `offer` drops and counts (a packet may be).
    """

    def __init__(self, max_items: int = 10_000) -> None:
        self._queue: queue.Queue[T] = queue.Queue(max_items)
        self.dropped = 0

    def put(self, item: T) -> None:
        """Append, waiting while the inbox is full."""
        self._queue.put(item)

    def offer(self, item: T) -> bool:
        """Append unless full; a drop is counted in `dropped` and reported by returning False."""
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.dropped += 1
            return False
        return True

    def take(self, timeout_seconds: float | None) -> T | None:
        """The oldest item, or None when `timeout_seconds` have passed without one."""
        try:
            if timeout_seconds is not None and timeout_seconds <= 0:
                return self._queue.get_nowait()
            return self._queue.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    def drain(self, each: Callable[[T], None], items_max: int) -> int:
        """Hand over what is there now, at most `items_max`; how many there were."""
        for n in range(items_max):
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return n
            each(item)
        return items_max

    def __len__(self) -> int:
        return self._queue.qsize()
