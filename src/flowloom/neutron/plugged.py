"""What Neutron's trunk and QoS plug-ins ask of whoever wires ports: one driver each, which says what it can."""

from __future__ import annotations

from typing import Any

from neutron.services.trunk.drivers import base as trunk_base
from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.db import constants as db_constants
from neutron_lib.services.qos import base as qos_base
from neutron_lib.services.qos import constants as qos
from neutron_lib.services.trunk import constants as trunk

NAME = "flowloom"

_AMOUNT = {"type:range": [0, db_constants.DB_INTEGER_MAX_VALUE]}
_DIRECTIONS = {"type:values": constants.VALID_DIRECTIONS}

QOS_RULES: dict[str, dict[str, Any]] = {
    qos.RULE_TYPE_BANDWIDTH_LIMIT: {qos.MAX_KBPS: _AMOUNT, qos.MAX_BURST: _AMOUNT, qos.DIRECTION: _DIRECTIONS},
    qos.RULE_TYPE_PACKET_RATE_LIMIT: {qos.MAX_KPPS: _AMOUNT, qos.MAX_BURST_KPPS: _AMOUNT, qos.DIRECTION: _DIRECTIONS},
    qos.RULE_TYPE_DSCP_MARKING: {qos.DSCP_MARK: {"type:values": constants.VALID_DSCP_MARKS}},
    qos.RULE_TYPE_MINIMUM_BANDWIDTH: {qos.MIN_KBPS: _AMOUNT, qos.DIRECTION: _DIRECTIONS},
    qos.RULE_TYPE_MINIMUM_PACKET_RATE: {
        qos.MIN_KPPS: _AMOUNT,
        qos.DIRECTION: {"type:values": constants.VALID_DIRECTIONS_AND_ANY},
    },
}


class TrunkDriver(trunk_base.DriverBase):  # type: ignore[misc]
    """announced: whether trunks are; without, Neutron refuses to load its trunk plug-in."""

    def __init__(self, announced: bool) -> None:
        self._announced = announced
        super().__init__(NAME, (portbindings.VIF_TYPE_OVS,), (trunk.SEGMENTATION_TYPE_VLAN,), can_trunk_bound_port=True)

    @property
    def is_loaded(self) -> bool:
        return self._announced


class QosDriver(qos_base.DriverBase):  # type: ignore[misc]
    """announced: whether QoS is; without, no rule is supported."""

    def __init__(self, announced: bool) -> None:
        self._announced = announced
        super().__init__(NAME, (portbindings.VIF_TYPE_OVS,), (portbindings.VNIC_NORMAL,), QOS_RULES)

    @property
    def is_loaded(self) -> bool:
        return self._announced
