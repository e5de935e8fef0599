"""A cloud of fake switches, each holding what its own compiler makes of the same records."""

from __future__ import annotations

from random import Random

from flowloom.apps.release import AppSettings, apps
from flowloom.apps.switching import TunnelPorts
from flowloom.compiler.compiler import Compiler
from flowloom.model.records import Chassis, Interface, Port, Record
from flowloom.packet.arp import Arp
from flowloom.packet.ethernet import ARP, Ethernet, mac_int
from flowloom.packet.icmp import ECHO_REQUEST, Echo, build_echo4
from flowloom.packet.ipv4 import ipv4_int
from flowloom.packet.ipv6 import Ipv6, ipv6_int
from flowloom.pipeline.check import check
from flowloom.southbound.switch import Batch
from flowloom.testing.fake_cloud import TUNNEL_PORT, Delivery, FakeCloud

BROADCAST = 0xFFFF_FFFF_FFFF


class Cloud:
    """hosts h1..hN; a port's OpenFlow port is 100 + its key on the host it is bound to."""

    def __init__(self, hosts: int, records: list[Record], seed: int = 0) -> None:
        names = [f"h{n}" for n in range(1, hosts + 1)]
        self.records = [
            *records,
            *(
                Chassis(id=name, version=1, key=500 + n, tunnel_ip=f"192.168.50.{n}", tunnel_types=("geneve", "vxlan"))
                for n, name in enumerate(names, 1)
            ),
        ]
        self.fakes = FakeCloud({name: ipv4_int(f"192.168.50.{n}") for n, name in enumerate(names, 1)})
        self.ports = {record.id: record for record in records if isinstance(record, Port)}
        self.compilers = {}
        for name in names:
            made = Compiler(apps(AppSettings(name, TunnelPorts(geneve=TUNNEL_PORT))), name)
            plugged = [Interface(id=p.id, ofport=100 + p.key) for p in self.ports.values() if p.host == name]
            everything = [*self.records, *plugged]
            Random(seed).shuffle(everything)
            made.load(everything)
            made.work()
            assert not made.failures
            for key, value in made.ledger.desired.items():
                assert not check(key, value)
            refusals = self.fakes.switches[name].apply(Batch((), tuple(made.ledger.desired.items())))
            assert refusals == []
            self.compilers[name] = made

    def send(self, port_id: str, frame: bytes) -> list[Delivery]:
        """What comes out anywhere when the VM of a port sends `frame`."""
        port = self.ports[port_id]
        return self.fakes.inject(port.host, 100 + port.key, frame)

    def reached(self, port_id: str, frame: bytes) -> list[str]:
        """Ids of the ports at which the frame, unchanged, came out; sorted, doubles kept."""
        at = {(p.host, 100 + p.key): p.id for p in self.ports.values()}
        out = []
        for delivery in self.send(port_id, frame):
            assert delivery.frame == frame
            out.append(at[delivery.host, delivery.port])
        return sorted(out)


def ping(src: Port, dst_mac: int, dst_ip: str, *, eth_src: str = "", ip_src: str = "") -> bytes:
    return build_echo4(
        mac_int(eth_src or src.mac_address),
        dst_mac,
        ipv4_int(ip_src or src.fixed_ips[0].ip_address),
        ipv4_int(dst_ip),
        Echo(ECHO_REQUEST, 1, 1),
    )


def arp_request(src: Port, asked: str, *, sha: str = "", spa: str = "", eth_src: str = "") -> bytes:
    mac = mac_int(sha or src.mac_address)
    sender = ipv4_int(spa or src.fixed_ips[0].ip_address)
    return Ethernet(
        BROADCAST, mac_int(eth_src or src.mac_address), ARP, Arp(1, mac, sender, 0, ipv4_int(asked)).encode()
    ).encode()


def icmp6(eth_src: str, ip_src: str, ip_dst: str, body: bytes, dst_mac: int = 0x333300000001) -> bytes:
    return Ethernet(
        dst_mac, mac_int(eth_src), 0x86DD, Ipv6(ipv6_int(ip_src), ipv6_int(ip_dst), 58, body, 255).encode()
    ).encode()
