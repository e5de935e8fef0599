"""What a DHCP client was given, as a value; read from the variables that the clients hand to their scripts.

udhcpc: networking/udhcp/common.c of BusyBox; dhclient: dhclient-script(8).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Lease:
    """One lease.

    mask: dotted.  router: the first of option 3, "" for none.  dns: in the order given.  mtu: bytes, 0 when not given.
    routes: option 121 as (prefix, gateway), gateway "0.0.0.0" for on-link.  server: its identifier.
    """

    ip: str
    mask: str
    router: str
    dns: tuple[str, ...]
    mtu: int
    routes: tuple[tuple[str, str], ...]
    domain: str
    server: str
    lease_seconds: int

    @property
    def interface(self) -> str:
        """The address with its prefix length, `10.0.0.5/24`."""
        return ipaddress.IPv4Interface(f"{self.ip}/{self.mask}").with_prefixlen

    @property
    def effective_routes(self) -> tuple[tuple[str, str], ...]:
        """The routes to install: a client that is given option 121 must not look at option 3 (RFC 3442)."""
        if self.routes:
            return self.routes
        return (("0.0.0.0/0", self.router),) if self.router else ()


def from_udhcpc(variables: Mapping[str, str]) -> Lease:
    """The lease of udhcpc's `bound` or `renew`.  ValueError when it is none."""
    words = variables.get("staticroutes", "").split()
    return Lease(
        ip=_address(variables.get("ip", "")),
        mask=_address(variables.get("subnet", "")),
        router=_first(variables.get("router", "")),
        dns=tuple(variables.get("dns", "").split()),
        mtu=int(variables.get("mtu", "0")),
        routes=tuple(zip(words[::2], words[1::2], strict=True)),
        domain=variables.get("domain", ""),
        server=variables.get("serverid", ""),
        lease_seconds=int(variables.get("lease", "0")),
    )


def from_dhclient(variables: Mapping[str, str]) -> Lease:
    """The lease of dhclient's BOUND, RENEW, REBIND or REBOOT.  ValueError when it is none."""
    octets = [int(word) for word in variables.get("new_rfc3442_classless_static_routes", "").split()]
    return Lease(
        ip=_address(variables.get("new_ip_address", "")),
        mask=_address(variables.get("new_subnet_mask", "")),
        router=_first(variables.get("new_routers", "")),
        dns=tuple(variables.get("new_domain_name_servers", "").split()),
        mtu=int(variables.get("new_interface_mtu", "0")),
        routes=tuple(_routes(octets)),
        domain=variables.get("new_domain_name", ""),
        server=variables.get("new_dhcp_server_identifier", ""),
        lease_seconds=int(variables.get("new_dhcp_lease_time", "0")),
    )


def _routes(octets: list[int]) -> list[tuple[str, str]]:
    # RFC 3442: prefix length, its significant octets, four octets of the gateway; and again.
    routes = []
    while octets:
        length, rest = octets[0], octets[1:]
        significant = (length + 7) // 8
        network, gateway, octets = rest[:significant], rest[significant : significant + 4], rest[significant + 4 :]
        if length > 32 or len(gateway) != 4:
            raise ValueError(f"option 121 ends in the middle of a route: {length}, {rest}")
        prefix = ".".join(map(str, [*network, 0, 0, 0, 0][:4]))
        routes.append((f"{prefix}/{length}", ".".join(map(str, gateway))))
    return routes


def _address(text: str) -> str:
    return str(ipaddress.IPv4Address(text))


def _first(text: str) -> str:
    return text.split()[0] if text.split() else ""
