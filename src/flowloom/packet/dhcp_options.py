"""DHCPv4 options by the names that Neutron's `extra_dhcp_opts` use, and their values from text to bytes.

Neutron passes names and values on to the DHCP server as the user wrote them; the names are dnsmasq's
(`dnsmasq --help dhcp`), a bare number stands for itself.  Formats: RFC 2132 unless the table says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from flowloom.packet.ipv4 import ipv4_int
from flowloom.packet.malformed import Malformed

Encoder = Callable[[str], bytes]

SERVER_ADDRESS: Final = "server-ip-address"
"""Not an option but the header's siaddr: where the client gets its boot file (RFC 2131 section 2)."""

_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2})+|0x(?:[0-9a-fA-F]{2})+")
_QUADS = re.compile(r"\d+\.\d+\.\d+\.\d+(?:\s*,\s*\d+\.\d+\.\d+\.\d+)*", re.ASCII)
_ROUTE = re.compile(r"([0-9.]+)/([0-9]{1,2})")
_LABEL = re.compile(r"[!-~]{1,63}")


def addresses(values: Iterable[int]) -> bytes:
    """A list of IPv4 addresses."""
    return b"".join(value.to_bytes(4, "big") for value in values)


def routes(values: Iterable[tuple[int, int, int]]) -> bytes:
    """Classless static routes: (destination, prefix length, gateway) each, only significant octets (RFC 3442)."""
    out = bytearray()
    for destination, length, gateway in values:
        significant = (length + 7) // 8
        network = destination & (0xFFFF_FFFF << 32 - length) & 0xFFFF_FFFF
        out += bytes((length,)) + network.to_bytes(4, "big")[:significant] + gateway.to_bytes(4, "big")
    return bytes(out)


def names(values: Iterable[str]) -> bytes:
    """Domain names in DNS wire form, not compressed (RFC 1035 section 3.1).  Malformed for anything but printable ASCII labels."""
    out = bytearray()
    for value in values:
        labels = value.strip().removesuffix(".").split(".")
        if not all(_LABEL.fullmatch(label) for label in labels) or sum(map(len, labels)) + len(labels) > 254:
            raise Malformed(f"{value!r} is not a domain name")
        out += b"".join(bytes((len(label),)) + label.encode("ascii") for label in labels) + b"\0"
    return bytes(out)


def encode_option(name: str, value: str) -> tuple[int, bytes]:
    """Number and bytes of one `extra_dhcp_opts` entry.

    A number without an entry in the table takes dotted quads as addresses, colon-separated or 0x-led pairs
    as bytes, anything else as text.  Malformed when the name is unknown or the value does not fit its type.
    """
    number = option_number(name)
    if number is None:
        raise Malformed(f"DHCP option {name!r} is not known")
    try:
        encoded = _ENCODERS.get(number, _guess)(value.strip())
    except Malformed as wrong:
        raise Malformed(f"DHCP option {name!r}: {wrong}") from wrong
    return number, encoded


def option_number(name: str) -> int | None:
    """The number of an option given by name or by number (1..254), with or without `option:` in front."""
    name = name.strip().lower().removeprefix("option:")
    if name.isascii() and name.isdigit() and len(name) <= 3:
        return int(name) if 0 < int(name) < 255 else None
    return OPTION_NUMBERS.get(name)


def _text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    if not encoded or b"\0" in encoded:
        raise Malformed("empty, or holding a zero byte")
    return encoded


def _addresses(value: str) -> bytes:
    return addresses(ipv4_int(each.strip()) for each in value.split(","))


def _pairs(value: str) -> bytes:
    encoded = _addresses(value)
    if len(encoded) % 8:
        raise Malformed("addresses come in pairs")
    return encoded


def _routes(value: str) -> bytes:
    """`destination/length,gateway[,destination/length,gateway…]`; a comma or white space between."""
    words = value.replace(",", " ").split()
    if not words or len(words) % 2:
        raise Malformed("routes are pairs of destination/length and gateway")
    return routes((*_prefix(words[at]), ipv4_int(words[at + 1])) for at in range(0, len(words), 2))


def _prefix(word: str) -> tuple[int, int]:
    found = _ROUTE.fullmatch(word)
    if found is None or int(found[2]) > 32:
        raise Malformed(f"{word!r} is not a destination with a prefix length")
    return ipv4_int(found[1]), int(found[2])


def _unsigned(size: int) -> Encoder:
    def encode(value: str) -> bytes:
        if not (value.isascii() and value.isdigit() and len(value) <= 10) or int(value) >> size * 8:
            raise Malformed(f"{value!r} is not a number of {size * 8} bits")
        return int(value).to_bytes(size, "big")

    return encode


