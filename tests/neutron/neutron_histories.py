"""Random operations on Neutron's own tables, over every kind that has a record, in sessions that the test owns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.models import address_group, flavor, l3, port_forwarding, securitygroup
from neutron.db.qos import models as qos
from neutron.plugins.ml2 import models as ml2_models
from neutron.services.trunk import models as trunk
from neutron_objects import binding, network, subnet
from sqlalchemy import orm

from flowloom.consistency.table import Ref
from flowloom.kernel.errors import Rejected
from flowloom.model.records import Record
from flowloom.neutron.captured import ROOTS
from flowloom.neutron.translate import read

assert flavor, "routers name its table"

GATEWAY = "network:router_gateway"
Content = dict[Ref, "Record | Rejected"]


class Unnumbered(NamedTuple):
    """Stands for a sync row, so that contents can be compared without versions."""

    key: int = 1
    version: int = 0


def content(connection: sa.Connection) -> Content:
    """Everything in Neutron's tables that has a record."""
    found: Content = {}
    for kind, root in ROOTS.items():
        ids = connection.scalars(sa.select(root.model.__table__.c.id)).all()
        records = read(connection, kind, dict.fromkeys(ids, Unnumbered()))
        assert records is not None
        found |= {Ref(kind, each): record for each, record in records.items()}
    return found


def difference(one: Content, other: Content) -> set[Ref]:
    return {ref for ref in one.keys() | other.keys() if one.get(ref) != other.get(ref)}


@dataclass
class History:
    """One seed's objects and dice.  Objects are looked up before each use: a rollback leaves none that were held."""

    session: orm.Session
    random: Random
    made: Iterator[int]
    now: Content
    texts: list[str] = field(default_factory=lambda: list("abcdef"))

    def any(self, model: Any, **where: Any) -> Any:
        found = self.session.scalars(sa.select(model).filter_by(**where)).unique().all()
        return self.random.choice(found) if found else None

    def id(self) -> str:
        return f"x{next(self.made)}"

    def text(self) -> str:
        return self.random.choice(self.texts)

    def add(self, row: Any) -> None:
        self.session.add(row)

    def step(self) -> None:
        self.session.expire_all()  # What was added by foreign key stands in no collection that is loaded already.
        self.random.choice(STEPS)(self)


def make_port(h: History) -> None:
    where = h.any(models_v2.Network)
    if where is None:
        network(h.session, h.id())
        return
    number = next(h.made)
    row = models_v2.Port(
        id=f"x{number}",
        project_id="project-b",
        name=h.text(),
        network_id=where.id,
        mac_address=f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}",
        admin_state_up=True,
        status="DOWN",
        device_id="",
        device_owner="",
    )
    h.add(row)
    h.session.flush()
    if h.random.random() < 0.5:
        binding(h.session, h.text(), port_id=row.id)


def make_subnet(h: History) -> None:
    where = h.any(models_v2.Network)
    if where is not None:
        subnet(h.session, h.id(), where.id)


def rename(h: History) -> None:
    model = h.random.choice([root.model for root in ROOTS.values() if hasattr(root.model, "name")])
    if (row := h.any(model)) is not None:
        row.name = h.text()


def delete_port(h: History) -> None:
    row = h.any(models_v2.Port)
    if row is not None and not h.any(l3.Router, gw_port_id=row.id):
        h.session.delete(row)


def move_binding(h: History) -> None:
    if (row := h.any(ml2_models.PortBinding)) is not None:
        row.host = h.text() + h.id()


def address(h: History) -> None:
    where, inside = h.any(models_v2.Port), h.any(models_v2.Subnet)
    if where is not None and inside is not None:
        h.add(
            models_v2.IPAllocation(
                port_id=where.id,
                ip_address=f"10.0.{next(h.made)}.1",
                subnet_id=inside.id,
                network_id=where.network_id,
            )
        )


