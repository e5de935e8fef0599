"""One bounded first-in-first-out queue between the threads at the rim and the loop that owns the state."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Bounded FIFO with one taker.  A full inbox makes producers of facts wait; what may be lost is offered instead.

    `put` blocks (a fact must not be lost); `offer` drops and counts (a packet may be).  The bound is kept to
    within one item a producer, so that the common case needs no lock of ours: a wake-up is what a change costs.
    """

    def __init__(self, max_items: int = 10_000) -> None:
        self._queue: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._max_items = max_items
        self._room = threading.Condition()
        self._waiting = 0
        self.dropped = 0

    def put(self, item: T) -> None:
        """Append, waiting while the inbox is full."""
        if self._queue.qsize() >= self._max_items:
            with self._room:
                self._waiting += 1
                self._room.wait_for(lambda: self._queue.qsize() < self._max_items)
                self._waiting -= 1
        self._queue.put(item)

    def offer(self, item: T) -> bool:
        """Append unless full; a drop is counted in `dropped` and reported by returning False."""
        if self._queue.qsize() >= self._max_items:
            self.dropped += 1
            return False
        self._queue.put(item)
        return True

    def take(self, timeout_seconds: float | None) -> T | None:
        """The oldest item, or None when `timeout_seconds` have passed without one."""
        try:
            if timeout_seconds is not None and timeout_seconds <= 0:
                item = self._queue.get_nowait()
            else:
                item = self._queue.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        self._taken()
        return item

    def drain(self, each: Callable[[T], None], items_max: int) -> int:
        """Hand over what is there now, at most `items_max`; how many there were."""
        count = min(items_max, self._queue.qsize())
        for _ in range(count):
            item = self._queue.get_nowait()
            self._taken()
            each(item)
        return count

    def _taken(self) -> None:
        if self._waiting:
            with self._room:
                self._room.notify_all()

    def __len__(self) -> int:
        return self._queue.qsize()
