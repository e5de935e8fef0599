"""From Neutron's own tables to the store: what the drain writes of them.  How it drains: `consistency/test_drain`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.extra_dhcp_opt import models as dhcp_options
from neutron.db.models import allowed_address_pair
from neutron.db.port_security import models as port_security
from neutron_cloud import Sql
from neutron_lib.db import api as db_api
from neutron_objects import NETWORK, PORT, SUBNET, binding, network, port, subnet
from sqlalchemy import orm

from flowloom.consistency.drain import Drain
from flowloom.consistency.place import Place
from flowloom.kernel.clock import ManualClock
from flowloom.model.codec import decode
from flowloom.model.records import AddressPair, DhcpOption, FixedIP, HostRoute, Network, Port, Record, Subnet
from flowloom.neutron.adoption import adoptable
from flowloom.neutron.capture import Capture
from flowloom.neutron.tables import SqlLeaseTable, SqlSyncTable
from flowloom.neutron.translate import facts
from flowloom.northbound.store import Store
from flowloom.testing.fake_store import MemoryDatabase

SCOPE = f"/test/project-a/{NETWORK}/"


class Sink:
    """A northbound with a store and without a bus."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def store(self) -> Store:
        return self._store

    generation = 0

    def look_again(self) -> Place:
        return Place()

    def publisher(self) -> None:
        return None


@pytest.fixture
def database() -> MemoryDatabase:
    return MemoryDatabase()


@pytest.fixture
def filled(sql: Sql) -> Iterator[Sql]:
    Capture(lambda refs: None, strict=True).listen()
    with orm.Session(sql.writing) as session, session.begin():
        network(session)
        subnet(session)
        port(session)
        binding(session, "a-former-host", "INACTIVE")
        binding(session, "h1")
        session.add_all(
            [
                models_v2.IPAllocation(port_id=PORT, ip_address="10.0.0.5", subnet_id=SUBNET, network_id=NETWORK),
                models_v2.SubnetRoute(subnet_id=SUBNET, destination="1.0.0.0/8", nexthop="10.0.0.9"),
                models_v2.DNSNameServer(subnet_id=SUBNET, address="8.8.8.8", order=1),
                models_v2.DNSNameServer(subnet_id=SUBNET, address="9.9.9.9", order=0),
                allowed_address_pair.AllowedAddressPair(port_id=PORT, mac_address="m", ip_address="1.1.1.1"),
                port_security.PortSecurityBinding(port_id=PORT, port_security_enabled=False),
                dhcp_options.ExtraDhcpOpt(id="o", port_id=PORT, opt_name="mtu", opt_value="1400", ip_version=4),
            ]
        )
    yield sql
    db_api.sqla_remove_all()


def drain_into(sql: Sql, database: MemoryDatabase) -> Drain:
    table, leases = SqlSyncTable(sql, facts, adoptable), SqlLeaseTable(sql)
    return Drain(table, leases, Sink(database.open()), ManualClock(), "test", "a-test", batch=2)


def held(database: MemoryDatabase) -> dict[str, Record | None]:
    return {
        entry.key: None if entry.value is None else decode(entry.key, entry.value)
        for entry in database.entries("/test/")
    }


def test_every_object_becomes_the_record_that_neutron_describes(filled: Sql, database: MemoryDatabase) -> None:
    done = drain_into(filled, database).drain()
    assert (done.read, done.written, done.refused, done.newer) == (3, 3, (), ())
    keys = {identifier: row.key for (_, identifier), row in filled.rows().items()}
    with filled.reader() as connection:
        mac = connection.scalar(sa.select(models_v2.Port.__table__.c.mac_address))
    assert held(database) == {
        SCOPE + f"network/{NETWORK}": Network(
            id=NETWORK, version=1, project_id="project-a", key=keys[NETWORK], name="n", mtu=1442, segmentation_id=77
        ),
        SCOPE + f"subnet/{SUBNET}": Subnet(
            id=SUBNET,
            version=1,
            project_id="project-a",
            network_id=NETWORK,
            cidr="10.0.0.0/24",
            name="s",
            gateway_ip="10.0.0.1",
            dns_nameservers=("9.9.9.9", "8.8.8.8"),
            host_routes=(HostRoute("1.0.0.0/8", "10.0.0.9"),),
        ),
        SCOPE + f"port/{PORT}": Port(
            id=PORT,
            version=1,
            project_id="project-b",
            key=keys[PORT],
            network_id=NETWORK,
            mac_address=mac,
            name="p",
            fixed_ips=(FixedIP(SUBNET, "10.0.0.5"),),
            host="h1",
            vif_type="ovs",
            port_security_enabled=False,
            allowed_address_pairs=(AddressPair("1.1.1.1", "m"),),
            extra_dhcp_opts=(DhcpOption("mtu", "1400", 4),),
            inactive_hosts=("a-former-host",),
        ),
    }


def test_a_network_without_segment_is_named_and_the_others_go_on(filled: Sql, database: MemoryDatabase) -> None:
    with filled.writing.begin() as connection:
        connection.execute(sa.text("delete from networksegments"))
    done = drain_into(filled, database).drain()
    assert (done.written, len(done.refused)) == (2, 1)
    assert "segment" in filled.rows()["network", NETWORK].last_error


def test_what_was_deleted_and_came_past_the_capture_is_adopted_and_drained(
    filled: Sql, database: MemoryDatabase
) -> None:
    drain_into(filled, database).drain()
    with filled.writing.begin() as connection:
        connection.execute(sa.text("delete from ports"))
        connection.execute(sa.text("delete from flowloom_sync where kind = 'subnet'"))
    table = SqlSyncTable(filled, facts, adoptable)
    assert sorted(table.adopt(10)) == [("port", PORT), ("subnet", SUBNET)]
    drain_into(filled, database).drain()
    assert held(database)[SCOPE + f"port/{PORT}"] is None
    assert table.adopt(10) == []
