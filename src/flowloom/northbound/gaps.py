"""Where notices may have been missed: what publishers' numbers say."""

from __future__ import annotations

from dataclasses import dataclass, field

from flowloom.northbound.bus import Heartbeat, Notice
from flowloom.northbound.numbering import scope_of


@dataclass
class _Heard:
    """One publisher: the life it is in, and the last number heard per scope.

    total: the last number heard over all scopes, of a notice or of a scope's heartbeat.
    announced: the number in its last heartbeat; a number that two heartbeats in a row have announced
        and no scope's heartbeat has explained between them is missed.
    """

    epoch: int
    total: int = 0
    announced: int = 0
    last: dict[str, int] = field(default_factory=dict)


class Gaps:
    """Numbers heard per publisher.  Each method answers the scopes in which something may be missing.

    Publishers and their scopes are bounded: who is forgotten is unheard of again, which costs a comparison.
    """

    def __init__(self, publishers_max: int = 10_000, scopes_max: int = 100_000) -> None:
        self._heard: dict[str, _Heard] = {}
        self._publishers_max = publishers_max
        self._scopes_max = scopes_max

    def notice(self, notice: Notice) -> set[str]:
        """What `notice` gives away about earlier ones."""
        heard, missing = self._listen(notice.publisher, notice.epoch)
        if heard is None:
            return missing
        scope = scope_of(notice.key)
        last = heard.last.get(scope, 0)
        if notice.sequence <= last:
            return missing  # Doubled or late: it was accounted for when a later one came.
        if notice.previous != last:
            missing.add(scope)
        heard.last[scope] = notice.sequence
        heard.total = max(heard.total, notice.sequence)
        self._bound(heard)
        return missing

    def heartbeat(self, beat: Heartbeat, everything: bool) -> tuple[set[str], bool]:
        """Scopes that miss something, and whether any scope may.

        everything: the subscription is to all of the publisher's topics, so its overall number counts.
        """
        unheard_of = beat.publisher not in self._heard
        heard, missing = self._listen(beat.publisher, beat.epoch)
        if heard is None:
            return missing, False
        if unheard_of and not beat.scope:
            heard.total = beat.sequence  # It was alive before it was heard: the listing has what it did.
        if beat.scope:
            if beat.sequence > heard.last.get(beat.scope, 0):
                missing.add(beat.scope)
                heard.last[beat.scope] = beat.sequence
                heard.total = max(heard.total, beat.sequence)
                self._bound(heard)
            return missing, False
        behind = everything and heard.announced > heard.total
        heard.total = max(heard.total, heard.announced)
        heard.announced = beat.sequence
        return missing, behind

    def forget_scopes(self, still_followed: tuple[str, ...]) -> None:
        """Forget the numbers of scopes outside these prefixes."""
        for heard in self._heard.values():
            heard.last = {scope: n for scope, n in heard.last.items() if scope.startswith(still_followed)}

    def _listen(self, publisher: str, epoch: int) -> tuple[_Heard | None, set[str]]:
        """The publisher in this epoch (None: in a former one), and what its restart may have swallowed."""
        heard = self._heard.get(publisher)
        if heard is not None and epoch < heard.epoch:
            return None, set()
        missing: set[str] = set()
        if heard is None or epoch > heard.epoch:
            missing = set(heard.last) if heard is not None else set()
            heard = self._heard[publisher] = _Heard(epoch)
            if len(self._heard) > self._publishers_max:
                del self._heard[next(iter(self._heard))]
        return heard, missing

    def _bound(self, heard: _Heard) -> None:
        if len(heard.last) > self._scopes_max:
            del heard.last[next(iter(heard.last))]
