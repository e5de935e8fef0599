"""Integer keys for things that have no SQL row to count them: claimed in the store, once and for ever.

A claim is an entry at version 1 under `/<deployment>!claims/<kind>/<number>` whose value names the owner:
"applied only if newer" makes exactly one claimant win.  The numbers that an owner tries follow from its
name, so it finds its claim again without an index, and claims the same one anew after the store was wiped.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from urllib.parse import quote

from flowloom.kernel.errors import Rejected
from flowloom.model.records import MAX_KEY
from flowloom.northbound.store import Store, Write

_TRIES_MAX = 64


def claims_prefix(deployment: str) -> str:
    """Prefix of every claim of one deployment."""
    return f"/{quote(deployment, safe='')}!claims/"


def claim_key(store: Store, deployment: str, kind: str, owner: str) -> int:
    """The integer 1..MAX_KEY of `owner` among all of `kind`; the same at every call, no other owner's.

    Raises Unavailable (call again: a claim whose answer was lost is found), Rejected when 64 numbers in
    a row are others'.
    """
    value = owner.encode()
    for number in _candidates(kind, owner):
        key = f"{claims_prefix(deployment)}{quote(kind, safe='')}/{number}"
        if store.apply([Write(key, 1, value)])[0].applied:
            return number
        entry = store.get([key])[0]
        if entry is not None and entry.value == value:
            return number
    raise Rejected(owner, f"no free key of kind {kind} found in {_TRIES_MAX} tries")


def _candidates(kind: str, owner: str) -> Iterator[int]:
    for attempt in range(_TRIES_MAX):
        digest = blake2b(f"{kind}\0{owner}\0{attempt}".encode(), digest_size=8).digest()
        yield int.from_bytes(digest) % MAX_KEY + 1
