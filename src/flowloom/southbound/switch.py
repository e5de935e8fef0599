"""The switch contract: a set of keyed facts (flows, groups, buckets) that is read, changed in one step, and confirmed.

A fact is a pair of bytes, see `openflow.facts`.  Bytes are canonical: what was put is what is read back,
byte for byte, so comparing two switches, or a switch with a ledger, is comparing two dicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol


class Batch(NamedTuple):
    """One change of the switch.  A key stands in one of the two, once.

    deletes: keys to remove.  puts: facts to add or to replace.
    """

    deletes: Sequence[bytes]
    puts: Sequence[tuple[bytes, bytes]]


class Refusal(NamedTuple):
    """A put or delete that the switch does not accept; `error` is OpenFlow's own name for why."""

    key: bytes
    error: str


class PacketIn(NamedTuple):
    """A frame that a flow sent to the controller.

    cookie: of that flow.  userdata: the bytes its controller action carried.
    registers: register number -> value, as far as the switch reported them.  metadata: the 64-bit field.
    """

    cookie: int
    table: int
    in_port: int
    metadata: int
    registers: Mapping[int, int]
    userdata: bytes
    frame: bytes


class Switch(Protocol):
    """One local switch.  Calls block, end within the driver's deadline, and come from one thread at a time.

    Any call raises Unavailable when the connection is lost; the switch is then closed, and nothing is
    known about the outcome of the call: open again and `read`.
    """

    def read(self) -> dict[bytes, bytes]:
        """Every fact the switch holds, other owners' included."""
        ...

    def apply(self, batch: Batch) -> list[Refusal]:
        """Make the change in one atomic step and return when it is in force.

        What the switch refuses is left out, named, and the rest is applied (still in one step).
        Repeating a batch is harmless: putting what is there and deleting what is not change nothing.
        """
        ...

    def send(self, frame: bytes, actions: bytes, in_port: int) -> None:
        """Packet-out: run `actions` (encoded) on `frame` as if it came in at `in_port`.  Not confirmed."""
        ...

    def close(self) -> None:
        """Close the connections; flows stay.  Repeating it does nothing."""
        ...


class OpensSwitch(Protocol):
    """How a driver is opened; `on_packet` and `on_lost` are called from the driver's own threads."""

    def __call__(self, address: str, on_packet: Callable[[PacketIn], None], on_lost: Callable[[str], None]) -> Switch:
        """Connect, negotiate, ask for packet-ins.  Unavailable when nobody answers at `address`."""
        ...
