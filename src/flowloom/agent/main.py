"""`flowloom agent --config FILE`: the tree of one agent, built in one place."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Final
from urllib.parse import parse_qs, urlsplit

from flowloom import metrics
from flowloom.agent import metrics as agent_metrics
from flowloom.agent.config import TUNNEL_PORT_FIRST, TUNNEL_TYPES, AgentSettings, load
from flowloom.agent.control import ControlSocket
from flowloom.agent.core import AgentCore, CoreSettings
from flowloom.agent.northside import LateStore, StoreThreads, WatchThread
from flowloom.agent.shell import Item, Loop, Stop
from flowloom.agent.switchside import SwitchThread
from flowloom.apps import punts
from flowloom.apps.dhcp import DhcpSettings
from flowloom.apps.dhcp_server import DhcpServer
from flowloom.apps.release import AppSettings, apps
from flowloom.apps.switching import TunnelPorts
from flowloom.consistency.marks import NODE_KINDS
from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.kernel.inbox import Inbox
from flowloom.model.keys import NO_PROJECT, deployment_prefix, scope_prefix
from flowloom.model.records import Chassis
from flowloom.northbound.bus import Bus, Publisher
from flowloom.northbound.follower import Follower, FollowerSettings
from flowloom.northbound.plugins import open_bus, open_store
from flowloom.northbound.store import Store
from flowloom.southbound.interfaces import BridgeSetup, Interfaces, TunnelPort

SWITCH_INTERVAL_SECONDS: Final = 0.0005
"""How long a thread that computes keeps the interpreter from one that has something to say."""

CLOSE_SECONDS: Final = 2.0
WATCH_OPEN_SECONDS: Final = 1.0


def run(path: str) -> int:
    """Run the agent that the file at `path` describes, until SIGTERM or SIGINT; its exit code.

    Misconfigured, before anything is touched, when a setting is wrong.
    """
    # Open vSwitch's library imports eventlet wherever it is installed; in this process it must not be.
    sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    threading.excepthook = _die
    settings = load(path)
    with contextlib.ExitStack() as stack:
        _serve(settings, stack)
    return 0


def _serve(settings: AgentSettings, stack: contextlib.ExitStack) -> None:
    random = Random()
    inbox: Inbox[Item] = Inbox()
    stack.enter_context(_signals(inbox))
    loop = Loop(_core(settings, random), inbox)
    control = ControlSocket(settings.control, loop.ask)
    stack.callback(control.close)
    _export(settings, loop, stack)
    store = LateStore(settings.store, settings.deployment, open_store)
    stack.callback(store.close)
    bus = _bus(settings)
    publisher = _join_bus(bus, settings, inbox, stack) if bus is not None else None
    interfaces, setup = _interfaces(settings), bridge_setup(settings)
    stack.callback(interfaces.close)
    _check_openflow_socket(settings, interfaces, setup)
    from flowloom.drivers.switch.openvswitch import open_switch
    from flowloom.northbound.keys import claim_key

    def claim(opened: Store) -> int:
        return claim_key(opened, settings.deployment, Chassis.kind, settings.chassis)

    north = StoreThreads(store, claim, publisher, inbox.put)
    stack.callback(north.close, CLOSE_SECONDS)
    if bus is None:
        watch = WatchThread(store, deployment_prefix(settings.deployment), random, inbox.put)
        stack.callback(watch.close, CLOSE_SECONDS)
        watch.wait_open(WATCH_OPEN_SECONDS)
    switch = SwitchThread(open_switch, openflow_socket(settings), interfaces, setup, inbox.put, loop.on_packet)
    stack.callback(switch.close, CLOSE_SECONDS)
    interfaces.follow(settings.openvswitch.bridge, inbox.put)
    loop.run(switch, north)


def _export(settings: AgentSettings, loop: Loop, stack: contextlib.ExitStack) -> None:
    """Serve numbers, where that is wanted; each scrape is a question to the loop, as an operator's is."""
    where = metrics.address("metrics", settings.metrics)
    if where is None:
        return

    def samples() -> metrics.Samples:
        status = loop.ask({"ask": "status"})
        if "error" in status:
            raise Unavailable(status["error"])
        return agent_metrics.samples(status)

    server = metrics.serve("metrics", where, agent_metrics.PART, agent_metrics.METRICS, samples)
    stack.callback(server.close)


