"""What the agent's core receives, and what it asks the rim to do.  Values only.

A session is one life of the connection to the switch, numbered by the core: what arrives from an older
one is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from flowloom.northbound.pointer import Pointer
from flowloom.northbound.store import Outcome, Write
from flowloom.southbound.ledger import Ticket
from flowloom.southbound.switch import Batch, Refusal

# Events ---------------------------------------------------------------------------------------------


class SwitchOpened(NamedTuple):
    """The switch is connected, the bridge is as it should be, and this is what it holds."""

    session: int
    held: Mapping[bytes, bytes]


class SwitchRead(NamedTuple):
    """What the switch holds, read because of `ReadSwitch`."""

    session: int
    held: Mapping[bytes, bytes]


class SwitchLost(NamedTuple):
    """It could not be opened, or the connection broke: outcomes under way are unknown."""

    session: int
    why: str


class BatchDone(NamedTuple):
    """The batch is in force, but for what was refused."""

    session: int
    ticket: Ticket
    refusals: Sequence[Refusal]


class Written(NamedTuple):
    """Outcomes of `WriteRecords`, one a write."""

    outcomes: Sequence[Outcome]


class NotWritten(NamedTuple):
    """The store did not answer; what became of the writes is unknown."""

    why: str


class KeyClaimed(NamedTuple):
    """The integer key of this chassis."""

    key: int


class KeyNotClaimed(NamedTuple):
    """The store did not answer."""

    why: str


# Effects --------------------------------------------------------------------------------------------


class OpenSwitch(NamedTuple):
    """Set the bridge up, connect, read: `SwitchOpened` or `SwitchLost`."""

    session: int


class ReadSwitch(NamedTuple):
    """Read what the switch holds: `SwitchRead` or `SwitchLost`."""

    session: int


class SendBatch(NamedTuple):
    """Apply the batch: `BatchDone` or `SwitchLost`."""

    session: int
    batch: Batch
    ticket: Ticket


class PacketOut(NamedTuple):
    """Send a frame through the switch; not answered."""

    frame: bytes
    actions: bytes
    in_port: int


class WriteRecords(NamedTuple):
    """Write this node's own records: `Written` or `NotWritten`, before the next ones."""

    writes: Sequence[Write]


class ClaimKey(NamedTuple):
    """Claim the integer key of this chassis: `KeyClaimed` or `KeyNotClaimed`."""


class FollowStore(NamedTuple):
    """The deployment's store is where the pointer says, unless a later one is known; not answered.

    Where it is another one than before, `Gone` comes.
    """

    pointer: Pointer


class Log(NamedTuple):
    """One line for the operator: a change of state."""

    level: Literal["info", "warning", "error"]
    text: str
