"""Several fake switches joined by their tunnels: a frame in at one host, frames out at others."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from flowloom.testing.datapath import Emission, Loop, TunnelMeta
from flowloom.testing.fake_switch import FakeSwitch

TUNNEL_PORT: Final = 10
_HOPS_MAX: Final = 10_000


class Delivery(NamedTuple):
    """A frame that came out of `port` of a host's switch; a packet-in when `port` is the controller's."""

    host: str
    port: int
    frame: bytes


class FakeCloud:
    """Hosts by name, each a FakeSwitch with one tunnel port (TUNNEL_PORT) and an outer address of its own.

    cut: pairs (from host, to host) between which tunnels lose everything.
    lost: (host, tunnel) of each frame that went to an address that no host has, or over a cut way.
    """

    def __init__(self, hosts: Mapping[str, int], switches: Mapping[str, FakeSwitch] | None = None) -> None:
        """hosts: name -> outer IPv4 address.  switches: those that exist already (with that tunnel port)."""
        self.addresses = dict(hosts)
        given = switches or {}
        self.switches = {
            host: given.get(host) or FakeSwitch(tunnels={TUNNEL_PORT: address}) for host, address in hosts.items()
        }
        self.cut: set[tuple[str, str]] = set()
        self.lost: list[tuple[str, TunnelMeta]] = []

    def inject(self, host: str, in_port: int, frame: bytes) -> list[Delivery]:
        """Let a frame in at a port of a host; every frame that leaves the cloud for it, anywhere, in order.

        What controllers send while the frame is under way (packet-outs) travels with it.  Loop when it never ends.
        """
        self.collect()
        return self._carry(deque((host, one) for one in self.switches[host].inject(in_port, frame)))

    def collect(self) -> list[Delivery]:
        """What packet-outs have let out since the last call, carried to where it leaves the cloud."""
        return self._carry(deque())

    def _carry(self, under_way: deque[tuple[str, Emission]]) -> list[Delivery]:
        deliveries: list[Delivery] = []
        hosts = {address: host for host, address in self.addresses.items()}
        for _ in range(_HOPS_MAX):
            self._take_sent(under_way)
            if not under_way:
                return deliveries
            host, one = under_way.popleft()
            if one.tunnel is None:
                deliveries.append(Delivery(host, one.port, one.frame))
                continue
            target = hosts.get(one.tunnel.dst)
            if target is None or (host, target) in self.cut:
                self.lost.append((host, one.tunnel))
                continue
            arrived = self.switches[target].inject(TUNNEL_PORT, one.frame, one.tunnel)
            under_way.extend((target, each) for each in arrived)
        raise Loop(f"{_HOPS_MAX} frames between hosts and no end")

    def _take_sent(self, under_way: deque[tuple[str, Emission]]) -> None:
        for host, switch in self.switches.items():
            sent, switch.sent = switch.sent, []
            under_way.extend((host, one) for one in sent)
