"""The apps of this release, wired in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

from flowloom.apps.arp import arp_app
from flowloom.apps.dhcp import DhcpSettings, dhcp_app
from flowloom.apps.guard import guard_app
from flowloom.apps.switching import TunnelPorts, switching_app
from flowloom.compiler.unit import App


@dataclass(frozen=True)
class AppSettings:
    """What the apps are told of the node they compile for.

    site: the chassis's id.
    """

    site: str
    tunnels: TunnelPorts = field(default_factory=TunnelPorts)
    dhcp: DhcpSettings = field(default_factory=DhcpSettings)


def apps(settings: AppSettings) -> tuple[App, ...]:
    """Every app, in the order of their rule numbers."""
    return (switching_app(settings.site, settings.tunnels), guard_app(), arp_app(), dhcp_app(settings.dhcp))
