"""From dirty rows to the store: what is written, and what happens when the store is away, ahead or picky."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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

from flowloom.kernel.errors import Rejected, Unavailable
from flowloom.model.codec import decode, encode
from flowloom.model.records import AddressPair, DhcpOption, FixedIP, HostRoute, Network, Port, Record, Subnet
from flowloom.neutron.capture import Capture
from flowloom.neutron.drain import Drain
from flowloom.neutron.models import SYNC
from flowloom.neutron.translate import select_rows, translate
from flowloom.northbound.bus import Publisher
from flowloom.northbound.store import Outcome, Store, Write
from flowloom.testing.fake_store import MemoryDatabase, MemoryStore

SCOPE = f"/test/project-a/{NETWORK}/"


class Sink:
    """A northbound with a given store, and a publisher that keeps what it is given where a list is passed."""

    def __init__(self, store: Store, published: list[tuple[str, int]] | None = None) -> None:
        self._store = store
        self._published = published

    def store(self) -> Store:
        return self._store

    def publisher(self) -> Publisher | None:
        return None if self._published is None else self

    def publish(self, changes: Sequence[tuple[str, int, bytes | None]]) -> None:
        assert self._published is not None
        self._published += [(key, version) for key, version, _ in changes]

    def close(self) -> None: ...


class Meddling(MemoryStore):
    """A store at which something happens just before a write arrives."""

    def __init__(self, database: MemoryDatabase, meddle: Callable[[Sequence[Write]], None]) -> None:
        super().__init__(database)
        self._meddle = meddle

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        self._meddle(writes)
        return super().apply(writes)


@pytest.fixture
def database() -> MemoryDatabase:
    return MemoryDatabase()


@pytest.fixture
def filled(sql: Sql) -> Iterator[Sql]:
    Capture(lambda refs: None, strict=True).listen()
    with writing(sql) as session:
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


@contextmanager
def writing(sql: Sql) -> Iterator[orm.Session]:
    with orm.Session(sql.writing) as session, session.begin():
        yield session


def drain_into(sql: Sql, database: MemoryDatabase, store: Store | None = None) -> Drain:
    return Drain(sql, Sink(store or database.open()), "test", batch=2)


def held(database: MemoryDatabase) -> dict[str, Record | None]:
    return {
        entry.key: None if entry.value is None else decode(entry.key, entry.value)
        for entry in database.entries("/test/")
    }


def rename(sql: Sql, name: str) -> None:
    with writing(sql) as session:
        row = session.get(models_v2.Port, PORT)
        assert row is not None
        row.name = name


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


def test_what_is_written_is_clean_and_is_not_written_again(filled: Sql, database: MemoryDatabase) -> None:
    drain_into(filled, database).drain()
    assert all(row.version == row.synced_version and row.dirty_since == 0 for row in filled.rows().values())
    assert drain_into(filled, database).drain().read == 0


def test_a_deleted_object_becomes_a_tombstone_and_a_new_one_of_its_id_rises_above_it(
    filled: Sql, database: MemoryDatabase
) -> None:
    drain_into(filled, database).drain()
    with writing(filled) as session:
        session.delete(session.get(models_v2.Port, PORT))
    drain_into(filled, database).drain()
    assert held(database)[SCOPE + f"port/{PORT}"] is None
    with writing(filled) as session:
        port(session)
    drain_into(filled, database).drain()
    again = held(database)[SCOPE + f"port/{PORT}"]
    assert isinstance(again, Port)
    assert again.version == 3


def test_an_object_deleted_before_anybody_drained_it_cannot_be_raised_by_a_late_writer(
    filled: Sql, database: MemoryDatabase
) -> None:
    with writing(filled) as session:
        session.delete(session.get(models_v2.Port, PORT))
    drain_into(filled, database).drain()
    late = Write(SCOPE + f"port/{PORT}", 1, b"what a stalled worker had read")
    assert not database.open().apply([late])[0].applied


def test_only_the_chosen_project_or_objects_or_number_is_drained(filled: Sql, database: MemoryDatabase) -> None:
    drain = drain_into(filled, database)
    assert drain.drain(project="project-b").read == 0
    assert drain.drain(refs={("port", PORT)}).written == 1
    assert drain.drain(limit=1).written == 1
    assert drain.drain(dirty_for_seconds=3600).read == 0
    assert drain.drain(project="project-a").written == 1


def test_a_store_that_is_away_leaves_every_row_dirty_with_the_reason(filled: Sql, database: MemoryDatabase) -> None:
    database.available = False
    for _ in range(2):
        with pytest.raises(Unavailable):
            drain_into(filled, database).drain()
    rows = filled.rows().values()
    assert all(row.synced_version == 0 and row.last_error and row.attempts == 2 for row in rows)
    database.available = True
    drain_into(filled, database).drain()
    assert all(row.synced_version == 1 and not row.last_error and not row.attempts for row in filled.rows().values())


def test_an_answer_that_was_lost_is_found_in_the_store(filled: Sql, database: MemoryDatabase) -> None:
    def write_and_lose_the_answer(writes: Sequence[Write]) -> None:
        database.open().apply(writes)
        raise Unavailable("the connection broke")

    with pytest.raises(Unavailable):
        drain_into(filled, database, Meddling(database, write_and_lose_the_answer)).drain()
    done = drain_into(filled, database).drain()
    assert done.written == 3
    assert all(row.version == row.synced_version for row in filled.rows().values())


def test_what_a_writer_stored_before_it_died_is_still_published(filled: Sql, database: MemoryDatabase) -> None:
    def write_and_die(writes: Sequence[Write]) -> None:
        database.open().apply(writes)
        raise Unavailable("killed")

    with pytest.raises(Unavailable):
        drain_into(filled, database, Meddling(database, write_and_die)).drain()
    published: list[tuple[str, int]] = []
    Drain(filled, Sink(database.open(), published), "test").drain()
    expected = {SCOPE + f"network/{NETWORK}", SCOPE + f"subnet/{SUBNET}", SCOPE + f"port/{PORT}"}
    assert {key for key, version in published if version == 1} == expected


def test_a_change_between_reading_and_writing_stays_dirty_until_it_is_written(
    filled: Sql, database: MemoryDatabase
) -> None:
    names = iter(["changed meanwhile"])

    def change(writes: Sequence[Write]) -> None:
        for name in names:
            rename(filled, name)

    drain_into(filled, database, Meddling(database, change)).drain(refs={("port", PORT)})
    row = filled.rows()["port", PORT]
    assert row.version == 2
    written = held(database)[SCOPE + f"port/{PORT}"]
    assert isinstance(written, Port)
    assert written.version == row.synced_version
    drain_into(filled, database).drain()
    newest = held(database)[SCOPE + f"port/{PORT}"]
    assert isinstance(newest, Port)
    assert (newest.name, newest.version) == ("changed meanwhile", 2)


def test_somebody_newer_is_read_again_and_not_taken_for_written(filled: Sql, database: MemoryDatabase) -> None:
    rivals = iter(["by the rival"])

    def let_a_rival_go_first(writes: Sequence[Write]) -> None:
        for name in rivals:
            rename(filled, name)
            drain_into(filled, database).drain(refs={("port", PORT)})

    done = drain_into(filled, database, Meddling(database, let_a_rival_go_first)).drain(refs={("port", PORT)})
    row = filled.rows()["port", PORT]
    assert (row.version, row.synced_version, row.last_error) == (2, 2, "")
    assert done.newer == ()


def test_what_somebody_newer_wrote_and_did_not_live_to_acknowledge_is_acknowledged_at_once(
    filled: Sql, database: MemoryDatabase
) -> None:
    rivals = iter(["by one that died"])

    def let_a_rival_write_and_die(writes: Sequence[Write]) -> None:
        for name in rivals:
            rename(filled, name)
            with filled.reader() as connection:
                (each,) = translate(connection, select_rows(connection, SYNC.c.object_id == PORT))
            assert each.record is not None
            database.open().apply([Write(SCOPE + f"port/{PORT}", 2, encode(each.record))])

    drain_into(filled, database, Meddling(database, let_a_rival_write_and_die)).drain(refs={("port", PORT)})
    assert filled.rows()["port", PORT].synced_version == 2


def test_a_store_ahead_of_neutron_is_named_and_stays_dirty(filled: Sql, database: MemoryDatabase) -> None:
    key = SCOPE + f"port/{PORT}"
    database.open().apply([Write(key, 99, b"from a later life of this cloud")])
    done = drain_into(filled, database).drain()
    assert done.newer == (key,)
    row = filled.rows()["port", PORT]
    assert row.synced_version == 0
    assert "99" in row.last_error


def test_a_record_that_the_store_refuses_is_named_and_the_others_go_on(filled: Sql, database: MemoryDatabase) -> None:
    def refuse_ports(writes: Sequence[Write]) -> None:
        for write in writes:
            if "/port/" in write.key:
                raise Rejected(write.key, "too large")

    done = drain_into(filled, database, Meddling(database, refuse_ports)).drain()
    assert [error.ref for error in done.refused] == [SCOPE + f"port/{PORT}"]
    assert done.written == 2
    assert filled.rows()["port", PORT].last_error == "too large"


def test_a_network_without_segment_is_named_and_the_others_go_on(filled: Sql, database: MemoryDatabase) -> None:
    with filled.writing.begin() as connection:
        connection.execute(sa.text("delete from networksegments"))
    done = drain_into(filled, database).drain()
    assert (done.written, len(done.refused)) == (2, 1)
    assert "segment" in filled.rows()["network", NETWORK].last_error


def test_a_row_of_a_kind_that_this_release_does_not_know_stays_dirty_and_says_so(
    filled: Sql, database: MemoryDatabase
) -> None:
    with filled.writing.begin() as connection:
        connection.execute(
            sa.insert(SYNC).values(kind="quantum_router", object_id="q", version=1, scope=NETWORK, dirty_since=1.0)
        )
    done = drain_into(filled, database).drain()
    assert (done.written, len(done.refused)) == (3, 1)
    assert "quantum_router" in filled.rows()["quantum_router", "q"].last_error


def test_of_two_drains_at_once_both_may_write_and_the_store_is_right(filled: Sql, database: MemoryDatabase) -> None:
    rivals = iter([1])

    def drain_beside(writes: Sequence[Write]) -> None:
        for _ in rivals:
            drain_into(filled, database).drain()

    done = drain_into(filled, database, Meddling(database, drain_beside)).drain()
    assert not done.newer
    assert all(row.version == row.synced_version for row in filled.rows().values())
    assert len(held(database)) == 3
