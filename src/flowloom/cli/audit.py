"""`flowloom audit`: what was repaired, by whom and why; with `--guards`, what waits for somebody's word."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from flowloom.cli import recovery
from flowloom.cli.answers import Audit, Audits, Guard, Guards
from flowloom.cli.deployment import find
from flowloom.cli.table import clean, emit, say, table


def run(arguments: argparse.Namespace) -> int:
    """Show them; 0.  With `--guards`: 1 while one waits."""
    deployment = find(arguments.deployment)
    if arguments.guards:
        guards = recovery.put(deployment, {"ask": "guards"}, Guards)[0].guards
        if arguments.json:
            emit(guards)
        else:
            say(show_guards(guards))
        return 1 if any(not guard.approved_by for guard in guards) else 0
    question = {"ask": "audit", "limit": arguments.limit, "project": arguments.project, "object": arguments.object}
    entries = recovery.put(deployment, question, Audits)[0].entries
    if arguments.json:
        emit(entries)
    else:
        say(show_entries(entries))
    return 0


def show_entries(entries: Sequence[Audit]) -> str:
    """The newest first, in UTC."""
    rows = [
        (
            when(one.at),
            one.kind,
            " ".join(one.ref),
            _versions(one),
            one.done,
            one.verified or "not verified",
            one.comparison,
            one.by + (f" (guard {one.guard})" if one.guard else ""),
        )
        for one in entries
    ]
    if not rows:
        return "nothing was repaired\n"
    return table(("TIME", "KIND", "OBJECT", "NEUTRON/STORE/NOW", "DONE", "VERIFIED", "FOUND BY", "BY"), rows)


def show_guards(guards: Sequence[Guard]) -> str:
    """A row a guard, and how to let those pass that wait."""
    if not guards:
        return "no repair is held\n"
    rows = [
        (
            guard.id,
            when(guard.at),
            ", ".join(f"{number} {kind}" for kind, number in sorted(guard.found.items())),
            guard.of_objects,
            f"approved by {guard.approved_by}" if guard.approved_by else "waits",
        )
        for guard in guards
    ]
    out = [table(("GUARD", "TIME", "WOULD REPAIR", "OF OBJECTS", "STATE"), rows)]
    for guard in guards:
        if not guard.approved_by:
            out.append(f"\n{clean(guard.id)}, found by {clean(guard.by)}, for example:\n")
            out += [f"    {clean(one)}\n" for one in guard.sample]
            out.append(f"    let it pass with: flowloom repair --approve {clean(guard.id)}\n")
    return "".join(out)


def when(at: float) -> str:
    """Seconds since 1970 as a time of UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _versions(one: Audit) -> str:
    return "/".join(
        "-" if number < 0 else str(number) for number in (one.neutron_version, one.store_version, one.version)
    )
