"""How the ZooKeeper driver writes keys and values: paths and data of nodes.

A key is a path of its own under `objects`, part by part, so that a prefix is a subtree and `zkCli` shows it.  Parts
that ZooKeeper forbids or that name something else there (none, `.`, `..`) stand in parentheses, which no key holds.

Data: `<version> live <token>\\n<value>`, or `<version> gone <token>\\n` for a tombstone; a node that is only on the way
to others has none.  token: of the call that wrote it, so that a writer whose answer was lost knows its own work.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from flowloom.northbound.store import Entry

_HEAD = re.compile(rb"([1-9]\d{0,18}) (live|gone) ([0-9a-f]+)\n")
_LEGAL = re.compile(r"/[a-zA-Z0-9\-._~%:@+,=!/]*")


def path_of(objects: str, key: str) -> str | None:
    """The node of a key; None of what can be no key."""
    if not _LEGAL.fullmatch(key):
        return None
    return "/".join([objects, *(_name(part) for part in key[1:].split("/"))])


def parents_of(objects: str, path: str) -> list[str]:
    """The nodes on the way from `objects` to `path`, the uppermost first."""
    parts = path[len(objects) + 1 :].split("/")
    return ["/".join([objects, *parts[:depth]]) for depth in range(1, len(parts))]


def part_of(name: str) -> str:
    """The part of a key that a node's name stands for."""
    return name[1:-1] if name.startswith("(") else name


def _name(part: str) -> str:
    return f"({part})" if part in ("", ".", "..") else part


class Held(NamedTuple):
    """What a node's data say.  version 0: somebody else wrote there.  changed: the transaction that did it last."""

    version: int
    live: bool
    token: str
    value: bytes
    changed: int

    def entry(self, key: str) -> Entry:
        return Entry(key, self.version, self.value if self.live else None)


def decode(data: bytes, changed: int = 0) -> Held | None:
    """None of a node that is only on the way to others."""
    if not data:
        return None
    head = _HEAD.match(data)
    if head is None:
        return Held(0, True, "", data, changed)
    return Held(int(head[1]), head[2] == b"live", head[3].decode(), data[head.end() :], changed)


def encode(version: int, value: bytes | None, token: str) -> bytes:
    """A node's data."""
    return b"%d %s %s\n" % (version, b"gone" if value is None else b"live", token.encode()) + (value or b"")
