"""Rules, apps, and units: what is recompiled, and what one recompilation left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flowloom.compiler.view import View
from flowloom.model.records import Record

Yielded = tuple[bytes, bytes]
"""A fact as a rule yields it: key, and value without a cookie (the compiler adds it to flows)."""

RuleFunction = Callable[[Any, View], Iterator[Yielded]]


@dataclass(frozen=True)
class Scope:
    """Where a rule matters: only for records whose `index` value has a port on this chassis.

    index: an index of the rule's kind.  site: a nested index of Port whose values are
    (that value, chassis); "" means the value is itself a chassis id.
    """

    index: str
    site: str


HERE = Scope("host", "")
"""Ports bound to this chassis."""

NETWORK_HERE = Scope("network", "site")
"""Records of networks that have a port bound to this chassis."""


@dataclass(frozen=True)
class Rule:
    """One function from a record of `kind` to facts.

    number: its place in cookies, unique in the release and never reused for another meaning.
    scope: None: everywhere.
    """

    number: int
    kind: type[Record]
    function: RuleFunction
    scope: Scope | None = None

    @property
    def name(self) -> str:
        """The function's name, for people."""
        return self.function.__name__.strip("_")


@dataclass(frozen=True)
class App:
    """A network function: rules that know nothing of other apps' rules."""

    name: str
    rules: tuple[Rule, ...]


class Unit:
    """One (rule, record): the facts it claims, and the questions it is noted as a reader of."""

    __slots__ = ("facts", "id", "reads", "rule")

    def __init__(self, rule: int, id: str) -> None:
        self.rule = rule
        self.id = id
        self.facts: Mapping[bytes, bytes] = {}
        self.reads: tuple[Readers, ...] = ()


Readers = set[Unit]
"""Who asked one question."""
