"""How keys, versions and the log look in RAMCloud.

Two tables a database: `NAME.objects` and `NAME.log`.

- an object: the key as it is; a first line with version, `live` or `gone`, epoch, the number of the log entry that wrote
  it, and the writer's token; then the value.  What another hand leaves there in another form counts as version 0.
- `database` in the log: program, schema, epoch, and the number of the table of objects.
- `EPOCH/marks`: `oldest`, the log begins there; `applied`, up to there all entries are carried out.
- `EPOCH/NUMBER`, 1, 2, 3...: an entry of the log, created only.  A first line of JSON (the writer's token; key, version
  and length of each write, -1 of a tombstone), then the values.  A large one is cut to its first line later on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from flowloom.northbound.store import Entry, Write

PROGRAM = "flowloom northbound store"
SCHEMA = 1
IDENTITY_KEY = b"database"
RECORD_ROOM = 4096
"""Bytes that an object's first line may take, and an entry's of one write."""

_FIRST = re.compile(rb"(\d{1,19}) (live|gone) ([0-9a-f]{16}) (\d{1,19}) ([0-9a-f]{12})\n")
_GONE = -1


class Held(NamedTuple):
    """What a key holds.  stored: RAMCloud's version.  epoch, number: of the log entry that wrote it."""

    version: int
    value: bytes | None
    stored: int
    epoch: str = ""
    number: int = 0
    token: str = ""

    def entry(self, key: str) -> Entry:
        """As the contract has it."""
        return Entry(key, self.version, self.value)


class LogEntry(NamedTuple):
    """The writes of a call, as they are carried out.  whole: the values are there."""

    token: str
    writes: tuple[Write, ...]
    whole: bool
    sizes: tuple[int, ...]

    def size(self) -> int:
        """Bytes of the values."""
        return sum(max(0, size) for size in self.sizes)


class Identity(NamedTuple):
    """Which database this is.  program: "" of what cannot be read.  objects: RAMCloud's number of that table."""

    program: str
    schema: int
    epoch: str
    objects: int


class Marks(NamedTuple):
    """The log's ends, as far as somebody wrote them down.  stored: RAMCloud's version, 0: nobody did."""

    oldest: int = 1
    applied: int = 0
    stored: int = 0


def encode_object(write: Write, epoch: str, number: int, token: str) -> bytes:
    """A key's object."""
    state = "gone" if write.value is None else "live"
    return f"{write.version} {state} {epoch} {number} {token}\n".encode() + (write.value or b"")


def decode_object(data: bytes, stored: int) -> Held:
    """The other way."""
    found = _FIRST.match(data)
    if not found:
        return Held(0, data, stored)
    value = data[found.end() :] if found[2] == b"live" else None
    return Held(int(found[1]), value, stored, found[3].decode(), int(found[4]), found[5].decode())


def log_key(epoch: str, number: int) -> bytes:
    """Of an entry."""
    return f"{epoch}/{number}".encode()


def marks_key(epoch: str) -> bytes:
    """Of the marks."""
    return f"{epoch}/marks".encode()


def encode_entry(entry: LogEntry) -> bytes:
    """An entry with its values, or without them when it is not whole."""
    writes = [[write.key, write.version, size] for write, size in zip(entry.writes, entry.sizes, strict=True)]
    line = json.dumps({"token": entry.token, "whole": entry.whole, "writes": writes}, separators=(",", ":"))
    values = [write.value or b"" for write in entry.writes] if entry.whole else []
    return b"\n".join((line.encode(), b"".join(values)))


def new_entry(writes: Sequence[Write], token: str) -> LogEntry:
    """An entry that is about to be written."""
    sizes = tuple(_GONE if write.value is None else len(write.value) for write in writes)
    return LogEntry(token, tuple(writes), True, sizes)


def decode_entry(data: bytes) -> LogEntry:
    """The other way.  ValueError: another hand wrote it."""
    line, _, values = data.partition(b"\n")
    found = json.loads(line)
    try:
        token, whole, rows = found["token"], found["whole"], found["writes"]
        writes, sizes, begin = [], [], 0
        for key, version, size in rows:
            value = None if size == _GONE else values[begin : begin + size]
            begin += max(0, size)
            writes.append(Write(str(key), int(version), value))
            sizes.append(int(size))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no entry of a log: {line[:100]!r}") from error
    if whole and begin != len(values):
        raise ValueError(f"a log entry of {begin} bytes holds {len(values)}")
    return LogEntry(str(token), tuple(writes), bool(whole), tuple(sizes))


def encode_identity(epoch: str, objects: int) -> bytes:
    """The identity of a new database."""
    return json.dumps(Identity(PROGRAM, SCHEMA, epoch, objects)._asdict()).encode()


def decode_identity(data: bytes) -> Identity:
    """The other way."""
    try:
        found = json.loads(data)
        return Identity(str(found["program"]), int(found["schema"]), str(found["epoch"]), int(found.get("objects", 0)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Identity("", 0, "", 0)


def encode_marks(oldest: int, applied: int) -> bytes:
    """The marks."""
    return json.dumps({"oldest": oldest, "applied": applied}).encode()


def decode_marks(data: bytes, stored: int) -> Marks:
    """The other way; marks that cannot be read are those of a log of which nothing is known."""
    try:
        found = json.loads(data)
        return Marks(int(found["oldest"]), int(found["applied"]), stored)
    except (ValueError, KeyError, TypeError):
        return Marks(stored=stored)
