"""Putting the cloud together, and taking it apart whatever state it is in."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.lab import files, host, network, parts, processes, store, tools
from flowloom.lab.layout import HOSTS_MAX, RECOVERIES_MAX, Layout
from flowloom.lab.ports import check_free, free_port
from flowloom.lab.state import State, boot_id, load, save, write
from flowloom.lab.stores import forms
from flowloom.northbound.plugins import open_bus, open_store

HOSTS_AT_ONCE = 3
_SCHEMA_SECONDS = 180.0
_SWEEPS_MAX = 5


@dataclass(frozen=True)
class Request:
    """What `up` was asked for.  sql, store "": the lab's own; bus None: the lab's own, "": none; api_port 0: any.

    store: a URL, or a form of `flowloom.lab.stores.forms`.
    """

    hosts: int = 2
    sql: str = ""
    store: str = ""
    bus: str | None = None
    bare: bool = False
    api_port: int = 0
    recoveries: int = 1


@dataclass(frozen=True)
class Log:
    """Progress, one line a step, each with the seconds since the beginning."""

    write: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)

    def __call__(self, text: str) -> None:
        self.write(f"[{time.monotonic() - self.began:5.1f} s] {text}")


def plan(layout: Layout, request: Request) -> State:
    """The lab to build.  Misconfigured names the option that cannot be."""
    if not 1 <= request.hosts <= HOSTS_MAX:
        raise Misconfigured("--hosts", f"{request.hosts} is not a number of hosts from 1 to {HOSTS_MAX}")
    if not 1 <= request.recoveries <= RECOVERIES_MAX:
        why = f"{request.recoveries} is not a number of recovery processes from 1 to {RECOVERIES_MAX}"
        raise Misconfigured("--recoveries", why)
    if request.sql.startswith("sqlite:"):
        raise Misconfigured("--sql", "several processes write: SQLite needs the form sqlite+immediate:////path/to/file")
    if request.sql.partition(":")[0] in ("mysql", "mariadb"):
        why = "name the driver that is installed: mysql+pymysql://user:password@host/database?charset=utf8"
        raise Misconfigured("--sql", why)
    form = request.store if request.store and ":" not in request.store else ""
    if form and form != forms.EMBEDDED:
        forms.check(form, "--store")
        if request.bare:
            raise Misconfigured("--store", f"{form}: a bare lab is hosts and switches alone and has no store")
    form, own_store = (form, True) if form in forms.FORMS else ("", not request.store or form == forms.EMBEDDED)
    return State(
        phase="building",
        boot=boot_id(),
        started=time.time(),
        hosts=request.hosts,
        bare=request.bare,
        sql=request.sql or layout.default_sql(),
        store=layout.default_store() if own_store else request.store,
        bus=layout.default_bus() if request.bus is None else request.bus,
        own_store=own_store and not request.bare,
        own_bus=request.bus is None and not request.bare,
        api_port=0 if request.bare else request.api_port,
        recoveries=request.recoveries,
        store_form=form,
    )


def claim(layout: Layout) -> None:
    """Make the lab's directory.  Misconfigured when it cannot be, or belongs to somebody else."""
    try:
        layout.dir.mkdir(parents=True, exist_ok=True)
        foreign = not is_lab(layout) and any(layout.dir.iterdir())
    except OSError as error:
        raise Misconfigured("--dir", f"{layout.dir} cannot be made: {error.strerror}") from error
    if foreign:
        raise Misconfigured(
            "--dir", f"{layout.dir} holds something else than a lab: choose a directory that is empty or new"
        )


def is_lab(layout: Layout) -> bool:
    """The directory was made by `up`, which may have crashed since."""
    return layout.state_file.exists() or layout.lock_file.exists()


def check_same(present: State, wanted: State, layout: Layout) -> None:
    """Misconfigured when the lab that is up is not the one that is wanted."""
    for name in ("hosts", "bare", "sql", "store", "bus", "recoveries"):
        was, now = (_said(state, name) for state in (present, wanted))
        if was != now:
            was = f"the lab in {layout.dir} is up with {name} {was!r}"
            raise Misconfigured(f"--{name}", f"{was}: `flowloom lab down` first, or choose another --dir")


def build(layout: Layout, wanted: State, log: Log) -> None:
    """Build the lab from nothing; its directory is claimed and locked."""
    # Written first: from here on a crash leaves something that `down` and the next `up` recognise.
    save(layout, wanted)
    for directory in (layout.store_dir, layout.bus_dir, layout.neutron_dir, layout.dir / "vms"):
        directory.mkdir(exist_ok=True)
    if not wanted.bare:
        wanted = _with_ports(layout, wanted)
        save(layout, wanted)
        if not wanted.store_form:
            _check_servers(wanted, log)
    with ThreadPoolExecutor(HOSTS_AT_ONCE + 2) as pool:
        servers = pool.submit(_store, layout, wanted, log) if wanted.store_form else None
        schema = None if wanted.bare else pool.submit(_schema, layout, wanted, log)
        network.add_underlay(layout)
        log(f"underlay: bridge in namespace {layout.underlay}")
        hosts = [layout.host(number) for number in range(1, wanted.hosts + 1)]
        for host_layout, _ in zip(hosts, pool.map(lambda each: host.build(each, wanted), hosts), strict=True):
            log(f"host {host_layout.name}: switch up, tunnel address {host_layout.tunnel_ip}")
        if servers is not None:
            servers.result()
        if schema is not None:
            _control_plane(layout, wanted, log, schema.result)
    write(layout.deployment_file, files.deployment(layout, wanted))
    if not wanted.bare:
        write(layout.clouds_file, files.clouds(wanted.api_url))
    save(layout, msgspec.structs.replace(wanted, phase="up"))
    log("the lab is up")


