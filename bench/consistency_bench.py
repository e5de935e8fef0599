"""Neutron and the store, kept equal: what it costs, and how long it takes.

The recovery process is the real one (`flowloom recovery`, with all of Neutron's plug-ins loaded), on Neutron's own
schema in SQLite and the embedded store; it is asked over its control socket.  Its objects were put into Neutron's
tables by SQL, and into the store by a drain, which is measured too.  The API servers are uwsgi with one worker
each, of which only the driver differs; they are asked in turn.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from flowloom.cli.ask import ask
from flowloom.drivers.store.sqlite import open_store
from flowloom.kernel.errors import FlowloomError
from flowloom.lab.ports import free_port
from flowloom.neutron.deploy import Deployment, write_config
from measure import cpu_seconds, peak_rss_mb

DEPLOYMENT = "bench"
DRAINED = 20_000
"""Objects of the backlog whose drain is measured."""

IDLE_SECONDS = 20.0
DEADLINE_SECONDS = 1800.0
BATCHES, CALLS = 10, 10
CLIENTS = 8

NOOP = """
from neutron_lib.callbacks import events, registry, resources
from flowloom.neutron.driver import UNSUPPORTED_EXTENSIONS, FlowloomDriver


class Noop(FlowloomDriver):
    def initialize(self):
        self._unsupported = UNSUPPORTED_EXTENSIONS
        registry.subscribe(self._without_security_groups, resources.PORT, events.BEFORE_CREATE)
        registry.subscribe(self._load_policies, resources.PROCESS, events.AFTER_INIT)

    def _nothing(self, context):
        return None

    create_network_precommit = create_port_precommit = update_port_precommit = _nothing
