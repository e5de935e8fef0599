"""What running processes answer over their control sockets, as far as the command line shows it.

Every field has a default and unknown ones are skipped, so that a command line of one release reads the
agents of its neighbours.
"""

from __future__ import annotations

import msgspec


class Link(msgspec.Struct, frozen=True):
    """A connection of a process.  contact_seconds: since the other side was last heard.  why: of its absence."""

    connected: bool = False
    contact_seconds: float | None = None
    why: str = ""


class SwitchLink(msgspec.Struct, frozen=True):
    """An agent's connection to its switch.  flows: with groups and buckets, that it has confirmed."""

    connected: bool = False
    flows: int = 0
    why: str = ""


class Refused(msgspec.Struct, frozen=True):
    """A flow that the switch does not accept.  cause: the record behind it."""

    flow: str = ""
    error: str = ""
    cause: str = ""


class BadRecord(msgspec.Struct, frozen=True):
    """A record that this release cannot read, by its key."""

    ref: str = ""
    why: str = ""


class AgentStatus(msgspec.Struct, frozen=True):
    """backlog: rules marked and not yet run.  gap: facts that differ between desired and installed.

    waiting_for: why the switch is not yet kept equal to the records; "" when it is.
    """

    chassis: str = ""
    in_sync: bool = False
    waiting_for: str = ""
    backlog: int = 0
    gap: int = 0
    refused: tuple[Refused, ...] = ()
    bad_records: tuple[BadRecord, ...] = ()
    failures: tuple[str, ...] = ()
    store: Link = Link()
    bus: Link | None = None
    switch: SwitchLink = SwitchLink()


class RecoveryStatus(msgspec.Struct, frozen=True):
    """backlog: dirty rows.  oldest_seconds: how long the oldest has been dirty.  last_error: what it met."""

    backlog: int = 0
    oldest_seconds: float | None = None
    last_error: str = ""
    store: Link = Link()


class Cause(msgspec.Struct, frozen=True):
    """A record that a flow was made of.  role: "for" (the rule ran for it) or how it was read."""

    kind: str = ""
    id: str = ""
    version: int | None = None
    role: str = ""


class Flow(msgspec.Struct, frozen=True):
    """One flow in words."""

    table: str = ""
    priority: int = 0
    match: str = ""
    actions: str = ""
    app: str = ""
    rule: str = ""
    cookie: int = 0
    causes: tuple[Cause, ...] = ()


class Flows(msgspec.Struct, frozen=True):
    """Every flow that an agent wants."""

    flows: tuple[Flow, ...] = ()


class Difference(msgspec.Struct, frozen=True):
    """A fact on which full recompute, agent and switch do not agree; None: it is not there."""

    flow: str = ""
    oracle: str | None = None
    desired: str | None = None
    installed: str | None = None


class Check(msgspec.Struct, frozen=True):
    """Full recompute against what the agent wants and what its switch holds.  flows: with groups and buckets."""

    equal: bool = False
    flows: int = 0
    backlog: int = 0
    differences: tuple[Difference, ...] = ()


class PortAtAgent(msgspec.Struct, frozen=True):
    """Where one port stands at an agent; see `diagnosis.AtAgent`."""

    in_sync: bool = False
    version: int | None = None
    confirmed: int = 0
    ofport: int | None = None
    interface_error: str = ""
    connected: bool = False
    refused: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
