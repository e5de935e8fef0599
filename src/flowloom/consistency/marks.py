"""Content in one number: what two sides compare instead of contents."""

from __future__ import annotations

from hashlib import blake2b
from zlib import crc32

from flowloom.model.records import Chassis, PortStatus

SHARDS = 64
"""Objects are compared in so many parts; a difference makes one part be looked at."""

MARK_BITS = 40
"""So that an SQL SUM of four million marks stays within 63 bits."""

NODE_KINDS = frozenset({Chassis.kind, PortStatus.kind})
"""Records that a node owns: Neutron has no opinion of them."""


def mark(key: str, version: int, value: bytes | None) -> int:
    """Of what a store holds under `key` (value None: a tombstone): 1 .. 2**40 - 1."""
    digest = blake2b(b"%s\0%d\0" % (key.encode(), version), digest_size=MARK_BITS // 8)
    if value is not None:
        digest.update(b"+")
        digest.update(value)
    return int.from_bytes(digest.digest(), "big") or 1


def shard_of(kind: str, id: str) -> int:
    """The part that an object belongs to, for ever: 0 .. SHARDS - 1."""
    return crc32(f"{kind}/{id}".encode()) % SHARDS
