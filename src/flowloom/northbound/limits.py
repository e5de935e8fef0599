"""What every store accepts, checked in one place, so that a key which one driver takes no other refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from flowloom.kernel.errors import Rejected
from flowloom.northbound.store import Outcome, Write

KEY_BYTES_MAX = 512
"""Longest key; five percent-encoded parts of ordinary names are well below."""

VERSION_MAX = 2**63 - 1
"""Largest version: what every database can hold as a signed 64-bit integer."""

KEY_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%:@+,=!/"
"""Characters of keys: what percent-encoding leaves (`model.keys`), and `!` for what is not a record."""

_KEY = re.compile(r"/[a-zA-Z0-9\-._~%:@+,=!/]*")


def newest_of_each_key(writes: Sequence[Write], value_bytes_max: int) -> dict[str, Write]:
    """Check all of `writes`; the one that counts for each key: its newest, the first among equals.

    Raises Rejected, naming the key, before anything is written.
    """
    chosen: dict[str, Write] = {}
    for write in writes:
        check_write(write, value_bytes_max)
        before = chosen.get(write.key)
        if before is None or write.version > before.version:
            chosen[write.key] = write
    return chosen


def check_write(write: Write, value_bytes_max: int) -> None:
    """Raise Rejected, naming the key, unless any store could hold `write`."""
    key, version, value = write
    if not is_key(key):
        raise Rejected(key[:KEY_BYTES_MAX], f"not a key: 1 to {KEY_BYTES_MAX} of {KEY_CHARACTERS} beginning with /")
    if not 1 <= version <= VERSION_MAX:
        raise Rejected(key, f"version {version} is not in 1..2**63-1")
    if value is not None and len(value) > value_bytes_max:
        raise Rejected(key, f"value of {len(value)} bytes, the store's limit is {value_bytes_max}")


def is_key(text: str) -> bool:
    """Whether every store takes `text` as a key."""
    return len(text) <= KEY_BYTES_MAX and _KEY.fullmatch(text) is not None


def outcomes(
    writes: Sequence[Write], chosen: Mapping[str, Write], decided: Mapping[str, tuple[bool, int]]
) -> list[Outcome]:
    """One outcome a write, in order, from what was decided (applied, held) for the chosen write of each key."""
    return [
        Outcome(write.key, decided[write.key][0] and chosen[write.key] is write, decided[write.key][1])
        for write in writes
    ]
