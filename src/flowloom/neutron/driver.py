"""The ML2 mechanism driver: what Neutron loads.

It listens, binds and refuses; it writes nothing to the store itself.  `capture` notes what changed, in
Neutron's own transaction; `worker` drains it after the commit; `recovery` says when a port is ACTIVE.
"""

from __future__ import annotations

from typing import Any

from neutron.db import provisioning_blocks
from neutron_lib import constants
from neutron_lib import exceptions as neutron_exceptions
from neutron_lib.api import validators
from neutron_lib.api.definitions import multiprovidernet, portbindings, provider_net
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.plugins.ml2 import api
from oslo_config import cfg
from oslo_log import log

from flowloom.neutron import engine
from flowloom.neutron.capture import Capture
from flowloom.neutron.config import NETWORK_TYPES, settings
from flowloom.neutron.metrics import serve_worker, worker_samples
from flowloom.neutron.plugged import QosDriver, TrunkDriver
from flowloom.neutron.sessions import NeutronDatabase
from flowloom.neutron.worker import DrainWorker
from neutron import policy

LOG = log.getLogger(__name__)

PROVISIONING_ENTITY = "FLOWLOOM"
"""Name of the block that keeps a bound port from being ACTIVE until its host has confirmed its flows."""

VNIC_TYPES = (portbindings.VNIC_NORMAL,)

NO_AGENTS = frozenset({"agent", "agent-resources-synced", "agent_sort_key"})
NO_ZONES = frozenset({"availability_zone", "availability_zone_filter", "network_availability_zone"})
NO_GROUPS = frozenset(
    {
        "address-group",
        "port-security-groups-filtering",
        "rbac-address-group",
        "rbac-security-groups",
        "security-group",
        "security-groups-default-rules",
        "security-groups-default-statefulness",
        "security-groups-normalized-cidr",
        "security-groups-remote-address-group",
        "security-groups-rules-belongs-to-default-sg",
        "security-groups-shared-filtering",
        "stateful-security-group",
    }
)
NO_HARDWARE = frozenset({"port-device-profile", "port-numa-affinity-policy", "port-numa-affinity-policy-socket"})
NO_SUCH_SEGMENTS = frozenset({"multi-provider", "qinq", "vlan-transparent"})
UNSUPPORTED_EXTENSIONS = NO_AGENTS | NO_ZONES | NO_GROUPS | NO_HARDWARE | NO_SUCH_SEGMENTS
"""What ML2 announces by itself and nothing behind this driver does yet: what is announced works."""

UNWIRED_EXTENSIONS = NO_AGENTS | NO_ZONES | NO_GROUPS | {"multi-provider"}
"""Of these, what reaches the store all the same: announced where an operator asks for it."""

engine.prepare_sessions()  # Before Neutron's first session, which it opens while it initialises its type drivers.


class FlowloomDriver(api.MechanismDriver):  # type: ignore[misc]
    """Wires Geneve networks through the agents of Flowloom."""

    def initialize(self) -> None:
        """Start to capture.  No connection and no thread is made here: API workers may still be forked."""
        found = settings()
        self._unsupported = UNSUPPORTED_EXTENSIONS - (UNWIRED_EXTENSIONS if found.announce_unwired else set())
        self.trunk = TrunkDriver(found.announce_unwired)
        self.qos = QosDriver(found.announce_unwired)
        self.worker = DrainWorker(found, NeutronDatabase())
        self.capture = Capture(self.worker.wake, found.strict_capture)
        self.capture.listen()
        registry.subscribe(self._refuse_network_types, resources.NETWORK, events.BEFORE_CREATE)
        registry.subscribe(self._without_security_groups, resources.PORT, events.BEFORE_CREATE)
        registry.subscribe(self._load_policies, resources.PROCESS, events.AFTER_INIT)
        registry.subscribe(self._export, resources.PROCESS, events.AFTER_INIT)

    @property
    def connectivity(self) -> str:
        return str(portbindings.CONNECTIVITY_L2)

    def supported_extensions(self, extensions: set[str]) -> set[str]:
        return extensions - self._unsupported

    def create_network_precommit(self, context: Any) -> None:
        for segment in context.network_segments:
            _refuse_network_type(segment[api.NETWORK_TYPE])

    def create_port_precommit(self, context: Any) -> None:
        self._block_until_confirmed(context)

    def update_port_precommit(self, context: Any) -> None:
        self._block_until_confirmed(context)

    def bind_port(self, context: Any) -> None:
        """Bind to the first segment that the agents can carry; the tunnels are theirs to build."""
        vnic_type = context.current.get(portbindings.VNIC_TYPE, portbindings.VNIC_NORMAL)
        if vnic_type not in VNIC_TYPES:
            LOG.error("Port %s: vnic_type %s is not wired by Flowloom", context.current["id"], vnic_type)
            return
        for segment in context.segments_to_bind:
            if segment[api.NETWORK_TYPE] in NETWORK_TYPES:
                details = {
                    portbindings.CAP_PORT_FILTER: True,
                    portbindings.OVS_HYBRID_PLUG: False,
                    portbindings.VIF_DETAILS_CONNECTIVITY: self.connectivity,
                }
                context.set_binding(segment[api.ID], portbindings.VIF_TYPE_OVS, details)
                return

    def _block_until_confirmed(self, context: Any) -> None:
        if context.host and (context.status != constants.PORT_STATUS_ACTIVE or context.host != context.original_host):
            provisioning_blocks.add_provisioning_component(
                context.plugin_context, context.current["id"], resources.PORT, PROVISIONING_ENTITY
            )

    def _load_policies(self, _resource: str, _event: str, _trigger: Any, payload: Any = None) -> None:
        """Load Neutron's policies before the first request.

        Neutron 29 loads them within the first, and a second request in another thread of the same new
        worker meets an enforcer without rules: 403 for an administrator (`neutron.policy.init`).
        """
        policy.init()

    def _export(self, _resource: str, _event: str, _trigger: Any, payload: Any = None) -> None:
        """Serve this API worker's numbers, after the fork."""
        self.exported = serve_worker(
            settings(), lambda: worker_samples(self.worker.counts, self.worker.waiting, self.capture)
        )

    def _without_security_groups(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """ML2's bulk creation reads this attribute even where its extension is not announced (Neutron 29)."""
        payload.latest_state.setdefault("security_groups", constants.ATTR_NOT_SPECIFIED)

    def _refuse_network_types(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        wanted = payload.desired_state
        asked = [wanted, *(_set(wanted, multiprovidernet.SEGMENTS) or ())]
        for network_type in (_set(each, provider_net.NETWORK_TYPE) for each in asked):
            if network_type:
                _refuse_network_type(network_type)


def _set(attributes: Any, name: str) -> Any:
    value = attributes.get(name)
    return value if validators.is_attr_set(value) else None


def _refuse_network_type(network_type: str) -> None:
    """InvalidInput for a type that nobody here wires; another mechanism driver beside ours may wire it."""
    if network_type not in NETWORK_TYPES and cfg.CONF.ml2.mechanism_drivers == ["flowloom"]:
        alternatives = ", ".join(NETWORK_TYPES)
        raise neutron_exceptions.InvalidInput(
            error_message=f"network type '{network_type}' is not wired by Flowloom; use one of: {alternatives}"
        )
