"""The thread that talks to the switch: it carries out the core's effects one after the other, and reports."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Final

from flowloom.agent.events import (
    BatchDone,
    OpenSwitch,
    PacketOut,
    ReadSwitch,
    SendBatch,
    SwitchLost,
    SwitchOpened,
    SwitchRead,
)
from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.southbound.interfaces import BridgeSetup, Interfaces
from flowloom.southbound.switch import OpensSwitch, PacketIn, Switch

Work = OpenSwitch | ReadSwitch | SendBatch | PacketOut
Report = SwitchOpened | SwitchRead | SwitchLost | BatchDone

PACKET_OUTS_MAX: Final = 1024
"""Waiting answers; more are dropped and counted, like a frame that a busy network loses."""


class SwitchThread:
    """Work in, reports out; both in order.  deliver: may block; on_packet: from the driver's own thread."""

    def __init__(
        self,
        open_switch: OpensSwitch,
        address: str,
        interfaces: Interfaces,
        setup: BridgeSetup,
        deliver: Callable[[Report], None],
        on_packet: Callable[[PacketIn], None],
    ) -> None:
        self._open_switch = open_switch
        self._address = address
        self._interfaces = interfaces
        self._setup = setup
        self._deliver = deliver
        self._on_packet = on_packet
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._switch: Switch | None = None
        self._session = 0
        self.packet_outs_dropped = 0
        self._thread = threading.Thread(target=self._run, name="switch", daemon=True)
        self._thread.start()

    def put(self, work: Work) -> None:
        """Have it done.  All but packet-outs are bounded by the core: one of each is under way at most."""
        if isinstance(work, PacketOut) and self._queue.qsize() > PACKET_OUTS_MAX:
            self.packet_outs_dropped += 1
            return
        self._queue.put(work)

    def close(self, timeout_seconds: float) -> None:
        """Finish what was put, then close the connection; flows stay."""
        self._queue.put(None)
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                report = self._carry_out(work)
            except (Unavailable, Misconfigured) as error:
                # Misconfigured after the start: the bridge was changed under us; the operator reads why in status.
                self._give_up()
                report = SwitchLost(self._session, str(error))
            if report is not None:
                self._deliver(report)
        self._give_up()

    def _carry_out(self, work: Work) -> Report | None:
        match work:
            case OpenSwitch(session):
                self._give_up()
                self._session = session
                switch = self._open(session)
                self._switch = switch
                return SwitchOpened(session, switch.read())
            case ReadSwitch(session):
                return SwitchRead(session, self._live().read())
            case SendBatch(session, batch, ticket):
                return BatchDone(session, ticket, self._live().apply(batch))
            case PacketOut(frame, actions, in_port):
                if self._switch is not None:
                    self._switch.send(frame, actions, in_port)
                return None

    def _open(self, session: int) -> Switch:
        # The database may be away; the switch may be there all the same, with the bridge that it had.
        with contextlib.suppress(Unavailable):
            self._interfaces.ensure(self._setup)
        return self._open_switch(self._address, self._on_packet, lambda why: self._deliver(SwitchLost(session, why)))

    def _live(self) -> Switch:
        if self._switch is None:
            raise Unavailable("not connected")
        return self._switch

    def _give_up(self) -> None:
        if self._switch is not None:
            self._switch.close()
            self._switch = None