def _flag(value: str) -> bytes:
    if value.lower() not in ("0", "1", "true", "false"):
        raise Malformed(f"{value!r} is neither 0 nor 1")
    return b"\1" if value.lower() in ("1", "true") else b"\0"


def _names(value: str) -> bytes:
    return names(value.split(","))


def _sip(value: str) -> bytes:
    """Addresses or names with the byte that says which (RFC 3361 section 3)."""
    return b"\1" + _addresses(value) if _QUADS.fullmatch(value) else b"\0" + _names(value)


def _bytes(value: str) -> bytes:
    if not _HEX.fullmatch(value):
        return _text(value)
    return bytes.fromhex(value.removeprefix("0x").replace(":", ""))


def _nothing(value: str) -> bytes:
    if value:
        raise Malformed("takes no value")
    return b""


def _guess(value: str) -> bytes:
    return _addresses(value) if _QUADS.fullmatch(value) else _bytes(value)


_U8, _U16, _U32 = _unsigned(1), _unsigned(2), _unsigned(4)

_TABLE: tuple[tuple[int, str, Encoder], ...] = (
    (1, "netmask", _addresses),
    (2, "time-offset", _U32),
    (3, "router", _addresses),
    (4, "time-server", _addresses),
    (6, "dns-server", _addresses),
    (7, "log-server", _addresses),
    (9, "lpr-server", _addresses),
    (12, "hostname", _text),
    (13, "boot-file-size", _U16),
    (15, "domain-name", _text),
    (16, "swap-server", _addresses),
    (17, "root-path", _text),
    (18, "extension-path", _text),
    (19, "ip-forward-enable", _flag),
    (20, "non-local-source-routing", _flag),
    (21, "policy-filter", _pairs),
    (22, "max-datagram-reassembly", _U16),
    (23, "default-ttl", _U8),
    (26, "mtu", _U16),
    (27, "all-subnets-local", _flag),
    (28, "broadcast", _addresses),
    (31, "router-discovery", _flag),
    (32, "router-solicitation", _addresses),
    (33, "static-route", _pairs),
    (34, "trailer-encapsulation", _flag),
    (35, "arp-timeout", _U32),
    (36, "ethernet-encap", _flag),
    (37, "tcp-ttl", _U8),
    (38, "tcp-keepalive", _U32),
    (40, "nis-domain", _text),
    (41, "nis-server", _addresses),
    (42, "ntp-server", _addresses),
    (43, "vendor-encap", _bytes),
    (44, "netbios-ns", _addresses),
    (45, "netbios-dd", _addresses),
    (46, "netbios-nodetype", _U8),
    (47, "netbios-scope", _text),
    (48, "x-windows-fs", _addresses),
    (49, "x-windows-dm", _addresses),
    (51, "lease-time", _U32),
    (58, "t1", _U32),
    (59, "t2", _U32),
    (60, "vendor-class", _text),
    (64, "nis+-domain", _text),
    (65, "nis+-server", _addresses),
    (66, "tftp-server", _text),
    (67, "bootfile-name", _text),
    (68, "mobile-ip-home", _addresses),
    (69, "smtp-server", _addresses),
    (70, "pop3-server", _addresses),
    (71, "nntp-server", _addresses),
    (74, "irc-server", _addresses),
    (80, "rapid-commit", _nothing),  # RFC 4039
    (100, "posix-timezone", _text),  # RFC 4833
    (101, "tzdb-timezone", _text),  # RFC 4833
    (108, "ipv6-only", _U32),  # RFC 8925
    (114, "captive-portal", _text),  # RFC 8910
    (119, "domain-search", _names),  # RFC 3397
    (120, "sip-server", _sip),  # RFC 3361
    (121, "classless-static-route", _routes),  # RFC 3442
    (125, "vendor-id-encap", _bytes),  # RFC 3925
    (150, "tftp-server-address", _addresses),  # RFC 5859
    (208, "pxelinux-magic", _bytes),  # RFC 5071
    (209, "config-file", _text),  # RFC 5071
    (210, "path-prefix", _text),  # RFC 5071
    (211, "reboot-time", _U32),  # RFC 5071
    (249, "ms-classless-static-route", _routes),  # [MS-DHCPE] 2.2.8: the same format as 121
    (252, "wpad", _text),
)

OPTION_NUMBERS: Final[dict[str, int]] = {name: number for number, name, _ in _TABLE}
"""Number of each named option."""

_ENCODERS: Final[dict[int, Encoder]] = {number: encoder for number, _, encoder in _TABLE}
