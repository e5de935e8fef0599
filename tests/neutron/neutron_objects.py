"""Neutron objects made straight in its tables, in sessions that the test owns."""

from __future__ import annotations

from typing import Any

from neutron.db import models_v2
from neutron.db.models import segment
from neutron.plugins.ml2 import models as ml2_models
from sqlalchemy import orm

NETWORK, SUBNET, PORT = "net-1", "sub-1", "port-1"


def network(session: orm.Session, identifier: str = NETWORK, project: str = "project-a") -> Any:
    row = models_v2.Network(id=identifier, project_id=project, name="n", status="ACTIVE", admin_state_up=True, mtu=1442)
    session.add(row)
    session.flush()
    session.add(
        segment.NetworkSegment(
            id=f"segment-of-{identifier}"[:36],
            network_id=identifier,
            network_type="geneve",
            segmentation_id=77,
            segment_index=0,
        )
    )
    session.flush()
    return row


def subnet(session: orm.Session, identifier: str = SUBNET, network_id: str = NETWORK) -> Any:
    row = models_v2.Subnet(
        id=identifier,
        project_id="project-a",
        network_id=network_id,
        name="s",
        ip_version=4,
        cidr="10.0.0.0/24",
        gateway_ip="10.0.0.1",
        enable_dhcp=True,
    )
    session.add(row)
    session.flush()
    return row


def port(session: orm.Session, identifier: str = PORT, network_id: str = NETWORK, project: str = "project-b") -> Any:
    row = models_v2.Port(
        id=identifier,
        project_id=project,
        name="p",
        network_id=network_id,
        mac_address=f"fa:16:3e:00:00:{hash(identifier) % 256:02x}",
        admin_state_up=True,
        status="DOWN",
        device_id="",
        device_owner="",
    )
    session.add(row)
    session.flush()
    return row


def binding(session: orm.Session, host: str, status: str = "ACTIVE", port_id: str = PORT) -> Any:
    row = ml2_models.PortBinding(
        port_id=port_id, host=host, vif_type="ovs", vnic_type="normal", status=status, profile="", vif_details=""
    )
    session.add(row)
    session.flush()
    return row
