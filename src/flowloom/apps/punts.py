"""Frames that flows hand to the agent, and what apps answer.

A flow that punts puts a number of this registry into the first byte of its userdata; the rest is the
app's own.  Answers are pure: a packet and a view in, a frame or a reason for silence out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from flowloom.compiler.view import View
from flowloom.southbound.switch import PacketIn

DHCP4: Final = 1
"""Userdata: this byte, then the id of the port that asks, in ASCII."""


@dataclass(frozen=True)
class Answer:
    """A frame to send, with the encoded actions to run on it as if it came in at `in_port`.

    counter: what it was, one of the app's few words.  notes: what in the records could not be used, a
    sentence each, for whoever owns them.
    """

    frame: bytes
    actions: bytes
    in_port: int
    counter: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ignored:
    """No answer.  counter: one of the app's few words, for a metric.  why: the sentence, for a log."""

    counter: str
    why: str


MALFORMED: Final = "malformed"
"""Counter: bytes that are not what they claim to be."""

UNCLAIMED: Final = "unclaimed"
"""Counter: no app of this release answers to that userdata."""


class Puntable(Protocol):
    """An app that answers frames which its flows punt."""

    def answer(self, packet: PacketIn, view: View) -> Answer | Ignored:
        """The answer, as the records are in `view` now.  Never raises, whatever the frame; has no effect."""
        ...


def answer(apps: Mapping[int, Puntable], packet: PacketIn, view: View) -> Answer | Ignored:
    """The answer of the app whose number leads the packet's userdata."""
    app = apps.get(packet.userdata[0]) if packet.userdata else None
    if app is None:
        return Ignored(UNCLAIMED, f"userdata {packet.userdata.hex() or 'empty'} belongs to no app of this release")
    return app.answer(packet, view)