def _core(settings: AgentSettings, random: Random) -> AgentCore:
    dhcp = DhcpSettings(
        lease_seconds=settings.dhcp.lease_seconds,
        domain=settings.dhcp.domain,
        dns_servers=settings.dhcp.dns_servers,
    )
    tunnels = TunnelPorts(**{kind: tunnel_ofport(kind) for kind in settings.tunnel.types})
    follower = FollowerSettings(
        own_publisher=settings.chassis if settings.bus else "",
        heartbeat_seconds=_heartbeat_seconds(settings.bus),
        nodes_kinds=NODE_KINDS,
        own_scope=scope_prefix(settings.deployment, NO_PROJECT, settings.chassis),
    )
    return AgentCore(
        CoreSettings(
            deployment=settings.deployment,
            chassis=settings.chassis,
            tunnel_ip=settings.tunnel.ip,
            tunnel_types=settings.tunnel.types,
            epoch=int(time.time()),
            audit_seconds=settings.audit_seconds,
        ),
        apps(AppSettings(settings.chassis, tunnels, dhcp)),
        partial(punts.answer, {punts.DHCP4: DhcpServer(dhcp)}),
        Follower([deployment_prefix(settings.deployment)], random, follower),
        random,
        time.monotonic(),
    )


def tunnel_ofport(kind: str) -> int:
    """OpenFlow port number of the tunnel port of a type."""
    return TUNNEL_PORT_FIRST + TUNNEL_TYPES.index(kind)


def bridge_setup(settings: AgentSettings) -> BridgeSetup:
    """What the agent wants of its bridge."""
    tunnels = tuple(TunnelPort(f"fl-{kind}", kind, tunnel_ofport(kind)) for kind in settings.tunnel.types)
    return BridgeSetup(settings.openvswitch.bridge, settings.openvswitch.datapath_type, tunnels)


def openflow_socket(settings: AgentSettings) -> str:
    """Path of the bridge's OpenFlow socket."""
    return f"{settings.openvswitch.run_dir}/{settings.openvswitch.bridge}.mgmt"


def _bus(settings: AgentSettings) -> Bus | None:
    if not settings.bus:
        return None
    try:
        return open_bus(settings.bus)
    except Unavailable as error:
        raise Misconfigured("bus", f"{error}; correct the URL, or start what should answer there") from error


def _join_bus(bus: Bus, settings: AgentSettings, inbox: Inbox[Item], stack: contextlib.ExitStack) -> Publisher:
    stack.callback(bus.close)
    publisher = bus.publisher(settings.chassis)
    bus.subscribe([deployment_prefix(settings.deployment)], inbox.put)
    return publisher


def _heartbeat_seconds(url: str) -> float:
    values = parse_qs(urlsplit(url).query).get("heartbeat_seconds", ["1.0"])
    try:
        return float(values[-1])
    except ValueError as error:
        raise Misconfigured("bus", f"{url}: heartbeat_seconds is a number of seconds") from error


def _interfaces(settings: AgentSettings) -> Interfaces:
    from flowloom.drivers.interfaces.ovsdb import open_interfaces

    try:
        return open_interfaces(settings.openvswitch.ovsdb)
    except Unavailable as error:
        raise Misconfigured("openvswitch.ovsdb", f"{error}; start openvswitch-switch") from error


def _check_openflow_socket(settings: AgentSettings, interfaces: Interfaces, setup: BridgeSetup) -> None:
    """Set the bridge up once, and look at its socket: wrong settings show now; a switch that is down may come."""
    try:
        interfaces.ensure(setup)
    except Unavailable:
        return
    path = openflow_socket(settings)
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                why = f"no permission on {path}; run as root"
            elif error.errno == errno.ENOENT:
                why = f"{path} does not exist; set it to the run directory of the ovs-vswitchd that serves openvswitch.ovsdb"
            else:
                return
            raise Misconfigured("openvswitch.run_dir", why) from error


@contextlib.contextmanager
def _signals(inbox: Inbox[Item]) -> Iterator[None]:
    """SIGTERM and SIGINT become an event: taken by a thread, for a handler may not touch a queue."""
    wanted = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)

    def wait() -> None:
        signal.sigwait(wanted)
        inbox.put(Stop())

    threading.Thread(target=wait, name="signals", daemon=True).start()
    yield


def _die(failure: threading.ExceptHookArgs) -> None:
    """A broken invariant in a thread ends the process: flows stay, and the supervisor starts it afresh."""
    sys.__excepthook__(failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)
    sys.stderr.flush()
    os._exit(70)
