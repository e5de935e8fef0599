"""From a batch of facts to the members of a bundle, in the order in which they are safe.  Pure.

New groups and buckets come first, because flows refer to them; then flow deletes, before the adds, so that
a key in a form that the switch does not keep cannot take away what was just added; flow adds; buckets that
go; groups that go last, because Open vSwitch deletes the flows that refer to a deleted group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from flowloom.openflow import facts, messages
from flowloom.openflow.messages import Bucket
from flowloom.southbound.switch import Batch

BUNDLE: Final = 1
"""One bundle at a time on a connection, so its number never changes."""
FIRST_XID: Final = 0x1000_0000
"""Transaction id of the first member; the member's place in the plan is added."""

_BUCKETS_BYTES_MAX: Final = 60_000
_FACT_BYTES_MAX: Final = messages.MESSAGE_MAX_BYTES - 100
"""What a flow or a bucket may take, so that it fits into a member of a bundle."""
_GROUP_BYTES_MAX: Final = messages.MESSAGE_MAX_BYTES - 32
"""Open vSwitch describes a group in one message, whose length wraps when it is longer: it could not be read back."""


@dataclass
class Group:
    """A group on the switch: its type, and its buckets' actions by bucket id."""

    type: int
    buckets: dict[int, bytes] = field(default_factory=dict)
    size: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        self.size = sum(map(self.size_of, self.buckets.values()))

    def size_of(self, actions: bytes) -> int:
        """Bytes that a bucket with `actions` takes in this group's description."""
        return messages.described_bytes(self.type, actions)

    def put(self, bucket_id: int, actions: bytes) -> None:
        """Add or replace a bucket."""
        self.remove(bucket_id)
        self.buckets[bucket_id] = actions
        self.size += self.size_of(actions)

    def remove(self, bucket_id: int) -> None:
        """Remove a bucket if it is there."""
        if bucket_id in self.buckets:
            self.size -= self.size_of(self.buckets.pop(bucket_id))


Groups = Mapping[int, Group]


@dataclass
class Change:
    """What a batch asks of one group."""

    type: int | None = None
    delete: bool = False
    puts: dict[int, bytes] = field(default_factory=dict)
    deletes: set[int] = field(default_factory=set)


@dataclass
class Plan:
    """Members of a bundle, the keys each stands for, and what they ask of each group."""

    changes: dict[int, Change]
    members: list[bytes] = field(default_factory=list)
    keys: list[tuple[bytes, ...]] = field(default_factory=list)

    @property
    def xid(self) -> int:
        """Transaction id of the next member."""
        return FIRST_XID + len(self.members)

    def add(self, keys: tuple[bytes, ...], member: bytes) -> None:
        """Append a member, made with the present `xid`."""
        self.members.append(member)
        self.keys.append(keys)


def read_groups(held: Mapping[bytes, bytes]) -> dict[int, Group]:
    """The groups among the facts a switch holds."""
    types: dict[int, int] = {}
    buckets: dict[int, dict[int, bytes]] = {}
    for key, value in held.items():
        if key[0] == facts.GROUP:
            types[facts.split_group_key(key)] = value[0]
        elif key[0] == facts.BUCKET:
            group_id, bucket_id = facts.split_bucket_key(key)
            buckets.setdefault(group_id, {})[bucket_id] = value
    return {group_id: Group(kind, buckets.get(group_id, {})) for group_id, kind in types.items()}


def touches_groups(batch: Batch) -> bool:
    """Whether a batch holds anything but flows."""
    return any(key[0] != facts.FLOW for key in batch.deletes) or any(key[0] != facts.FLOW for key, _ in batch.puts)


def plan(batch: Batch, groups: Groups, *, one_key_each: bool) -> Plan:
    """The members for `batch` on a switch that holds `groups`.

    one_key_each: no member stands for two keys, so that a refused member names its key.
    """
    changes = _group_changes(batch)
    made = Plan(changes)
    for group_id, change in changes.items():
        _plan_arrivals(made, group_id, change, groups.get(group_id), one_key_each)
    for key in batch.deletes:
        if key[0] == facts.FLOW:
            made.add((key,), messages.flow_delete(key, made.xid, BUNDLE))
    for key, value in batch.puts:
        if key[0] == facts.FLOW:
            made.add((key,), messages.flow_add(key, value, made.xid, BUNDLE))
    for group_id, change in changes.items():
        _plan_departures(made, group_id, change, groups.get(group_id))
    return made


def too_long(batch: Batch) -> list[bytes]:
    """Keys of facts that no message can hold."""
    return [key for key, value in batch.puts if len(key) + len(value) > _FACT_BYTES_MAX]


def overfull(batch: Batch, groups: Groups) -> list[bytes]:
    """Keys of buckets that a group has no room for: those with the highest ids."""
    keys: list[bytes] = []
    for group_id, change in _group_changes(batch).items():
        before = groups.get(group_id)
        kind = change.type if change.type is not None else before.type if before else facts.GROUP_ALL
        after = Group(kind)
        old = before.buckets if before else {}
        after.size = before.size + 8 * len(old) if before else 0  # At most: every bucket gets a weight.
        if after.size + sum(map(after.size_of, change.puts.values())) <= _GROUP_BYTES_MAX:
            continue
        after = Group(kind, {number: old[number] for number in old.keys() - change.deletes - change.puts.keys()})
        for bucket_id, actions in sorted(change.puts.items()):
            if after.size + after.size_of(actions) > _GROUP_BYTES_MAX:
                keys.append(facts.bucket_key(group_id, bucket_id))
            else:
                after.put(bucket_id, actions)
    return keys


