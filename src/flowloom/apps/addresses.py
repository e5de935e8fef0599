"""Addresses of records as conditions of flows."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from flowloom.pipeline.framework import Quantity, Term

ETH_IP4: Final = 0x0800
ETH_ARP: Final = 0x0806
ETH_IP6: Final = 0x86DD


def is_ip4(text: str) -> bool:
    """An address or CIDR of IPv4, by its form."""
    return ":" not in text


def link_local(mac: int) -> int:
    """The IPv6 link-local address a host makes of its MAC (RFC 4291, appendix A)."""
    eui64 = (mac >> 24 << 40 | 0xFFFE << 24 | mac & 0xFFFFFF) ^ 1 << 57
    return 0xFE80 << 112 | eui64


def within(quantity: Quantity, address_or_cidr: str) -> Term:
    """The condition that `quantity` (ip_src, arp_spa, ip6_src…) lies in an address or CIDR; ValueError if neither."""
    network: IPv4Network | IPv6Network = ip_network(address_or_cidr, strict=False)
    return quantity.masked(int(network.network_address), int(network.netmask))
