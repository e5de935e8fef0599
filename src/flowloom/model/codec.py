"""Records as JSON, readable with the store's own client tools.

A stored value is one JSON object: `"schema"` (the version that wrote it), `"kind"`, then the
record's fields; fields at their default are left out.  Bytes are frozen by tests: what this
release writes, every later one reads.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import force_setattr

from flowloom.kernel.errors import Rejected
from flowloom.model.records import NORTHBOUND, SCHEMA, Record

_BY_KIND: dict[str, type[Record]] = {kind.kind: kind for kind in NORTHBOUND}
_DECODERS = {name: msgspec.json.Decoder(kind) for name, kind in _BY_KIND.items()}
_ENCODER = msgspec.json.Encoder()


# msgspec leaves a field out where it holds the default *object*: `1450` out of a database is another one than ours.
_DEFAULTS: dict[type[Record], tuple[tuple[str, object], ...]] = {
    kind: tuple(
        (field.name, field.default)
        for field in msgspec.structs.fields(kind)
        if isinstance(field.default, str | int | float | tuple)
        and not isinstance(field.default, bool)
        and field.default not in ("", ())  # Of these there is only one.
    )
    for kind in NORTHBOUND
}


class _Head(msgspec.Struct):
    schema: int
    kind: str


_HEAD = msgspec.json.Decoder(_Head)


def encode(record: Record) -> bytes:
    """The record as canonical JSON bytes: equal records give equal bytes, wherever their values come from."""
    for name, default in _DEFAULTS.get(type(record), ()):
        value = getattr(record, name)
        if value is not default and value == default:
            force_setattr(record, name, default)
    body = _ENCODER.encode(record)
    return b'{"schema":%d,"kind":"%s",' % (SCHEMA, record.kind.encode()) + body[1:]


def decode(ref: str, value: bytes, kind: str = "") -> Record:
    """The record in `value`; `ref` (its key) names it in errors.

    kind: what the key says it is; given, one parse is saved and a contradiction is refused.
    Raises Rejected for anything that is not a record this release can read.
    """
    try:
        if not (kind and value.startswith(_PREFIX.get(kind, b"?"))):
            head = _HEAD.decode(value)
            if head.schema > SCHEMA:
                raise Rejected(ref, f"schema {head.schema} is newer than this release's {SCHEMA}; upgrade this node")
            if kind and head.kind != kind:
                raise Rejected(ref, f"the value says it is a {head.kind!r}, the key says {kind!r}")
            kind = head.kind
        decoder = _DECODERS.get(kind)
        if decoder is None:
            raise Rejected(ref, f"unknown kind {kind!r}")
        return decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Rejected(ref, f"not a readable record: {error}") from error


_PREFIX = {name: b'{"schema":%d,"kind":"%s",' % (SCHEMA, name.encode()) for name in _BY_KIND}


def to_builtins(record: Record) -> dict[str, Any]:
    """The record as plain data for people and for `--json`, its kind included."""
    out: dict[str, Any] = msgspec.to_builtins(record)
    return {"kind": record.kind, **out}
