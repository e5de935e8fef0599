"""The kinds the compiler knows, and by what each can be looked up.

An index maps a record to the values it is found by.  A nested index has pairs as values and also answers
"which second halves occur with this first half?" (`View.spread`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from flowloom.model.records import (
    AddressGroup,
    Chassis,
    FloatingIP,
    Interface,
    Network,
    Port,
    PortForwarding,
    PortStatus,
    QosPolicy,
    Record,
    Router,
    SecurityGroup,
    Subnet,
    Trunk,
)

Extract = Callable[[Any], tuple[Hashable, ...]]


@dataclass(frozen=True)
class Kind:
    """One kind of record.  indexes: name -> extractor (no value twice); nested: names of those whose values are pairs."""

    type: type[Record]
    indexes: dict[str, Extract]
    nested: tuple[str, ...] = ()


def _itself(record: Record) -> tuple[Hashable, ...]:
    return (record.id,)


def _network(record: Subnet | Port) -> tuple[Hashable, ...]:
    return (record.network_id,)


def _site(port: Port) -> tuple[Hashable, ...]:
    return ((port.network_id, port.host),)


def _host(port: Port) -> tuple[Hashable, ...]:
    return (port.host,)


def _address(port: Port) -> tuple[Hashable, ...]:
    return tuple(dict.fromkeys((port.network_id, fixed.ip_address) for fixed in port.fixed_ips))


KINDS: tuple[Kind, ...] = (
    Kind(Chassis, {}),
    Kind(Network, {"network": _itself}),
    Kind(Subnet, {"network": _network}),
    Kind(Port, {"network": _network, "site": _site, "host": _host, "address": _address}, nested=("site",)),
    Kind(Router, {}),
    Kind(FloatingIP, {}),
    Kind(PortForwarding, {}),
    Kind(SecurityGroup, {}),
    Kind(AddressGroup, {}),
    Kind(QosPolicy, {}),
    Kind(Trunk, {}),
    Kind(PortStatus, {}),
    Kind(Interface, {}),
)
