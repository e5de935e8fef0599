"""What the agent answers over its control socket: plain data, from the core's state as it is now.

Long answers are generators: each step is short, so the loop goes on with its work between them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from importlib.metadata import version
from typing import Any, Final

import msgspec

from flowloom.agent.core import AgentCore
from flowloom.agent.inlet import READ
from flowloom.consistency.marks import mark
from flowloom.kernel.errors import Rejected
from flowloom.model.codec import encode, to_builtins
from flowloom.model.keys import parse_key
from flowloom.model.records import Port
from flowloom.openflow import facts

Json = dict[str, Any]
Slices = Generator[None, None, Json]

_FLOWS_A_SLICE: Final = 50
_RECORDS_A_SLICE: Final = 500
_MARKS_A_SLICE: Final = 50
PAGE_MAX: Final = 2000
"""Records in one page of marks: about 20 ms of work, cut in slices, and 200 kB."""

RELEASE: Final = version("flowloom")
_DIFFERENCES_MAX: Final = 1000


def status(core: AgentCore, now: float) -> Json:
    """Each layer: is it up, how much is undone, what is wrong."""
    compiler, ledger, installing = core.compiler, core.compiler.ledger, core.installing
    return {
        "chassis": core.settings.chassis,
        "in_sync": core.follower.in_sync,
        "loaded": core.loaded,
        "waiting_for": _waiting_for(core),
        "backlog": core.backlog,
        "gap": ledger.gap,
        "refused": [_refused(core, key, error) for key, error in ledger.refused.items()],
        "bad_records": [{"ref": ref, "why": why} for ref, why in core.inlet.bad.items()],
        "failures": [f"{one.app} {one.rule} of {one.kind} {one.id}: {one.error}" for one in compiler.failures.values()],
        "store": _link(not core.store_why, core.store_heard_at, core.store_why, now),
        "bus": _bus(core, now),
        "switch": {"connected": installing.connected, "flows": len(ledger.desired) - ledger.gap, "why": installing.why},
        "interfaces": {"connected": not core.interfaces_why, "why": core.interfaces_why},
        "ports": {"local": len(core.ports.ids()), "waiting": core.ports.waiting},
        "own_records_undone": core.own.undone,
        "own_records_contested": core.own.contests,
        "contested_seconds": None if core.own.contested_at is None else now - core.own.contested_at,
        "audits": installing.audits,
        "drift_repaired": installing.drift_repaired,
        "installs": installing.installs,
        "refusals": installing.refusals,
        "records": {
            "held": core.follower.values,
            "bad": core.inlet.bad_count,
            "comparisons": core.follower.comparisons,
            "epoch": core.follower.epoch,
        },
        "packets": dict(core.packets),
    }


def _link(connected: bool, heard_at: float | None, why: str, now: float) -> Json:
    return {"connected": connected, "contact_seconds": None if heard_at is None else now - heard_at, "why": why}


def _bus(core: AgentCore, now: float) -> Json | None:
    """None: there is none, the store's change feed is followed instead."""
    if not core.follower.settings.own_publisher:
        return None
    why = "our own heartbeats do not come back; everything is compared with the store instead"
    return _link(not core.follower.suspect_bus, core.bus_heard_at, why if core.follower.suspect_bus else "", now)


def _waiting_for(core: AgentCore) -> str:
    """Why the switch is not yet kept equal to the records; "" when it is."""
    if not core.follower.in_sync and not core.loaded:
        return f"the records: {core.store_why or 'not in sync with the store yet'}; flows stay as they are"
    if not core.loaded:
        return f"the interfaces: {core.interfaces_why}; flows stay as they are"
    if not core.installing.connected:
        return f"the switch: {core.installing.why}"
    return ""


def _refused(core: AgentCore, key: bytes, error: str) -> Json:
    from flowloom.pipeline.describe import describe  # for people only: not loaded at start

    value = core.compiler.ledger.desired.get(key)
    causes = ", ".join(f"{cause.kind} {cause.id}" for cause in core.compiler.why(key))
    return {"flow": str(describe(key, value)) if value is not None else key.hex(), "error": error, "cause": causes}


def port(core: AgentCore, port_id: str) -> Json:
    """Where one port stands here."""
    record = core.compiler.get(Port, port_id)
    interface = core.ports.interface(port_id)
    fault = core.faults.now().get(port_id, "")
    return {
        "in_sync": core.follower.in_sync,
        "version": None if record is None else record.version,
        "confirmed": core.ports.confirmed(port_id),
        "ofport": None if interface is None else interface.ofport,
        "interface_error": core.ports.interface_error(port_id),
        "connected": core.installing.connected,
        "refused": [fault] if fault.startswith("flow refused") else [],
        "failed": [fault] if fault and not fault.startswith("flow refused") else [],
    }


def records(core: AgentCore) -> Slices:
    """Every record of the replica, as JSON has it."""
    out: list[Json] = []
    for kind in READ.values():
        for n, record in enumerate(list(core.compiler.records(kind)), 1):
            out.append(to_builtins(record))
            if not n % _RECORDS_A_SLICE:
                yield
    return {"records": out}


