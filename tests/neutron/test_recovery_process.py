"""Two recovery processes beside a real Neutron: hands in the store, a wiped store, a killed leader, questions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from neutron.db import models_v2
from neutron_cloud import DEPLOYMENT, Cloud

from flowloom.model.codec import encode
from flowloom.model.keys import key_of
from flowloom.model.records import PortStatus
from flowloom.northbound.store import Write
from flowloom.testing.waiting import wait_for

PORTS = 12


@pytest.fixture(scope="module")
def ports(cloud: Cloud) -> list[str]:
    network = cloud.create("network", name="n")
    cloud.create("subnet", network_id=network["id"], cidr="10.0.0.0/24", ip_version=4)
    found = [cloud.create("port", network_id=network["id"], name=f"p{n}")["id"] for n in range(PORTS)]
    wait_for(cloud.synced, 30)
    return found


@pytest.fixture(scope="module")
def recoveries(cloud: Cloud, ports: list[str]) -> list[subprocess.Popen[bytes]]:
    started = [cloud.start_recovery()]
    wait_for(lambda: status(cloud)["round"]["rounds"] > 0, 60)
    started.append(cloud.start(cloud.deployment.recovery_argv, "recovery-2.log"))
    wait_for(lambda: [member["shards"] for member in status(cloud)["members"]] == [32, 32], 60)
    return started


def status(cloud: Cloud) -> Any:
    return cloud.ask(ask="status")


def drift(cloud: Cloud) -> Any:
    told = cloud.ask(ask="drift")
    return told["counts"] if told.get("complete") and not told["dirty"] else told


def by_hand(cloud: Cloud, *statements: str) -> None:
    """What an operator types into the store's own client."""
    connection = sqlite3.connect(cloud.store_path, timeout=10)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def audited(cloud: Cloud, identifier: str) -> list[tuple[str, str]]:
    entries = cloud.ask(ask="audit", object=identifier)["entries"]
    return [(entry["kind"], entry["verified"]) for entry in entries]


EQUAL = "read again: equal"


def test_what_hands_did_in_the_store_is_repaired_and_audited(cloud: Cloud, ports: list[str], recoveries: Any) -> None:
    assert drift(cloud) == {}
    before = cloud.entries()
    edited, removed, old, future = ports[:4]
    stray = key_of(DEPLOYMENT, "somebody", before[edited].key.split("/")[3], "port", "stray")
    by_hand(
        cloud,
        f'UPDATE object SET value = replace(CAST(value AS TEXT), \'"name":"p0"\', \'"name":"x"\') WHERE key = \'{before[edited].key}\'',
        f"DELETE FROM object WHERE key = '{before[removed].key}'",
        f"UPDATE object SET version = 0, value = 'old' WHERE key = '{before[old].key}'",
        f"UPDATE object SET version = 5000 WHERE key = '{before[future].key}'",
        f"INSERT INTO object VALUES ('{stray}', 3, '?')",
    )
    wait_for(lambda: drift(cloud) == {}, 30)
    after = cloud.entries()
    for identifier, kind in ((edited, "different"), (removed, "missing"), (old, "stale"), (future, "ahead")):
        assert audited(cloud, identifier) == [(kind, EQUAL)]
        assert after[identifier].value is not None
    assert after[future].version == 5001 and after[removed].version == before[removed].version
    assert audited(cloud, "stray") == [("orphan", EQUAL)] and after["stray"].value is None
    assert json.loads(after[edited].value or b"")["name"] == "p0"