"""
"""The same driver without capture, drain and provisioning blocks; it announces the same API."""

Log = Callable[[str], None]


@dataclass
class Costs:
    """What was measured.  Seconds, objects a second, MB.

    api_ratio: CPU of an API worker with our driver to one with the no-op driver, the drain that follows the answer
    included; call_ratio: without it.  noop_cpu: seconds of a call with the no-op driver.
    """

    objects: int
    drain_per_second: float = 0.0
    drain_cpu_per_second: float = 0.0
    start_wall: float = 0.0
    idle_round_cpu: float = 0.0
    idle_share: float = 0.0
    find_wall: float = 0.0
    repair_wall: float = 0.0
    drift_wall: float = 0.0
    rebuild_wall: float = 0.0
    rebuild_cpu: float = 0.0
    rss_before: float = 0.0
    rebuild_rss: float = 0.0
    api_ratio: dict[str, float] = field(default_factory=dict)
    call_ratio: dict[str, float] = field(default_factory=dict)
    noop_cpu: dict[str, float] = field(default_factory=dict)
    one_project_ratio: float = 0.0


def measure_costs(objects: int, log: Log) -> Costs:
    """Everything, at this number of objects."""
    out = Costs(objects)
    with tempfile.TemporaryDirectory(prefix="flc", dir="/tmp") as name, ExitStack() as stack:
        directory = Path(name)
        template = directory / "template.sqlite"
        _run("-m", "flowloom.neutron.schema", f"sqlite+immediate:///{template}")
        log("API servers: ours and the one with a driver that does nothing")
        _api_calls(directory, template, out)
        _one_project(directory, template, out)
        ratios = ", ".join(f"{verb} {ratio:.3f}" for verb, ratio in out.api_ratio.items())
        log(f"CPU of port calls, ours to nothing: {ratios}; 8 clients, 1 project to 8: {out.one_project_ratio:.3f}")
        log(f"{objects} objects into Neutron's tables, and from there into the store")
        deployment, store = _filled(directory, template, out)
        log(f"drained {out.drain_per_second:.0f} objects a second")
        _recovery(stack, deployment, store, out, log)
    return out


# Recovery -----------------------------------------------------------------------------------------


def _filled(directory: Path, template: Path, out: Costs) -> tuple[Deployment, Path]:
    database = shutil.copy(template, directory / "neutron.sqlite")
    (directory / "store").mkdir()
    store = directory / "store" / "northbound.sqlite"
    url = f"sqlite+immediate:///{database}"
    script = str(Path(__file__).with_name("neutron_rows.py"))
    measured = min(DRAINED, out.objects // 2)
    said = _run(script, url, f"sqlite:///{store}", DEPLOYMENT, str(out.objects), str(measured))
    drained = json.loads(said.splitlines()[-1])
    out.drain_per_second = measured / drained["seconds"]
    out.drain_cpu_per_second = measured / drained["cpu_seconds"]
    made = write_config(
        directory / "neutron", database=url, store=f"sqlite:///{store}", bus="", api_port=1, name=DEPLOYMENT
    )
    return made, store


def _recovery(stack: ExitStack, deployment: Deployment, store: Path, out: Costs, log: Log) -> None:
    started = time.perf_counter()
    process = stack.enter_context(_process(deployment.recovery_argv, deployment.directory / "recovery.log", {}))
    path = str(deployment.control)

    def status() -> dict[str, Any]:
        with contextlib.suppress(FlowloomError):
            return ask(path, {"ask": "status"}, dict[str, Any], 30.0)
        return {}

    _await(process, lambda: status().get("round", {}).get("rounds", 0) >= 3)
    out.start_wall = time.perf_counter() - started
    log(f"recovery listed the store and compares, {out.start_wall:.1f} s after its start")
    _idle(process, status, out)
    log(f"idle: {out.idle_round_cpu * 1e3:.1f} ms of CPU a round, {out.idle_share:.2%} of a core in all")
    began = time.perf_counter()
    drift = ask(path, {"ask": "drift", "limit": 10}, dict[str, Any], DEADLINE_SECONDS)
    out.drift_wall = time.perf_counter() - began
    assert drift["complete"] and not drift["counts"], drift
    _find_and_repair(process, deployment, store, path, status, out)
    log(f"10 differences: found within {out.find_wall:.2f} s, repaired within {out.repair_wall:.2f} s")
    _rebuild(process, store, path, out)
    log(f"rebuilt in {out.rebuild_wall:.1f} s, at most {out.rebuild_rss:.0f} MB")


def _idle(process: subprocess.Popen[bytes], status: Callable[[], dict[str, Any]], out: Costs) -> None:
    """CPU of the whole process while nothing happens, the rolling re-read included, and of a round alone."""
    time.sleep(3)
    before, rounds = cpu_seconds(process.pid), []
    began = time.perf_counter()
    while time.perf_counter() - began < IDLE_SECONDS:
        time.sleep(IDLE_SECONDS / 5)
        rounds.append(status()["round"]["cpu_seconds"])
    out.idle_share = (cpu_seconds(process.pid) - before) / (time.perf_counter() - began)
    out.idle_round_cpu = median(rounds)


def _find_and_repair(
    process: subprocess.Popen[bytes],
    deployment: Deployment,
    store: Path,
    path: str,
    status: Callable[[], dict[str, Any]],
    out: Costs,
) -> None:
    """Ten differences of seven kinds, made by hand in store and database; until seen, and until put right and verified."""
    repaired = sum(status()["repaired"].values())
    began = time.perf_counter()
    _damage(store, deployment.database.partition("///")[2])
    _await(process, lambda: bool(sum((now := status())["drift"].values()) or sum(now["repaired"].values()) > repaired))
    out.find_wall = time.perf_counter() - began
    _await(process, lambda: sum(status()["repaired"].values()) >= repaired + 10)
    out.repair_wall = time.perf_counter() - began
    drift = ask(path, {"ask": "drift", "limit": 10}, dict[str, Any], DEADLINE_SECONDS)
    assert not drift["counts"], drift


def _damage(store: Path, database: str) -> None:
    """Missing, stale, different, ahead, orphan, a tombstone that is missing, and marks that are not so: by other hands."""
    with contextlib.closing(sqlite3.connect(store, timeout=30, isolation_level=None)) as hand:
        keys = [key for (key,) in hand.execute("SELECT key FROM object WHERE key LIKE '%/port/%' ORDER BY key LIMIT 9")]
        hand.execute("BEGIN IMMEDIATE")
        hand.executemany("DELETE FROM object WHERE key = ?", [(key,) for key in keys[:2]])
        hand.executemany("UPDATE object SET version = 0 WHERE key = ?", [(key,) for key in keys[2:3]])
        hand.executemany(
            "UPDATE object SET value = replace(value, 'vm-', 'xx-') WHERE key = ?", [(key,) for key in keys[3:6]]
        )
        hand.executemany("UPDATE object SET version = 9 WHERE key = ?", [(key,) for key in keys[6:8]])
        orphan = keys[8].rpartition("/")[0] + "/00000000-0000-0000-0000-000000000000"
        hand.execute("INSERT INTO object SELECT ?, 3, value FROM object WHERE key = ?", (orphan, keys[8]))
        hand.execute("COMMIT")
    gone = keys[8].rpartition("/")[2]
    with contextlib.closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as hand:
        hand.execute(
            "BEGIN IMMEDIATE"
        )  # As if it had been deleted, and the tombstone lost: acknowledged, and not there.
        hand.execute("DELETE FROM ml2_port_bindings WHERE port_id = ?", (gone,))
        hand.execute("DELETE FROM ports WHERE id = ?", (gone,))
        hand.execute(
            "UPDATE flowloom_sync SET deleted = 1, version = 2, synced_version = 2, mark = mark + 1 WHERE object_id = ?",
            (gone,),
        )
        hand.execute("COMMIT")


def _rebuild(process: subprocess.Popen[bytes], store: Path, path: str, out: Costs) -> None:
    """The store's file is gone; everything comes back from Neutron."""
    for file in store.parent.glob(store.name + "*"):
        if file.is_file():
            file.unlink()
    open_store(f"sqlite:///{store}").close()  # Recovery makes no file by itself: the operator's command does.
    began, cpu = time.perf_counter(), cpu_seconds(process.pid)
    out.rss_before = peak_rss_mb(process.pid)

    def begin() -> str:
        job = _job(process, path, ask(path, {"ask": "rebuild", "by": "bench"}, dict[str, Any], 30.0)["job"])
        return str(job["state"]) if job["state"] != "done" or job["repaired"] else "nothing yet"

    # The first questions may meet the moment at which the file is gone and no new one is there.
    _await(process, lambda: begin() == "done")
    out.rebuild_wall = time.perf_counter() - began
    out.rebuild_cpu = cpu_seconds(process.pid) - cpu
    out.rebuild_rss = peak_rss_mb(process.pid)
    drift = ask(path, {"ask": "drift", "limit": 10}, dict[str, Any], DEADLINE_SECONDS)
    assert drift["complete"] and not drift["counts"], drift