def move_address(h: History) -> None:
    row, where = h.any(models_v2.IPAllocation), h.any(models_v2.Port)
    if row is not None and where is not None and where.id != row.port_id:
        if h.random.random() < 0.5:
            row.port_id = where.id
        else:
            row.port = where


def drop_address(h: History) -> None:
    if (row := h.any(models_v2.IPAllocation)) is not None:
        h.session.delete(row)


def empty_port(h: History) -> None:
    if (row := h.any(models_v2.Port)) is not None:
        row.fixed_ips.clear()


def change_mac(h: History) -> None:
    if (row := h.any(models_v2.Port)) is not None:
        number = next(h.made)
        row.mac_address = f"fa:16:3f:00:{number >> 8:02x}:{number & 255:02x}"


def drop_subnet(h: History) -> None:
    if (row := h.any(models_v2.Subnet)) is not None:
        h.session.delete(row)


def drop_policy(h: History) -> None:
    if (row := h.any(qos.QosPolicy)) is not None:
        h.session.delete(row)


def make_group(h: History) -> None:
    h.add(securitygroup.SecurityGroup(id=h.id(), project_id="project-c", name=h.text()))


def make_rule(h: History) -> None:
    group, remote = h.any(securitygroup.SecurityGroup), h.any(securitygroup.SecurityGroup)
    if group is not None:
        h.add(
            securitygroup.SecurityGroupRule(
                id=h.id(),
                security_group_id=group.id,
                remote_group_id=remote.id if h.random.random() < 0.5 else None,
                direction="ingress",
                ethertype="IPv4",
            )
        )


def drop_rule(h: History) -> None:
    if (row := h.any(securitygroup.SecurityGroupRule)) is not None:
        h.session.delete(row)


def drop_group(h: History) -> None:
    if (row := h.any(securitygroup.SecurityGroup)) is not None:
        h.session.delete(row)  # Also while it is in use: the database takes its bindings along.


def join_group(h: History) -> None:
    where, group = h.any(models_v2.Port), h.any(securitygroup.SecurityGroup)
    if where is not None and group is not None:
        ids = {"port_id": where.id, "security_group_id": group.id}
        if h.any(securitygroup.SecurityGroupPortBinding, **ids) is None:
            h.add(securitygroup.SecurityGroupPortBinding(**ids))


def leave_group(h: History) -> None:
    if (row := h.any(securitygroup.SecurityGroupPortBinding)) is not None:
        h.session.delete(row)


def make_router(h: History) -> None:
    h.add(l3.Router(id=h.id(), project_id="project-d", name=h.text(), status="ACTIVE", admin_state_up=True))


def attach(h: History) -> None:
    router, where = h.any(l3.Router), h.any(models_v2.Port)
    if router is not None and where is not None and h.any(l3.RouterPort, port_id=where.id) is None:
        kind = h.random.choice([GATEWAY, "network:router_interface"])
        h.add(l3.RouterPort(router_id=router.id, port_id=where.id, port_type=kind))
        if kind == GATEWAY:
            router.gw_port = where


def detach(h: History) -> None:
    if (row := h.any(l3.RouterPort)) is not None:
        if row.router.gw_port_id == row.port_id:
            row.router.gw_port = None
        h.session.delete(row)


def route(h: History) -> None:
    if (router := h.any(l3.Router)) is not None:
        h.add(l3.RouterRoute(router_id=router.id, destination=f"10.{next(h.made)}.0.0/16", nexthop="10.0.0.1"))


def make_floating_ip(h: History) -> None:
    holder = h.any(models_v2.Port)
    if holder is not None:
        h.add(
            l3.FloatingIP(
                id=h.id(),
                project_id="project-e",
                floating_ip_address="203.0.113.5",
                floating_network_id=holder.network_id,
                floating_port_id=holder.id,
            )
        )


