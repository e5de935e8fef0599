"""Neutron for tests: plain sessions on its database, and a real API server under uwsgi."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flowloom.lab.ports import free_port
from flowloom.model.codec import decode
from flowloom.model.keys import deployment_prefix, parse_key
from flowloom.model.records import Port, Record
from flowloom.neutron.database import begin_snapshot, translated_errors
from flowloom.neutron.deploy import Deployment, write_config
from flowloom.neutron.sqlite_dialect import reader_url
from flowloom.northbound.plugins import open_store
from flowloom.northbound.store import Entry, Store
from flowloom.testing.waiting import wait_for

DEPLOYMENT = "test"


@dataclass
class Sql:
    """A Neutron database by plain SQLAlchemy; satisfies `database.Database`."""

    url: str

    def __post_init__(self) -> None:
        self.writing = sa.create_engine(self.url, poolclass=sa.NullPool)
        self.reading = sa.create_engine(reader_url(self.url), poolclass=sa.NullPool)

    @contextmanager
    def reader(self) -> Iterator[sa.Connection]:
        with translated_errors(), self.reading.connect() as connection:
            begin_snapshot(connection)
            yield connection

    @contextmanager
    def writer(self) -> Iterator[sa.Connection]:
        with translated_errors(), self.writing.begin() as connection:
            yield connection

    def rows(self) -> dict[tuple[str, str], Any]:
        """The sync rows by (kind, object id)."""
        from flowloom.neutron.models import SYNC

        with self.reader() as connection:
            return {(row.kind, row.object_id): row for row in connection.execute(sa.select(SYNC))}


class Refused(Exception):
    """The API answered with an error.  status: HTTP status code; 0: the connection broke."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


@dataclass
class Cloud:
    """A running Neutron API server with its database and its store."""

    deployment: Deployment
    store_path: Path
    sql: Sql
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One API call; the answer's body.  Refused when it is not 2xx."""
        address = self.deployment.api_url.removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=60)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, f"/v2.0/{path}", text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Refused(0, repr(error)) from error
        finally:
            connection.close()
        if answer.status >= 300:
            raise Refused(answer.status, content.decode())
        return json.loads(content) if content else None

    def create(self, resource: str, **attributes: object) -> Any:
        return self.call("POST", f"{resource}s", {resource: attributes})[resource]

    def update(self, resource: str, identifier: str, **attributes: object) -> Any:
        return self.call("PUT", f"{resource}s/{identifier}", {resource: attributes})[resource]

    def show(self, resource: str, identifier: str) -> Any:
        return self.call("GET", f"{resource}s/{identifier}")[resource]

    def delete(self, resource: str, identifier: str) -> None:
        self.call("DELETE", f"{resource}s/{identifier}")

    @contextmanager
    def store(self) -> Iterator[Store]:
        store = open_store(f"sqlite:///{self.store_path}")
        try:
            yield store
        finally:
            store.close()

    def entries(self) -> dict[str, Entry]:
        """What the store holds of Neutron's objects, by object id."""
        with self.store() as store:
            entries = store.read(deployment_prefix(DEPLOYMENT)).entries
        return {parse_key(entry.key).id: entry for entry in entries if parse_key(entry.key).project != "-"}

    def record(self, identifier: str) -> Record | None:
        """The record of an object; None: not there, or a tombstone."""
        entry = self.entries().get(identifier)
        return decode(entry.key, entry.value) if entry is not None and entry.value is not None else None

    def synced(self) -> bool:
        """Whether nothing is dirty."""
        return all(row.version == row.synced_version for row in self.sql.rows().values())

    def start(self, argv: Sequence[str], log: str = "recovery.log") -> subprocess.Popen[bytes]:
        with open(self.deployment.directory / log, "ab") as out:
            process = subprocess.Popen(
                argv, env=os.environ | self.deployment.env, stdout=out, stderr=out, start_new_session=True
            )
        self.processes.append(process)
        return process

    def start_recovery(self) -> subprocess.Popen[bytes]:
        """Start a recovery process and wait until it answers."""
        process = self.start(self.deployment.recovery_argv)
        wait_for(lambda: self.deployment.control.exists() or process.poll() is not None, 60)
        assert process.poll() is None, (self.deployment.directory / "recovery.log").read_text()
        return process

    def ask(self, **question: object) -> Any:
        """The recovery process's answer."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.deployment.control))
            client.sendall(json.dumps(question).encode() + b"\n")
            with client.makefile() as lines:
                return json.loads(lines.readline())

    def workers(self) -> list[int]:
        """Process ids of the API workers."""
        master = self.processes[0].pid
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return [int(pid) for pid in children]

    def log(self) -> str:
        return self.deployment.api_log.read_text()

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def migrate(url: str) -> None:
    """Make Neutron's and our tables at `url` as an operator does: not on SQLite."""
    program = Path(sys.executable).parent / "neutron-db-manage"
    done = subprocess.run(
        [str(program), "--database-connection", url, "upgrade", "heads"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@contextmanager
def running_cloud(
    directory: Path, template: Path | None, database: str = "", store: Path | None = None, **options: Any
) -> Iterator[Cloud]:
    """A Neutron API server in `directory`, ended whatever happens.

    template: a SQLite file with the schema, to be copied; or `database`: a URL at which the schema is.
    store: directory of a store that there is already; None: one of its own.
    """
    if store is None:
        store = directory / "store"
        store.mkdir(parents=True)
    directory.mkdir(exist_ok=True)
    if template is not None:
        shutil.copy(template, directory / "neutron.sqlite")
        database = f"sqlite+immediate:///{directory / 'neutron.sqlite'}"
    deployment = write_config(
        directory,
        database=database,
        store=f"sqlite:///{store / 'northbound.sqlite'}",
        bus="",
        api_port=free_port(),
        name=DEPLOYMENT,
        strict_capture=True,
        **options,
    )
    cloud = Cloud(deployment, store / "northbound.sqlite", Sql(database))
    try:
        cloud.start(deployment.uwsgi_argv, "uwsgi.log")
        deadline = time.monotonic() + 90
        while True:
            assert cloud.processes[0].poll() is None, cloud.log()[-3000:]
            try:
                cloud.call("GET", "networks")
                break
            except Refused:
                assert time.monotonic() < deadline, cloud.log()[-3000:]
                time.sleep(0.1)
        yield cloud
    finally:
        cloud.stop()


def addressed_network(cloud: Cloud) -> str:
    """A new network with room for many ports; its id."""
    made = cloud.create("network", name="load")
    cloud.create("subnet", network_id=made["id"], ip_version=4, cidr="10.9.0.0/16")
    return str(made["id"])


def ports_in_neutron(cloud: Cloud, network_id: str) -> dict[str, str]:
    """Ports of the network: id -> name, from SQL."""
    ports = sa.text("SELECT id, name FROM ports WHERE network_id = :network")
    with cloud.sql.reader() as connection:
        return {row.id: row.name for row in connection.execute(ports, {"network": network_id})}


def ports_in_store(cloud: Cloud, network_id: str) -> dict[str, str]:
    """Ports of the network: id -> name, from the store."""
    records = [decode(entry.key, entry.value) for entry in cloud.entries().values() if entry.value is not None]
    return {each.id: each.name for each in records if isinstance(each, Port) and each.network_id == network_id}
