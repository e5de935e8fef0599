"""Addresses of records as the integers that flows carry."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final

from flowloom.pipeline.framework import Quantity, Term

ETH_IP4: Final = 0x0800
ETH_ARP: Final = 0x0806
ETH_IP6: Final = 0x86DD


def mac_number(text: str) -> int:
    """`fa:16:3e:00:00:01` as 48 bits; ValueError when it is not one."""
    number = int(text.replace(":", ""), 16)
    if number >> 48 or len(text) != 17:
        raise ValueError(f"not a MAC address: {text!r}")
    return number


def ip4_number(text: str) -> int:
    """An IPv4 address as 32 bits; OSError when it is not one."""
    return int.from_bytes(inet_pton(AF_INET, text), "big")


def ip6_number(text: str) -> int:
    """An IPv6 address as 128 bits; OSError when it is not one."""
    return int.from_bytes(inet_pton(AF_INET6, text), "big")


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
