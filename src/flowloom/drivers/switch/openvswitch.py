"""Open vSwitch over `<run_dir>/<bridge>.mgmt`: OpenFlow 1.5, verified bundles, packet-ins on their own connection."""

from __future__ import annotations

import logging
import select
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Lock, Thread
from typing import Final, NamedTuple, TypeVar

from flowloom.drivers.switch.connection import Connection
from flowloom.drivers.switch.plan import (
    BUNDLE,
    FIRST_XID,
    Group,
    Plan,
    overfull,
    plan,
    read_groups,
    settle,
    too_long,
    touches_groups,
)
from flowloom.kernel.errors import Unavailable
from flowloom.openflow import facts, messages
from flowloom.openflow.actions import ApplyActions, decode_actions, decode_instructions
from flowloom.openflow.actions import Group as GroupAction
from flowloom.openflow.messages import Message
from flowloom.southbound.switch import Batch, PacketIn, Refusal

T = TypeVar("T")

_log = logging.getLogger(__name__)

_OPEN_XID: Final = 1
_CLOSE_XID: Final = 2
_COMMIT_XID: Final = 3
_DISCARD_XID: Final = 4
_READ_XID: Final = 5
_READY_XID: Final = 6
_PACKET_OUT_XID: Final = 7
_LAST_MEMBER_XID: Final = 0x7FFF_FFFF

_STALE_GROUPS: Final = frozenset(
    {"OFPGMFC_GROUP_EXISTS", "OFPGMFC_UNKNOWN_GROUP", "OFPGMFC_UNKNOWN_BUCKET", "OFPGMFC_BUCKET_EXISTS"}
)
"""What the switch says when somebody else changed its groups since we looked."""


class _Error(NamedTuple):
    """The member of a plan that the switch did not take, and its name for why."""

    member: int
    name: str


def open_switch(
    address: str,
    on_packet: Callable[[PacketIn], None],
    on_lost: Callable[[str], None],
    deadline_seconds: float = 10.0,
) -> OpenVSwitch:
    """Connect to the bridge whose OpenFlow socket is at path `address`; see `southbound.switch.OpensSwitch`."""
    return OpenVSwitch(address, on_packet, on_lost, deadline_seconds)


