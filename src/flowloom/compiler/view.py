"""What a rule may ask of the replica.

Questions come in kinds, each woken only by its own answer.  A rule asks the narrowest that will do:
`pick` a field rather than `get` the record, `any` rather than `where`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Protocol, TypeVar

from flowloom.model.records import Record

R = TypeVar("R", bound=Record)


class View(Protocol):
    """Read-only answers from one snapshot of the replica."""

    def get(self, kind: type[R], id: str) -> R | None:
        """The record, or None; asked again when anything about it changes."""
        ...

    def pick(self, kind: type[Record], id: str, field: str) -> Any:
        """One field of a record, None if there is no such record; asked again when that field changes."""
        ...

    def where(self, kind: type[R], index: str, value: Hashable) -> Iterable[R]:
        """Records by index, in no order (sort what reaches bytes); asked again when any of them changes."""
        ...

    def any(self, kind: type[Record], index: str, value: Hashable) -> bool:
        """Is there one?  Asked again only when the answer flips."""
        ...

    def spread(self, kind: type[Record], index: str, first: Hashable) -> frozenset[Hashable]:
        """The seconds that occur with `first` in a nested index; asked again when that set changes."""
        ...
