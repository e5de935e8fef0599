"""The L3 service plugins: routers, floating IPs and port forwardings in Neutron's database, without an agent or RPC.

Nothing here is told to anybody: `capture` sees what is written.  No app wires it yet, so the plugins load only where
`[flowloom] announce_unwired` says so: what is announced works.
"""

from __future__ import annotations

from typing import Any

from neutron.db import dns_db, extraroute_db, l3_extra_gws_db, l3_fip_pools_db, l3_fip_port_details, l3_fip_qos
from neutron.db import l3_gateway_ip_qos as gateway_qos
from neutron.db.availability_zone import router as router_zones
from neutron.db.models import l3
from neutron.quota import resource_registry
from neutron.services.portforwarding import pf_plugin
from neutron_lib.api.definitions import (
    extraroute,
    extraroute_atomic,
    fip_pf_detail,
    fip_port_details,
    floatingip_pools,
    l3_enable_default_route_bfd,
    l3_enable_default_route_ecmp,
    l3_ext_gw_mode,
    l3_ext_gw_multihoming,
    qos_fip,
    qos_gateway_ip,
    router_availability_zone,
)
from neutron_lib.api.definitions import l3 as l3_api
from neutron_lib.plugins import constants, directory
from neutron_lib.services import base
from oslo_config import cfg

from flowloom.kernel.errors import Misconfigured
from flowloom.neutron.config import settings

ALIASES = (
    l3_api.ALIAS,
    l3_ext_gw_mode.ALIAS,
    l3_ext_gw_multihoming.ALIAS,
    l3_enable_default_route_ecmp.ALIAS,
    l3_enable_default_route_bfd.ALIAS,
    extraroute.ALIAS,
    extraroute_atomic.ALIAS,
    fip_port_details.ALIAS,
    fip_pf_detail.ALIAS,
    floatingip_pools.ALIAS,
    router_availability_zone.ALIAS,
)
QOS_ALIASES = (qos_fip.ALIAS, qos_gateway_ip.ALIAS)
QOS_PLUGINS = frozenset({"qos", "neutron.services.qos.qos_plugin.QoSPlugin"})


def refuse_unwired(plugin: str) -> None:
    """Misconfigured unless the operator has asked for what nothing wires yet."""
    if not settings().announce_unwired:
        why = f"service plugin {plugin} has nothing behind it in this release; take it out of service_plugins"
        raise Misconfigured("[flowloom] announce_unwired", why)


class FlowloomL3(
    base.ServicePluginBase,  # type: ignore[misc]
    extraroute_db.ExtraRoute_dbonly_mixin,  # type: ignore[misc]
    dns_db.DNSDbMixin,  # type: ignore[misc]
    l3_fip_port_details.Fip_port_details_db_mixin,  # type: ignore[misc]
    router_zones.RouterAvailabilityZoneMixin,  # type: ignore[misc]
    l3_fip_qos.FloatingQoSDbMixin,  # type: ignore[misc]
    gateway_qos.L3_gw_ip_qos_dbonly_mixin,  # type: ignore[misc]
    l3_fip_pools_db.FloatingIPPoolsMixin,  # type: ignore[misc]
    l3_extra_gws_db.ExtraGatewaysDbOnlyMixin,  # type: ignore[misc]
):
    """Routers and floating IPs, as Neutron's own database code has them."""

    @resource_registry.tracked_resources(router=l3.Router, floatingip=l3.FloatingIP)  # type: ignore[untyped-decorator]
    def __init__(self) -> None:
        refuse_unwired("flowloom-l3")
        super().__init__()

    @property
    def supported_extension_aliases(self) -> list[str]:
        return [*ALIASES, *(QOS_ALIASES if QOS_PLUGINS & set(cfg.CONF.service_plugins) else ())]

    @classmethod
    def get_plugin_type(cls) -> str:
        return str(constants.L3)

    def get_plugin_description(self) -> str:
        return "Routers and floating IPs of Flowloom"

    def get_router_availability_zones(self, router: Any) -> list[str]:
        """Every node routes for its own ports: a router is in no zone."""
        return []

    def validate_availability_zones(self, context: Any, resource_type: str, availability_zones: list[str]) -> None:
        """AvailabilityZoneNotFound for one that Neutron does not know."""
        directory.get_plugin().validate_availability_zones(context, resource_type, availability_zones)


class FlowloomPortForwarding(pf_plugin.PortForwardingPlugin):  # type: ignore[misc]
    """Port forwardings beside `FlowloomL3`; Neutron's own loads beside the L3 plug-ins that it names."""

    required_service_plugins = ("flowloom-l3",)
    _rpc_notifications_required = False
