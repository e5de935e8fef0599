"""Which version of which key a follower knows: the bookkeeping of its replica, without the values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from flowloom.northbound.numbering import scope_of
from flowloom.northbound.store import Entry


class Known(NamedTuple):
    """version: of the value held.  learnt: when, counted in entries taken in."""

    version: int
    learnt: int


class Replica:
    """Versions by key, grouped by scope, and a bounded number of tombstones."""

    def __init__(self, tombstones_max: int) -> None:
        self.learnt = 0
        self._scopes: dict[str, dict[str, Known]] = {}
        self._tombstones: dict[str, int] = {}  # Oldest first.
        self._tombstones_max = tombstones_max

    def take(self, entry: Entry) -> Entry | None:
        """Take `entry` in if it is newer; the change that this is for whoever holds the values, if any."""
        key, version, value = entry
        scope = self._scopes.get(scope_of(key))
        known = scope.get(key) if scope is not None else None
        if known is not None:
            if version <= known.version:
                return None
        elif version <= self._tombstones.get(key, 0):
            return None
        self.learnt += 1
        if value is None:
            self._bury(key, version)
            if scope is None or known is None:
                return None
            self._remove(key)
            return entry
        self._tombstones.pop(key, None)
        self._scopes.setdefault(scope_of(key), {})[key] = Known(version, self.learnt)
        return entry

    def forget(self, key: str, learnt_max: int) -> Entry | None:
        """The store no longer has `key`, as of when `learnt_max` entries were known; the delete, if any.

        What was learnt later stays.  No tombstone: whoever rebuilds a store may write the same version again.
        """
        known = self._scopes.get(scope_of(key), {}).get(key)
        if known is None or known.learnt > learnt_max:
            return None
        self._remove(key)
        return Entry(key, known.version, None)

    def forget_where(self, dropped: Callable[[str], bool]) -> list[Entry]:
        """Forget every key that `dropped` says, as deletes; tombstones too."""
        gone = [Entry(key, known.version, None) for key, known in self.items("") if dropped(key)]
        for entry in gone:
            self._remove(entry.key)
        for key in [key for key in self._tombstones if dropped(key)]:
            del self._tombstones[key]
        return gone

    def forget_tombstones(self, prefix: str) -> None:
        """From now on what was deleted under `prefix` is news at any version."""
        for key in [key for key in self._tombstones if key.startswith(prefix)]:
            del self._tombstones[key]

    def version(self, key: str) -> int:
        """The version known, of a value or a tombstone; 0: nothing is known."""
        known = self._scopes.get(scope_of(key), {}).get(key)
        return known.version if known is not None else self._tombstones.get(key, 0)

    def holds(self, key: str) -> int:
        """The version of the value held; 0: none is."""
        known = self._scopes.get(scope_of(key), {}).get(key)
        return 0 if known is None else known.version

    def items(self, prefix: str) -> Iterator[tuple[str, Known]]:
        """Keys under `prefix` that hold a value."""
        for scope, keys in self._scopes.items():
            if scope.startswith(prefix):
                yield from keys.items()
            elif prefix.startswith(scope):
                yield from ((key, known) for key, known in keys.items() if key.startswith(prefix))

    def page(self, prefix: str, after: str, limit: int) -> list[str]:
        """The first `limit` keys under `prefix` beyond `after` that hold a value, in order.

        A scope is a key's beginning up to a `/`, so scopes in order hold their keys in order: only what is
        looked at is sorted.
        """
        out: list[str] = []
        begin = scope_of(after) if after else ""
        for scope in sorted(s for s in self._scopes if s >= begin and (s.startswith(prefix) or prefix.startswith(s))):
            out += sorted(key for key in self._scopes[scope] if key > after and key.startswith(prefix))
            if len(out) >= limit:
                break
        return out[:limit]

    def __len__(self) -> int:
        return sum(len(keys) for keys in self._scopes.values())

    def _remove(self, key: str) -> None:
        scope = scope_of(key)
        del self._scopes[scope][key]
        if not self._scopes[scope]:
            del self._scopes[scope]

    def _bury(self, key: str, version: int) -> None:
        self._tombstones.pop(key, None)
        self._tombstones[key] = version
        if len(self._tombstones) > self._tombstones_max:
            del self._tombstones[next(iter(self._tombstones))]
