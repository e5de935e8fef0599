"""The agent's shell: one loop that owns the core, and threads at the rim that feed its inbox.

The loop takes an event, hands it to the core, carries out what comes back, works for a slice, and looks
at the inbox again; so no change keeps another waiting for longer than a slice.
"""

from __future__ import annotations

import gc
import queue
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TextIO, assert_never

from flowloom.agent import answers
from flowloom.agent.core import AgentCore, Effect, Event
from flowloom.agent.events import ClaimKey, FollowStore, Log, OpenSwitch, PacketOut, ReadSwitch, SendBatch, WriteRecords
from flowloom.agent.northside import StoreThreads
from flowloom.agent.packets import PacketQueues
from flowloom.agent.switchside import SwitchThread
from flowloom.kernel.errors import Rejected
from flowloom.kernel.inbox import Inbox
from flowloom.northbound.requests import CompareVersions, GetKeys, ReadPrefix
from flowloom.southbound.switch import PacketIn

SLICE_SECONDS: Final = 0.003
EVENTS_A_TURN: Final = 64
PACKETS_A_TURN: Final = 16
TICK_SECONDS: Final = 0.2
ANSWER_SECONDS_MAX: Final = 60.0

Json = dict[str, Any]


class Ask(NamedTuple):
    """A question of an operator; `reply` takes the answer."""

    question: Json
    reply: Callable[[Json], None]


class Stop(NamedTuple):
    """End the loop."""


class PacketsWait(NamedTuple):
    """`PacketQueues` holds something."""


Item = Event | Ask | Stop | PacketsWait


class Loop:
    """Runs until `Stop`.  Everything in here but `ask` and `on_packet` is called from the loop's thread alone."""

    def __init__(self, core: AgentCore, inbox: Inbox[Item], log: TextIO = sys.stderr) -> None:
        self.core = core
        self.packets = PacketQueues()
        self._inbox = inbox
        self._log = log
        self._switch: SwitchThread | None = None
        self._store: StoreThreads | None = None
        self._slices: deque[tuple[Generator[None, None, Json], Callable[[Json], None]]] = deque()
        self._running = True
        self._frozen = False
        self._turn_ends = 0.0
        self._longest_turn = 0.0

    def ask(self, question: Json) -> Json:
        """Put a question from another thread and wait for its answer."""
        box: queue.SimpleQueue[Json] = queue.SimpleQueue()
        self._inbox.put(Ask(question, box.put))
        try:
            return box.get(timeout=ANSWER_SECONDS_MAX)
        except queue.Empty:
            return {"error": f"no answer within {ANSWER_SECONDS_MAX:g} s"}

    def on_packet(self, packet: PacketIn) -> None:
        """A frame from the switch, from its driver's thread."""
        if self.packets.offer(packet):
            self._inbox.put(PacketsWait())

    def run(self, switch: SwitchThread, store: StoreThreads) -> None:
        """Turn until told to stop."""
        self._switch, self._store = switch, store
        gc.disable()  # Until the cold start is behind: what it makes stays.
        self._carry_out(self.core.start(time.monotonic()))
        next_tick = 0.0
        while self._running:
            now = time.monotonic()
            idle = not (self.core.busy or self._slices or self.packets)
            self._take(max(0.0, next_tick - now) if idle else 0.0)
            now = time.monotonic()
            self._turn_ends = now + SLICE_SECONDS
            if now >= next_tick:
                next_tick = now + TICK_SECONDS
                self._carry_out(self.core.tick(now))
            self._carry_out(self.core.work(self._turn_over, now))
            self._answer_packets(now)
            self._answer_a_slice()
            self._note_turn(now)
            if not self._frozen and self.core.primed and not self.core.busy:
                self._freeze()

    def _note_turn(self, began: float) -> None:
        """How long this turn kept everything else waiting; the cold start is not counted."""
        if self._frozen:
            self._longest_turn = max(self._longest_turn, time.monotonic() - began)

    def _turn_over(self) -> bool:
        return time.monotonic() >= self._turn_ends

    def _take(self, timeout_seconds: float) -> None:
        item = self._inbox.take(timeout_seconds)
        if item is not None:
            self._handle(item)
            self._inbox.drain(self._handle, EVENTS_A_TURN)

    def _handle(self, item: Item) -> None:
        if isinstance(item, Ask):
            self._asked(item)
        elif isinstance(item, Stop):
            self._running = False
        elif not isinstance(item, PacketsWait):
            self._carry_out(self.core.receive(item, time.monotonic()))

    def _answer_packets(self, now: float) -> None:
        for packet in self.packets.take(PACKETS_A_TURN) if self.packets else ():
            self._carry_out(self.core.receive(packet, now))

    def _freeze(self) -> None:
        """Records hold no cycles, and nearly all there will ever be is here: the collector need not look at it again.

        Not even once before: at 10,000 ports that look is a twentieth of the cold start.
        """
        self._frozen = True
        gc.freeze()
        gc.enable()

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        assert self._switch is not None and self._store is not None
        for effect in effects:
            match effect:
                case OpenSwitch() | ReadSwitch() | SendBatch() | PacketOut():
                    self._switch.put(effect)
                case ReadPrefix() | CompareVersions() | GetKeys():
                    self._store.ask(effect)
                case WriteRecords() | ClaimKey():
                    self._store.write(effect)
                case FollowStore(pointer):
                    self._store.follow(pointer)
                case Log(level, text):
                    self._say(level, text)
                case _:
                    assert_never(effect)

    def _say(self, level: str, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        print(f"{stamp}Z {level.upper():7} {self.core.settings.chassis} {text}", file=self._log, flush=True)

    # Questions ------------------------------------------------------------------------------------

    def _asked(self, ask: Ask) -> None:
        question = ask.question.get("ask")
        if question == "status":
            ask.reply(
                {
                    **answers.status(self.core, time.monotonic()),
                    "packets_dropped": sum(self.packets.dropped.values()),
                    "loop_blocked_max_seconds": self._longest_turn,
                }
            )
        elif question == "port":
            ask.reply(answers.port(self.core, str(ask.question.get("id", ""))))
        elif question == "flows":
            self._slices.append((answers.flows(self.core), ask.reply))
        elif question == "records" and ("limit" in ask.question or "keys" in ask.question):
            self._marks(ask)
        elif question == "records":
            self._slices.append((answers.records(self.core), ask.reply))
        elif question == "check":
            self._check(ask.reply)
        else:
            ask.reply({"error": f"unknown question {question!r}; known: status, flows, check, port, records"})

    def _marks(self, ask: Ask) -> None:
        try:
            making = answers.marks(self.core, ask.question)
        except Rejected as error:
            ask.reply({"error": str(error)})
        else:
            self._slices.append((making, ask.reply))

    def _check(self, reply: Callable[[Json], None]) -> None:
        def compare(held: Mapping[bytes, bytes] | None) -> None:
            if held is None:
                reply({"error": f"the switch is not connected: {self.core.installing.why}"})
            else:
                reply(answers.check(self.core, held))

        if not self.core.loaded:
            reply({"error": "nothing is computed yet: not in sync with the store, or the interfaces are not known"})
        else:
            self.core.check(compare)

    def _answer_a_slice(self) -> None:
        if not self._slices:
            return
        making, reply = self._slices[0]
        try:
            next(making)
            while not self._turn_over():
                next(making)
        except StopIteration as done:
            self._slices.popleft()
            reply(done.value)
        else:
            self._slices.rotate(-1)
