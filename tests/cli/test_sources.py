"""What the command line reads by itself: the northbound store, through a real embedded store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloom.cli.deployment import Deployment
from flowloom.cli.diagnosis import InStore, Reported
from flowloom.cli.sources import PortInStore, count_objects, port_in_store
from flowloom.kernel.errors import Misconfigured, Rejected, Unavailable
from flowloom.model.codec import encode
from flowloom.model.keys import key_of
from flowloom.model.records import Chassis, Port, PortStatus, Record
from flowloom.northbound.plugins import open_store
from flowloom.northbound.pointer import Pointer, write_of
from flowloom.northbound.store import Store, Write

PORT = Port(id="p1", version=3, key=1, network_id="n1", mac_address="fa:16:3e:00:00:01", host="h1")
HOST = Chassis(id="h1", version=1, key=2, tunnel_ip="192.0.2.1")
STATUS = PortStatus(id="p1", version=1, chassis="h1", port_version=3, up=True)
PORT_KEY = key_of("lab", "project", "n1", "port", "p1")


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    (tmp_path / "store").mkdir()
    return Deployment(tmp_path / "flowloom.toml", "lab", f"sqlite:///{tmp_path}/store/northbound.sqlite")


@pytest.fixture
def store(deployment: Deployment) -> Iterator[Store]:
    store = open_store(deployment.store)
    yield store
    store.close()


def put(store: Store, key: str, record: Record) -> None:
    store.apply([Write(key, record.version, encode(record))])


def put_all(store: Store) -> None:
    put(store, PORT_KEY, PORT)
    put(store, key_of("lab", "", "h1", "chassis", "h1"), HOST)
    put(store, key_of("lab", "", "h1", "port_status", "p1"), STATUS)


def test_objects_of_this_deployment_are_counted_and_tombstones_apart(deployment: Deployment, store: Store) -> None:
    put_all(store)
    store.apply([Write(PORT_KEY, 4, None)])
    put(store, key_of("other", "project", "n1", "port", "p1"), PORT)
    counted = count_objects(deployment)
    assert (counted.objects, counted.tombstones) == (2, 1)
    assert counted.epoch


def test_the_store_in_force_is_asked_and_its_pointer_is_no_object(
    deployment: Deployment, store: Store, tmp_path: Path
) -> None:
    put_all(store)
    url = f"sqlite:///{tmp_path}/store/other.sqlite"
    other = open_store(url)
    for each in (store, other):
        each.apply([write_of("lab", Pointer(1, url, "cloud"))])
    put(other, PORT_KEY, PORT)
    other.close()
    assert count_objects(deployment).objects == 1


@pytest.mark.parametrize("key", [PORT_KEY, ""])
def test_port_its_host_and_its_status_are_found_with_and_without_its_key(
    deployment: Deployment, store: Store, key: str
) -> None:
    put_all(store)
    assert port_in_store(deployment, "p1", key, "") == PortInStore(InStore(3, "h1"), True, Reported(3, True))


def test_host_that_neutron_names_goes_before_the_one_in_an_older_record(deployment: Deployment, store: Store) -> None:
    put_all(store)
    assert port_in_store(deployment, "p1", PORT_KEY, "h2") == PortInStore(InStore(3, "h1"), False, None)


def test_deleted_port_is_a_tombstone(deployment: Deployment, store: Store) -> None:
    put_all(store)
    store.apply([Write(PORT_KEY, 4, None)])
    assert port_in_store(deployment, "p1", "", "").port == InStore(4, deleted=True)


def test_port_of_another_deployment_or_with_a_longer_id_is_not_it(deployment: Deployment, store: Store) -> None:
    put(store, key_of("other", "project", "n1", "port", "p1"), PORT)
    put(store, key_of("lab", "project", "n1", "port", "xp1"), PORT)
    put(store, key_of("lab", "project", "n1", "subnet", "p1"), PORT)
    assert port_in_store(deployment, "p1", "", "") == PortInStore(None, False, None)


def test_unreadable_record_is_named(deployment: Deployment, store: Store) -> None:
    store.apply([Write(PORT_KEY, 3, b"{")])
    with pytest.raises(Rejected, match=PORT_KEY):
        port_in_store(deployment, "p1", PORT_KEY, "")


def test_store_that_is_cut_off_is_unavailable(deployment: Deployment, store: Store, tmp_path: Path) -> None:
    store.close()
    (tmp_path / "store").rename(tmp_path / "store.cut")
    with pytest.raises(Unavailable):
        count_objects(deployment)
    assert not (tmp_path / "store").exists()


def test_unknown_store_scheme_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"^store: no driver for 'papyrus'"):
        count_objects(Deployment(tmp_path / "f", "lab", "papyrus:///x"))
