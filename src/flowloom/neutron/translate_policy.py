"""Security groups, address groups and QoS policies as records."""

from __future__ import annotations

import sqlalchemy as sa
from neutron.db import rbac_db_models
from neutron.db.models import address_group, securitygroup
from neutron.db.qos import models as qos

from flowloom.model.records import (
    AddressGroup,
    BandwidthLimitRule,
    DscpMarkingRule,
    MinimumBandwidthRule,
    MinimumPacketRateRule,
    PacketRateLimitRule,
    QosPolicy,
    SecurityGroup,
    SecurityGroupRule,
)
from flowloom.neutron.reading import Found, Rows, grouped, select
from flowloom.neutron.translate_l2 import shared


def security_groups(connection: sa.Connection, rows: Rows) -> Found:
    rules = grouped(connection, securitygroup.SecurityGroupRule, "security_group_id", rows, "id")
    shares = grouped(connection, rbac_db_models.SecurityGroupRBAC, "object_id", rows)
    return {
        row.id: SecurityGroup(
            id=row.id,
            version=rows[row.id].version,
            project_id=row.project_id or "",
            key=rows[row.id].key,
            name=row.name or "",
            stateful=bool(row.stateful),
            shared=shared(shares[row.id]),
            rules=tuple(
                SecurityGroupRule(
                    rule.id,
                    rule.direction,
                    rule.ethertype,
                    rule.protocol,
                    rule.port_range_min,
                    rule.port_range_max,
                    rule.remote_ip_prefix,
                    rule.remote_group_id,
                    rule.remote_address_group_id,
                )
                for rule in rules[row.id]
            ),
        )
        for row in select(connection, securitygroup.SecurityGroup, "id", rows)
    }


def address_groups(connection: sa.Connection, rows: Rows) -> Found:
    addresses = grouped(connection, address_group.AddressAssociation, "address_group_id", rows, "address")
    shares = grouped(connection, rbac_db_models.AddressGroupRBAC, "object_id", rows)
    return {
        row.id: AddressGroup(
            id=row.id,
            version=rows[row.id].version,
            project_id=row.project_id or "",
            key=rows[row.id].key,
            name=row.name or "",
            shared=shared(shares[row.id]),
            addresses=tuple(each.address for each in addresses[row.id]),
        )
        for row in select(connection, address_group.AddressGroup, "id", rows)
    }


def qos_policies(connection: sa.Connection, rows: Rows) -> Found:
    shares = grouped(connection, rbac_db_models.QosPolicyRBAC, "object_id", rows)
    limits = grouped(connection, qos.QosBandwidthLimitRule, "qos_policy_id", rows, "id")
    marks = grouped(connection, qos.QosDscpMarkingRule, "qos_policy_id", rows, "id")
    packets = grouped(connection, qos.QosPacketRateLimitRule, "qos_policy_id", rows, "id")
    bandwidths = grouped(connection, qos.QosMinimumBandwidthRule, "qos_policy_id", rows, "id")
    rates = grouped(connection, qos.QosMinimumPacketRateRule, "qos_policy_id", rows, "id")
    return {
        row.id: QosPolicy(
            id=row.id,
            version=rows[row.id].version,
            project_id=row.project_id or "",
            key=rows[row.id].key,
            name=row.name or "",
            shared=shared(shares[row.id]),
            bandwidth_limit_rules=tuple(
                BandwidthLimitRule(rule.id, rule.direction, rule.max_kbps, rule.max_burst_kbps or 0)
                for rule in limits[row.id]
            ),
            dscp_marking_rules=tuple(DscpMarkingRule(rule.id, rule.dscp_mark) for rule in marks[row.id]),
            packet_rate_limit_rules=tuple(
                PacketRateLimitRule(rule.id, rule.direction, rule.max_kpps, rule.max_burst_kpps or 0)
                for rule in packets[row.id]
            ),
            minimum_bandwidth_rules=tuple(
                MinimumBandwidthRule(rule.id, rule.direction, rule.min_kbps) for rule in bandwidths[row.id]
            ),
            minimum_packet_rate_rules=tuple(
                MinimumPacketRateRule(rule.id, rule.direction, rule.min_kpps) for rule in rates[row.id]
            ),
        )
        for row in select(connection, qos.QosPolicy, "id", rows)
    }
