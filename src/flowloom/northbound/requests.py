"""What a follower asks of the store, and the answers: values, and one function that does the asking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from flowloom.kernel.errors import Unavailable
from flowloom.northbound.store import Entry, Listing, Store, Versions


@dataclass(frozen=True, slots=True)
class ReadPrefix:
    """Wants `Store.read(prefix)`.  number: tells two like requests apart."""

    prefix: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class CompareVersions:
    """Wants `Store.versions(prefix)`."""

    prefix: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class GetKeys:
    """Wants `Store.get(keys)`."""

    keys: tuple[str, ...]
    number: int = 0


Request = ReadPrefix | CompareVersions | GetKeys


class Answer(NamedTuple):
    """The answer to `request`: a Listing, Versions, the entries of its keys (None: absent), or the error."""

    request: Request
    result: Listing | Versions | Sequence[Entry | None] | Unavailable


def ask(store: Store, request: Request) -> Answer:
    """Put `request` to `store`; blocks.  Unavailable becomes the answer."""
    try:
        match request:
            case ReadPrefix(prefix):
                return Answer(request, store.read(prefix))
            case CompareVersions(prefix):
                return Answer(request, store.versions(prefix))
            case GetKeys(keys):
                return Answer(request, store.get(keys))
    except Unavailable as error:
        return Answer(request, error)
    assert_never(request)
