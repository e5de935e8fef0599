"""What the command line reads of Neutron's database, in Neutron's own schema."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from flowloom.cli import sources
from flowloom.cli.deployment import Deployment, NeutronSide
from flowloom.cli.diagnosis import InNeutron
from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.neutron.schema import create_schema


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("neutron") / "empty.sqlite"
    create_schema(f"sqlite:///{path}")
    return path


@pytest.fixture
def deployment(empty: Path, tmp_path: Path) -> Deployment:
    path = tmp_path / "neutron.sqlite"
    shutil.copy(empty, path)
    side = NeutronSide(database=f"sqlite+immediate:///{path}")
    return Deployment(tmp_path / "f", "lab", f"sqlite:///{tmp_path}/none/nb.sqlite", neutron=side)


def insert(
    deployment: Deployment, version: int, synced: int, dirty_seconds: float = 0.0, deleted: bool = False
) -> None:
    """Port p1 of network n1 on host h1, as Neutron and its driver leave it."""
    database = sqlite3.connect(deployment.neutron.database.removeprefix("sqlite+immediate:///"))
    with database:
        database.execute(
            "insert into flowloom_sync (kind, object_id, project_id, scope, version, synced_version, dirty_since,"
            " deleted, last_error) values ('port', 'p1', 'project', 'n1', ?, ?, ?, ?, ?)",
            (
                version,
                synced,
                time.time() - dirty_seconds if dirty_seconds else 0,
                deleted,
                "cut" if dirty_seconds else "",
            ),
        )
        if not deleted:
            database.execute(
                "insert into ports (id, network_id, mac_address, admin_state_up, status, device_id, device_owner,"
                " standard_attr_id) values ('p1', 'n1', 'fa:16:3e:00:00:01', 1, 'DOWN', '', '', 1)"
            )
            database.execute(
                "insert into ml2_port_bindings (port_id, host, vif_type, vnic_type, profile, vif_details, status)"
                " values ('p1', 'h1', 'ovs', 'normal', '', '', 'ACTIVE')"
            )
    database.close()


def test_port_that_the_store_has(deployment: Deployment) -> None:
    insert(deployment, version=3, synced=3)
    port, key = sources.port_in_neutron(deployment, "p1")
    assert port == InNeutron(3, 3, "DOWN", "h1", "ovs", True)
    assert key == "/lab/project/n1/port/p1"
    assert sources.backlog(deployment.neutron.database) == (0, None, "")


def test_port_that_waits_for_the_store_and_since_when(deployment: Deployment) -> None:
    insert(deployment, version=3, synced=2, dirty_seconds=100)
    port, _ = sources.port_in_neutron(deployment, "p1")
    assert port is not None
    assert port.undone_seconds == pytest.approx(100, abs=30)
    assert port.last_error == "cut"
    undone = sources.backlog(deployment.neutron.database)
    assert (undone.rows, undone.last_error) == (1, "cut")
    assert undone.oldest_seconds == pytest.approx(100, abs=30)


def test_port_that_is_deleted_and_port_that_never_was(deployment: Deployment) -> None:
    insert(deployment, version=4, synced=4, deleted=True)
    port, key = sources.port_in_neutron(deployment, "p1")
    assert port is not None
    assert (port.deleted, port.version) == (True, 4)
    assert key == "/lab/project/n1/port/p1"
    assert sources.port_in_neutron(deployment, "p2") == (None, "")


def test_database_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        sources.backlog(f"sqlite+immediate:///{tmp_path}/gone.sqlite")
    assert not (tmp_path / "gone.sqlite").exists()


def test_url_that_is_none_is_named_by_its_setting() -> None:
    with pytest.raises(Misconfigured, match=r"^neutron\.database: "):
        sources.backlog("not a url")