def test_a_change_past_the_capture_is_found_when_asked_and_repaired_by_a_job(
    cloud: Cloud, ports: list[str], recoveries: Any
) -> None:
    names = models_v2.Port.__table__
    with cloud.sql.writing.begin() as connection:
        connection.execute(sa.update(names).where(names.c.id == ports[5]).values(name="by plain SQL"))
    assert drift(cloud) == {"uncaptured": 1}
    job = cloud.ask(ask="repair", object=ports[5], by="test")["job"]
    wait_for(lambda: cloud.ask(ask="job", id=job)["state"] == "done", 30)
    assert drift(cloud) == {}
    assert json.loads(cloud.entries()[ports[5]].value or b"")["name"] == "by plain SQL"
    assert "neither Neutron nor the store" in cloud.ask(ask="repair", object="no-such-thing")["error"]


def test_a_status_changed_by_hand_is_put_right_and_audited(cloud: Cloud, ports: list[str], recoveries: Any) -> None:
    port, key = ports[6], key_of(DEPLOYMENT, "", "h1", "port_status", ports[6])
    cloud.update("port", port, **{"binding:host_id": "h1"})
    wait_for(cloud.synced, 30)
    report = PortStatus(id=port, version=1, chassis="h1", port_version=cloud.sql.rows()["port", port].version, up=True)
    with cloud.store() as store:
        store.apply([Write(key, 1, encode(report))])
    wait_for(lambda: cloud.show("port", port)["status"] == "ACTIVE", 30)
    passes = status(cloud)["passes"]
    wait_for(lambda: status(cloud)["passes"] > passes + 1, 30)
    table = models_v2.Port.__table__
    with cloud.sql.writing.begin() as connection:
        connection.execute(sa.update(table).where(table.c.id == port).values(status="DOWN"))
    wait_for(lambda: cloud.show("port", port)["status"] == "ACTIVE", 30)
    wait_for(lambda: "status" in [kind for kind, _ in audited(cloud, port)], 30)


def test_the_leader_killed_is_replaced_and_its_path_answers(cloud: Cloud, ports: list[str], recoveries: Any) -> None:
    first, second = recoveries
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    wait_for(lambda: answers(cloud.deployment.control), 30)
    assert status(cloud)["owner"].split(":")[1] == str(second.pid)
    wait_for(lambda: len(status(cloud)["shards"]) == 64, 20)
    assert [(member["shards"], member["leader"]) for member in status(cloud)["members"]] == [(64, True)]
    by_hand(cloud, f"UPDATE object SET value = 'x' WHERE key = '{cloud.entries()[ports[7]].key}'")
    wait_for(lambda: drift(cloud) == {}, 30)
    assert audited(cloud, ports[7]) == [("different", EQUAL)]


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def test_a_wiped_store_is_filled_again(cloud: Cloud, ports: list[str], recoveries: Any) -> None:
    for name in os.listdir(cloud.store_path.parent):
        path = cloud.store_path.parent / name
        if path.is_file():
            path.unlink()
    with cloud.store():
        pass  # Whoever opens it first makes it anew.
    wait_for(lambda: drift(cloud) == {}, 60)
    entries = cloud.entries()
    assert all(entries[port].value is not None for port in ports)


def test_a_store_restored_from_an_old_copy_is_brought_up_to_date(
    cloud: Cloud, ports: list[str], recoveries: Any, tmp_path: Path
) -> None:
    with sqlite3.connect(cloud.store_path) as source, sqlite3.connect(tmp_path / "copy") as copy:
        source.backup(copy)
    for n in range(3):
        cloud.update("port", ports[8], name=f"newer {n}")
    cloud.delete("port", ports[9])
    wait_for(cloud.synced, 30)
    for name in ("-wal", "-shm"):
        Path(f"{cloud.store_path}{name}").unlink(missing_ok=True)
    shutil.move(tmp_path / "copy", cloud.store_path)
    wait_for(lambda: drift(cloud) == {}, 60)
    entries = cloud.entries()
    assert json.loads(entries[ports[8]].value or b"")["name"] == "newer 2"
    assert entries[ports[9]].value is None
    assert audited(cloud, ports[8])[0] == ("stale", EQUAL)
    assert audited(cloud, ports[9])[0] == ("tombstone missing", EQUAL)
