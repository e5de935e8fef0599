"""What the RethinkDB driver asks: queries as values, and how keys, versions and values look as documents.

One database of its own, three tables:

- `meta`    one document, `database`: program, schema, epoch
- `object`  a document a key: `id`, `key`, `version`, `value` (a tombstone has `gone` instead), `token`, and `pending`
- `log`     a document a call's writes: `id` 1, 2, 3..., `keys`, `mark` (random); created only, so a number has one entry

RethinkDB's numbers are floats: versions are 19 digits of text, whose order is theirs.  Its primary keys have at most
127 bytes: a longer key's id is its beginning and a digest, so that a prefix is a range all the same.

Only one document is written atomically.  So a written object is marked `pending` (with the server's time) until the
log names it; whoever finds one that has been pending for some seconds, because its writer died, writes the entry.

Reads are `majority`: others may see what is rolled back later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from rethinkdb import RethinkDB

from flowloom.northbound.store import Entry, Write

r = RethinkDB()

PROGRAM = "flowloom northbound store"
SCHEMA = 1
TABLES = ("meta", "object", "log")
PENDING_SECONDS = 3.0

_ID_BYTES_MAX = 127
_BEGINNING = 94
_DIGITS = 19

Query = Any  # The client library has no annotations.
Row = Mapping[str, Any]


def id_of(key: str) -> str:
    """The primary key of a key's document."""
    if len(key) <= _ID_BYTES_MAX and "#" not in key:
        return key
    return f"{key[:_BEGINNING]}#{blake2b(key.encode(), digest_size=16).hexdigest()}"


def document(write: Write, token: str) -> dict[str, Any]:
    """A write as a document; its time is the server's."""
    found: dict[str, Any] = {
        "id": id_of(write.key),
        "key": write.key,
        "version": f"{write.version:0{_DIGITS}}",
        "token": token,
        "pending": r.now().to_epoch_time(),
    }
    if write.value is None:
        return {**found, "gone": True}
    return {**found, "value": _stored(write.value)}


def _stored(value: bytes) -> Any:
    # Text where it is text, so that a document can be read with RethinkDB's own tools.
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return r.binary(value)
    return r.binary(value) if "\0" in text else text


def entry(row: Row) -> Entry:
    """A document as an entry.  What a hand left there has version 0 if it has none."""
    return Entry(row.get("key", row["id"]), version(row), _value(row))


def version(row: Row) -> int:
    """As a number; 0 of what is none."""
    text = row.get("version")
    return int(text) if isinstance(text, str) and text.isdecimal() else 0


def is_gone(row: Row) -> bool:
    """Whether it is a tombstone."""
    return bool(row.get("gone"))


def _value(row: Row) -> bytes | None:
    value = row.get("value")
    if is_gone(row) or value is None:
        return None
    return value if isinstance(value, bytes) else str(value).encode()


# --- queries ---


def _table(name: str) -> Query:
    return r.table(name, read_mode="majority")


def identity() -> Query:
    """The document that says which database this is, or None."""
    return _table("meta").get("database")


def make_identity(epoch: str) -> Query:
    """Create it, unless it is there."""
    made = {"id": "database", "program": PROGRAM, "schema": SCHEMA, "epoch": epoch}
    return r.table("meta").insert(made, conflict="error", durability="hard")


def is_empty() -> Query:
    """Whether there are neither objects nor a log."""
    return r.and_(_table("object").is_empty(), _table("log").is_empty())


def apply(writes: Sequence[Write], token: str, epoch: str) -> Query:
    """Write each document if it is newer: `held`: version and token that each holds now.

    `epoch: False` when this is another database; `errors`, `first_error` when something was not done.
    """
    written = r.table("object").insert(
        [document(write, token) for write in writes],
        conflict=lambda _, old, new: r.branch(old["version"].default("").lt(new["version"]), new, old),
        return_changes="always",
        durability="hard",
    )
    return r.branch(
        identity()["epoch"].default("").eq(epoch),
        written.do(
            lambda done: r.branch(
                done["errors"].gt(0),
                done.pluck("errors", "first_error"),
                {"held": done["changes"].map(lambda each: each["new_val"].pluck("version", "token"))},
            )
        ),
        {"epoch": False},
    )


def append(keys: Sequence[str], mark: str) -> Query:
    """Create the next log entry: `number`; `errors: 1` when another was faster."""
    return tail().do(
        lambda newest: (
            r.table("log")
            .insert({"id": newest.add(1), "keys": list(keys), "mark": mark}, conflict="error", durability="hard")
            .do(lambda done: done.pluck("errors", "first_error").merge({"number": newest.add(1)}))
        )
    )


def settle(tokens: Mapping[str, str]) -> Query:
    """Take the mark `pending` from objects that the log names (id -> token), unless they were written again."""
    return (
        r.table("object")
        .get_all(*tokens)
        .replace(
            lambda row: r.branch(
                row["token"].default("").eq(r.expr(dict(tokens))[row["id"]]), row.without("pending"), row
            )
        )
    )


def orphans(limit: int) -> Query:
    """Objects that have been pending for so long that their writer is dead: id, key and token of each."""
    before = r.now().to_epoch_time().sub(PENDING_SECONDS)
    return (
        _table("object").between(0, before, index="pending").limit(limit).pluck("id", "key", "token").coerce_to("array")
    )


def tail() -> Query:
    """The number of the newest log entry; 0: there is none."""
    return _table("log").max(index="id")["id"].default(0)


def now() -> Query:
    """The epoch (None: no database) and the log's end."""
    return r.expr({"epoch": identity()["epoch"].default(None), "tail": tail()})


def since(position: int, size: int) -> Query:
    """The epoch, the log's end, and at most `size` entries after `position`, the one at `position` before them."""
    entries = (
        _table("log").between(position, position + size, right_bound="closed").order_by(index="id").coerce_to("array")
    )
    return r.expr({"epoch": identity()["epoch"].default(None), "tail": tail(), "entries": entries})


def trim(below: int) -> Query:
    """Remove the log entries below a number."""
    return r.table("log").between(r.minval, below).delete(durability="soft")


def get(keys: Sequence[str]) -> Query:
    """The documents of keys, in no order; those that are there."""
    return _table("object").get_all(*[id_of(key) for key in keys]).coerce_to("array")


def page(prefix: str, after: str | None, size: int, values: bool) -> Query:
    """At most `size` documents whose id may be of a key under `prefix`, after an id, in order of ids."""
    begin = prefix[:_BEGINNING]
    rows = (
        _table("object")
        .between(
            begin if after is None else after,
            begin + "\uffff",
            left_bound="closed" if after is None else "open",
        )
        .order_by(index="id")
        .limit(size)
    )
    return (rows if values else rows.pluck("id", "key", "version", "gone")).coerce_to("array")


def bell(position: int) -> Query:
    """A feed of log entries after a number: only to wake up by."""
    return r.table("log").between(position, r.maxval, left_bound="open").changes()
