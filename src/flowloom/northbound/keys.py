"""Immutable integer keys for what no SQL database numbers, claimed once in the store.

A claim is a pair of entries outside every deployment's prefix, so that no follower takes them for records:
`/!claims/<deployment>/<kind>/by-number/<n>` holds the owner's id and is written at version 1 by whoever comes
first; `/!claims/<deployment>/<kind>/by-owner/<id>` holds the number that the owner settled on.
"""

from __future__ import annotations

from random import Random
from typing import Final
from urllib.parse import quote

from flowloom.kernel.errors import Rejected, Unavailable
from flowloom.model.records import MAX_KEY
from flowloom.northbound.store import Store, Write

ATTEMPTS_MAX: Final = 64
"""Numbers tried before giving up: with half of them taken, 64 in a row are taken once in 10**19 times."""


def claim_key(store: Store, *, deployment: str, kind: str, id: str, random: Random | None = None) -> int:
    """The integer 1..MAX_KEY of `id` among the `kind` of a deployment: the same at every call, no one else's.

    Raises Unavailable when the store does not answer (call again), Rejected when no free number was found.
    """
    random = random or Random()
    settled, version = _settled(store, deployment, kind, id)
    if settled is not None:
        return settled
    for _ in range(ATTEMPTS_MAX):
        number = random.randint(1, MAX_KEY)
        if _take(store, deployment, kind, id, number):
            return _settle(store, deployment, kind, id, number, version + 1)
    raise Rejected(f"{kind} {id}", f"no free integer key in {ATTEMPTS_MAX} attempts")


def _key(deployment: str, kind: str, *parts: str) -> str:
    return "/" + "/".join(("!claims", *(quote(part, safe=":@+,=") for part in (deployment, kind, *parts))))


def _settled(store: Store, deployment: str, kind: str, id: str) -> tuple[int | None, int]:
    """The number the owner settled on, if that number is really its own; and the version that says so (0: none)."""
    (entry,) = store.get([_key(deployment, kind, "by-owner", id)])
    if entry is None:
        return None, 0
    said = (entry.value or b"").decode(errors="replace")
    if not said.isdecimal() or not 1 <= int(said) <= MAX_KEY:
        return None, entry.version
    return (int(said) if _take(store, deployment, kind, id, int(said)) else None), entry.version


def _take(store: Store, deployment: str, kind: str, id: str, number: int) -> bool:
    """Write the owner into the number's entry unless another stands there; whether it is ours now."""
    key = _key(deployment, kind, "by-number", str(number))
    (outcome,) = store.apply([Write(key, 1, id.encode())])
    if outcome.applied:
        return True
    (entry,) = store.get([key])
    return entry is not None and entry.value == id.encode()


def _settle(store: Store, deployment: str, kind: str, id: str, number: int, version: int) -> int:
    """Say which number counts.  Of two lives of one owner that race, the first to say so wins."""
    key = _key(deployment, kind, "by-owner", id)
    (outcome,) = store.apply([Write(key, version, str(number).encode())])
    if outcome.applied:
        return number
    settled, _ = _settled(store, deployment, kind, id)
    if settled is None:
        raise Unavailable(f"the integer key of {kind} {id} changed while it was claimed")
    return settled
