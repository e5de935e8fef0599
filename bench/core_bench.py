"""The agent's core alone, in this process: what one change costs without threads, sockets and wake-ups.

From the notice's bytes to the ledger's batch; the process's CPU clock, hot.
"""

from __future__ import annotations

import gc
import time
from functools import partial
from random import Random
from typing import Any

from flowloom.agent.core import AgentCore, CoreSettings
from flowloom.agent.events import BatchDone, OpenSwitch, SendBatch, SwitchOpened
from flowloom.apps import punts
from flowloom.apps.release import AppSettings, apps
from flowloom.apps.switching import TunnelPorts
from flowloom.model.codec import encode
from flowloom.model.records import Port
from flowloom.northbound.bus import Notice
from flowloom.northbound.follower import Follower, FollowerSettings
from flowloom.northbound.requests import Answer, ReadPrefix
from flowloom.northbound.store import Cursor, Entry, Listing
from flowloom.southbound.interfaces import Plugged, Snapshot
from topology import DEPLOYMENT, Cloud, cloud


def core_changes(ports: int, changes: int, made: Any) -> dict[str, float]:
    """Means over `changes` ports added: {"local": seconds, "foreign": seconds} a change.

    made: makes a new port of a template, see `agent_bench`.
    """
    data = cloud(ports)
    core = _started(data)
    here = data.local_networks
    others = [r for _, r in data.records if isinstance(r, Port) and r.host != data.site]
    sequence, out = 0, {}
    for name, templates in (
        ("local", [p for p in others if p.network_id in here]),
        ("foreign", [p for p in others if p.network_id not in here]),
    ):
        if not templates:
            continue
        notices = []
        for n in range(changes):
            sequence += 1
            port = made(templates[n % len(templates)], 50_000 + sequence, ports // 20)
            notices.append(Notice("bench", 1, sequence, 0, data.key(port), 1, encode(port)))
        started = time.process_time()
        for notice in notices:
            _finish(core, core.receive(notice, 1.0))
        out[name] = (time.process_time() - started) / changes
    return out


def _started(data: Cloud) -> AgentCore:
    """A core in sync, with its flows confirmed."""
    random = Random(1)
    core = AgentCore(
        CoreSettings(DEPLOYMENT, data.site, "192.0.2.1", ("geneve",), 1),
        apps(AppSettings(data.site, TunnelPorts(geneve=9))),
        partial(punts.answer, {}),
        Follower([f"/{DEPLOYMENT}/"], random, FollowerSettings()),
        random,
        0.0,
    )
    effects = core.start(0.0)
    request = next(effect for effect in effects if isinstance(effect, ReadPrefix))
    opening = next(effect for effect in effects if isinstance(effect, OpenSwitch))
    core.receive(Answer(request, Listing([Entry(*entry) for entry in data.entries()], Cursor("bench", 1))), 0.1)
    local = [r for _, r in data.records if isinstance(r, Port) and r.host == data.site]
    core.receive(Snapshot([Plugged(port.id, f"vif{n}", n + 1) for n, port in enumerate(local)]), 0.2)
    core.receive(SwitchOpened(opening.session, {}), 0.3)
    _finish(core, [])
    gc.collect()
    gc.freeze()
    return core


def _finish(core: AgentCore, effects: Any) -> None:
    """Work until nothing is undone; the switch confirms each batch at once."""
    pending = list(effects)
    while True:
        pending += core.work(lambda: False, 1.0)
        batches = [effect for effect in pending if isinstance(effect, SendBatch)]
        pending = []
        for effect in batches:
            pending += core.receive(BatchDone(effect.session, effect.ticket, ()), 1.0)
        if not batches and not core.busy:
            return
