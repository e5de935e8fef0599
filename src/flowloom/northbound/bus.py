"""The bus contract: notices that something changed.  At most once, in order per publisher, loss is seen.

A notice is a hint, never the fact: whoever misses one compares versions with the store.  Every
publisher numbers its notices and repeats its last number as a heartbeat, so that a loss is seen
within one heartbeat; a publisher that restarts has a new epoch.

Topics are the keys of the store (`model.keys`), and a subscription is a set of prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class Notice(NamedTuple):
    """Something changed at `key`.

    publisher: who says so (`neutron@host:pid`, a chassis id).
    epoch: this life of the publisher, greater than its former ones (wall-clock microseconds at start).
    sequence: 1, 2, 3… within the epoch, over all topics.
    previous: the sequence of this publisher's last notice in the same scope (the key without kind and
        id) in this epoch; 0: this is its first there; -1: the publisher no longer remembers.
    version, value: what the key now holds, as in `store.Entry` (value None: a tombstone).
    """

    publisher: str
    epoch: int
    sequence: int
    previous: int
    key: str
    version: int
    value: bytes | None


class Heartbeat(NamedTuple):
    """`publisher` lives, and `sequence` is the last number it used.

    scope "": over all topics; sent every heartbeat to every subscriber, which makes it the sign of life
    of a node too.  scope a prefix (`/deployment/project/scope/`): the last number it used in that
    scope; sent with the first heartbeat after a notice there to the subscribers of that scope, so that the loss
    of a scope's last notice is seen by those whom it concerns, whatever grain they subscribed to.
    """

    publisher: str
    epoch: int
    sequence: int
    scope: str = ""


class Gone(NamedTuple):
    """The transport itself reports that it lost a connection: anything may have been missed."""

    why: str


BusEvent = Notice | Heartbeat | Gone


class Publisher(Protocol):
    """One publishing identity.  May be used from any thread."""

    def publish(self, changes: Sequence[tuple[str, int, bytes | None]]) -> None:
        """Send one notice a change (key, version, value).

        Never waits for a subscriber and never fails for a missing one; raises Unavailable only when
        the notice certainly did not leave (the caller goes on: the fact is in the store).
        """
        ...

    def close(self) -> None:
        """Send what is queued (at most 1 s), release the rest; repeating it does nothing."""
        ...


class Subscription(Protocol):
    """An open subscription; its thread calls `deliver`."""

    def replace_prefixes(self, prefixes: Sequence[str]) -> None:
        """From now on receive these prefixes; what both sets hold is not interrupted."""
        ...

    def close(self) -> None:
        """Stop; `deliver` is not called after this returned; repeating it does nothing."""
        ...


class Bus(Protocol):
    """A publish/subscribe transport, chosen by URL.  Errors: Unavailable, Misconfigured (at opening)."""

    def publisher(self, name: str) -> Publisher:
        """A publisher with a new epoch; heartbeats start at once, every `heartbeat_seconds` of the URL."""
        ...

    def subscribe(self, prefixes: Sequence[str], deliver: Callable[[BusEvent], None]) -> Subscription:
        """Call `deliver` for every notice under a prefix and for every heartbeat, in order per publisher."""
        ...

    def close(self) -> None:
        """Close every publisher and subscription of this bus; repeating it does nothing."""
        ...
