"""`flowloom status`: each layer in a row.  Is it up, how much is undone, since when.

Asking and judging are apart: `_probe_*` asks one layer and raises when it does not answer; `rows_*` judges
an answer, and is pure.
"""

from __future__ import annotations

import argparse
import os
import queue
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from typing import Literal

from flowloom.cli import sources
from flowloom.cli.answers import AgentStatus, RecoveryStatus
from flowloom.cli.ask import ask
from flowloom.cli.deployment import Deployment, find
from flowloom.cli.table import age, count, emit, say, table
from flowloom.kernel.errors import FlowloomError, Misconfigured, Unavailable
from flowloom.northbound.bus import BusEvent, Heartbeat

UNKNOWN_SHOWN = 3

CONTEST_SECONDS = 30.0
"""Two agents of one name write over each other more often than this; who has heard of none for so long is alone again."""

State = Literal["up", "behind", "faulty", "down", "unknown", "none"]
GOOD: tuple[State, ...] = ("up", "none")


@dataclass(frozen=True)
class Row:
    """One layer.

    state: `up`; `behind` (up, with work undone); `faulty` (up, and something in it needs an operator);
    `down` (does not answer); `unknown` (cannot be asked, because what would know is down); `none` (there
    is none in this deployment).
    backlog: things undone.  oldest_seconds: age of the oldest of them.
    """

    layer: str
    state: State
    backlog: int | None = None
    oldest_seconds: float | None = None
    note: str = ""


def run(arguments: argparse.Namespace) -> int:
    """Show every layer; 0 when all are up and nothing is undone, else 1."""
    rows = gather(find(arguments.deployment), arguments.timeout)
    if arguments.json:
        emit(rows)
    else:
        say(show(rows))
    return 0 if all(row.state in GOOD for row in rows) else 1