def _job(process: subprocess.Popen[bytes], path: str, id: str) -> dict[str, Any]:
    job: dict[str, Any] = {}

    def ended() -> bool:
        nonlocal job
        job = ask(path, {"ask": "job", "id": id}, dict[str, Any], 60.0)
        return bool(job["state"] != "running")

    _await(process, ended)
    return job


# The API ------------------------------------------------------------------------------------------


class Api:
    """A Neutron API server.  driver: name of the ML2 mechanism driver."""

    def __init__(
        self, stack: ExitStack, directory: Path, template: Path, driver: str, workers: int = 1, threads: int = 1
    ) -> None:
        directory.mkdir()
        self._metrics = free_port(1 + workers)
        database = shutil.copy(template, directory / "neutron.sqlite")
        self.made = write_config(
            directory / "neutron", database=f"sqlite+immediate:///{database}", bus="", api_port=free_port(),
            store=f"sqlite:///{directory}/northbound.sqlite", name=DEPLOYMENT, workers=workers, threads=threads,
            metrics=f"127.0.0.1:{self._metrics}",
        )  # fmt: skip
        conf = self.made.neutron_conf
        conf.write_text(conf.read_text().replace("mechanism_drivers = flowloom", f"mechanism_drivers = {driver}"))
        argv = (*self.made.uwsgi_argv, "--virtualenv", sys.prefix)
        environment = {**self.made.env, "PYTHONPATH": str(directory.parent / "driver")}
        self._process = stack.enter_context(_process(argv, directory / "api.log", environment))
        self._address = self.made.api_url.removeprefix("http://")
        _await(self._process, self._up)
        self.call("GET", "networks")

    def _up(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException, Refused):
            self.call("GET", "networks")
            return True
        return False

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One call; the answer's body."""
        connection = http.client.HTTPConnection(self._address, timeout=60)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, f"/v2.0/{path}", text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise Refused(f"{method} {path}: {answer.status} {content[:300]!r}")
        return json.loads(content) if content else None

    def network(self, project: str) -> str:
        made = self.call("POST", "networks", {"network": {"project_id": project}})["network"]["id"]
        return str(made)

    def cpu(self) -> float:
        """Of the workers: the master's children."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(cpu_seconds(int(child)) for child in children)

    def drain_cpu(self) -> float:
        """Of the first worker's drain, as it says itself; 0 where nothing drains."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with contextlib.suppress(OSError), opener.open(f"http://127.0.0.1:{self._metrics + 1}", timeout=10) as answer:
            told = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[:1] != "#")
            return float(told["flowloom_worker_drain_cpu_seconds_total"])
        return 0.0