class OpenVSwitch:
    """One bridge of a local Open vSwitch; see `southbound.switch.Switch`.

    A call ends at the latest `deadline_seconds` after the last byte moved.  While no call is in progress,
    a thread watches both connections: it answers echo requests, delivers packets and notices a loss.
    """

    def __init__(
        self,
        address: str,
        on_packet: Callable[[PacketIn], None],
        on_lost: Callable[[str], None],
        deadline_seconds: float,
    ) -> None:
        self._on_packet = on_packet
        self._on_lost = on_lost
        self._flows = Connection(address, deadline_seconds)
        try:
            self._packets = _open_packets(address, deadline_seconds)
        except Unavailable:
            self._flows.close()
            raise
        self._groups: dict[int, Group] | None = None
        self._calling = Lock()
        self._lost = ""
        self._closed = False
        self._poll = select.epoll()
        self._poll.register(self._flows, select.EPOLLIN)
        self._poll.register(self._packets, select.EPOLLIN)
        Thread(target=self._watch, name="openflow", daemon=True).start()

    def read(self) -> dict[bytes, bytes]:
        """Every fact the switch holds, other owners' included."""
        with _Call(self):
            held: dict[bytes, bytes] = {}
            self._ask(messages.flow_desc_request(_READ_XID), messages.parse_flow_desc, held)
            groups = self._read_groups()
            self._groups = read_groups(groups)
            held.update(groups)
            return held

    def apply(self, batch: Batch) -> list[Refusal]:
        """One verified bundle; refused members are left out and the rest goes in again, see `plan` for the order."""
        refused = dict.fromkeys(too_long(batch), "OFPBAC_BAD_LEN")
        one_key_each, fresh = False, False
        with _Call(self):
            if touches_groups(batch):
                if self._groups is None:
                    self._groups, fresh = read_groups(self._read_groups()), True
                refused.update((key, "OFPGMFC_OUT_OF_BUCKETS") for key in overfull(batch, self._groups))
            while True:
                made = plan(_rest(batch, refused), self._groups or {}, one_key_each=one_key_each)
                errors = self._attempt(made)
                if not errors:
                    settle(self._groups if self._groups is not None else {}, made)
                    return [Refusal(key, why) for key, why in refused.items()]
                if not fresh and any(error.name in _STALE_GROUPS for error in errors):
                    self._groups, fresh = read_groups(self._read_groups()), True
                    continue
                for error in errors:
                    keys = made.keys[error.member]
                    if len(keys) > 1:
                        one_key_each = True
                    else:
                        refused.update(self._consequences(keys[0], error.name, batch))

    def send(self, frame: bytes, actions: bytes, in_port: int) -> None:
        """Packet-out; a refusal is logged by the watching thread."""
        if self._lost or self._closed:
            raise Unavailable(self._lost or "closed")
        try:
            self._packets.send(messages.packet_out(frame, actions, in_port, _PACKET_OUT_XID), drain=False)
        except Unavailable as error:
            self._lose(str(error))
            raise

    def close(self) -> None:
        """Close the connections; flows stay.  `on_lost` is not called for it."""
        if self._closed:
            return
        self._closed = True
        self._lose("closed")

    def _attempt(self, made: Plan) -> list[_Error]:
        """Send the plan as one bundle.  Nothing comes back: committed.  Otherwise nothing was changed.

        CLOSE is where we wait and look: Open vSwitch leaves a bad member out and would commit the others.
        """
        if not made.members:
            return []
        self._flows.send(
            messages.bundle_control(BUNDLE, messages.BUNDLE_OPEN, _OPEN_XID)
            + b"".join(made.members)
            + messages.bundle_control(BUNDLE, messages.BUNDLE_CLOSE, _CLOSE_XID)
        )
        errors = list(self._until(_CLOSE_XID))
        if errors:
            self._flows.send(messages.bundle_control(BUNDLE, messages.BUNDLE_DISCARD, _DISCARD_XID))
            return errors + list(self._until(_DISCARD_XID))
        self._flows.send(messages.bundle_control(BUNDLE, messages.BUNDLE_COMMIT, _COMMIT_XID))
        return list(self._until(_COMMIT_XID))

    def _until(self, xid: int) -> Iterator[_Error]:
        """The members refused before the answer to `xid` came."""
        refused = 0
        while True:
            said = self._flows.receive()
            if said.kind != messages.ERROR:
                if said.xid == xid and said.kind == messages.BUNDLE_CONTROL:
                    return
                continue
            name = _parse(messages.parse_error, said).name
            if FIRST_XID <= said.xid <= _LAST_MEMBER_XID:
                refused += 1
                yield _Error(said.xid - FIRST_XID, name)
            elif said.xid == _COMMIT_XID == xid and refused:
                return  # OFPBFC_MSG_FAILED: the error before it named the member.
            else:
                raise Unavailable(f"the switch refuses bundles: {name}")

    def _consequences(self, key: bytes, name: str, batch: Batch) -> Iterator[tuple[bytes, str]]:
        """The refused key, and the puts that cannot be without what is missing now."""
        yield key, name
        if key[0] != facts.FLOW and name != "OFPBAC_BAD_OUT_GROUP":
            group_id = facts.split_group_key(key)
            if key[0] == facts.GROUP or name == "OFPGMFC_UNKNOWN_GROUP":
                yield from ((other, name) for other, _ in batch.puts if _is_bucket_of(other, group_id))
        elif name == "OFPBAC_BAD_OUT_GROUP":
            value = next((value for other, value in batch.puts if other == key), b"")
            missing = set(_groups_of(key, value)) - self._groups_with(batch)
            if missing:
                yield from ((other, name) for other, value in batch.puts if missing & set(_groups_of(other, value)))

    def _groups_with(self, batch: Batch) -> set[int]:
        if self._groups is None:
            self._groups = read_groups(self._read_groups())
        return {*self._groups, *(facts.split_group_key(key) for key, _ in batch.puts if key[0] == facts.GROUP)}

    def _read_groups(self) -> dict[bytes, bytes]:
        held: dict[bytes, bytes] = {}
        self._ask(messages.group_desc_request(_READ_XID), messages.parse_group_desc, held)
        return held

    def _ask(
        self, request: bytes, parse: Callable[[Message, dict[bytes, bytes]], None], into: dict[bytes, bytes]
    ) -> None:
        self._flows.send(request)
        while True:
            said = self._flows.receive()
            if said.xid != _READ_XID:
                continue
            if said.kind == messages.ERROR:
                raise Unavailable(f"the switch cannot be read: {_parse(messages.parse_error, said).name}")
            _parse(lambda reply: parse(reply, into), said)
            if not _parse(messages.more_follows, said):
                return

    def _lose(self, why: str) -> None:
        """Give up both connections; the first reason counts.  That wakes the watching thread, which tells."""
        self._lost = self._lost or why
        self._flows.shutdown()
        self._packets.shutdown()

    def _watch(self) -> None:
        """The thread: packets, echo requests, loss."""
        try:
            with self._calling:
                self._flows.taken()
            self._deliver(self._packets.taken())
            while not self._lost:
                for fd, _ in self._poll.poll():
                    if fd == self._packets.fileno():
                        self._deliver(self._packets.waiting())
                    elif fd == self._flows.fileno() and self._calling.acquire(blocking=False):
                        try:
                            self._flows.waiting()  # Nothing but echo requests comes unasked.
                        finally:
                            self._calling.release()
        except Unavailable as error:
            self._lost = self._lost or str(error)
        finally:
            self._give_up()
        if not self._closed:
            self._on_lost(self._lost)

    def _give_up(self) -> None:
        self._lost = self._lost or "the watching thread failed"
        self._flows.shutdown()
        self._packets.shutdown()
        with self._calling:
            self._poll.close()
            self._flows.close()
            self._packets.close()

    def _deliver(self, said: Iterable[Message]) -> None:
        for one in said:
            if one.kind == messages.ERROR:
                _log.warning("the switch refused a packet-out: %s", _parse(messages.parse_error, one).name)
            elif messages.is_packet_in(one):
                self._on_packet(PacketIn(*_parse(messages.parse_packet_in, one)))