def associate(h: History) -> None:
    row, where = h.any(l3.FloatingIP), h.any(models_v2.Port)
    if row is not None and where is not None:
        row.fixed_ip_address = None if row.fixed_ip_address else f"10.0.0.{next(h.made)}"


def make_forwarding(h: History) -> None:
    floating_ip, where = h.any(l3.FloatingIP), h.any(models_v2.Port)
    if floating_ip is not None and where is not None:
        number = next(h.made)
        h.add(
            port_forwarding.PortForwarding(
                id=f"x{number}",
                floatingip_id=floating_ip.id,
                internal_neutron_port_id=where.id,
                protocol="tcp",
                internal_ip_address="10.0.0.5",
                internal_port_start=number,
                internal_port_end=number,
                external_port_start=number,
                external_port_end=number,
            )
        )


def drop_floating_ip(h: History) -> None:
    if (row := h.any(l3.FloatingIP)) is not None:
        h.session.delete(row)


def addresses(h: History) -> None:
    group = h.any(address_group.AddressGroup)
    if group is None:
        h.add(address_group.AddressGroup(id=h.id(), project_id="project-f", name=h.text()))
    elif group.addresses and h.random.random() < 0.4:
        group.addresses.pop()
    else:
        group.addresses.append(address_group.AddressAssociation(address=f"192.0.{next(h.made)}.0/24"))


def limit(h: History) -> None:
    policy, rule = h.any(qos.QosPolicy), h.any(qos.QosBandwidthLimitRule)
    if policy is None:
        h.add(qos.QosPolicy(id=h.id(), project_id="project-g", name=h.text()))
    elif rule is None:
        h.add(qos.QosBandwidthLimitRule(id=h.id(), qos_policy_id=policy.id, max_kbps=1, direction="egress"))
    elif h.random.random() < 0.3:
        h.session.delete(rule)
    else:
        rule.max_kbps = next(h.made)


def apply_policy(h: History) -> None:
    policy, where, row = h.any(qos.QosPolicy), h.any(models_v2.Port), h.any(qos.QosPortPolicyBinding)
    if row is not None and h.random.random() < 0.5:
        h.session.delete(row)
    elif policy is not None and where is not None and h.any(qos.QosPortPolicyBinding, port_id=where.id) is None:
        h.add(qos.QosPortPolicyBinding(policy_id=policy.id, port_id=where.id))


def bundle(h: History) -> None:
    whole, where = h.any(trunk.Trunk), h.any(models_v2.Port)
    if where is None or h.any(trunk.Trunk, port_id=where.id) or h.any(trunk.SubPort, port_id=where.id):
        return
    if whole is None:
        h.add(trunk.Trunk(id=h.id(), project_id="project-h", name=h.text(), port_id=where.id))
    else:
        number = next(h.made)
        h.add(trunk.SubPort(port_id=where.id, trunk_id=whole.id, segmentation_type="vlan", segmentation_id=number))


def unbundle(h: History) -> None:
    row = h.any(trunk.SubPort) or h.any(trunk.Trunk)
    if row is not None:
        h.session.delete(row)


def in_bulk(h: History) -> None:
    old, new = h.random.sample(h.texts, 2)
    h.session.execute(sa.update(models_v2.Port).where(models_v2.Port.name == old).values(name=new))


STEPS: list[Callable[[History], None]] = [
    make_port, make_port, make_subnet, rename, delete_port, move_binding, address, address, move_address, drop_address,
    empty_port, change_mac, make_group, make_rule, make_rule, drop_rule, drop_group, join_group, leave_group,
    make_router, attach, detach, route, make_floating_ip, associate, make_forwarding, drop_floating_ip, addresses, addresses,
    limit, apply_policy, bundle, bundle, unbundle, in_bulk, drop_subnet, drop_policy,
]  # fmt: skip


FILL = [each for each in STEPS if each.__name__.startswith(("make", "address", "limit", "bundle"))] * 2
"""What there is before the first transaction that is looked at."""