def show(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    cells = [(row.layer, row.state, row.backlog, age(row.oldest_seconds), row.note) for row in rows]
    return table(("LAYER", "STATE", "BACKLOG", "OLDEST", "NOTE"), cells)


def gather(deployment: Deployment, timeout_seconds: float) -> list[Row]:
    """Ask all layers at once, each for at most about `timeout_seconds`; rows from north to south."""
    neutron, deadline = deployment.neutron, timeout_seconds
    probes: list[tuple[str, Callable[[], list[Row]]]] = [
        ("neutron api", lambda: _probe_api(neutron.api, deadline)),
        ("sql", lambda: _probe_sql(neutron.database)),
        *((name, partial(_probe_recovery, name, path, deadline)) for name, path in names(neutron.recoveries).items()),
        ("store", lambda: _probe_store(deployment)),
        ("bus", lambda: _probe_bus(deployment, deadline)),
    ]
    agents = [(host, _asks_agent(host, path, deadline)) for host, path in sorted(deployment.agents.items())]
    with ThreadPoolExecutor(len(probes) + len(agents) or 1) as pool:
        layers = list(pool.map(lambda probe: _asked(probe[0], probe[1]), probes))
        of_agents = list(pool.map(lambda agent: agent[1](), agents))
    return [row for rows in (*layers, *of_agents) for row in rows]


def _asked(layer: str, probe: Callable[[], list[Row]]) -> list[Row]:
    try:
        return probe()
    except Misconfigured:
        raise
    except FlowloomError as error:
        return [Row(layer, "down", note=str(error))]


def _probe_api(url: str, timeout_seconds: float) -> list[Row]:
    """Neutron's version document at `/`, which needs no token."""
    if not url:
        return [Row("neutron api", "none", note="flowloom.toml names no [neutron] api")]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # It is a neighbour: no proxy in between.
    try:
        with opener.open(url.rstrip("/") + "/", timeout=timeout_seconds) as answer:
            return [Row("neutron api", "up", note=f"{url} answers {answer.status}")]
    except urllib.error.HTTPError as error:
        # Below 500 somebody is there who does not like the question; a gateway with nobody behind it says 502 to 504.
        state: State = "up" if error.code < 500 else "down"
        return [Row("neutron api", state, note=f"{url} answers {error.code} {error.reason}")]
    except urllib.error.URLError as error:
        return [Row("neutron api", "down", note=f"{url}: {error.reason}")]
    except (OSError, HTTPException) as error:
        return [Row("neutron api", "down", note=f"{url}: {error}")]
    except ValueError as error:
        raise Misconfigured("neutron.api", f"{url!r} is not an HTTP URL") from error


def _probe_sql(url: str) -> list[Row]:
    if not url:
        return [Row("sql", "none", note="flowloom.toml names no [neutron] database")]
    backlog = sources.backlog(url)
    return [rows_backlog("sql", backlog.rows, backlog.oldest_seconds, backlog.last_error)]


def rows_backlog(layer: str, rows: int, oldest_seconds: float | None, last_error: str) -> Row:
    """The row of a layer that is up and has `rows` changes that the store lacks."""
    note = f"changes not yet in the store; last error: {last_error}" if last_error else "changes not yet in the store"
    return Row(layer, "behind", rows, oldest_seconds, note) if rows else Row(layer, "up", 0, None, "")


def names(recoveries: Sequence[str]) -> dict[str, str]:
    """`recovery`, `recovery@2`, ... -> control socket; one without a socket where there is none."""
    paths = list(recoveries) or [""]
    return {"recovery" if n == 1 else f"recovery@{n}": path for n, path in enumerate(paths, 1)}


def _probe_recovery(layer: str, path: str, timeout_seconds: float) -> list[Row]:
    if not path:
        return [Row(layer, "none", note="flowloom.toml names no [neutron] recovery")]
    return [rows_recovery(ask(path, {"ask": "status"}, RecoveryStatus, timeout_seconds), layer)]


def rows_recovery(status: RecoveryStatus, layer: str = "recovery") -> Row:
    """A recovery process's row: its backlog is what it sees in SQL; what needs an operator comes first."""
    asks = []
    if status.guards:
        asks.append(f"{count(status.guards, 'repair')} held: flowloom audit --guards")
    if status.unknown:
        named = ", ".join(" ".join(one) for one in status.unknown[:UNKNOWN_SHOWN])
        more = f" and {len(status.unknown) - UNKNOWN_SHOWN} more" if len(status.unknown) > UNKNOWN_SHOWN else ""
        asks.append(f"{count(len(status.unknown), 'row')} of unknown kinds left alone: {named}{more}")
    undone = []
    if not status.store.connected:
        undone.append(f"the store does not answer it: {status.store.why}".rstrip(": "))
    if found := {kind: number for kind, number in sorted(status.drift.items()) if number}:
        undone.append("found unequal: " + ", ".join(f"{number} {kind}" for kind, number in found.items()))
    state: State = "faulty" if asks else "behind" if undone or status.backlog else "up"
    note = "; ".join([*asks, *undone, *_shares(status)])
    return Row(layer, state, status.backlog, status.oldest_seconds, note)


def _shares(status: RecoveryStatus) -> list[str]:
    """Who looks after how much, where there is more than one."""
    living = [member for member in status.members if member.seconds_left >= 0]
    if not living:
        return []
    leader = next((member.owner for member in living if member.leader), "none")
    own = f"{len(status.shards)} of {sum(member.shards for member in living)} shards"
    return [f"{own}; {count(len(living), 'member')}, leader {leader}"]


def _probe_store(deployment: Deployment) -> list[Row]:
    counted = sources.count_objects(deployment)
    note = f"epoch {counted.epoch}, {counted.objects} objects, {counted.tombstones} tombstones"
    return [Row("store", "up", note=note)]


def _probe_bus(deployment: Deployment, timeout_seconds: float) -> list[Row]:
    """Send a sign of life through the bus and wait for it to come back."""
    if not deployment.bus:
        return [Row("bus", "none", note="agents follow the store's own changes")]
    from flowloom.northbound.plugins import open_bus

    name = f"status@{socket.gethostname()}:{os.getpid()}"
    heard: queue.Queue[BusEvent] = queue.Queue()
    with sources.not_there("flowloom.buses", deployment.bus):
        bus = open_bus(deployment.bus)
    try:
        bus.subscribe(("/",), lambda event: heard.put(event) if _is_mine(event, name) else None)
        bus.publisher(name)
        heard.get(timeout=timeout_seconds)
    except queue.Empty:
        why = f"{deployment.bus}: a heartbeat sent did not come back within {timeout_seconds:g} s"
        raise Unavailable(why) from None
    finally:
        bus.close()
    return [Row("bus", "up", note=f"{deployment.bus} forwards")]


def _is_mine(event: BusEvent, name: str) -> bool:
    return isinstance(event, Heartbeat) and event.publisher == name


def _asks_agent(host: str, path: str, timeout_seconds: float) -> Callable[[], list[Row]]:
    def asked() -> list[Row]:
        try:
            return rows_agent(host, ask(path, {"ask": "status"}, AgentStatus, timeout_seconds))
        except FlowloomError as error:
            silent = Row(f"switch {host}", "unknown", note="its agent does not answer")
            return [Row(f"agent {host}", "down", note=str(error)), silent]

    return asked


def rows_agent(host: str, status: AgentStatus) -> list[Row]:
    """The agent's row and its switch's."""
    faults = _faults(status)
    undone = status.backlog + status.gap
    notes = [] if status.in_sync else ["not in sync with the store"]
    if status.waiting_for:
        notes = [f"waiting for {status.waiting_for}"]
    if not status.store.connected:
        notes.append(f"store does not answer: {status.store.why}".rstrip(": "))
    if status.bus is not None and not status.bus.connected:
        notes.append(f"bus does not answer: {status.bus.why}".rstrip(": "))
    notes += [count(number, what) for what, number in faults.items() if number]
    if faults["contest"]:
        notes.append(f"another agent writes the records of chassis {status.chassis}: stop one, or name it anew")
    if undone:
        notes.append(f"{count(status.backlog, 'rule')} to run, {count(status.gap, 'flow')} to send")
    if not notes and status.store.contact_seconds is not None:
        notes.append(f"in sync; store heard {age(status.store.contact_seconds)} ago")
    state: State = "up"
    if (
        undone
        or status.waiting_for
        or not status.in_sync
        or not status.store.connected
        or (status.bus and not status.bus.connected)
    ):
        state = "behind"
    if any(faults.values()):
        state = "faulty"
    switch = status.switch
    of_switch = Row(f"switch {host}", "up", note=count(switch.flows, "flow"))
    if not switch.connected:
        of_switch = Row(f"switch {host}", "down", note=switch.why or "not connected")
    return [Row(f"agent {host}", state, undone, note="; ".join(notes)), of_switch]


def _faults(status: AgentStatus) -> Mapping[str, int]:
    """What needs an operator: it will not pass by waiting.  Written over once may have been an operator's hand."""
    contested = status.contested_seconds is not None and status.contested_seconds < CONTEST_SECONDS
    return {
        "refused flow": len(status.refused),
        "unreadable record": len(status.bad_records),
        "failed rule": len(status.failures),
        "contest": status.own_records_contested if contested else 0,
    }