def tear_down(layout: Layout) -> bool:
    """End every process and delete every namespace; the directory stays.  False when there was nothing.

    A process is found by the lab's mark in its environment, by being in one of its namespaces, or by its pid file:
    one that gives itself another title, as Neutron's do, may have overwritten its environment.
    """
    found = False
    for _ in range(_SWEEPS_MAX):
        spaces = network.namespaces(layout)
        left = list(dict.fromkeys(processes.marked(layout.marker) + processes.inside(spaces) + _recorded(layout)))
        if not left:
            break
        found = True
        processes.end(left)
    spaces = network.namespaces(layout)
    network.remove(spaces)
    for orphan in Path("/etc/netns").glob(f"{layout.prefix}*"):
        shutil.rmtree(orphan, ignore_errors=True)
    return found or bool(spaces)


def _recorded(layout: Layout) -> list[processes.Process]:
    found = map(processes.recorded, layout.dir.rglob("*.pid"))
    return [process for process in found if process is not None]


def remove_files(layout: Layout) -> bool:
    """Delete the lab's directory, and the logs of a failed `up`.  False when there was neither."""
    found = False
    for directory in (layout.dir, layout.failed_dir):
        found = found or directory.exists()
        shutil.rmtree(directory, ignore_errors=True)
    return found


def clear(layout: Layout) -> None:
    """Empty the claimed and locked directory of what an earlier lab left in it."""
    for entry in layout.dir.iterdir():
        if entry == layout.lock_file:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def loaded(layout: Layout) -> State | None:
    """The lab that is up in this boot; None when there is none."""
    present = load(layout)
    return present if present and present.phase == "up" and present.boot == boot_id() else None


def _control_plane(layout: Layout, wanted: State, log: Log, await_schema: Callable[[], None]) -> None:
    """Bus first, agents while the schema is still being made, then everything that needs Neutron's tables."""
    if wanted.own_bus:
        parts.launch(parts.bus(layout, wanted), layout)
        parts.await_ready(parts.bus(layout, wanted))
        log(f"bus: {wanted.bus}")
    hosts = [layout.host(number) for number in range(1, wanted.hosts + 1)]
    ports = store.relayed_ports(layout, wanted)
    relays = [parts.relay(each, ports) for each in hosts if ports]
    for relay in relays:
        parts.launch(relay, layout)
    for relay in relays:
        parts.await_ready(relay)
    agents = [parts.agent(each) for each in hosts]
    for agent in agents:
        parts.launch(agent, layout)
    await_schema()
    recoveries = [parts.recovery(layout, wanted, number) for number in range(1, wanted.recoveries + 1)]
    neutron = [parts.api(layout, wanted), *recoveries]
    for part in neutron:
        parts.launch(part, layout)
    for part in (*agents, *neutron):
        parts.await_ready(part)
        log(f"{part.name}: {wanted.api_url}" if part.name == "api" else f"{part.name}: answers")


def _store(layout: Layout, wanted: State, log: Log) -> None:
    store.start(layout, wanted)
    _check_servers(wanted, log)


def _schema(layout: Layout, wanted: State, log: Log) -> None:
    tools.run(parts.schema_argv(layout, wanted), env=tools.environment(layout), timeout=_SCHEMA_SECONDS)
    log(f"database: Neutron's tables in {wanted.sql}")


def _check_servers(wanted: State, log: Log) -> None:
    """Open the store (which creates the lab's own) and the bus once, so that a wrong URL is named as such."""
    for setting, url, opener in (("--store", wanted.store, open_store), ("--bus", wanted.bus, open_bus)):
        if not url:
            continue
        try:
            opener(url, setting).close()
        except Unavailable as error:
            raise Misconfigured(setting, f"{url} does not answer: {error}") from error
    log(f"store: {wanted.store}")


def _said(state: State, name: str) -> object:
    """What the option `name` of `up` was; of a store of its own servers, not the URL that it has come to."""
    return state.store_form if name == "store" and state.store_form else getattr(state, name)


def _with_ports(layout: Layout, wanted: State) -> State:
    """The same lab, with ports for everything that listens on the loopback, and the store's URL."""
    metrics = parts.metrics_ports(wanted.recoveries)
    first = free_port(metrics + (forms.FORMS[wanted.store_form].ports if wanted.store_form else 0))
    store_port = first + metrics if wanted.store_form else 0
    chosen = msgspec.structs.replace(wanted, api_port=_port(wanted.api_port), metrics_port=first, store_port=store_port)
    servers = store.members(layout, chosen)
    return msgspec.structs.replace(chosen, store=servers.url) if servers else chosen


def _port(asked: int) -> int:
    """The API's port: the one asked for, or any free one.  Misconfigured when the one asked for is taken."""
    if not asked:
        return free_port()
    try:
        check_free(asked)
    except (OSError, OverflowError) as error:
        raise Misconfigured("--api-port", f"port {asked} of 127.0.0.1 is taken or not allowed: {error}") from error
    return asked