class Refused(Exception):
    """The API answered with an error."""


def _noop(directory: Path) -> None:
    """A distribution that is only a driver, where Python looks for such."""
    info = directory / "driver" / "flowloom_bench_noop-0.dist-info"
    info.mkdir(parents=True)
    (directory / "driver" / "flowloom_bench_noop.py").write_text(NOOP)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flowloom-bench-noop\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[neutron.ml2.mechanism_drivers]\nnoop = flowloom_bench_noop:Noop\n")


def _api_calls(directory: Path, template: Path, out: Costs) -> None:
    """CPU of create, update and delete, our drain included, in turn against both servers."""
    _noop(directory)
    with ExitStack() as stack:
        both = [Api(stack, directory / name, template, name) for name in ("flowloom", "noop")]
        networks = [api.network("p") for api in both]
        spent: dict[str, list[list[float]]] = {verb: [[], []] for verb in ("create", "update", "delete")}
        in_call: dict[str, list[float]] = {verb: [] for verb in spent}
        for batch in range(BATCHES + 1):
            for which in (0, 1) if batch % 2 else (1, 0):
                api, network = both[which], networks[which]
                ports: list[str] = []
                for verb, of_verb in spent.items():
                    drained, before = api.drain_cpu(), api.cpu()
                    _calls(api, verb, network, ports, f"n{batch}")
                    time.sleep(0.3)  # What is drained after the answer belongs to the cost.
                    if batch:  # The first batch warms caches.
                        spent_now = api.cpu() - before
                        of_verb[which].append(spent_now)
                        if which == 0:
                            in_call[verb].append(spent_now - (api.drain_cpu() - drained))
    for verb, (ours, theirs) in spent.items():
        out.api_ratio[verb] = median(ours) / median(theirs)
        out.call_ratio[verb] = median(in_call[verb]) / median(theirs)
        out.noop_cpu[verb] = median(theirs) / CALLS


def _calls(api: Api, verb: str, network: str, ports: list[str], name: str) -> None:
    """CALLS calls of one kind; `ports` are those that create has made."""
    if verb == "create":
        body = {"port": {"network_id": network}}
        ports.extend(api.call("POST", "ports", body)["port"]["id"] for _ in range(CALLS))
    elif verb == "update":
        for port in ports:
            api.call("PUT", f"ports/{port}", {"port": {"name": name}})
    else:
        for port in ports:
            api.call("DELETE", f"ports/{port}")


def _one_project(directory: Path, template: Path, out: Costs) -> None:
    """Eight clients that create ports: all in one project, and each in its own."""
    with ExitStack() as stack:
        api = Api(stack, directory / "clients", template, "flowloom", workers=2, threads=4)
        shared = [api.network("one") for _ in range(CLIENTS)]
        apart = [api.network(f"project-{n}") for n in range(CLIENTS)]
        walls: list[list[float]] = [[], []]
        for batch in range(5):
            for which in (0, 1) if batch % 2 else (1, 0):
                began = time.perf_counter()
                threads = [
                    threading.Thread(target=_create, args=(api, network, 10)) for network in (shared, apart)[which]
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                if batch:
                    walls[which].append(time.perf_counter() - began)
    out.one_project_ratio = median(walls[0]) / median(walls[1])


def _create(api: Api, network: str, ports: int) -> None:
    for _ in range(ports):
        api.call("POST", "ports", {"port": {"network_id": network}})


# Processes ----------------------------------------------------------------------------------------


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments[0]}: {done.stderr[-2000:]}")
    return done.stdout


@contextlib.contextmanager
def _process(argv: tuple[str, ...], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as stream:
        process = subprocess.Popen(argv, stdout=stream, stderr=stream, env=os.environ | environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} is not ready after {DEADLINE_SECONDS:g} s")
        time.sleep(0.05)
