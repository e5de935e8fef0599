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
    own_records_contested: int = 0
    contested_seconds: float | None = None


class Member(msgspec.Struct, frozen=True):
    """A recovery process.  shards: how many parts of all objects it looks after.  seconds_left: of its lease."""

    owner: str = ""
    shards: int = 0
    leader: bool = False
    seconds_left: float = 0.0


class RecoveryStatus(msgspec.Struct, frozen=True):
    """backlog: dirty rows.  oldest_seconds: how long the oldest has been dirty.  last_error: what it met.

    members: of all recovery processes, as this one sees them.  shards: its own.  unknown: rows of kinds that this
    release does not know, left alone.  guards: repairs that wait for somebody's word.  drift: what its last round
    of comparison found, by kind.
    """

    backlog: int = 0
    oldest_seconds: float | None = None
    last_error: str = ""
    store: Link = Link()
    members: tuple[Member, ...] = ()
    shards: tuple[int, ...] = ()
    unknown: tuple[tuple[str, str], ...] = ()
    guards: int = 0
    drift: dict[str, int] = {}


class Unequal(msgspec.Struct, frozen=True):
    """An object on which Neutron and the store do not agree.  Versions: -1 where there is none.

    kind: of the difference.  object: kind and id.  comparison: which comparison found it.  left: why it stays; "".
    """

    kind: str = ""
    object: tuple[str, str] = ("", "")
    project: str = ""
    key: str = ""
    neutron_version: int = -1
    store_version: int = -1
    comparison: str = ""
    left: str = ""


class NeutronDrift(msgspec.Struct, frozen=True):
    """Neutron against the store, compared now.  complete: False when not all could be read; then `why`.

    objects: compared.  dirty: rows whose change is on its way, not counted as differences.  differences: a sample.
    """

    complete: bool = False
    why: str = ""
    objects: int = 0
    dirty: int = 0
    counts: dict[str, int] = {}
    differences: tuple[Unequal, ...] = ()
    seconds: float = 0.0


class JobStarted(msgspec.Struct, frozen=True):
    """A repair or rebuild that was begun."""

    job: str = ""


class Job(msgspec.Struct, frozen=True):
    """Where a repair or rebuild stands.  done, total: objects; total 0: not known yet.

    found: by kind of difference.  repaired: by this job.  equal: repaired by somebody else, before it came to them.
    guard: of what is held.  sample: of what was found.
    """

    state: str = ""
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    found: dict[str, int] = {}
    repaired: int = 0
    equal: int = 0
    guard: str = ""
    why: str = ""
    sample: tuple[Unequal, ...] = ()


class MoveState(msgspec.Struct, frozen=True):
    """Which store is in force, and the newest move; see `consistency.place`.  number 0: there was never one.

    done, total: of one that is done: objects on which Neutron and the new store agree, of all.
    """

    generation: int = 0
    in_force: str = ""
    number: int = 0
    step: str = ""
    under_way: bool = False
    source: str = ""
    target: str = ""
    by: str = ""
    seconds: float = 0.0
    what: str = ""
    done: int = 0
    total: int = 0
    seconds_left: float = -1.0
    why: str = ""


class Audit(msgspec.Struct, frozen=True):
    """One repair, or one that was not made; see `consistency.table.AuditEntry`."""

    at: float = 0.0
    kind: str = ""
    ref: tuple[str, str] = ("", "")
    project_id: str = ""
    comparison: str = ""
    neutron_version: int = -1
    store_version: int = -1
    version: int = -1
    done: str = ""
    verified: str = ""
    by: str = ""
    guard: str = ""


class Audits(msgspec.Struct, frozen=True):
    """The newest first."""

    entries: tuple[Audit, ...] = ()


class Guard(msgspec.Struct, frozen=True):
    """A repair that was held; see `consistency.table.GuardEntry`."""

    id: str = ""
    at: float = 0.0
    by: str = ""
    found: dict[str, int] = {}
    of_objects: int = 0
    sample: tuple[str, ...] = ()
    approved_by: str = ""


class Guards(msgspec.Struct, frozen=True):
    """The newest first."""

    guards: tuple[Guard, ...] = ()


class Marks(msgspec.Struct, frozen=True):
    """A page of what an agent holds: see `agent.answers.marks`."""

    entries: tuple[tuple[str, int, int], ...] = ()
    next: str = ""
    bad: dict[str, str] = {}
    prefixes: tuple[str, ...] = ()
    chassis: str = ""
    in_sync: bool = False
    waiting_for: str = ""
    release: str = ""


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
