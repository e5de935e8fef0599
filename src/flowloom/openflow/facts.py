"""Keyed facts: what a switch holds, as pairs of bytes.

========  ==================================================  =======================================
fact      key                                                 value
========  ==================================================  =======================================
flow      00, table (1), priority (2), match (padded)         cookie (8), instructions
group     01, group id (4)                                    group type (1)
bucket    02, group id (4), bucket id (4)                     actions
========  ==================================================  =======================================

Numbers are big-endian.  A group and its buckets are separate facts so that one member more or less
costs one bucket, whatever the size of the group (OpenFlow 1.5 INSERT_BUCKET and REMOVE_BUCKET).
A bucket without its group is a broken invariant of whoever desires it.
"""

from __future__ import annotations

import struct
from typing import Final

FLOW: Final = 0
GROUP: Final = 1
BUCKET: Final = 2

GROUP_ALL: Final = 0
GROUP_SELECT: Final = 1
GROUP_INDIRECT: Final = 2
GROUP_FAST_FAILOVER: Final = 3

OWNER: Final = 0xF100
"""High 16 bits of every cookie of Flowloom.  Flows with another owner are never touched."""

GROUPS_FIRST: Final = 0x4000_0000
GROUPS_LAST: Final = 0x7FFF_FFFF
"""Group ids that are Flowloom's.  Others are never touched."""

_FLOW_KEY = struct.Struct("!BBH")
_GROUP_KEY = struct.Struct("!BI")
_BUCKET_KEY = struct.Struct("!BII")
_COOKIE = struct.Struct("!Q")


def flow_key(table: int, priority: int, match: bytes) -> bytes:
    """Key of a flow; `match` is a whole ofp_match, padded."""
    return _FLOW_KEY.pack(FLOW, table, priority) + match


def flow_value(cookie: int, instructions: bytes) -> bytes:
    """Value of a flow."""
    return _COOKIE.pack(cookie) + instructions


def group_key(group_id: int) -> bytes:
    """Key of a group."""
    return _GROUP_KEY.pack(GROUP, group_id)


def bucket_key(group_id: int, bucket_id: int) -> bytes:
    """Key of one bucket of a group; bucket ids are below 0xFFFFFF00."""
    return _BUCKET_KEY.pack(BUCKET, group_id, bucket_id)


def split_flow_key(key: bytes) -> tuple[int, int, bytes]:
    """(table, priority, match)."""
    _, table, priority = _FLOW_KEY.unpack_from(key)
    return table, priority, key[4:]


def split_group_key(key: bytes) -> int:
    """The group id of a group or bucket key."""
    return int.from_bytes(key[1:5], "big")


def split_bucket_key(key: bytes) -> tuple[int, int]:
    """(group id, bucket id)."""
    _, group, bucket = _BUCKET_KEY.unpack(key)
    return group, bucket


def cookie_of(value: bytes) -> int:
    """The cookie in a flow's value."""
    return int.from_bytes(value[:8], "big")


def make_cookie(rule: int, object_hash: int) -> int:
    """Owner, rule number (16 bits) and a stable hash of the record's id (32 bits)."""
    return OWNER << 48 | rule << 32 | object_hash


def is_ours(key: bytes, value: bytes) -> bool:
    """Whether Flowloom made this fact."""
    if key[0] == FLOW:
        return value[:2] == b"\xf1\x00"
    return GROUPS_FIRST <= split_group_key(key) <= GROUPS_LAST
