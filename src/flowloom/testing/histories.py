"""Random histories of records, for property tests and simulations: small worlds in which everything collides.

Ids, keys, addresses and hosts are drawn from a handful each, so that dangling references, duplicate
addresses, re-created ids and scopes that open and close all occur within a few steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

from flowloom.model.records import (
    AddressPair,
    Chassis,
    DhcpOption,
    FixedIP,
    HostRoute,
    Interface,
    Network,
    Port,
    Record,
    Subnet,
)

SITE: Final = "h0"
Change = tuple[type[Record], str, Record | None]

_HOSTS: Final = (SITE, "h1", "h2", "")
_KINDS: Final[tuple[type[Record], ...]] = (Chassis, Network, Subnet, Interface, Port, Port, Port, Port)


def a_chassis(random: Random) -> Chassis:
    """A node; its key never changes, its address may."""
    n = random.randrange(3)
    return Chassis(
        id=f"h{n}",
        version=0,
        key=100 + n,
        tunnel_ip=f"192.168.50.{random.randrange(1, 4)}",
        tunnel_types=random.choice((("geneve",), ("geneve", "vxlan"), ())),
    )


def a_network(random: Random) -> Network:
    """A network of one of several types, with numbers that collide."""
    n = random.randrange(3)
    return Network(
        id=f"n{n}",
        version=0,
        key=n + 1,
        admin_state_up=random.random() < 0.9,
        mtu=random.choice((1400, 1450)),
        network_type=random.choice(("geneve", "geneve", "vxlan", "local")),
        segmentation_id=random.choice((10, 11, 12, None)),
    )


def a_subnet(random: Random) -> Subnet:
    """A subnet of one of the networks, with or without gateway and DHCP."""
    n = random.randrange(4)
    return Subnet(
        id=f"s{n}",
        version=0,
        network_id=f"n{n % 3}",
        cidr="10.0.0.0/24" if n < 3 else "fd00::/64",
        ip_version=4 if n < 3 else 6,
        gateway_ip=random.choice(("10.0.0.1", "10.0.0.2", None)) if n < 3 else None,
        enable_dhcp=random.random() < 0.7,
        host_routes=random.choice(((), (HostRoute("10.9.0.0/16", "10.0.0.9"),))),
    )


def an_interface(random: Random) -> Interface:
    """A plug of one of the ports; OpenFlow port numbers collide."""
    return Interface(id=f"p{random.randrange(6)}", ofport=random.randrange(1, 4))


def a_port(random: Random) -> Port:
    """A port; MACs and addresses collide within and across networks."""
    n = random.randrange(6)
    fixed = tuple(
        FixedIP(f"s{random.randrange(4)}", random.choice(("10.0.0.1", "10.0.0.5", "10.0.0.6", "fd00::5")))
        for _ in range(random.randrange(3))
    )
    pairs = (AddressPair(random.choice(("10.0.0.200", "10.1.0.0/16", "0.0.0.0/0")), "fa:16:3e:00:00:77"),)
    return Port(
        id=f"p{n}",
        version=0,
        key=random.choice((n + 1, n + 1, random.randrange(1, 8))),
        network_id=f"n{random.randrange(3)}",
        mac_address=f"fa:16:3e:00:00:0{random.randrange(4)}",
        fixed_ips=fixed,
        host=random.choice(_HOSTS),
        admin_state_up=random.random() < 0.9,
        port_security_enabled=random.random() < 0.8,
        allowed_address_pairs=pairs if random.random() < 0.2 else (),
        extra_dhcp_opts=(DhcpOption("mtu", "1300"),) if random.random() < 0.1 else (),
    )


_MAKERS: Final = {Chassis: a_chassis, Network: a_network, Subnet: a_subnet, Interface: an_interface, Port: a_port}


def a_change(random: Random, version: int) -> Change:
    """One create, update or delete."""
    kind = random.choice(_KINDS)
    record = _MAKERS[kind](random)
    if random.random() < 0.3:
        return kind, record.id, None
    return kind, record.id, with_version(record, version)


def with_version(record: Record, version: int) -> Record:
    """The same record at another version."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    return type(record)(**{**fields, "version": version})


def history(random: Random, batches: int) -> Iterator[list[Change]]:
    """Batches of one to five changes, versions ascending."""
    version = 0
    for _ in range(batches):
        batch: dict[tuple[type[Record], str], Change] = {}
        for _ in range(random.choice((1, 1, 1, 2, 5))):
            version += 1
            change = a_change(random, version)
            batch[change[:2]] = change
        yield list(batch.values())
