"""Port status upward: what the hosts report in the store becomes Neutron's `status`.

Level-triggered: `decide` looks at what is, never at what happened; it may be asked at any time, by any
number of processes.  A port is ACTIVE when the host that it is bound to has confirmed the flows of the
version that Neutron holds; later versions of an ACTIVE port do not take that back, its host does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from neutron.db import models_v2, provisioning_blocks
from neutron.plugins.ml2 import models as ml2_models
from neutron_lib import constants
from neutron_lib import context as neutron_context
from neutron_lib.api.definitions import portbindings
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory

from flowloom.model.records import PortStatus
from flowloom.neutron.captured import PORT
from flowloom.neutron.driver import PROVISIONING_ENTITY
from flowloom.neutron.models import SYNC

IDS_PER_SELECT = 500


@dataclass(frozen=True)
class BoundPort:
    """A port that a host is to serve, with the version that Neutron holds."""

    id: str
    key: int
    version: int
    confirmed_version: int
    status: str
    admin_state_up: bool
    host: str


def decide(port: BoundPort, report: PortStatus | None) -> Literal["ACTIVE", "DOWN"] | None:
    """The status that `port` is to get; None: it keeps the one it has.

    Without a report of its own host nothing changes: an empty or wiped store says nothing about a port.
    """
    if report is None or report.chassis != port.host:
        return None
    active = port.status == constants.PORT_STATUS_ACTIVE
    if not report.up or not port.admin_state_up:
        return "DOWN" if active else None
    if not active and report.port_version >= port.version:
        return "ACTIVE"
    return None


def bound_ports(connection: sa.Connection, ids: Collection[str] | None = None) -> Iterable[BoundPort]:
    """The bound ports among `ids`, or all of them."""
    ports, bindings = models_v2.Port.__table__, ml2_models.PortBinding.__table__
    statement = (
        sa.select(
            ports.c.id, SYNC.c.key, SYNC.c.version, SYNC.c.confirmed_version, ports.c.status, ports.c.admin_state_up
        )
        .add_columns(bindings.c.host)
        .select_from(
            ports.join(SYNC, sa.and_(SYNC.c.kind == PORT, SYNC.c.object_id == ports.c.id)).join(
                bindings, bindings.c.port_id == ports.c.id
            )
        )
        .where(bindings.c.status == constants.ACTIVE, bindings.c.vif_type == portbindings.VIF_TYPE_OVS)
    )
    if ids is None:
        yield from (BoundPort(*row) for row in connection.execute(statement))
        return
    ordered = sorted(ids)
    for start in range(0, len(ordered), IDS_PER_SELECT):
        chosen = statement.where(ports.c.id.in_(ordered[start : start + IDS_PER_SELECT]))
        yield from (BoundPort(*row) for row in connection.execute(chosen))


def set_active(port: BoundPort, report: PortStatus) -> bool:
    """Make `port` ACTIVE unless it has changed since it was read; whether it was made so.

    Proof and provisioning block are exchanged in one transaction: a port that moves to another host
    at this moment gets a version and a block that stay.
    """
    context = neutron_context.get_admin_context()
    if not _exchange_proof(context, port, report.port_version):
        return False
    registry.publish(
        resources.PORT,
        provisioning_blocks.PROVISIONING_COMPLETE,
        PROVISIONING_ENTITY,
        payload=events.DBEventPayload(context, resource_id=port.id),
    )
    return True


def set_down(port: BoundPort) -> bool:
    """Take `port` out of ACTIVE unless it has changed since it was read; whether it was."""
    context = neutron_context.get_admin_context()
    if not _take_back_proof(context, port):
        return False
    directory.get_plugin().update_port_status(context, port.id, constants.PORT_STATUS_DOWN, port.host)
    return True


@db_api.retry_if_session_inactive()  # type: ignore[untyped-decorator]
def _exchange_proof(context: neutron_context.Context, port: BoundPort, proof: int) -> bool:
    with db_api.CONTEXT_WRITER.using(context) as session:
        if not compare_and_set(session.connection(), port, proof):
            return False
        provisioning_blocks.remove_provisioning_component(context, port.id, resources.PORT, PROVISIONING_ENTITY)
        return True


@db_api.retry_if_session_inactive()  # type: ignore[untyped-decorator]
def _take_back_proof(context: neutron_context.Context, port: BoundPort) -> bool:
    with db_api.CONTEXT_WRITER.using(context) as session:
        return compare_and_set(session.connection(), port, 0)


def compare_and_set(connection: sa.Connection, port: BoundPort, proof: int) -> bool:
    """Note `proof` as confirmed unless `port` has a newer version by now; whether it was noted.

    It always changes the row, so that on Galera too a concurrent change of the port and this one collide.
    """
    statement = (
        sa.update(SYNC).where(SYNC.c.key == port.key, SYNC.c.version == port.version).values(confirmed_version=proof)
    )
    return bool(connection.execute(statement).rowcount)
