"""Measure Flowloom and print a table: `make bench`.

Writes a list of {name, params, value, unit, aim, met} with --out.  Names are stable.  Wall times depend on
the machine and its load; CPU seconds and the ratios to the ceiling measured in the same run are the firm figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from agent_bench import Samples, made_port, measure, middle
from consistency_bench import Costs, measure_costs
from core_bench import core_changes
from store_bench import LOADS, QUICK, SERVERS, USUAL, Effort, Spent, StoreCosts, measure_stores

SIZES = (1_000, 5_000, 10_000)
PARTS = ("agent", "consistency", "stores")

Row = dict[str, Any]


def row(
    name: str, params: dict[str, Any], value: float, unit: str, aim: float | None = None, at_least: bool = False
) -> Row:
    """One result.  aim: the value to stay at or below (at_least: above); None: reported only."""
    return {
        "name": name,
        "params": params,
        "value": round(value, 4),
        "unit": unit,
        "aim": aim,
        "met": None if aim is None else value >= aim if at_least else value <= aim,
        "at_least": at_least,
    }


def rows_of_consistency(c: Costs) -> list[Row]:
    """What it costs to keep Neutron and the store equal."""
    at = {"objects": c.objects}
    return [
        row("drain.objects_per_s", at, c.drain_per_second, "1/s", 1000.0, at_least=True),
        row("drain.objects_per_cpu_s", at, c.drain_cpu_per_second, "1/s"),
        row("recovery.start.wall", at, c.start_wall, "s"),
        row("digest.idle_round.cpu", at, c.idle_round_cpu * 1e3, "ms", 40.0),  # A round every 2 s: 2 % of a core.
        row("recovery.idle.core_share", at, c.idle_share * 100, "%", 2.0),
        row("drift.whole.wall", at, c.drift_wall, "s"),
        row("drift.find.wall", at, c.find_wall, "s", 5.0),
        row("drift.repair.wall", at, c.repair_wall, "s", 10.0),
        row("rebuild.wall", at, c.rebuild_wall, "s"),
        row("rebuild.cpu", at, c.rebuild_cpu, "s"),
        row("rebuild.rss_before", at, c.rss_before, "MB"),
        row("rebuild.rss", at, c.rebuild_rss, "MB"),
        *(row(f"neutron.port_{verb}.cpu_ratio", at, ratio, "x", 1.05) for verb, ratio in c.api_ratio.items()),
        *(row(f"neutron.port_{verb}.in_call.cpu_ratio", at, ratio, "x") for verb, ratio in c.call_ratio.items()),
        *(row(f"neutron.port_{verb}.noop.cpu", at, cpu * 1e3, "ms") for verb, cpu in c.noop_cpu.items()),
        row("neutron.port_create.one_project.wall_ratio", at, c.one_project_ratio, "x", 1.05),
    ]


def rows_of(s: Samples) -> list[Row]:
    """The results at one size."""
    at = {"ports": s.ports}
    out = [
        row("agent.cold_start.cpu", at, s.cold_cpu, "s", 0.5 if s.ports == 10_000 else None),
        row("agent.cold_start.wall", at, s.cold_wall, "s"),
        row("agent.cold_start.rss", at, s.rss, "MB", 80.0 if s.ports == 10_000 else None),
        row("agent.cold_start.flows", at, s.flows, "flows"),
        row("agent.change_local_network.cpu", at, middle(s.local_cpu) * 1e3, "ms", 1.0),
        row("path.store_write_to_remote_flow.wall", at, middle(s.path_wall) * 1e3, "ms", 5.0),
        row("path.ceiling.wall", at, middle(s.ceiling_wall) * 1e3, "ms"),
        row("path.ratio_to_ceiling", at, middle(s.path_wall) / middle(s.ceiling_wall), "x"),
        row("agent.idle.cpu", at, middle(s.idle_cpu) * 1e3, "ms"),
    ]
    if s.foreign_cpu:
        out.append(row("agent.change_foreign_network.cpu", at, middle(s.foreign_cpu) * 1e3, "ms", 0.1))
        out.append(row("agent.change_foreign_network.stream.cpu", at, (s.foreign_stream_cpu or 0.0) * 1e3, "ms", 0.1))
    inside = core_changes(s.ports, 500, made_port)
    out.append(row("core.change_local_network.cpu", at, inside["local"] * 1e3, "ms", 1.0))
    if "foreign" in inside:
        out.append(row("core.change_foreign_network.cpu", at, inside["foreign"] * 1e3, "ms", 0.1))
    if s.loop_blocked_max is not None:
        out.append(row("agent.loop_blocked.max", at, s.loop_blocked_max * 1e3, "ms", 5.0))
    return out


def rows_of_store(c: StoreCosts) -> list[Row]:
    """One northbound database, and its driver beside a bare client."""
    at = {"store": c.store, "objects": c.objects}
    out: list[Row] = []
    for lanes, compared in c.flights.items():
        name = "store.write" if lanes == 1 else f"store.write{lanes}"
        params = {"store": c.store, "in_flight": lanes}
        for kind, writes in compared.by.items():
            of = name if kind == "driver" else f"{name}.{kind}"
            out.append(row(f"{of}.rate", params, writes.rate, "1/s"))
            out.append(row(f"{of}.client_cpu", params, writes.client * 1e3, "ms"))
            out.append(row(f"{of}.server_cpu", params, writes.server * 1e3, "ms"))
        for kind, ratio in compared.ratio.items():
            aim = 0.8 if kind == "bare" else None
            out.append(row(f"{name}.ratio_to_{kind}", params, ratio, "x", aim, at_least=True))
    out += _spent("store.batch", at, c.load)
    out.append(row("store.batch.rate", at, c.load.done / c.load.wall, "1/s"))
    out.append(row("store.batch.speedup", at, c.speedup, "x", 5.0 if c.atomic_batch else None, at_least=True))
    out += _spent("store.read_all", at, c.read)
    out.append(row("store.read_all.ratio_to_bare", at, c.read_ratio, "x"))
    out += _spent("store.versions", at, c.versions)
    out.append(row("store.feed.latency", at, c.notice(0.5) * 1e3, "ms"))
    out.append(row("store.feed.latency.p99", at, c.notice(0.99) * 1e3, "ms"))
    return out


def _spent(name: str, at: dict[str, Any], spent: Spent) -> list[Row]:
    return [
        row(f"{name}.wall", at, spent.wall, "s"),
        row(f"{name}.client_cpu", at, spent.client, "s"),
        row(f"{name}.server_cpu", at, spent.server, "s"),
    ]


def across(samples: list[Samples]) -> list[Row]:
    """What must not grow with the cloud."""
    if len(samples) < 2:
        return []
    first, last = samples[0], samples[-1]
    at = {"ports": [first.ports, last.ports]}
    return [
        row("agent.change_local_network.cpu.growth", at, middle(last.local_cpu) / middle(first.local_cpu), "x", 1.3)
    ]


def table(rows: list[Row]) -> str:
    """Plain text, aligned."""
    lines = [("RESULT", "OF", "VALUE", "UNIT", "AIM", "MET")]
    for one in rows:
        met = {True: "yes", False: "NO", None: "-"}[one["met"]]
        aim = "-" if one["aim"] is None else f"{'>=' if one['at_least'] else '<='} {one['aim']:g}"
        params = one["params"]
        of = params.get("store", params.get("ports", params.get("objects")))
        of = "/".join(map(str, of)) if isinstance(of, list) else str(of)
        lines.append((one["name"], of, f"{one['value']:.3f}", one["unit"], aim, met))
    widths = [max(len(line[n]) for line in lines) for n in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _stores(text: str) -> list[str]:
    names = text.split(",") if text else []
    for name in names:
        if name not in SERVERS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(SERVERS)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=None, help="write the results as JSON")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES), help="ports of the agent's clouds")
    parser.add_argument("--changes", type=int, default=100, help="changes of each kind, at each size")
    parser.add_argument("--objects", type=int, default=100_000, help="of the consistency figures; 0: without them")
    parser.add_argument(
        "--stores", type=_stores, default=list(USUAL), help=f"some of {','.join(SERVERS)}; default {','.join(USUAL)}"
    )
    parser.add_argument("--store-objects", type=int, default=None, help="held by each store (100000; quick: 5000)")
    parser.add_argument("--quick", action="store_true", help="stores: few objects and short slices, to see it work")
    arguments = parser.parse_args()
    if arguments.store_objects is not None and arguments.store_objects < LOADS:
        parser.error(f"--store-objects is a number of at least {LOADS}")

    def log(text: str) -> None:
        print(f"[bench] {text}", file=sys.stderr, flush=True)

    log(
        f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores; two local changes are one add and one remove"
    )
    rows: list[Row] = []
    if "agent" in arguments.only:
        samples = [measure(ports, arguments.changes, log) for ports in arguments.sizes]
        rows += [one for sample in samples for one in rows_of(sample)] + across(samples)
    if "consistency" in arguments.only and arguments.objects:
        rows += rows_of_consistency(measure_costs(arguments.objects, log))
    if "stores" in arguments.only:
        effort = QUICK if arguments.quick else Effort()
        effort = replace(effort, objects=arguments.store_objects or effort.objects)
        rows += [one for costs in measure_stores(arguments.stores, effort, log) for one in rows_of_store(costs)]
    print(table(rows))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
        log(f"written: {arguments.out}")
    missed = [
        " of ".join(filter(None, (one["name"], one["params"].get("store")))) for one in rows if one["met"] is False
    ]
    log(f"aims not met: {', '.join(missed)}" if missed else "every aim is met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
