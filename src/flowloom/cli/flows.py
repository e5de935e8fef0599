"""`flowloom flows` and `flowloom compile --full --check`: what agents made, and whether it is what they should."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from flowloom.cli.answers import Check, Flow, Flows
from flowloom.cli.ask import ask
from flowloom.cli.deployment import find
from flowloom.cli.table import clean, count, emit, say, table

FLOWS_SECONDS = 30.0
CHECK_SECONDS = 120.0
"""A full recompute of 10,000 ports takes seconds; the agent goes on with its work between slices."""


def run(arguments: argparse.Namespace) -> int:
    """Show the flows; 0."""
    agents = find(arguments.deployment).agents_of(arguments.host)
    flows = {host: _flows(path, arguments.table) for host, path in agents.items()}
    if arguments.json:
        emit(flows)
    else:
        say(show_flows(flows, arguments.explain))
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """Compare full recompute, agent and switch: 0 when equal on every host asked, else 1."""
    agents = find(arguments.deployment).agents_of(arguments.host)
    checks = {host: ask(path, {"ask": "check"}, Check, CHECK_SECONDS) for host, path in agents.items()}
    if arguments.json:
        emit(checks)
    else:
        say(show_checks(checks))
    return 0 if all(check.equal for check in checks.values()) else 1


def _flows(path: str, table_name: str | None) -> Sequence[Flow]:
    found = ask(path, {"ask": "flows"}, Flows, FLOWS_SECONDS).flows
    return [flow for flow in found if table_name is None or flow.table.lower() == table_name.lower()]


def show_flows(flows: dict[str, Sequence[Flow]], explain: bool) -> str:
    """One section a host; under each flow, with `explain`, what it was made of."""
    sections = []
    for host, of_host in flows.items():
        rows = [(f.table, f.priority, f.app, f.match or "any", f.actions or "drop") for f in of_host]
        lines = table(("TABLE", "PRIORITY", "APP", "MATCH", "ACTIONS"), rows).splitlines()
        body = [lines[0]]
        for line, flow in zip(lines[1:], of_host, strict=True):
            body += [line, *(_because(flow) if explain else ())]
        sections.append(f"{clean(host)}: {count(len(of_host), 'flow')}\n" + "\n".join(body) + "\n")
    return "\n".join(sections)


def _because(flow: Flow) -> Iterator[str]:
    yield f"    cookie {flow.cookie:#018x}, rule {clean(flow.rule or '-')} of app {clean(flow.app or '-')}"
    for cause in flow.causes:
        # Version 0: a fact of this host, such as an interface, that no record holds.
        held = " which is not there" if cause.version is None else f" version {cause.version}" if cause.version else ""
        yield clean(f"    {cause.role or 'of'} {cause.kind} {cause.id}{held}")


def show_checks(checks: dict[str, Check]) -> str:
    """A row a host, then every difference."""
    rows = [
        (host, "equal" if check.equal else "DIFFERENT", check.flows, len(check.differences), check.backlog)
        for host, check in checks.items()
    ]
    out = [table(("HOST", "STATE", "FLOWS", "DIFFERENCES", "BACKLOG"), rows)]
    for host, check in checks.items():
        for difference in check.differences:
            out.append(f"\n{clean(host)}: {clean(difference.flow)}\n")
            for who, what in (
                ("full recompute", difference.oracle),
                ("agent", difference.desired),
                ("switch", difference.installed),
            ):
                out.append(f"    {who}: {'not there' if what is None else clean(what)}\n")
    return "".join(out)