def marks(core: AgentCore, question: Mapping[str, Any]) -> Slices:
    """A page of what this node holds of the store, each record in one number: see `consistency.marks`.

    `keys`: of these alone; else `prefix`, `after`, `limit`: the next ones in order, beyond `after`.
    -> entries: [key, version, mark]; version 0: a record of the store that nothing was made of here (unreadable:
    then `bad` says why; or on its way).  A kind that nothing here reads is held by version alone: mark 0.
    Statuses of other chassis are passed over: nobody here reads them.
    -> next: where the next page begins ("": this was the last).  release: whose way of encoding the marks are made of.
    Rejected when the question is not of this form.
    """
    try:
        page = msgspec.convert(question, _Page)
    except msgspec.ValidationError as error:
        raise Rejected("records", str(error)) from error
    return _marks(core, page)


class _Page(msgspec.Struct):
    keys: list[str] | None = None
    prefix: str = ""
    after: str = ""
    limit: int = PAGE_MAX


def _marks(core: AgentCore, page: _Page) -> Slices:
    limit = max(1, min(page.limit, PAGE_MAX))
    following = ""
    if page.keys is not None:
        keys = [key for key in page.keys[:PAGE_MAX] if core.follower.holds(key)]
    else:
        keys = core.follower.keys(page.prefix, page.after, limit)
        following = keys[-1] if len(keys) == limit else ""
    yield
    entries: list[tuple[str, int, int]] = []
    for n, key in enumerate(keys, 1):
        if not core.inlet.passes_over(key):
            entries.append((key, *_mark(core, key)))
        if not n % _MARKS_A_SLICE:
            yield
    return {
        "entries": entries,
        "next": following,
        "bad": {key: core.inlet.bad[key] for key, _, _ in entries if key in core.inlet.bad},
        "prefixes": core.follower.prefixes,
        "chassis": core.settings.chassis,
        "in_sync": core.follower.in_sync,
        "waiting_for": _waiting_for(core),
        "release": RELEASE,
    }


def _mark(core: AgentCore, key: str) -> tuple[int, int]:
    """Version and mark of what is made of the entry at `key`."""
    try:
        parts = parse_key(key)
    except Rejected:
        return 0, 0  # Not a key of ours: nothing is made of it, and `bad` names it.
    if parts.kind not in READ:
        return core.follower.holds(key), 0
    record = core.record(parts.kind, parts.id, key)
    return (0, 0) if record is None else (record.version, mark(key, record.version, encode(record)))


def flows(core: AgentCore) -> Slices:
    """Every flow, group and bucket that should be, in the pipeline's own words, and why.

    A flow that goes while the answer is put together is left out.
    """
    owners = core.compiler.owners()
    yield
    out: list[Json] = []
    for n, key in enumerate(sorted(core.compiler.ledger.desired), 1):
        value = core.compiler.ledger.desired.get(key)
        if value is not None:
            out.append(_flow(core, key, value, owners.get(key, [])))
        if not n % _FLOWS_A_SLICE:
            yield
    return {"flows": out}


def _flow(core: AgentCore, key: bytes, value: bytes, owners: list[tuple[int, str]]) -> Json:
    from flowloom.pipeline.describe import describe  # for people only: not loaded at start

    text = describe(key, value)
    causes = [core.compiler.cause(n, id) for n, id in owners]
    reads = {
        (kind, id): {"kind": kind, "id": id, "version": version, "role": "read" if place else "for"}
        for cause in reversed(causes)
        for place, (kind, id, version) in reversed(list(enumerate(cause.reads)))
    }
    return {
        **text._asdict(),
        "app": causes[0].app if causes else "",
        "rule": causes[0].rule if causes else "",
        "cookie": facts.cookie_of(value) if key[0] == facts.FLOW else 0,
        "causes": sorted(reads.values(), key=lambda read: (read["role"], read["kind"], read["id"])),
    }


def check(core: AgentCore, held: Mapping[bytes, bytes]) -> Json:
    """Full recompute against what the agent wants and what its switch holds (`held`)."""
    oracle, desired = core.compiler.oracle(), core.compiler.ledger.desired
    ours = {key: value for key, value in held.items() if key in oracle or key in desired or facts.is_ours(key, value)}
    keys = [
        key
        for key in sorted(oracle.keys() | desired.keys() | ours.keys())
        if not oracle.get(key) == desired.get(key) == ours.get(key)
    ]
    return {
        "equal": not keys and not core.backlog,
        "flows": len(oracle),
        "backlog": core.backlog,
        "differences": [_difference(key, oracle, desired, ours) for key in keys[:_DIFFERENCES_MAX]],
    }


def _difference(key: bytes, *sides: Mapping[bytes, bytes]) -> Json:
    from flowloom.pipeline.describe import describe  # for people only: not loaded at start

    values = [side.get(key) for side in sides]
    text = describe(key, next(value for value in values if value is not None))
    said = [None if value is None else describe(key, value).actions + _cookie(key, value) for value in values]
    return {
        "flow": f"{text.table} {text.priority} {text.match or 'any'}",
        **dict(zip(("oracle", "desired", "installed"), said, strict=True)),
    }


def _cookie(key: bytes, value: bytes) -> str:
    return f" (cookie {facts.cookie_of(value):#x})" if key[0] == facts.FLOW else ""
