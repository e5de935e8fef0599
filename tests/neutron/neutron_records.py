"""What records are to say, made of the API's answers alone: the second opinion on `flowloom.neutron.translate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from neutron_cloud import Cloud, Refused

from flowloom.model.records import (
    AddressGroup,
    AddressPair,
    BandwidthLimitRule,
    DhcpOption,
    DscpMarkingRule,
    ExternalGateway,
    FixedIP,
    FloatingIP,
    HostRoute,
    MinimumBandwidthRule,
    MinimumPacketRateRule,
    Network,
    NetworkSegment,
    PacketRateLimitRule,
    Port,
    PortForwarding,
    QosPolicy,
    Record,
    Router,
    RouterInterface,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
    SubPort,
    Trunk,
)

Json = dict[str, Any]
Ref = tuple[str, str]

COLLECTIONS = {
    "network": ("networks", "network"),
    "subnet": ("subnets", "subnet"),
    "port": ("ports", "port"),
    "router": ("routers", "router"),
    "floatingip": ("floatingips", "floatingip"),
    "security_group": ("security-groups", "security_group"),
    "address_group": ("address-groups", "address_group"),
    "qos_policy": ("qos/policies", "policy"),
    "trunk": ("trunks", "trunk"),
}
"""kind -> path and name in answers; port forwardings lie under their floating IPs."""


def objects(cloud: Cloud) -> set[Ref]:
    """Everything that has a record, as the API lists it."""
    found = set()
    for kind, (path, _) in COLLECTIONS.items():
        (listed,) = cloud.call("GET", f"{path}?fields=id").values()
        found |= {(kind, each["id"]) for each in listed}
    for kind, floating_ip in list(found):
        if kind == "floatingip":
            listed = cloud.call("GET", f"floatingips/{floating_ip}/port_forwardings")["port_forwardings"]
            found |= {("port_forwarding", each["id"]) for each in listed}
    return found


def expected(cloud: Cloud, ref: Ref) -> Record | None:
    """The record that the API describes, without key and version; None: the API does not know the object."""
    kind, identifier = ref
    if kind == "port_forwarding":
        return _port_forwarding(cloud, identifier)
    path, name = COLLECTIONS[kind]
    try:
        shown = cloud.call("GET", f"{path}/{identifier}")[name]
    except Refused as error:
        if error.status == 404:
            return None
        raise
    return _MAKERS[kind](cloud, shown)


def stripped(record: Record | None) -> Record | None:
    """A record without what only the sync row knows."""
    if record is None:
        return None
    if hasattr(record, "key"):
        record = msgspec.structs.replace(record, key=0)
    return msgspec.structs.replace(record, version=0)


def _head(shown: Json) -> Json:
    return {"id": shown["id"], "version": 0, "project_id": shown["project_id"]}


def _network(cloud: Cloud, shown: Json) -> Network:
    segments = cloud.call("GET", f"segments?network_id={shown['id']}")["segments"]
    several = shown.get("segments") or [shown]
    by_number = {each["segmentation_id"]: each for each in segments}
    ordered = [by_number[each["provider:segmentation_id"]] for each in several]
    rbac = cloud.call("GET", f"rbac-policies?object_id={shown['id']}&action=access_as_shared")["rbac_policies"]
    return Network(
        **_head(shown),
        key=0,
        name=shown["name"],
        admin_state_up=shown["admin_state_up"],
        mtu=shown["mtu"],
        shared=any(each["target_tenant"] == "*" for each in rbac),
        network_type=ordered[0]["network_type"],
        segmentation_id=ordered[0]["segmentation_id"],
        physical_network=ordered[0]["physical_network"],
        dns_domain=shown["dns_domain"],
        external=shown["router:external"],
        qos_policy_id=shown["qos_policy_id"],
        segments=tuple(
            NetworkSegment(each["id"], each["network_type"], each["physical_network"], each["segmentation_id"])
            for each in (ordered if len(ordered) > 1 else ())
        ),
    )


def _subnet(cloud: Cloud, shown: Json) -> Subnet:
    return Subnet(
        **_head(shown),
        network_id=shown["network_id"],
        cidr=shown["cidr"],
        name=shown["name"],
        ip_version=shown["ip_version"],
        gateway_ip=shown["gateway_ip"],
        enable_dhcp=shown["enable_dhcp"],
        dns_nameservers=tuple(shown["dns_nameservers"]),
        host_routes=_routes(shown["host_routes"]),
        ipv6_ra_mode=shown["ipv6_ra_mode"],
        ipv6_address_mode=shown["ipv6_address_mode"],
        segment_id=shown["segment_id"],
        service_types=tuple(sorted(shown["service_types"])),
    )


def _routes(shown: list[Json]) -> tuple[HostRoute, ...]:
    return tuple(sorted((HostRoute(r["destination"], r["nexthop"]) for r in shown), key=lambda r: r.destination))


def _fixed_ips(shown: list[Json]) -> tuple[FixedIP, ...]:
    return tuple(sorted((FixedIP(f["subnet_id"], f["ip_address"]) for f in shown), key=lambda f: f.ip_address))


def _port(cloud: Cloud, shown: Json) -> Port:
    has_bindings = shown["device_owner"].startswith("compute:")
    bindings = cloud.call("GET", f"ports/{shown['id']}/bindings")["bindings"] if has_bindings else []
    return Port(
        **_head(shown),
        key=0,
        network_id=shown["network_id"],
        mac_address=shown["mac_address"],
        name=shown["name"],
        admin_state_up=shown["admin_state_up"],
        fixed_ips=_fixed_ips(shown["fixed_ips"]),
        host=shown["binding:host_id"],
        vnic_type=shown["binding:vnic_type"],
        vif_type=shown["binding:vif_type"],
        device_id=shown["device_id"],
        device_owner=shown["device_owner"],
        port_security_enabled=shown["port_security_enabled"],
        allowed_address_pairs=tuple(
            AddressPair(pair["ip_address"], pair["mac_address"]) for pair in shown["allowed_address_pairs"]
        ),
        security_group_ids=tuple(sorted(shown["security_groups"])),
        extra_dhcp_opts=tuple(
            DhcpOption(option["opt_name"], option["opt_value"], option["ip_version"])
            for option in shown["extra_dhcp_opts"]
        ),
        dns_name=shown["dns_name"],
        inactive_hosts=tuple(sorted(each["host"] for each in bindings if each["status"] == "INACTIVE")),
        qos_policy_id=shown["qos_policy_id"],
    )


def _router(cloud: Cloud, shown: Json) -> Router:
    ports = cloud.call("GET", f"ports?device_id={shown['id']}&sort_key=id&sort_dir=asc")["ports"]
    outside = {port["network_id"]: port for port in ports if port["device_owner"] == "network:router_gateway"}
    gateways = [outside[each["network_id"]] for each in shown["external_gateways"]]
    info = shown["external_gateway_info"] or {}
    return Router(
        **_head(shown),
        key=0,
        name=shown["name"],
        admin_state_up=shown["admin_state_up"],
        interfaces=tuple(
            RouterInterface(port["id"], port["network_id"])
            for port in ports
            if port["device_owner"] == "network:router_interface"
        ),
        external_gateways=tuple(
            ExternalGateway(port["id"], port["network_id"], port["mac_address"], _fixed_ips(port["fixed_ips"]))
            for port in gateways
        ),
        enable_snat=info.get("enable_snat", True),
        routes=_routes(shown["routes"]),
        availability_zone_hints=tuple(shown["availability_zone_hints"]),
        enable_default_route_ecmp=shown["enable_default_route_ecmp"],
        enable_default_route_bfd=shown["enable_default_route_bfd"],
        qos_policy_id=info.get("qos_policy_id"),
    )


def _floating_ip(cloud: Cloud, shown: Json) -> FloatingIP:
    (port,) = cloud.call("GET", f"ports?device_id={shown['id']}")["ports"]
    return FloatingIP(
        **_head(shown),
        key=0,
        floating_network_id=shown["floating_network_id"],
        floating_ip_address=shown["floating_ip_address"],
        floating_port_id=port["id"],
        fixed_port_id=shown["port_id"],
        fixed_ip_address=shown["fixed_ip_address"],
        router_id=shown["router_id"],
        qos_policy_id=shown["qos_policy_id"],
    )


def _port_forwarding(cloud: Cloud, identifier: str) -> PortForwarding | None:
    for floating_ip in cloud.call("GET", "floatingips")["floatingips"]:
        path = f"floatingips/{floating_ip['id']}/port_forwardings"
        for shown in cloud.call("GET", path)["port_forwardings"]:
            if shown["id"] == identifier:
                return PortForwarding(
                    id=identifier,
                    version=0,
                    project_id=floating_ip["project_id"],
                    key=0,
                    floatingip_id=floating_ip["id"],
                    protocol=shown["protocol"],
                    external_port_range=_range(shown["external_port_range"]),
                    internal_port_id=shown["internal_port_id"],
                    internal_ip_address=shown["internal_ip_address"],
                    internal_port_range=_range(shown["internal_port_range"]),
                )
    return None


def _range(shown: str) -> tuple[int, int]:
    first, _, last = shown.partition(":")
    return int(first), int(last or first)


def _shared(cloud: Cloud, shown: Json) -> bool:
    entries = cloud.call("GET", f"rbac-policies?object_id={shown['id']}")["rbac_policies"]
    return any(each["target_tenant"] == "*" for each in entries)


def _security_group(cloud: Cloud, shown: Json) -> SecurityGroup:
    return SecurityGroup(
        **_head(shown),
        key=0,
        name=shown["name"],
        stateful=shown["stateful"],
        shared=_shared(cloud, shown),
        rules=tuple(
            SecurityGroupRule(
                rule["id"],
                rule["direction"],
                rule["ethertype"],
                rule["protocol"],
                rule["port_range_min"],
                rule["port_range_max"],
                rule["remote_ip_prefix"],
                rule["remote_group_id"],
                rule["remote_address_group_id"],
            )
            for rule in sorted(shown["security_group_rules"], key=lambda rule: str(rule["id"]))
        ),
    )


def _address_group(cloud: Cloud, shown: Json) -> AddressGroup:
    return AddressGroup(
        **_head(shown),
        key=0,
        name=shown["name"],
        shared=_shared(cloud, shown),
        addresses=tuple(sorted(shown["addresses"])),
    )


def _qos_policy(cloud: Cloud, shown: Json) -> QosPolicy:
    rules = sorted(shown["rules"], key=lambda rule: str(rule["id"]))

    def of(kind: str) -> list[Json]:
        return [rule for rule in rules if rule["type"] == kind]

    return QosPolicy(
        **_head(shown),
        key=0,
        name=shown["name"],
        shared=_shared(cloud, shown),
        bandwidth_limit_rules=tuple(
            BandwidthLimitRule(r["id"], r["direction"], r["max_kbps"], r["max_burst_kbps"])
            for r in of("bandwidth_limit")
        ),
        dscp_marking_rules=tuple(DscpMarkingRule(r["id"], r["dscp_mark"]) for r in of("dscp_marking")),
        packet_rate_limit_rules=tuple(
            PacketRateLimitRule(r["id"], r["direction"], r["max_kpps"], r["max_burst_kpps"] or 0)
            for r in of("packet_rate_limit")
        ),
        minimum_bandwidth_rules=tuple(
            MinimumBandwidthRule(r["id"], r["direction"], r["min_kbps"]) for r in of("minimum_bandwidth")
        ),
        minimum_packet_rate_rules=tuple(
            MinimumPacketRateRule(r["id"], r["direction"], r["min_kpps"]) for r in of("minimum_packet_rate")
        ),
    )


def _trunk(cloud: Cloud, shown: Json) -> Trunk:
    return Trunk(
        **_head(shown),
        key=0,
        port_id=shown["port_id"],
        name=shown["name"],
        admin_state_up=shown["admin_state_up"],
        sub_ports=tuple(
            SubPort(
                each["port_id"],
                cloud.call("GET", f"ports/{each['port_id']}")["port"]["network_id"],
                each["segmentation_type"],
                each["segmentation_id"],
            )
            for each in sorted(shown["sub_ports"], key=lambda each: int(each["segmentation_id"]))
        ),
    )


_MAKERS: dict[str, Callable[[Cloud, Json], Record]] = {
    "network": _network,
    "subnet": _subnet,
    "port": _port,
    "router": _router,
    "floatingip": _floating_ip,
    "security_group": _security_group,
    "address_group": _address_group,
    "qos_policy": _qos_policy,
    "trunk": _trunk,
}
