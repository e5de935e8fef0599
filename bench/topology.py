"""The benchmark's cloud: networks of 100 ports, one project each, 20 ports a host placed at random.

Deterministic from its seed.  Records come in no useful order, as from a store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from uuid import UUID

from flowloom.model.codec import encode
from flowloom.model.keys import key_of
from flowloom.model.records import Chassis, FixedIP, Network, Port, Record, Subnet

DEPLOYMENT = "bench"
PORTS_A_NETWORK = 100
PORTS_A_HOST = 20


@dataclass(frozen=True)
class Cloud:
    """Records with their keys; `site` is the host that the measured agent serves."""

    site: str
    records: tuple[tuple[str, Record], ...]

    def entries(self) -> Iterator[tuple[str, int, bytes]]:
        """(key, version, value) as the store holds them."""
        for key, record in self.records:
            yield key, record.version, encode(record)

    @property
    def local_networks(self) -> set[str]:
        """Networks with a port on `site`."""
        return {r.network_id for _, r in self.records if isinstance(r, Port) and r.host == self.site}

    def key(self, record: Port) -> str:
        """Where a new port of one of the networks lies."""
        network = next(r for _, r in self.records if isinstance(r, Network) and r.id == record.network_id)
        return key_of(DEPLOYMENT, network.project_id, network.id, "port", record.id)


def cloud(ports: int, seed: int = 7) -> Cloud:
    """`ports` ports on `ports / 20` hosts in `ports / 100` networks; about 430 bytes of JSON a port."""
    random = Random(seed)
    hosts = [f"chassis-{n}" for n in range(ports // PORTS_A_HOST) for _ in range(PORTS_A_HOST)]
    random.shuffle(hosts)
    records: list[tuple[str, Record]] = []
    for n in range(ports // PORTS_A_HOST):
        chassis = Chassis(
            id=f"chassis-{n}", version=1, key=n + 1, tunnel_ip=f"172.16.{n >> 8}.{n & 255}", started_at=1.0
        )
        records.append((key_of(DEPLOYMENT, "", chassis.id, "chassis", chassis.id), chassis))
    for n in range(ports):
        number = n // PORTS_A_NETWORK
        if n % PORTS_A_NETWORK == 0:
            project, network, subnet = (_uuid(random) for _ in range(3))
            records += _network(project, network, subnet, number)
        port = Port(
            id=_uuid(random), version=3, key=n + 1, project_id=project, network_id=network, name=f"vm-{n}",
            mac_address=f"fa:16:{0x3E + (n >> 16):02x}:{n >> 8 & 255:02x}:{n & 255:02x}:01",
            fixed_ips=(FixedIP(subnet, f"10.0.0.{n % PORTS_A_NETWORK + 10}"),), host=hosts[n], vif_type="ovs",
            device_id=_uuid(random), device_owner="compute:nova", security_group_ids=(_uuid(random),),
        )  # fmt: skip
        records.append((key_of(DEPLOYMENT, project, network, "port", port.id), port))
    random.shuffle(records)
    return Cloud("chassis-0", tuple(records))


def _network(project: str, network: str, subnet: str, number: int) -> list[tuple[str, Record]]:
    return [
        (key_of(DEPLOYMENT, project, network, "network", network),
         Network(id=network, version=2, key=number + 1, project_id=project, name=f"net-{number}", mtu=1442,
                 segmentation_id=10_000 + number)),
        (key_of(DEPLOYMENT, project, network, "subnet", subnet),
         Subnet(id=subnet, version=1, project_id=project, network_id=network, cidr="10.0.0.0/24",
                gateway_ip="10.0.0.1", dns_nameservers=("10.0.0.2",))),
    ]  # fmt: skip


def _uuid(random: Random) -> str:
    return str(UUID(int=random.getrandbits(128)))
