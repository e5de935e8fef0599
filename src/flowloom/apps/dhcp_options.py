"""What a DHCPv4 client is told: options from the port, its subnet, its network and the configuration.

The port's extra_dhcp_opts override everything but the protocol's own bookkeeping.  Whatever in the
records cannot be used is left out and noted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Final

from flowloom.apps.dhcp import INFINITE, LINK_LOCAL_SERVER, DhcpSettings
from flowloom.model.records import Network, Port, Subnet
from flowloom.packet import dhcp
from flowloom.packet.dhcp_options import SERVER_ADDRESS, addresses, encode_option, option_number, routes
from flowloom.packet.ipv4 import ipv4_int, ipv4_text
from flowloom.packet.malformed import Malformed

TFTP_SERVER: Final = 66
BOOT_FILE: Final = 67
MS_CLASSLESS_ROUTES: Final = 249

_ALWAYS: Final = (
    dhcp.LEASE_SECONDS,
    dhcp.SUBNET_MASK,
    dhcp.RENEWAL_SECONDS,
    dhcp.REBINDING_SECONDS,
    # A guest that does not ask for the MTU uses 1500, and its larger packets vanish in the tunnel.
    dhcp.MTU,
)
"""Sent whether asked for or not."""

_LEASE_TIMES: Final = frozenset((dhcp.LEASE_SECONDS, dhcp.RENEWAL_SECONDS, dhcp.REBINDING_SECONDS))

_BOOKKEEPING: Final = frozenset(
    (
        dhcp.REQUESTED_ADDRESS,
        dhcp.OVERLOAD,
        dhcp.MESSAGE_TYPE,
        dhcp.SERVER_IDENTIFIER,
        dhcp.PARAMETER_REQUEST,
        dhcp.MESSAGE,
        dhcp.SIZE_MAX,
        dhcp.CLIENT_IDENTIFIER,
        dhcp.RELAY_AGENT,
    )
)
"""Options by which the two ends run the protocol: no one else's to set."""

_EVERYWHERE: Final = "0.0.0.0/0"

_NO_DNS: Final = "0.0.0.0"
"""A subnet with this name server wants none announced (Neutron, "DNS resolution for instances")."""


@dataclass(frozen=True)
class Lease:
    """One address a port may have: the address, its subnet, and the server that speaks for it."""

    address: int
    prefix: IPv4Network
    server: int
    subnet: Subnet


@dataclass
class Told:
    """Options and header fields for one client; notes: what could not be used, and why."""

    options: dict[int, bytes] = field(default_factory=dict)
    extra: list[int] = field(default_factory=list)
    siaddr: int = 0
    sname: bytes = b""
    file: bytes = b""
    notes: list[str] = field(default_factory=list)

    def put(self, name: str, value: str) -> int | None:
        """Add an option given as text and say its number; None and a note when it cannot be used."""
        try:
            number, encoded = encode_option(name, value)
        except Malformed as wrong:
            self.notes.append(str(wrong))
            return None
        self.options[number] = encoded
        return number

    def selected(self, request: dhcp.DhcpMessage) -> Iterator[tuple[int, bytes]]:
        """The options in the order in which they are to be kept when room is short.

        First what every client gets, then what this one lists, in its order (RFC 2131, section 4.3.1),
        then what the port's owner set on purpose.  A client without a list gets everything, except
        Microsoft's twin of the routes, which is for those who ask.
        """
        asked: Iterable[int] = request.options.get(
            dhcp.PARAMETER_REQUEST, bytes(n for n in sorted(self.options) if n != MS_CLASSLESS_ROUTES)
        )
        for number in dict.fromkeys((*_ALWAYS, *asked, *self.extra)):
            if number in self.options and not (request.kind == dhcp.INFORM and number in _LEASE_TIMES):
                yield number, self.options[number]


def lease_of(subnet: Subnet, address: str) -> Lease:
    """The lease of a port's address.  ValueError when the records do not hold what they should."""
    server = ipv4_int(subnet.gateway_ip) if subnet.gateway_ip else LINK_LOCAL_SERVER
    return Lease(ipv4_int(address), IPv4Network(subnet.cidr, strict=False), server, subnet)


