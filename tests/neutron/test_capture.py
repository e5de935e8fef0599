"""What bumps a version, what does not, and what a rollback takes back: on Neutron's own tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from neutron.db import models_v2, rbac_db_models
from neutron.db.extra_dhcp_opt import models as dhcp_options
from neutron.db.models import allowed_address_pair, dns, securitygroup
from neutron.db.port_security import models as port_security
from neutron.plugins.ml2 import models as ml2_models
from neutron_cloud import Sql
from neutron_lib.db import api as db_api
from neutron_objects import NETWORK, PORT, SUBNET, binding, network, port, subnet
from sqlalchemy import orm

from flowloom.neutron.capture import BulkStatement, Capture, Ref

Write = Callable[[orm.Session], object]


@pytest.fixture
def committed() -> list[frozenset[Ref]]:
    return []


@pytest.fixture
def capture(committed: list[frozenset[Ref]]) -> Iterator[Capture]:
    listening = Capture(committed.append, strict=True)
    listening.listen()
    yield listening
    db_api.sqla_remove_all()


@contextmanager
def writing(sql: Sql) -> Iterator[orm.Session]:
    with orm.Session(sql.writing) as session, session.begin():
        yield session


@pytest.fixture
def filled(sql: Sql, capture: Capture) -> Sql:
    with writing(sql) as session:
        network(session)
        subnet(session)
        port(session)
        binding(session, "h1")
        session.add(models_v2.IPAllocation(port_id=PORT, ip_address="10.0.0.5", subnet_id=SUBNET, network_id=NETWORK))
        session.add(models_v2.SubnetRoute(subnet_id=SUBNET, destination="1.0.0.0/8", nexthop="10.0.0.9"))
        session.add(models_v2.DNSNameServer(subnet_id=SUBNET, address="9.9.9.9", order=0))
    return sql


def versions(sql: Sql) -> dict[str, int]:
    return {identifier: row.version for (_, identifier), row in sql.rows().items()}


def test_a_transaction_bumps_each_of_its_new_objects_once(filled: Sql) -> None:
    assert versions(filled) == {NETWORK: 1, SUBNET: 1, PORT: 1}


def test_a_row_says_where_the_record_lies_even_for_a_port_of_another_project(filled: Sql) -> None:
    row = filled.rows()["port", PORT]
    assert (row.project_id, row.scope) == ("project-a", NETWORK)
    assert row.dirty_since > 1_700_000_000
    assert row.synced_version == 0


def first(session: orm.Session, model: Any) -> Any:
    return session.scalars(sa.select(model)).unique().first()


def put(name: str, value: object, model: Any = models_v2.Port) -> Write:
    return lambda session: setattr(first(session, model), name, value)


def add(model: Any, **columns: object) -> Write:
    return lambda session: session.add(model(**columns))


def clear(model: Any, collection: str) -> Write:
    def write(session: orm.Session) -> None:
        owner = first(session, model)  # Held: a session refers to its objects weakly.
        getattr(owner, collection).clear()

    return write


def remove(model: Any) -> Write:
    return lambda session: session.delete(first(session, model))


REACH = [
    ("port name", put("name", "q"), PORT),
    ("port switched off", put("admin_state_up", False), PORT),
    ("device", put("device_id", "vm"), PORT),
    ("address taken away", remove(models_v2.IPAllocation), PORT),
    (
        "address given",
        add(models_v2.IPAllocation, port_id=PORT, ip_address="10.0.0.6", subnet_id=SUBNET, network_id=NETWORK),
        PORT,
    ),
    ("address dropped from the list", clear(models_v2.Port, "fixed_ips"), PORT),
    ("bound to another host", put("host", "h2", ml2_models.PortBinding), PORT),
    ("vif type", put("vif_type", "unbound", ml2_models.PortBinding), PORT),
    ("second binding", lambda session: binding(session, "h2", "INACTIVE"), PORT),
    ("port security", add(port_security.PortSecurityBinding, port_id=PORT, port_security_enabled=False), PORT),
    ("pair", add(allowed_address_pair.AllowedAddressPair, port_id=PORT, mac_address="m", ip_address="1.1.1.1"), PORT),
    ("dhcp option", add(dhcp_options.ExtraDhcpOpt, id="o", port_id=PORT, opt_name="mtu", opt_value="1400"), PORT),
    (
        "dns name",
        add(
            dns.PortDNS,
            port_id=PORT,
            dns_name="vm",
            dns_domain="",
            current_dns_name="",
            current_dns_domain="",
            previous_dns_name="",
            previous_dns_domain="",
        ),
        PORT,
    ),
    ("subnet gateway", put("gateway_ip", None, models_v2.Subnet), SUBNET),
    ("dhcp off", put("enable_dhcp", False, models_v2.Subnet), SUBNET),
    ("route gone", clear(models_v2.Subnet, "routes"), SUBNET),
    ("name server gone", clear(models_v2.Subnet, "dns_nameservers"), SUBNET),
    ("route", add(models_v2.SubnetRoute, subnet_id=SUBNET, destination="2.0.0.0/8", nexthop="10.0.0.8"), SUBNET),
    ("network mtu", put("mtu", 1300, models_v2.Network), NETWORK),
    ("network domain", add(dns.NetworkDNSDomain, network_id=NETWORK, dns_domain="x.test."), NETWORK),
]


@pytest.mark.parametrize(("change", "bumped"), [case[1:] for case in REACH], ids=[case[0] for case in REACH])
def test_what_reaches_a_record_bumps_its_version(filled: Sql, change: Write, bumped: str) -> None:
    with writing(filled) as session:
        change(session)
    assert versions(filled) == {NETWORK: 1, SUBNET: 1, PORT: 1} | {bumped: 2}


NO_REACH = [
    ("port status", put("status", "ACTIVE")),
    ("description", put("description", "words")),
    ("the same name again", put("name", "p")),
    ("vif details", put("vif_details", "{}", ml2_models.PortBinding)),
    ("binding profile", put("profile", "{}", ml2_models.PortBinding)),
    ("network status", put("status", "DOWN", models_v2.Network)),
]


@pytest.mark.parametrize("change", [case[1] for case in NO_REACH], ids=[case[0] for case in NO_REACH])
def test_what_reaches_no_record_bumps_nothing(filled: Sql, committed: list[Any], change: Write) -> None:
    committed.clear()
    with writing(filled) as session:
        change(session)
    assert versions(filled) == {NETWORK: 1, SUBNET: 1, PORT: 1}
    assert not committed


def test_a_security_group_of_a_port_reaches_the_port(filled: Sql) -> None:
    with writing(filled) as session:
        session.add(securitygroup.SecurityGroup(id="sg", project_id="project-b", name="g"))
        session.flush()
        session.add(securitygroup.SecurityGroupPortBinding(port_id=PORT, security_group_id="sg"))
    assert versions(filled)[PORT] == 2


def test_sharing_a_network_reaches_the_network(filled: Sql) -> None:
    with filled.writing.begin() as connection:  # The model asks the core plug-in, not loaded here, what is allowed.
        connection.execute(
            sa.insert(rbac_db_models.NetworkRBAC.__table__).values(
                id="r", project_id="project-a", object_id=NETWORK, action="access_as_shared", target_project="x"
            )
        )
    with writing(filled) as session:
        session.delete(first(session, rbac_db_models.NetworkRBAC))
    assert versions(filled)[NETWORK] == 2


def test_a_row_that_moves_from_one_port_to_another_bumps_both(filled: Sql) -> None:
    with writing(filled) as session:
        port(session, "port-2")
    with writing(filled) as session:
        first(session, models_v2.IPAllocation).port_id = "port-2"
    assert (versions(filled)[PORT], versions(filled)["port-2"]) == (2, 2)


def test_a_rolled_back_transaction_bumps_nothing(filled: Sql, committed: list[Any]) -> None:
    committed.clear()
    with orm.Session(filled.writing) as session:
        first(session, models_v2.Port).name = "q"
        session.flush()
        session.rollback()
    assert versions(filled)[PORT] == 1
    assert not committed


def test_a_rolled_back_savepoint_takes_its_bump_back_and_the_rest_stays(filled: Sql) -> None:
    with writing(filled) as session:
        nested = session.begin_nested()
        first(session, models_v2.Port).name = "q"
        session.flush()
        nested.rollback()
        first(session, models_v2.Subnet).name = "t"
    assert versions(filled) == {NETWORK: 1, SUBNET: 2, PORT: 1}


def test_a_change_after_a_rolled_back_savepoint_still_bumps(filled: Sql) -> None:
    with writing(filled) as session:
        row = first(session, models_v2.Port)
        nested = session.begin_nested()
        row.name = "q"
        session.flush()
        nested.rollback()
        row.name = "r"
    assert versions(filled)[PORT] == 2


def test_a_savepoint_inside_a_transaction_that_has_bumped_does_not_bump_again(filled: Sql) -> None:
    with writing(filled) as session:
        row = first(session, models_v2.Port)
        row.name = "q"
        session.flush()
        with session.begin_nested():
            row.name = "r"
        row.name = "s"
    assert versions(filled)[PORT] == 2


def test_nobody_is_woken_by_a_savepoint_and_once_by_the_commit(filled: Sql, committed: list[frozenset[Ref]]) -> None:
    committed.clear()
    with writing(filled) as session:
        with session.begin_nested():
            first(session, models_v2.Port).name = "q"
        assert not committed
        first(session, models_v2.Subnet).name = "t"
    assert committed == [frozenset({("port", PORT), ("subnet", SUBNET)})]


def test_a_deleted_object_leaves_a_row_and_goes_on_counting_when_created_again(filled: Sql) -> None:
    with writing(filled) as session:
        session.delete(first(session, models_v2.Port))
    row = filled.rows()["port", PORT]
    assert (row.version, row.deleted, row.scope) == (2, True, NETWORK)
    with writing(filled) as session:
        port(session)
    again = filled.rows()["port", PORT]
    assert (again.version, again.deleted, again.key) == (3, False, row.key)


def test_an_object_from_before_the_first_start_gets_its_row_with_its_first_change(sql: Sql) -> None:
    with writing(sql) as session:
        network(session)
        port(session)
    listening = Capture(lambda refs: None, strict=True)
    listening.listen()
    try:
        with writing(sql) as session:
            binding(session, "h1")
    finally:
        db_api.sqla_remove_all()
    row = sql.rows()["port", PORT]
    assert (row.version, row.project_id, row.scope) == (1, "project-a", NETWORK)


BULK = [
    ("update", sa.update(models_v2.Port).values(name="q"), {PORT: 2}),
    ("delete", sa.delete(models_v2.IPAllocation), {PORT: 2}),
    ("core", sa.update(models_v2.Port.__table__).values(mac_address="x"), {PORT: 2}),
    ("where", sa.update(models_v2.Port).where(models_v2.Port.name == "nobody").values(name="q"), {}),
    (
        "another table",
        sa.update(models_v2.Subnet)
        .where(models_v2.Subnet.network_id == models_v2.Network.id, models_v2.Network.name == "n")
        .values(name="q"),
        {SUBNET: 2},
    ),
    (
        "insert",
        sa.insert(models_v2.SubnetRoute).values(subnet_id=SUBNET, destination="3.0.0.0/8", nexthop="10.0.0.7"),
        {SUBNET: 2},
    ),
]


@pytest.mark.parametrize(("statement", "bumped"), [case[1:] for case in BULK], ids=[case[0] for case in BULK])
def test_a_bulk_statement_bumps_the_objects_whose_rows_it_finds_and_is_counted(
    filled: Sql, capture: Capture, statement: Any, bumped: dict[str, int]
) -> None:
    with writing(filled) as session:
        session.execute(statement)
    assert versions(filled) == {NETWORK: 1, SUBNET: 1, PORT: 1} | bumped
    assert (capture.bulk_statements, capture.uncaptured) == (1, 0)


def test_a_bulk_statement_that_moves_rows_bumps_where_they_were_and_where_they_are(filled: Sql) -> None:
    with writing(filled) as session:
        port(session, "port-2")
    with writing(filled) as session:
        session.execute(sa.update(models_v2.IPAllocation).values(port_id="port-2"))
    assert (versions(filled)[PORT], versions(filled)["port-2"]) == (2, 2)


def test_a_bulk_statement_that_deletes_objects_leaves_rows_that_say_so(filled: Sql) -> None:
    with writing(filled) as session:
        session.execute(sa.delete(models_v2.IPAllocation))
        session.execute(sa.delete(models_v2.Port).where(models_v2.Port.id == PORT))
    row = filled.rows()["port", PORT]
    assert (row.version, row.deleted) == (2, True)


def test_bulk_updates_and_inserts_by_key_name_their_objects(filled: Sql) -> None:
    with writing(filled) as session:
        session.execute(sa.update(models_v2.Port), [{"id": PORT, "name": "q"}])
        session.execute(
            sa.insert(models_v2.DNSNameServer),
            [{"subnet_id": SUBNET, "address": each} for each in ("1.1.1.1", "8.8.8.8")],
        )
    assert versions(filled) == {NETWORK: 1, SUBNET: 2, PORT: 2}


def test_a_bulk_update_by_key_of_what_reaches_no_record_bumps_nothing(filled: Sql, capture: Capture) -> None:
    with writing(filled) as session:
        session.execute(sa.update(models_v2.Subnet), [{"id": SUBNET, "subnetpool_id": "pool"}])
    assert versions(filled) == {NETWORK: 1, SUBNET: 1, PORT: 1}
    assert capture.bulk_statements == 0


def test_rows_that_changed_beside_those_that_count_do_not_count(filled: Sql) -> None:
    with writing(filled) as session:
        first(session, models_v2.Subnet).name = "q"
        first(session, ml2_models.PortBinding).vif_details = "{}"
    assert versions(filled) == {NETWORK: 1, SUBNET: 2, PORT: 1}


UNTRANSLATABLE = [
    ("insert from a query", sa.insert(models_v2.SubnetRoute).from_select(
        ["subnet_id", "destination", "nexthop"],
        sa.select(models_v2.Subnet.id, sa.literal("4.0.0.0/8"), sa.literal("10.0.0.6")),
    )),
    ("rows move to where a function says", sa.update(models_v2.IPAllocation).values(port_id=sa.func.lower("PORT-1"))),
]  # fmt: skip


@pytest.mark.parametrize("statement", [case[1] for case in UNTRANSLATABLE], ids=[case[0] for case in UNTRANSLATABLE])
def test_a_bulk_statement_whose_objects_nobody_knows_is_refused_and_counted(
    filled: Sql, capture: Capture, statement: Any
) -> None:
    with writing(filled) as session, pytest.raises(BulkStatement):
        session.execute(statement)
    assert capture.uncaptured == 1


def test_a_bulk_statement_that_reaches_no_record_passes(filled: Sql, capture: Capture) -> None:
    with writing(filled) as session:
        session.execute(sa.update(models_v2.Port).values(status="ACTIVE"))
    assert capture.bulk_statements == 0


def test_a_bulk_statement_in_production_is_counted_and_goes_through(filled: Sql) -> None:
    db_api.sqla_remove_all()
    listening = Capture(lambda refs: None, strict=False)
    listening.listen()
    with writing(filled) as session:
        session.execute(UNTRANSLATABLE[0][1])
    assert (listening.bulk_statements, listening.uncaptured) == (1, 1)
    assert versions(filled) == {NETWORK: 1, SUBNET: 1, PORT: 1}