def settle(groups: dict[int, Group], committed: Plan) -> None:
    """Take into `groups` what a committed plan did to them."""
    for group_id, change in committed.changes.items():
        if change.delete:
            groups.pop(group_id, None)
            continue
        group = groups.get(group_id)
        if group is None:
            if change.type is None:
                continue
            group = groups[group_id] = Group(change.type)
        if change.type is not None and change.type != group.type:
            group = groups[group_id] = Group(change.type, group.buckets)
        for bucket_id in change.deletes:
            group.remove(bucket_id)
        for bucket_id, actions in change.puts.items():
            group.put(bucket_id, actions)


def _group_changes(batch: Batch) -> dict[int, Change]:
    changes: dict[int, Change] = {}
    for key in batch.deletes:
        if key[0] == facts.GROUP:
            changes.setdefault(facts.split_group_key(key), Change()).delete = True
        elif key[0] == facts.BUCKET:
            group_id, bucket_id = facts.split_bucket_key(key)
            changes.setdefault(group_id, Change()).deletes.add(bucket_id)
    for key, value in batch.puts:
        if key[0] == facts.GROUP:
            changes.setdefault(facts.split_group_key(key), Change()).type = value[0]
        elif key[0] == facts.BUCKET:
            group_id, bucket_id = facts.split_bucket_key(key)
            changes.setdefault(group_id, Change()).puts[bucket_id] = value
    return changes


def _plan_arrivals(made: Plan, group_id: int, change: Change, before: Group | None, one_key_each: bool) -> None:
    """What comes or changes in one group."""
    kind = change.type if change.type is not None else before.type if before else facts.GROUP_ALL
    if before is None or kind != before.type:
        old = before.buckets if before else {}
        kept = {bucket_id: old[bucket_id] for bucket_id in old.keys() - change.deletes}
        buckets = [Bucket(*item) for item in sorted({**kept, **change.puts}.items())]
        if change.type is not None:
            command = messages.GROUP_ADD if before is None else messages.GROUP_MODIFY
            _plan_whole(made, command, group_id, kind, buckets, one_key_each)
        else:
            _plan_inserts(made, group_id, kind, buckets, one_key_each)
    else:
        new = [Bucket(*item) for item in sorted(change.puts.items()) if before.buckets.get(item[0]) != item[1]]
        for one in new:
            if one.bucket_id in before.buckets:
                _plan_removal(made, group_id, kind, one.bucket_id)
        _plan_inserts(made, group_id, kind, new, one_key_each)


def _plan_whole(
    made: Plan, command: int, group_id: int, kind: int, buckets: Sequence[Bucket], one_key_each: bool
) -> None:
    """A group with its buckets: the first run of them in the same message."""
    runs = list(_runs(buckets, one_key_each=False))
    # A group that is modified must not lose its buckets in between; only a new one can start without.
    first = [] if not runs or (one_key_each and command == messages.GROUP_ADD) else runs[0]
    keys = (facts.group_key(group_id), *(facts.bucket_key(group_id, one.bucket_id) for one in first))
    encoded = [messages.bucket(one) for one in first]
    inner = messages.group_mod(command, kind, group_id, encoded, made.xid)
    made.add(keys[:1] if one_key_each else keys, messages.bundle_add(BUNDLE, inner))
    _plan_inserts(made, group_id, kind, buckets[len(first) :], one_key_each)


def _plan_inserts(made: Plan, group_id: int, kind: int, buckets: Sequence[Bucket], one_key_each: bool) -> None:
    for run in _runs(buckets, one_key_each):
        encoded = [messages.bucket(one) for one in run]
        inner = messages.group_mod(
            messages.GROUP_INSERT_BUCKET, kind, group_id, encoded, made.xid, messages.BUCKET_LAST
        )
        keys = tuple(facts.bucket_key(group_id, one.bucket_id) for one in run)
        made.add(keys, messages.bundle_add(BUNDLE, inner))


def _plan_departures(made: Plan, group_id: int, change: Change, before: Group | None) -> None:
    """What goes of one group."""
    if before is None:
        return
    if change.delete:
        inner = messages.group_mod(messages.GROUP_DELETE, before.type, group_id, (), made.xid)
        made.add((facts.group_key(group_id),), messages.bundle_add(BUNDLE, inner))
        return
    if change.type is not None and change.type != before.type:
        return  # The modified group was written without them.
    for bucket_id in sorted(change.deletes):
        if bucket_id in before.buckets:
            _plan_removal(made, group_id, before.type, bucket_id)


def _plan_removal(made: Plan, group_id: int, kind: int, bucket_id: int) -> None:
    inner = messages.group_mod(messages.GROUP_REMOVE_BUCKET, kind, group_id, (), made.xid, bucket_id)
    made.add((facts.bucket_key(group_id, bucket_id),), messages.bundle_add(BUNDLE, inner))


def _runs(buckets: Sequence[Bucket], one_key_each: bool) -> Iterator[Sequence[Bucket]]:
    """Cut into runs that fit into one message each."""
    start, size = 0, 0
    for at, one in enumerate(buckets):
        length = len(messages.bucket(one))
        if at > start and (one_key_each or size + length > _BUCKETS_BYTES_MAX):
            yield buckets[start:at]
            start, size = at, 0
        size += length
    if start < len(buckets):
        yield buckets[start:]
