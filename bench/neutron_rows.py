"""Neutron's tables filled in bulk, and drained: a process of its own, because Neutron's models leave their marks.

    python neutron_rows.py DATABASE STORE DEPLOYMENT OBJECTS MEASURED

Makes OBJECTS objects (networks of 100 ports, one project each) with dirty sync rows, and drains them all into STORE as
one worker does; prints one JSON object: seconds and CPU seconds of the last MEASURED objects.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from random import Random
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.models import segment
from neutron.plugins.ml2 import models as ml2_models
from neutron_lib.db import standard_attr

from flowloom.consistency.drain import Drain
from flowloom.consistency.marks import shard_of
from flowloom.consistency.place import Place
from flowloom.drivers.store.sqlite import open_store
from flowloom.kernel.clock import SystemClock
from flowloom.neutron.adoption import adoptable
from flowloom.neutron.database import SqlDatabase
from flowloom.neutron.models import SYNC
from flowloom.neutron.tables import SqlLeaseTable, SqlSyncTable
from flowloom.neutron.translate import facts
from flowloom.northbound.bus import Publisher
from flowloom.northbound.store import Store

PORTS_A_NETWORK = 100
ROWS_A_STATEMENT = 2_000
FIRST_ATTRIBUTE = 1_000_000
"""Of Neutron's standard attributes: above whatever it has made itself."""

Row = dict[str, Any]


class Link:
    """The store alone: notices are the bus's cost, not the drain's."""

    generation = 0

    def __init__(self, url: str) -> None:
        self._store = open_store(url)

    def store(self) -> Store:
        return self._store

    def publisher(self) -> Publisher | None:
        return None

    def look_again(self) -> Place:
        return Place()


def tables(numbers: range) -> Iterator[tuple[sa.Table, list[Row]]]:
    """Rows of every table concerned, of the objects of these numbers, a few networks at a time."""
    random = Random(numbers.start)
    for start in range(numbers.start, numbers.stop, ROWS_A_STATEMENT):
        rows: dict[sa.Table, list[Row]] = {}
        for number in range(start, min(numbers.stop, start + ROWS_A_STATEMENT)):
            if number % PORTS_A_NETWORK == 0 or number == numbers.start:
                project, network = f"project-{number // PORTS_A_NETWORK}", _uuid(random)
                _network(rows, network, project, number)
            else:
                _port(rows, _uuid(random), network, project, number)
        yield from rows.items()


def _network(rows: dict[sa.Table, list[Row]], id: str, project: str, number: int) -> None:
    attribute, of_segment = FIRST_ATTRIBUTE + 2 * number, FIRST_ATTRIBUTE + 2 * number + 1
    _add(rows, standard_attr.StandardAttribute, id=attribute, resource_type="networks", revision_number=0)
    _add(rows, standard_attr.StandardAttribute, id=of_segment, resource_type="networksegments", revision_number=0)
    _add(rows, models_v2.Network, id=id, project_id=project, name=f"net-{number}", status="ACTIVE", admin_state_up=True,
         mtu=1442, standard_attr_id=attribute)  # fmt: skip
    _add(rows, segment.NetworkSegment, id=id, network_id=id, network_type="geneve", segmentation_id=number // PORTS_A_NETWORK + 1,
         segment_index=0, is_dynamic=False, standard_attr_id=of_segment)  # fmt: skip
    _sync(rows, "network", id, project, id)


def _port(rows: dict[sa.Table, list[Row]], id: str, network: str, project: str, number: int) -> None:
    attribute = FIRST_ATTRIBUTE + 2 * number
    _add(rows, standard_attr.StandardAttribute, id=attribute, resource_type="ports", revision_number=0)
    mac = f"fa:16:{0x3E + (number >> 24):02x}:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    _add(rows, models_v2.Port, id=id, project_id=project, network_id=network, name=f"vm-{number}", mac_address=mac,
         admin_state_up=True, status="DOWN", device_id="", device_owner="", standard_attr_id=attribute)  # fmt: skip
    _add(rows, ml2_models.PortBinding, port_id=id, host="", vif_type="unbound", vnic_type="normal", profile="",
         vif_details="", status="ACTIVE")  # fmt: skip
    _sync(rows, "port", id, project, network)


def _sync(rows: dict[sa.Table, list[Row]], kind: str, id: str, project: str, scope: str) -> None:
    rows.setdefault(SYNC, []).append(
        {"kind": kind, "object_id": id, "project_id": project, "scope": scope, "version": 1, "dirty_since": 1.0,
         "shard": shard_of(kind, id)}
    )  # fmt: skip


def _add(rows: dict[sa.Table, list[Row]], model: Any, **values: Any) -> None:
    rows.setdefault(model.__table__, []).append(values)


def _uuid(random: Random) -> str:
    return str(UUID(int=random.getrandbits(128)))


def main(url: str, store: str, deployment: str, objects: int, measured: int) -> None:
    database = SqlDatabase.at(url)
    drain = Drain(
        SqlSyncTable(database, facts, adoptable),
        SqlLeaseTable(database),
        Link(store),
        SystemClock(),
        deployment,
        "bench",
    )
    for part in (range(objects - measured), range(objects - measured, objects)):
        with database.writer() as connection:
            for table, rows in tables(part):
                connection.execute(sa.insert(table), rows)
        began, cpu = time.perf_counter(), time.process_time()
        done = drain.drain()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        assert done.written == len(part), done
    print(json.dumps({"objects": measured, "seconds": seconds, "cpu_seconds": cpu}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