def _open_packets(address: str, deadline_seconds: float) -> Connection:
    """A connection that packet-ins come by; what came already waits in it."""
    connection = Connection(address, deadline_seconds)
    try:
        connection.send(messages.ask_for_packets(_READY_XID) + messages.barrier(_READY_XID))
        early = []
        while (said := connection.receive()).kind != messages.BARRIER_REPLY:
            if said.kind == messages.ERROR:
                raise Unavailable(f"the switch sends no packets: {_parse(messages.parse_error, said).name}")
            early.append(said)
        connection.put_back(early)
    except Unavailable:
        connection.close()
        raise
    return connection


def _parse(parse: Callable[[Message], T], said: Message) -> T:
    try:
        return parse(said)
    except ValueError as error:
        raise Unavailable(f"the switch speaks nonsense: {error}") from error


def _rest(batch: Batch, refused: Mapping[bytes, str]) -> Batch:
    if not refused:
        return batch
    return Batch(
        [key for key in batch.deletes if key not in refused],
        [(key, value) for key, value in batch.puts if key not in refused],
    )


def _is_bucket_of(key: bytes, group_id: int) -> bool:
    return key[0] == facts.BUCKET and facts.split_group_key(key) == group_id


def _groups_of(key: bytes, value: bytes) -> Iterator[int]:
    """The groups that the actions of a fact send to."""
    try:
        if key[0] == facts.FLOW:
            found = [one for one in decode_instructions(value[8:]) if isinstance(one, ApplyActions)]
            listed = [action for one in found for action in one.actions]
        elif key[0] == facts.BUCKET:
            listed = list(decode_actions(value))
        else:
            return
    except ValueError:
        return  # Not made here: nothing is known of it but what the switch says.
    for action in listed:
        if isinstance(action, GroupAction):
            yield action.group_id


class _Call:
    """A call in progress: the watching thread keeps off the flow connection; a failure gives the switch up."""

    def __init__(self, switch: OpenVSwitch) -> None:
        self._switch = switch

    def __enter__(self) -> None:
        switch = self._switch
        switch._calling.acquire()
        if switch._lost:
            switch._calling.release()
            raise Unavailable(switch._lost)
        switch._poll.unregister(switch._flows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        switch = self._switch
        try:
            if error is not None:
                raise Unavailable(str(error))
            switch._flows.taken()  # Polling does not tell of an echo request that came behind the last answer.
            switch._poll.register(switch._flows, select.EPOLLIN)
        except Unavailable as lost:
            switch._lose(str(lost))  # What the call has found out stands.
        finally:
            switch._calling.release()
