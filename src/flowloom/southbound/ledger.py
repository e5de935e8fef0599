"""The ledger: what the switch should hold, and where that differs from what it holds.

Only the difference is kept besides `desired`: `key -> what the switch holds`, noted at the first touch
and cleared when the switch has confirmed.  So a change costs what it changes, not what there is.

Several claims on one key (two ports whose flood bucket for one remote chassis is the same) are counted;
while they disagree the smallest value stands, so the result does not depend on the order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from flowloom.openflow import facts
from flowloom.southbound.switch import Batch, Refusal

_NOTHING: Mapping[bytes, bytes] = {}


class Ticket(NamedTuple):
    """An open batch: what each of its keys becomes when the switch confirms (None: absent)."""

    number: int
    sent: Mapping[bytes, bytes | None]


class Ledger:
    """Desired facts, and the gap to the switch.  Not thread-safe: the agent's loop owns it.

    synced: what the switch holds is known; until then there is no gap to send.
    refused: key -> OpenFlow's name for why; not sent again before its desired value changes or the
        switch is read afresh.
    """

    def __init__(self) -> None:
        self.desired: dict[bytes, bytes] = {}
        self.refused: dict[bytes, str] = {}
        self.synced = False
        self._claims: dict[bytes, list[bytes]] = {}
        self._pending: dict[bytes, bytes | None] = {}
        self._ticket: Ticket | None = None
        self._number = 0

    # What should be -------------------------------------------------------------------------------

    def replace(self, old: Mapping[bytes, bytes], new: Mapping[bytes, bytes]) -> None:
        """One claimant's facts change from `old` to `new`; facts in both, equal, are not touched."""
        for key, value in old.items():
            if new.get(key) != value:
                self._release(key, value)
        for key, value in new.items():
            if old.get(key) != value:
                self._claim(key, value)

    def _claim(self, key: bytes, value: bytes) -> None:
        desired = self.desired
        current = desired.get(key)
        if current is None:
            self._touch(key, None)
            desired[key] = value
            return
        claims = self._claims.setdefault(key, [current])
        claims.append(value)
        if value < current:
            self._touch(key, current)
            desired[key] = value

    def _release(self, key: bytes, value: bytes) -> None:
        desired = self.desired
        current = desired[key]
        claims = self._claims.get(key)
        if claims is None:
            self._touch(key, current)
            del desired[key]
            return
        claims.remove(value)
        least = min(claims)
        if len(claims) == 1:
            del self._claims[key]
        if least != current:
            self._touch(key, current)
            desired[key] = least

    def _touch(self, key: bytes, current: bytes | None) -> None:
        """The desired value of `key` is about to change from `current`."""
        if self.refused:
            self.refused.pop(key, None)
        if key not in self._pending:
            self._pending[key] = current

    def rivals(self) -> dict[bytes, list[bytes]]:
        """Keys whose claimants disagree: a conflict between records that an operator should know."""
        return {key: sorted(set(claims)) for key, claims in self._claims.items() if len(set(claims)) > 1}

    # What is --------------------------------------------------------------------------------------

    def installed(self, held: Mapping[bytes, bytes]) -> int:
        """A fresh read of the switch: the gap is now exactly the difference.  Other owners' facts are passed over.

        Returns how many facts differ.  Any open ticket is void.
        """
        desired = self.desired
        self._ticket = None
        self.refused = {}
        pending: dict[bytes, bytes | None] = {}
        for key, value in held.items():
            if desired.get(key) != value and (key in desired or facts.is_ours(key, value)):
                pending[key] = value
        for key in desired.keys() - held.keys():
            pending[key] = None
        self._pending = pending
        self.synced = True
        return len(pending)

    def lost(self) -> None:
        """The switch went away, or an outcome is unknown: nothing is known until the next `installed`."""
        self._ticket = None
        self.synced = False
        self._pending = {}

    @property
    def gap(self) -> int:
        """Keys that differ from the switch, refused ones left out; a batch under way still counts."""
        if not self.synced:
            return len(self.desired)
        return sum(1 for key, held in self._pending.items() if self._differs(key, held))

    @property
    def in_flight(self) -> bool:
        """A batch was cut and its outcome is not known yet."""
        return self._ticket is not None

    def _differs(self, key: bytes, held: bytes | None) -> bool:
        return self.desired.get(key) != held and key not in self.refused

    # Closing the gap ------------------------------------------------------------------------------

    def batch(self, facts_max: int, hold_deletes: bool) -> tuple[Batch, Ticket] | None:
        """The next part of the gap, or None: nothing to send, not synced, or a batch is in flight.

        hold_deletes: only add and replace; while work is undone, what looks superfluous may yet be wanted.
        Groups and buckets go before the flows that use them and leave after them.
        """
        if not self.synced or self._ticket is not None or not self._pending:
            return None
        self._settle()
        deletes, puts = self._cut(facts_max, hold_deletes)
        if not deletes and not puts:
            return None
        self._number += 1
        sent: dict[bytes, bytes | None] = dict(puts)
        sent.update((key, None) for key in deletes)
        self._ticket = Ticket(self._number, sent)
        return Batch(deletes, puts), self._ticket

    def _settle(self) -> None:
        """Drop pending keys that came back to what the switch holds."""
        desired = self.desired
        for key in [key for key, held in self._pending.items() if desired.get(key) == held]:
            del self._pending[key]

    def _cut(self, facts_max: int, hold_deletes: bool) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        desired, refused = self.desired, self.refused
        group_puts: list[tuple[bytes, bytes]] = []
        flow_puts: list[tuple[bytes, bytes]] = []
        flow_deletes: list[bytes] = []
        group_deletes: list[bytes] = []
        for key in self._pending:
            if key in refused:
                continue
            value = desired.get(key)
            if key[0] == facts.FLOW:
                if value is not None:
                    flow_puts.append((key, value))
                elif not hold_deletes:
                    flow_deletes.append(key)
            elif value is None:
                if not hold_deletes:
                    group_deletes.append(key)
            elif key[0] != facts.BUCKET or facts.group_key(facts.split_group_key(key)) in desired:
                group_puts.append((key, value))
        room = max(0, facts_max - len(group_puts))
        whole = len(flow_puts) + len(flow_deletes) <= room
        flow_deletes = flow_deletes[:room]
        flow_puts = flow_puts[: room - len(flow_deletes)]
        return flow_deletes + (group_deletes if whole else []), group_puts + flow_puts

    def confirmed(self, ticket: Ticket, refusals: Sequence[Refusal]) -> None:
        """The switch has done what `ticket` says, but for what it refused.  A void ticket is passed over."""
        if self._ticket is None or ticket.number != self._ticket.number:
            return
        self._ticket = None
        refused = {refusal.key: refusal.error for refusal in refusals}
        for key, value in ticket.sent.items():
            want = self.desired.get(key)
            if key in refused:
                if want == value:
                    self.refused[key] = refused[key]
            elif want == value:
                self._pending.pop(key, None)
            else:
                self._pending[key] = value

    def compare(self, held: Mapping[bytes, bytes]) -> dict[bytes, tuple[bytes | None, bytes | None]]:
        """key -> (desired, held) wherever the two differ and the fact is, or should be, ours."""
        desired = self.desired
        out: dict[bytes, tuple[bytes | None, bytes | None]] = {
            key: (value, held.get(key)) for key, value in desired.items() if held.get(key) != value
        }
        for key in _ours(held):
            if key not in desired:
                out[key] = (None, held[key])
        return out


def _ours(held: Mapping[bytes, bytes]) -> Iterable[bytes]:
    return (key for key, value in held.items() if facts.is_ours(key, value))
