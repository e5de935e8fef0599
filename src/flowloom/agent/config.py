"""The agent's configuration file: TOML, every key checked, read once into frozen settings."""

from __future__ import annotations

import ipaddress
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from flowloom import metrics
from flowloom.kernel.errors import Misconfigured

TUNNEL_TYPES = ("geneve", "vxlan", "gre")
"""Kinds of tunnel that Open vSwitch's flow-based ports carry here."""

TUNNEL_PORT_FIRST = 65201
"""OpenFlow port number of the first of them: far above what Open vSwitch allots by itself (from 1 upward)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,252}")
_INTERFACE_BYTES_MAX = 15

S = TypeVar("S")


@dataclass(frozen=True)
class TunnelSettings:
    """[tunnel].  ip: this node's tunnel endpoint, an address of the host.  types: kinds of tunnel it offers."""

    ip: str
    types: tuple[str, ...] = ("geneve",)


@dataclass(frozen=True)
class OpenvswitchSettings:
    """[openvswitch].  ovsdb: connection string.  run_dir: holds `<bridge>.mgmt`.  bridge: made if missing.

    datapath_type: "system" (kernel) or "netdev" (userspace).
    """

    ovsdb: str = "unix:/run/openvswitch/db.sock"
    run_dir: str = "/run/openvswitch"
    bridge: str = "br-int"
    datapath_type: str = "system"


@dataclass(frozen=True)
class DhcpSettings:
    """[dhcp].  lease_seconds: of every lease.  domain: "" for none.  dns_servers: where a subnet names none."""

    lease_seconds: int = 86400
    domain: str = ""
    dns_servers: tuple[str, ...] = ()


@dataclass(frozen=True)
class AgentSettings:
    """The whole file.

    deployment: first part of every key.  chassis: this node's id, Neutron's host name of it.
    store, bus: URLs; bus "": follow the store's own change feed.  control: path of the unix socket for the CLI.
    audit_seconds: between two comparisons of the whole switch with what it should hold.
    metrics: loopback address and port for Prometheus, such as 127.0.0.1:9750; "": none.
    """

    deployment: str
    store: str
    tunnel: TunnelSettings
    chassis: str = field(default_factory=socket.gethostname)
    bus: str = ""
    control: str = "/run/flowloom/agent.sock"
    audit_seconds: float = 60.0
    metrics: str = ""
    openvswitch: OpenvswitchSettings = OpenvswitchSettings()
    dhcp: DhcpSettings = DhcpSettings()


def load(path: str) -> AgentSettings:
    """The settings in the file at `path`.  Misconfigured, naming the setting, for anything that is not right."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise Misconfigured("--config", f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured("--config", f"{path} is not TOML: {error}") from error
    settings = parse(data)
    _check(settings)
    return settings


def parse(data: Mapping[str, Any]) -> AgentSettings:
    """Settings from decoded TOML: keys and types checked, values not yet."""
    return _section(AgentSettings, data, "")


def _section(kind: type[S], data: Mapping[str, Any], prefix: str) -> S:
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for name in data:
        if name not in known:
            raise Misconfigured(prefix + name, f"no such setting; known here: {', '.join(sorted(known))}")
    values: dict[str, Any] = {}
    for name, entry in known.items():
        if name in data:
            values[name] = _value(hints[name], data[name], prefix + name)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise Misconfigured(prefix + name, "is not set, and has no default")
    return kind(**values)


def _value(hint: Any, value: object, setting: str) -> Any:
    if hasattr(hint, "__dataclass_fields__"):
        if not isinstance(value, dict):
            raise Misconfigured(setting, f"is a section: write [{setting}] on a line of its own")
        return _section(hint, value, f"{setting}.")
    if hint is str and isinstance(value, str):
        return value
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if hint is int and not isinstance(value, int):
            raise Misconfigured(setting, f"{value!r} is not a whole number")
        return hint(value)
    if hint == tuple[str, ...] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    wanted = {str: "a string", int: "a whole number", float: "a number"}.get(hint, "a list of strings")
    raise Misconfigured(setting, f"{value!r} is not {wanted}")


def _check(settings: AgentSettings) -> None:
    _check_name("deployment", settings.deployment)
    _check_name("chassis", settings.chassis)
    for setting, url in (("store", settings.store), ("bus", settings.bus)):
        if (url or setting == "store") and "://" not in url and ":" not in url:
            raise Misconfigured(setting, f"{url!r} is not a URL")
    _check_socket_path("control", settings.control)
    metrics.address("metrics", settings.metrics)
    _check_tunnel(settings.tunnel)
    _check_openvswitch(settings.openvswitch)
    if not 1 <= settings.audit_seconds <= 86400:
        raise Misconfigured("audit_seconds", f"{settings.audit_seconds:g} is not between 1 and 86400")
    if not 60 <= settings.dhcp.lease_seconds <= 0xFFFF_FFFF:
        raise Misconfigured("dhcp.lease_seconds", f"{settings.dhcp.lease_seconds} is not between 60 and 4294967295")
    for server in settings.dhcp.dns_servers:
        _address("dhcp.dns_servers", server, ipaddress.IPv4Address)


def _check_name(setting: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Misconfigured(setting, f"{name!r} is not a name of letters, digits and ._:@- of at most 253 characters")


def _check_socket_path(setting: str, path: str) -> None:
    if not path.startswith("/") or len(path.encode()) > 107:
        raise Misconfigured(setting, f"{path!r} is not an absolute path of at most 107 bytes")


def _check_tunnel(tunnel: TunnelSettings) -> None:
    address = _address("tunnel.ip", tunnel.ip, ipaddress.IPv4Address)
    if address.is_unspecified or address.is_multicast:
        raise Misconfigured("tunnel.ip", f"{tunnel.ip} is not an address other nodes can send to")
    for kind in tunnel.types:
        if kind not in TUNNEL_TYPES:
            raise Misconfigured("tunnel.types", f"{kind!r} is not one of {', '.join(TUNNEL_TYPES)}")
    if len(set(tunnel.types)) != len(tunnel.types):
        raise Misconfigured("tunnel.types", "names a type twice")


def _check_openvswitch(ovs: OpenvswitchSettings) -> None:
    if not ovs.bridge or len(ovs.bridge.encode()) > _INTERFACE_BYTES_MAX or "/" in ovs.bridge or " " in ovs.bridge:
        raise Misconfigured("openvswitch.bridge", f"{ovs.bridge!r} is not an interface name of 1 to 15 bytes")
    if ovs.datapath_type not in ("system", "netdev", "dummy"):
        raise Misconfigured("openvswitch.datapath_type", f"{ovs.datapath_type!r} is not system or netdev")
    _check_socket_path("openvswitch.run_dir", f"{ovs.run_dir}/{ovs.bridge}.mgmt")


A = TypeVar("A", ipaddress.IPv4Address, ipaddress.IPv6Address)


def _address(setting: str, text: str, kind: type[A]) -> A:
    try:
        return kind(text)
    except ValueError as error:
        hint = "; give the address without a prefix length" if "/" in text else ""
        raise Misconfigured(setting, f"{text!r} is not an IPv4 address{hint}") from error
