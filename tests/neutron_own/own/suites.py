"""Which of Neutron's own tests are run, and with which core plug-in.

Names are relative to `neutron.tests.unit`.  Not listed: tests of agents, of other mechanism drivers, of
objects and helpers without a plug-in, and classes that repeat the tests of a listed one on Neutron's bare
database plug-in.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

UNIT = "neutron.tests.unit."

BARE_CORE_PLUGINS = (
    "neutron.db.db_base_plugin_v2.NeutronDbPluginV2",
    "neutron.tests.unit.db.test_*",
    "neutron.tests.unit.extensions.test_*",
)
"""Core plug-ins that only exist for tests: where they are not ML2's children and load no mechanism driver, ML2 takes
their place."""


@dataclass(frozen=True)
class Suite:
    """The test classes of one of Neutron's modules.

    classes: patterns of their names.
    extension_drivers: of ML2, where it stands in for a bare core plug-in that has these features built in.
    beside: patterns of the classes that are about what other drivers do; they keep theirs, and ours stands beside.
    """

    module: str
    classes: tuple[str, ...] = ("*",)
    extension_drivers: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def includes(self, class_name: str) -> bool:
        return any(fnmatchcase(class_name, pattern) for pattern in self.classes)

    def keeps_drivers(self, class_name: str) -> bool:
        return any(fnmatchcase(class_name, pattern) for pattern in self.beside)


PORT_SECURITY = ("port_security",)
QOS = ("qos",)

SUITES: tuple[Suite, ...] = (
    Suite(
        "plugins.ml2.test_plugin",
        beside=("TestFaultyMechansimDriver", "TestMl2HostsNetworkAccess", "TestMl2NetworksV2AgentMechDrivers"),
    ),
    Suite("plugins.ml2.test_port_binding", beside=("*",)),
    Suite("plugins.ml2.test_security_group"),
    Suite("plugins.ml2.test_ext_portsecurity"),
    Suite("plugins.ml2.test_db"),
    Suite("plugins.ml2.test_extension_driver_api"),
    Suite("plugins.ml2.test_tracked_resources"),
    Suite("plugins.ml2.test_agent_scheduler", ("Ml2AgentSchedulerTestCase",)),
    Suite("plugins.ml2.extensions.test_dns_integration"),
    Suite("plugins.ml2.extensions.test_dns_domain_keywords"),
    Suite("plugins.ml2.extensions.test_port_security"),
    Suite("plugins.ml2.extensions.test_data_plane_status"),
    Suite("plugins.ml2.extensions.test_tag_ports_during_bulk_creation"),
    Suite("plugins.ml2.extensions.test_uplink_status_propagation"),
    Suite("services.trunk.test_plugin"),
    Suite("services.trunk.test_rules"),
    Suite("services.qos.test_qos_plugin", ("TestQosPluginDB", "TestQosPlugin"), QOS),
    Suite("services.portforwarding.test_pf_plugin"),
    Suite("services.revisions.test_revision_plugin"),
    Suite("services.l3_router.test_l3_router_plugin"),
    Suite("services.auto_allocate.test_db"),
    Suite("extensions.test_l3", ("L3NatDBSepTestCase", "L3NatDBFloatingIp*", "L3DBFloatingIp*", "TestL3DbOperation*")),
    Suite("extensions.test_extraroute", ("ExtraRouteDBSepTestCase",)),
    Suite("extensions.test_l3_ext_gw_mode", ("ExtGwModeSepTestCase",)),
    Suite("extensions.test_floating_ip_port_forwarding"),
    Suite("extensions.test_expose_port_forwarding_in_fip"),
    Suite("extensions.test_fip_port_details", ("FloatingIPPortDetailsDBSepTestCase",)),
    Suite("extensions.test_qos_fip", ("*SepTestCase",), QOS),
    Suite("extensions.test_qos_gateway_ip", ("*SepTestCase",), QOS),
    Suite("extensions.test_l3_ndp_proxy"),
    Suite("extensions.test_l3_conntrack_helper"),
    Suite("extensions.test_address_group"),
    Suite("extensions.test_address_scope"),
    Suite("extensions.test_segment", beside=("*HostSegmentMapping*", "TestDhcpAgentSegmentScheduling", "TestNova*")),
    Suite("extensions.test_dns"),
    Suite("extensions.test_securitygroup", ("TestSecurityGroups",)),
    Suite("extensions.test_security_groups_default_rules"),
    Suite("extensions.test_security_groups_normalized_cidr"),
    Suite("extensions.test_portsecurity", extension_drivers=PORT_SECURITY),
    Suite("extensions.test_external_net"),
    Suite("extensions.test_local_ip"),
    Suite("extensions.test_tagging"),
    Suite("extensions.test_timestamp"),
    Suite("extensions.test_default_subnetpools"),
    Suite("extensions.test_subnet_onboard"),
    Suite("extensions.test_subnetpool_prefix_ops"),
    Suite("extensions.test_subnet_service_types"),
    Suite("extensions.test_network_ip_availability"),
    Suite("extensions.test_port_trusted_vif"),
    Suite("extensions.test_vlantransparent"),
    Suite("db.test_l3_db"),
    Suite("db.test_l3_dvr_db"),
    Suite("db.test_l3_hamode_db"),
    Suite("db.test_l3_extra_gws_db"),
    Suite("db.test_extraroute_db"),
    Suite("db.test_allowedaddresspairs_db", extension_drivers=PORT_SECURITY),
    Suite("db.test_rbac_db_mixin"),
    Suite("db.test_securitygroups_db"),
    Suite("db.test_security_groups_default_statefulness"),
    Suite("db.test_segments_db"),
    Suite("db.test_dns_db"),
    Suite("db.test_provisioning_blocks"),
    Suite("db.test_ipam_pluggable_backend", ("TestDbBasePluginIpam", "TestRollback", "TestIpamSubnetPool")),
)
