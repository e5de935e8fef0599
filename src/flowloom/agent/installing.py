"""Keeping the switch equal to the ledger: open, read, send, audit, and begin again when the switch was lost.

A state machine without I/O.  At most one batch is under way, and none while the switch is being read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from random import Random
from typing import Final

from flowloom.agent.events import (
    BatchDone,
    Log,
    OpenSwitch,
    ReadSwitch,
    SendBatch,
    SwitchLost,
    SwitchOpened,
    SwitchRead,
)
from flowloom.kernel.backoff import Backoff
from flowloom.openflow.facts import is_ours
from flowloom.southbound.ledger import Ledger
from flowloom.southbound.switch import Refusal

FACTS_MAX: Final = 2000
"""Facts in one batch: about 10 ms of ovs-vswitchd's main thread."""

Effect = OpenSwitch | ReadSwitch | SendBatch | Log


class Phase(Enum):
    """Where the connection stands."""

    CLOSED = "closed"
    OPENING = "opening"
    READY = "ready"
    READING = "reading"


class Installing:
    """confirmed: the highest mark that the switch is known to have reached, see `send`.

    lost_at: since when there is no connection; None while there is one.  why: of its absence.
    primed: everything known was compiled once, so that sending has begun.
    drift_repaired: facts that audits found changed behind our back.
    installs: facts brought to the switch, deletes included.  refusals: those that it did not accept.
    """

    def __init__(self, ledger: Ledger, random: Random, audit_seconds: float, now: float) -> None:
        self.phase = Phase.CLOSED
        self.confirmed = 0
        self.lost_at: float | None = now
        self.why = "not connected yet"
        self.drift_repaired = 0
        self.audits = 0
        self.installs = 0
        self.refusals = 0
        self._ledger = ledger
        self._random = random
        self._audit_seconds = audit_seconds
        self._session = 0
        self._open_at = now
        self._audit_at = 0.0
        self._covers: int | None = None
        self._wants_read = False
        self.primed = False
        self._backoff = Backoff(random, first_seconds=0.05, cap_seconds=2.0)

    @property
    def connected(self) -> bool:
        """The switch has been read on this connection."""
        return self.phase in (Phase.READY, Phase.READING)

    def ask_read(self) -> None:
        """Read the switch as soon as it is connected and nothing is under way."""
        self._wants_read = True

    def tick(self, now: float) -> list[Effect]:
        """Open or read, when it is time."""
        if self.phase is Phase.CLOSED and now >= self._open_at:
            self.phase = Phase.OPENING
            self._session += 1
            return [OpenSwitch(self._session)]
        due = self._wants_read or (self.primed and now >= self._audit_at)
        if due and self.phase is Phase.READY and not self._ledger.in_flight:
            self._wants_read = False
            self.phase = Phase.READING
            return [ReadSwitch(self._session)]
        return []

    def opened(self, event: SwitchOpened, now: float) -> list[Effect]:
        """Connected and read: the gap is known."""
        if event.session != self._session or self.phase is not Phase.OPENING:
            return []
        self.phase, self.lost_at, self.why = Phase.READY, None, ""
        self._backoff.succeeded()
        self._plan_audit(now)
        ours = sum(1 for key, value in event.held.items() if is_ours(key, value))
        self._ledger.installed(event.held)
        return [Log("info", f"switch connected: it holds {ours} facts of ours and {len(event.held) - ours} of others")]

    def lost(self, event: SwitchLost, now: float) -> list[Effect]:
        """Nothing is known any more; open again after a while."""
        if event.session != self._session or self.phase is Phase.CLOSED:
            return []
        news = self.lost_at is None or event.why != self.why
        self.lost_at = now if self.lost_at is None else self.lost_at
        self.phase, self.why, self._covers = Phase.CLOSED, event.why, None
        self._ledger.lost()
        self._open_at = now + self._backoff.next_delay()
        return [Log("warning", f"switch lost: {event.why}")] if news else []

    def read(self, event: SwitchRead, now: float, repair: bool) -> list[Effect]:
        """What a live switch holds.  repair: take it as the truth, and send what differs."""
        if event.session != self._session or self.phase is not Phase.READING:
            return []
        self.phase = Phase.READY
        if not repair:
            return []
        self._plan_audit(now)
        self.audits += 1
        known = self._ledger.gap + len(self._ledger.refused)
        drift = max(0, self._ledger.installed(event.held) - known)
        self.drift_repaired += drift
        return [Log("warning", f"{drift} facts on the switch were not as left; repairing")] if drift else []

    def send(self, exact: bool, mark: int) -> list[Effect]:
        """The next batch, if there is one to send.

        exact: everything received up to `mark` is compiled; only then is anything deleted, and nothing at
        all is sent before it was so once: what is on the switch may be just what will be desired.
        """
        self.primed = self.primed or exact
        if self.phase is not Phase.READY or self._ledger.in_flight or not self.primed:
            return []
        cut = self._ledger.batch(FACTS_MAX, hold_deletes=not exact)
        if cut is None:
            if exact:
                self.confirmed = mark
            return []
        batch, ticket = cut
        whole = exact and len(ticket.sent) < FACTS_MAX
        self._covers = mark if whole else None
        return [SendBatch(self._session, batch, ticket)]

    def done(self, event: BatchDone) -> Sequence[Refusal]:
        """The batch is in force; what the switch refused of it."""
        if event.session != self._session:
            return ()
        self._ledger.confirmed(event.ticket, event.refusals)
        self.installs += len(event.ticket.sent) - len(event.refusals)
        self.refusals += len(event.refusals)
        if self._covers is not None:
            self.confirmed, self._covers = self._covers, None
        return event.refusals

    def differences(self, held: Mapping[bytes, bytes]) -> dict[bytes, tuple[bytes | None, bytes | None]]:
        """key -> (desired, held) where the two differ."""
        return self._ledger.compare(held)

    def _plan_audit(self, now: float) -> None:
        self._audit_at = now + self._audit_seconds * self._random.uniform(0.8, 1.2)
