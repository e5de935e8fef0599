"""One database in RAMCloud: its identity, its log, and the writes that go through it.

RAMCloud writes one object atomically, and a batch not at all.  So what is to be written is first created as one entry at
the end of the log, values included, and then carried out, object by object, each if it is newer.  From the moment the
entry is there the writes will happen: whoever comes by an entry that is not carried out (because its writer died or is
slow) does it, which may be done twice and in any order, as versions decide.  So an entry is all or nothing, and one
who lets all entries up to a point be carried out, reads, and finds nothing of later ones, has seen that very point.

An entry gets the first free number, by creating it only; so numbers have no gaps, and a gap is another history.

All of this runs on the session's thread.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from flowloom.drivers.store.ramcloud_library import Enumeration, Found, Put, RamcloudError
from flowloom.drivers.store.ramcloud_records import (
    IDENTITY_KEY,
    PROGRAM,
    SCHEMA,
    Held,
    LogEntry,
    Marks,
    decode_entry,
    decode_identity,
    decode_marks,
    decode_object,
    encode_entry,
    encode_identity,
    encode_marks,
    encode_object,
    log_key,
    marks_key,
    new_entry,
)
from flowloom.drivers.store.ramcloud_session import Calls, Session
from flowloom.kernel.errors import Misconfigured, StartOver, Unavailable
from flowloom.northbound.store import Cursor, Write

T = TypeVar("T")

PAGE_ENTRIES = 100
PAGE_BYTES = 4 << 20
_PEEK = 8
_CHUNK = 25
_READ_KEYS = 100
_MARK_EVERY = 64
_SLIM_BYTES = 4096
_TRIES = 5
_REMOVE_MAX = 1000


class Page(NamedTuple):
    """A part of the log: what the changed keys hold, the point after it, the last entry's token, whether more follows."""

    found: dict[str, Held]
    cursor: Cursor
    token: str
    more: bool


class _Another(Exception):
    """It is another database than it was, or none."""