def told(port: Port, network: Network, lease: Lease, settings: DhcpSettings) -> Told:
    """Everything there is to tell the client of `port` that gets `lease`."""
    out = Told()
    options, prefix = out.options, lease.prefix
    options[dhcp.SUBNET_MASK] = addresses((int(prefix.netmask),))
    if prefix.prefixlen < 31:  # Two-address links have no broadcast address (RFC 3021).
        options[dhcp.BROADCAST_ADDRESS] = addresses((int(prefix.broadcast_address),))
    options[dhcp.MTU] = min(max(network.mtu, 68), 0xFFFF).to_bytes(2, "big")
    _router(out, lease.subnet)
    _naming(out, port, network, lease, settings)
    options[dhcp.LEASE_SECONDS] = settings.lease_seconds.to_bytes(4, "big")
    _extra(out, port)
    _routes(out, lease.subnet)
    _times(out, settings)
    return out


def _router(out: Told, subnet: Subnet) -> None:
    """The gateway; without one, a host route to everywhere."""
    router = subnet.gateway_ip or next(
        (route.nexthop for route in subnet.host_routes if route.destination == _EVERYWHERE), None
    )
    if router:
        out.put("router", router)


def _routes(out: Told, subnet: Subnet) -> None:
    """Host routes.  Whoever takes option 121 ignores option 3 (RFC 3442), so 121 holds the default route too."""
    options = out.options
    known: list[tuple[int, int, int]] = []
    for route in subnet.host_routes:
        try:
            target, nexthop = IPv4Network(route.destination, strict=False), ipv4_int(route.nexthop)
        except ValueError as wrong:
            out.notes.append(f"subnet {subnet.id}: host route {route.destination} via {route.nexthop}: {wrong}")
            continue
        if target.prefixlen:
            known.append((int(target.network_address), target.prefixlen, nexthop))
    if known:
        if dhcp.ROUTER in options:
            known.append((0, 0, int.from_bytes(options[dhcp.ROUTER][:4], "big")))
        options.setdefault(dhcp.CLASSLESS_ROUTES, routes(known))
    if dhcp.CLASSLESS_ROUTES in options:
        options.setdefault(MS_CLASSLESS_ROUTES, options[dhcp.CLASSLESS_ROUTES])


def _naming(out: Told, port: Port, network: Network, lease: Lease, settings: DhcpSettings) -> None:
    """DNS servers, host name and domain."""
    servers = [text for text in lease.subnet.dns_nameservers if ":" not in text] or list(settings.dns_servers)
    if servers and _NO_DNS not in servers:
        out.put("dns-server", ",".join(servers))
    out.put("hostname", port.dns_name or f"host-{ipv4_text(lease.address).replace('.', '-')}")
    domain = (network.dns_domain or settings.domain).removesuffix(".")
    if domain:
        out.put("domain-name", domain)


def _extra(out: Told, port: Port) -> None:
    """The port's extra_dhcp_opts, over what is there."""
    for each in port.extra_dhcp_opts:
        if each.ip_version != 4:
            continue
        if each.opt_name.strip().lower().removeprefix("option:") == SERVER_ADDRESS:
            out.siaddr = _address(each.opt_value) or 0
            if not out.siaddr:
                out.notes.append(f"DHCP option {each.opt_name!r}: {each.opt_value!r} is not an address")
        elif option_number(each.opt_name) in _BOOKKEEPING:
            out.notes.append(f"DHCP option {each.opt_name!r}: is the protocol's own")
        else:
            number = out.put(each.opt_name, each.opt_value)
            if number is not None:
                out.extra.append(number)
    server, file = out.options.get(TFTP_SERVER, b""), out.options.get(BOOT_FILE, b"")
    # Boot ROMs read the header, and often only it; what is too long for it is in the options.
    out.sname = server if len(server) <= 63 else b""
    out.file = file if len(file) <= 127 else b""
    out.siaddr = out.siaddr or _address(server.decode("utf-8", "replace")) or 0


def _address(text: str) -> int | None:
    try:
        return ipv4_int(text.strip())
    except Malformed:
        return None


def _times(out: Told, settings: DhcpSettings) -> None:
    """T1 and T2 of whatever the lease time has become, unless they were set; an infinite lease has none."""
    lease = int.from_bytes(out.options[dhcp.LEASE_SECONDS], "big")
    if lease == INFINITE:
        return
    for number, fraction in (
        (dhcp.RENEWAL_SECONDS, settings.renew_fraction),
        (dhcp.REBINDING_SECONDS, settings.rebind_fraction),
    ):
        out.options.setdefault(number, int(lease * fraction).to_bytes(4, "big"))
