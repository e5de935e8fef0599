"""A repair that would touch too much waits for somebody's word.

What is guarded against: a comparison that is right about a world that is wrong, such as recovery pointed at
an empty or an old database.  Few differences are repaired at once; many are held as one finding, in SQL, with
counts and a sample, until somebody approves exactly that finding or it is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from flowloom.consistency.differences import HARMLESS
from flowloom.consistency.table import AuditTable, GuardEntry

SAMPLE_MAX = 10

SERVICES = "s"
"""The family of what the services find by themselves; each of them looks at all objects for it."""


@dataclass(frozen=True)
class Finding:
    """All that one comparison found, over all objects.

    epoch: of the store's history in which it was found.
    family: findings of one family are one after the other the same: SERVICES, or a job's (`family_of`).
    found: kind -> how many.  sample: some of it, for people.
    """

    epoch: str
    family: str
    found: Mapping[str, int]
    of_objects: int
    sample: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """held: kinds that are not to be repaired now.  guard: the id that holds them, or that lets them pass; ""."""

    held: frozenset[str] = frozenset()
    guard: str = ""


def too_many(found: Mapping[str, int], of_objects: int, share: float, objects: int) -> frozenset[str]:
    """The kinds to be held so that the rest is within bounds: the most numerous first.

    Within bounds: at most `objects` of them, or at most `share` of all.
    """
    bound = max(float(objects), share * of_objects)
    counted = sorted(((n, kind) for kind, n in found.items() if kind not in HARMLESS and n), reverse=True)
    rest, held = sum(n for n, _ in counted), set[str]()
    for n, kind in counted:
        if rest <= bound:
            break
        held.add(kind)
        rest -= n
    return frozenset(held)


class Guard:
    """Decides on findings, over the guards kept in SQL; hence one word holds for every service."""

    def __init__(self, audit: AuditTable, by: str, share: float, objects: int) -> None:
        self._audit = audit
        self._by = by
        self._share = share
        self._objects = objects

    def waiting(self) -> list[GuardEntry]:
        """Guards in force, approved or not."""
        return self._audit.guards()

    def decide(self, finding: Finding) -> Decision:
        """What of it waits.  A finding within bounds lifts the guards of its family: what they held is gone."""
        kept = self._audit.guards()
        history, family = _digest(finding.epoch), [guard for guard in kept if _family(guard.id) == finding.family]
        over = too_many(finding.found, finding.of_objects, self._share, self._objects)
        for guard in family:
            if not over or _history(guard.id) != history:
                self._audit.lift(guard.id)
        if not over:
            return Decision()
        for guard in kept:
            if guard.approved_by and _history(guard.id) == history and covers(guard, finding, over):
                return Decision(guard=guard.id)
        mine = {guard.id: guard for guard in family if _history(guard.id) == history}
        id = f"{history}.{finding.family}.{sum(1 for guard in mine.values() if guard.approved_by)}"
        found = {kind: finding.found[kind] for kind in sorted(over)}
        if id not in mine or mine[id].found != found:
            self._audit.hold(GuardEntry(id, 0.0, self._by, found, finding.of_objects, finding.sample[:SAMPLE_MAX]))
        return Decision(held=over, guard=id)


def covers(guard: GuardEntry, finding: Finding, over: frozenset[str]) -> bool:
    """An approval is for what was found then: what is left of it passes, more does not."""
    return all(finding.found[kind] <= guard.found.get(kind, 0) for kind in over)


def family_of(scope: str) -> str:
    """The family of a job's findings, by what it was asked to repair."""
    return f"j{_digest(scope)}"


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=4).hexdigest()


def _history(id: str) -> str:
    return id.split(".")[0]


def _family(id: str) -> str:
    return id.split(".")[1] if id.count(".") == 2 else ""