class Database:
    """name: of its tables.  span: servers that a new table is spread over.  log_max: entries that are kept."""

    def __init__(self, session: Session, name: str, span: int, log_max: int) -> None:
        self.session = session
        self.where = session.where
        self._names = f"{name}.objects", f"{name}.log"
        self._span = span
        self._log_max = log_max
        # What follows is the thread's.
        self._objects = self._log = 0
        self._epoch = ""  # "": nothing is known.
        self._tail = 0  # An entry that is or was there; the last one is found from it.
        self._applied = 0  # Up to there all entries are carried out.

    def run(self, job: Callable[[Calls], T]) -> T:
        """A job that sees one database from its beginning to its end, made if it is missing."""

        def whole(calls: Calls) -> T:
            for _ in range(_TRIES):
                try:
                    if not self._epoch:
                        self._ensure(calls)
                    return job(calls)
                except _Another:
                    self._epoch = ""
                except RamcloudError:  # A table that was dropped among them.
                    self._epoch = ""
                    raise
            raise Unavailable(f"{self.where}: the database changes as often as it is looked at")

        return self.session.run(whole)

    def ensure(self, calls: Calls) -> str:
        """The epoch; the database is made where there is none."""
        return self._look(calls)[0].epoch

    # --- identity ---

    def _ensure(self, calls: Calls) -> None:
        """Find the tables, make what is missing.  Misconfigured: something else is there."""
        self._objects, self._log = (self._table(calls, name) for name in self._names)
        found = calls.client.read(self._log, IDENTITY_KEY)
        if found is None:
            if not (self._is_empty(calls, self._objects) and self._is_empty(calls, self._log)):
                raise Misconfigured("store", f"{self.where}: its tables hold another program's data; name another")
            self._make_identity(calls, 0)
            raise _Another
        identity = decode_identity(found.value)
        if identity.program != PROGRAM:
            raise Misconfigured("store", f"{self.where}: the table {self._names[1]} is another program's; name another")
        if identity.schema != SCHEMA:
            raise Misconfigured(
                "store", f"{self.where}: schema {identity.schema}, this release knows {SCHEMA}; upgrade this node"
            )
        if identity.objects != self._objects:  # Somebody dropped that table: what the log says of it is true no more.
            self._make_identity(calls, found.version)
            raise _Another
        self._epoch, self._tail, self._applied = identity.epoch, 0, 0

    def _make_identity(self, calls: Calls, held: int) -> None:
        """Begin another history, unless somebody else just did.  held: RAMCloud's version of the identity."""
        data = encode_identity(secrets.token_hex(8), self._objects)
        calls.client.write(Put(self._log, IDENTITY_KEY, data, held))

    def _table(self, calls: Calls, name: str) -> int:
        number = calls.client.table(name)
        if number is None:
            calls.client.create_table(name, self._span)
            number = calls.client.table(name)
        if number is None:
            raise _Another
        return number

    def _is_empty(self, calls: Calls, table: int) -> bool:
        enumeration = calls.client.enumerate(table)
        try:
            return enumeration.next() is None
        finally:
            enumeration.close()

    def _look(self, calls: Calls, *keys: tuple[int, bytes]) -> tuple[Cursor, Marks, list[Found | None]]:
        """The database as it is now: its epoch with the log's known end, its marks, and what `keys` hold.

        _Another: it is not the one that was believed.  A log that has lost its end is another one too.
        """
        for _ in range(_TRIES):
            fixed = (
                (self._log, IDENTITY_KEY),
                (self._log, marks_key(self._epoch)),
                (self._log, log_key(self._epoch, self._tail)),
                (self._objects, IDENTITY_KEY),  # Never there: only to hear that the table is.
            )
            identity, marked, last, _, *found = calls.client.read_many([*fixed, *keys])
            if identity is None or decode_identity(identity.value).epoch != self._epoch:
                raise _Another
            marks = decode_marks(marked.value, marked.version) if marked else Marks()
            self._applied = max(self._applied, marks.applied)
            if self._tail < marks.applied:
                self._tail = marks.applied
            elif last is not None or self._tail == 0:
                return Cursor(self._epoch, self._tail), marks, found
        self._abandon_history(calls)
        raise _Another

    def _abandon_history(self, calls: Calls) -> None:
        """Entries that were there are not: give the database another epoch, so that everybody starts over."""
        found = calls.client.read(self._log, IDENTITY_KEY)
        if found is not None and decode_identity(found.value).epoch == self._epoch:
            self._make_identity(calls, found.version)

    # --- writing ---

    def apply(self, calls: Calls, writes: Sequence[Write], token: str) -> dict[str, tuple[bool, int]]:
        """Applied and held, by key.  Keys differ and all fits into one entry.  It may be repeated with the same token."""
        _, marks, found = self._look(calls, *self._of_objects(write.key for write in writes))
        held = _decoded([write.key for write in writes], found)
        entry = new_entry([write for write in writes if self._is_due(held.get(write.key), write, token, marks)], token)
        if entry.writes:
            number = self._append(calls, entry)
            held.update(self._carry_out(calls, number, entry, held))
            _, marks, _ = self._look(calls)  # _Another, when the entry is in the log of a database that is no more.
            if number < marks.oldest:
                raise _Another
            self._tidy(number, entry)
        decided = {}
        for write in writes:
            now = held[write.key]
            decided[write.key] = now.token == token and now.version == write.version, now.version
        return decided

    def _is_due(self, held: Held | None, write: Write, token: str, marks: Marks) -> bool:
        if held is None or held.version < write.version:
            return True
        # What this very call wrote from an entry that no log holds: of a database that was, or below the log's beginning.
        return held.token == token and (held.epoch != self._epoch or held.number < marks.oldest)

    def _of_objects(self, keys: Iterable[str]) -> list[tuple[int, bytes]]:
        return [(self._objects, key.encode()) for key in keys]

    def _append(self, calls: Calls, entry: LogEntry) -> int:
        """Create the next log entry; its number."""
        data = encode_entry(entry)
        while True:
            number = self._tail + 1
            written = calls.client.write(Put(self._log, log_key(self._epoch, number), data, 0))
            self._tail = number
            if written is not None:
                return number
            while entries := self._entries(calls, self._tail + 1, _PEEK):  # Others were faster.
                self._tail = entries[-1][0]

    def _carry_out(self, calls: Calls, number: int, entry: LogEntry, held: Mapping[str, Held]) -> dict[str, Held]:
        """Let every key of an entry hold its write or a newer one; what they hold then.  held: what is known of keys."""
        now = {write.key: held.get(write.key) for write in entry.writes}
        epoch = self._epoch
        while True:
            due = [
                write
                for write in entry.writes
                if (known := now[write.key]) is None
                or known.version < write.version
                or (known.epoch != epoch and known.token == entry.token)
            ]
            if not due:
                return {key: known for key, known in now.items() if known is not None}
            puts = [
                Put(
                    self._objects,
                    write.key.encode(),
                    encode_object(write, epoch, number, entry.token),
                    known.stored if (known := now[write.key]) else 0,
                )
                for write in due
            ]
            refused = []
            for write, stored in zip(due, calls.client.write_many(puts), strict=True):
                if stored is None:
                    refused.append(write.key)
                else:
                    now[write.key] = Held(write.version, write.value, stored, epoch, number, entry.token)
            # Refused, because another was faster, or this call itself, sent twice: what is there says which.
            now.update(self.held(calls, refused))

    def _tidy(self, number: int, entry: LogEntry) -> None:
        """Have done later what nobody needs to wait for."""
        epoch = self._epoch
        if entry.size() > _SLIM_BYTES:
            self.session.later(lambda calls: self._slim(calls, epoch, number))
        if number % _MARK_EVERY == 0:
            self.session.later(lambda calls: self._mark(calls, epoch))

    def _slim(self, calls: Calls, epoch: str, number: int) -> None:
        """Leave the values out of a large entry that is carried out."""
        found = calls.client.read(self._log, log_key(epoch, number))
        if found is not None:
            entry = decode_entry(found.value)
            if entry.whole:
                data = encode_entry(entry._replace(whole=False))
                calls.client.write(Put(self._log, log_key(epoch, number), data, found.version))

    def _mark(self, calls: Calls, epoch: str) -> None:
        """Write down how far the log is carried out, and forget its beginning."""
        if self._epoch != epoch:
            return
        self.catch_up(calls)
        _, marks, _ = self._look(calls)
        # The newest entry always stays: by it a log is known.
        oldest = max(marks.oldest, min(self._applied, self._tail - self._log_max + 1))
        if (oldest, self._applied) == (marks.oldest, marks.applied):
            return
        data = encode_marks(oldest, self._applied)
        if calls.client.write(Put(self._log, marks_key(epoch), data, marks.stored)) is None:
            return
        for begin in range(marks.oldest, oldest, _REMOVE_MAX):
            numbers = range(begin, min(begin + _REMOVE_MAX, oldest))
            calls.client.remove_many(self._log, [log_key(epoch, number) for number in numbers])

    # --- reading ---

    def held(self, calls: Calls, keys: Iterable[str]) -> dict[str, Held]:
        """What keys hold, of those that hold something; not of one moment."""
        wanted = list(dict.fromkeys(keys))
        held: dict[str, Held] = {}
        for start in range(0, len(wanted), _READ_KEYS):
            part = wanted[start : start + _READ_KEYS]
            held.update(_decoded(part, calls.client.read_many(self._of_objects(part))))
        return held

    def get(self, calls: Calls, keys: Sequence[str]) -> dict[str, Held]:
        """What keys hold at one point, of those that hold something."""
        first = keys[:_READ_KEYS]
        while True:
            applied = self._applied
            held = _decoded(first, self._look(calls, *self._of_objects(first))[2])
            held.update(self.held(calls, keys[_READ_KEYS:]))
            newest = max((each.number for each in held.values() if each.epoch == self._epoch), default=0)
            if len(keys) == 1 or newest <= applied:
                return held
            self.catch_up(calls)  # The call that wrote the newest may be halfway.

    def walk(self, calls: Calls) -> Enumeration:
        """Begin to walk through all objects."""
        return calls.client.enumerate(self._objects)

    def catch_up(self, calls: Calls) -> Cursor:
        """Let all of the log be carried out; its end then."""
        self._look(calls)
        while entries := self._entries(calls, self._applied + 1, PAGE_ENTRIES):
            self._settle(calls, entries)
        return Cursor(self._epoch, self._applied)

    def changes(self, calls: Calls, prefix: str, cursor: Cursor, token: str) -> Page:
        """What the next changed keys hold.  token: of the entry at the cursor, "" if it is not known.

        StartOver as `Watch.next`.
        """
        known = cursor.position > 0
        begin = cursor.position if known else 1
        _, marks, found = self._look(calls, *self._of_log(begin, _PEEK))
        if self._epoch != cursor.epoch:
            raise StartOver(f"{self.where}: epoch {self._epoch}, the cursor is of {cursor.epoch}")
        entries = self._unbroken(calls, begin, found) if begin >= marks.oldest else []
        if not entries and (known or self._tail):
            raise StartOver(f"{self.where}: position {cursor.position} is no longer in the log")
        if known and token and entries[0][1].token != token:
            raise StartOver(f"{self.where}: the log is another one: entry {begin} is not the one that was read")
        if not entries:
            return Page({}, cursor, "", False)
        more = len(entries) == _PEEK
        while more and len(entries) < PAGE_ENTRIES and sum(entry.size() for _, entry in entries) < PAGE_BYTES:
            chunk = self._entries(calls, entries[-1][0] + 1, _CHUNK)
            entries += chunk
            more = len(chunk) == _CHUNK
        if begin > self._applied + 1:
            self.catch_up(calls)
        self._settle(calls, entries)
        fresh = entries[1:] if known else entries
        keys = [write.key for _, entry in fresh for write in entry.writes if write.key.startswith(prefix)]
        position, last = entries[-1]
        return Page(self.held(calls, keys), Cursor(cursor.epoch, position), last.token, more)

    def _of_log(self, begin: int, count: int) -> list[tuple[int, bytes]]:
        return [(self._log, log_key(self._epoch, number)) for number in range(begin, begin + count)]

    def _entries(self, calls: Calls, begin: int, count: int) -> list[tuple[int, LogEntry]]:
        """At most `count` entries from a number on, up to the log's end."""
        return self._unbroken(calls, begin, calls.client.read_many(self._of_log(begin, count)))

    def _unbroken(self, calls: Calls, begin: int, found: list[Found | None]) -> list[tuple[int, LogEntry]]:
        """Entries out of what was read, up to the first that is missing.  _Another: others follow that one."""
        if None in found:
            end = found.index(None)
            if any(found[end:]) and self._is_missing(calls, begin + end):
                self._abandon_history(calls)
                raise _Another
            found = found[:end]
        return [(number, _entry(each)) for number, each in enumerate(found, begin) if each]

    def _is_missing(self, calls: Calls, number: int) -> bool:
        """Whether an entry is not there, and should be: what was read before is not of one moment."""
        keys = (self._log, log_key(self._epoch, number)), (self._log, marks_key(self._epoch))
        entry, marked = calls.client.read_many(keys)
        marks = decode_marks(marked.value, marked.version) if marked else Marks()
        return entry is None and number >= marks.oldest

    def _settle(self, calls: Calls, entries: Sequence[tuple[int, LogEntry]]) -> None:
        """Let entries be carried out: by their writers, or now."""
        todo = [(number, entry) for number, entry in entries if number > self._applied]
        held = self.held(calls, [write.key for _, entry in todo if entry.whole for write in entry.writes])
        for number, entry in todo:
            if entry.whole:
                held.update(self._carry_out(calls, number, entry, held))
            if number == self._applied + 1:
                self._applied = number
            self._tail = max(self._tail, number)


def _decoded(keys: Sequence[str], found: Sequence[Found | None]) -> dict[str, Held]:
    return {key: decode_object(each.value, each.version) for key, each in zip(keys, found, strict=True) if each}


def _entry(found: Found) -> LogEntry:
    try:
        return decode_entry(found.value)
    except ValueError:  # Another hand's: it names nothing.
        return LogEntry("", (), False, ())
