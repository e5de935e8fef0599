"""Real DHCP clients, in a network namespace, against the answers: a loop of frames stands in for the switch."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from dhcp_world import GATEWAY, WORLD, network, port, subnet

from flowloom.apps.dhcp import SERVER_MAC, DhcpSettings
from flowloom.apps.dhcp_server import DhcpServer
from flowloom.apps.punts import Answer
from flowloom.compiler.compiler import Compiler
from flowloom.model.records import DhcpOption, FixedIP, HostRoute, Port, Record
from flowloom.packet import arp
from flowloom.packet.arp import Arp
from flowloom.packet.dhcp import parse_dhcp
from flowloom.packet.ethernet import ARP, Ethernet, parse_ethernet
from flowloom.packet.malformed import Malformed
from flowloom.packet.udp import parse_udp4
from flowloom.southbound.switch import PacketIn
from flowloom.testing.waiting import wait_for

MISSING = [name for name in ("ip", "ethtool", "udhcpc", "dhclient") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the client lives in a network namespace"),
    pytest.mark.skipif(
        bool(MISSING), reason=f"needs {', '.join(MISSING)}: apt-get install ethtool udhcpc isc-dhcp-client"
    ),
]

_SCRIPT = """\
#!/bin/sh
{ echo "event=${1:-$reason}"; set | grep -E '^(ip|new_ip_address|subnet|router|dns|domain|hostname|mtu|lease|serverid|staticroutes|siaddr|boot_file|new_[a-z_0-9]*)='; echo; } >> EVENTS
"""
_DHCLIENT_CONF = """\
option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;
request subnet-mask, routers, domain-name, domain-name-servers, host-name, interface-mtu,
        rfc3442-classless-static-routes;
initial-interval 1; backoff-cutoff 2; timeout 20; retry 2;
"""
_numbers = count()


class Guest:
    """A namespace with `eth0`, whose peer's frames are answered as a host's flows and agent would.

    asked: one (MAC destination, DHCP message type, answer's counter) each; broken: what a thread raised.
    """

    def __init__(self, directory: Path) -> None:
        self.name = f"dhcp{os.getpid()}n{next(_numbers)}"
        self.events_file = directory / "events"
        self.script = directory / "script"
        self.script.write_text(_SCRIPT.replace("EVENTS", str(self.events_file)))
        self.script.chmod(0o755)
        self.directory = directory
        self.server = DhcpServer(DhcpSettings(lease_seconds=3600, domain="cloud.test", dns_servers=("9.9.9.9",)))
        self.compiler = Compiler((), "h1")
        self.asked: list[tuple[int, int | None, str]] = []
        self.clients: list[subprocess.Popen[bytes]] = []
        ip("netns", "add", self.name)
        ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("-n", self.name, "link", "set", "eth0", "address", "fa:16:3e:00:00:01")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("link", "set", self.name, "up")
        # A packet socket would see checksums that the kernel leaves to a network card.
        ip("netns", "exec", self.name, "ethtool", "--offload", "eth0", "tx", "off")
        self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.wire.bind((self.name, 0))
        self._wake, self._woken = socket.socketpair()
        self.thread = threading.Thread(target=self._loop)
        self.thread.start()

    def close(self) -> None:
        for client in self.clients:
            client.kill()
            client.wait()
        self._wake.close()
        self.thread.join()
        self._woken.close()
        self.wire.close()
        ip("netns", "del", self.name)

    def holds(self, *records: Record) -> None:
        self.compiler.load(records)

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        client = subprocess.Popen(("ip", "netns", "exec", self.name, *argv), stderr=subprocess.DEVNULL)
        self.clients.append(client)
        return client

    def udhcpc(self, *more: str) -> subprocess.Popen[bytes]:
        options = [word for name in ("mtu", "staticroutes", "hostname") for word in ("-O", name)]
        fixed = ("-f", "-i", "eth0", "-s", str(self.script), "-t", "10", "-T", "1", "-A", "1")
        return self.start("udhcpc", *fixed, *options, *more)

    def dhclient(self) -> subprocess.Popen[bytes]:
        conf = self.directory / "dhclient.conf"
        conf.write_text(_DHCLIENT_CONF)
        files = [
            word for flag, name in (("-lf", "leases"), ("-pf", "pid")) for word in (flag, f"{self.directory}/{name}")
        ]
        return self.start("dhclient", "-4", "-d", "-cf", str(conf), *files, "-sf", str(self.script), "eth0")

    def event(self, *names: str) -> dict[str, str]:
        """Wait for an event of the client's script; its variables."""
        return wait_for(lambda: next((each for each in self._events() if each["event"] in names), None), 20)

    def _events(self) -> Iterator[dict[str, str]]:
        text = self.events_file.read_text() if self.events_file.exists() else ""
        for block in text.split("\n\n")[:-1]:
            yield {name: value.strip("'") for name, _, value in (line.partition("=") for line in block.split("\n"))}

    def answered(self, counter: str) -> tuple[int, int | None, str]:
        """Wait until something was answered so."""
        return wait_for(lambda: next((each for each in self.asked if each[2] == counter), None), 20)

    def _loop(self) -> None:
        while True:
            ready, _, _ = select.select([self.wire, self._woken], [], [])
            if self._woken in ready:
                return
            for frame in self._answers(self.wire.recv(2048)):
                self.wire.send(frame)

    def _answers(self, frame: bytes) -> Iterator[bytes]:
        link = parse_ethernet(frame)
        if link.ethertype == ARP:
            asked = arp.parse_arp(link.payload)
            if asked.op == arp.REQUEST and asked.tpa == GATEWAY:
                said = Arp(arp.REPLY, SERVER_MAC, GATEWAY, asked.sha, asked.spa)
                yield Ethernet(link.src, SERVER_MAC, ARP, said.encode()).encode()
            return
        try:
            datagram = parse_udp4(frame).datagram
        except Malformed:
            return  # IPv6 and the like: no flow punts it.
        if (datagram.sport, datagram.dport) != (68, 67):
            return
        answered = self.server.answer(PacketIn(0, 2, 5, 7, {}, b"\1p", frame), self.compiler.view())
        self.asked.append((link.dst, parse_dhcp(datagram.payload).kind, answered.counter))
        if isinstance(answered, Answer):
            yield answered.frame


def ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True, timeout=20, stdout=subprocess.DEVNULL)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path)
    try:
        yield made
    finally:
        made.close()


ROUTED = (network(), subnet(host_routes=(HostRoute("10.9.0.0/16", "10.0.0.9"),)), port(dns_name="web-1"))


def test_udhcpc_gets_renews_and_releases_its_lease(guest: Guest) -> None:
    guest.holds(*ROUTED)
    client = guest.udhcpc()
    bound = guest.event("bound")
    assert (bound["ip"], bound["subnet"], bound["router"]) == ("10.0.0.5", "255.255.255.0", "10.0.0.1")
    assert (bound["dns"], bound["domain"], bound["hostname"]) == ("9.9.9.9", "cloud.test", "web-1")
    assert (bound["mtu"], bound["lease"], bound["serverid"]) == ("1442", "3600", "10.0.0.1")
    assert bound["staticroutes"] == "10.9.0.0/16 10.0.0.9 0.0.0.0/0 10.0.0.1"
    assert [each[1:] for each in guest.asked] == [(1, "offer"), (3, "ack")]
    # It is the script's to configure the address.  A renewal goes out by unicast, after ARP.
    ip("-n", guest.name, "address", "add", "10.0.0.5/24", "dev", "eth0")
    client.send_signal(signal.SIGUSR1)
    guest.event("renew")
    assert guest.asked[2] == (SERVER_MAC, 3, "ack")
    client.send_signal(signal.SIGUSR2)
    assert guest.answered("released")[1] == 7


def test_udhcpc_that_wishes_for_another_address_gets_its_own(guest: Guest) -> None:
    guest.holds(*WORLD)
    guest.udhcpc("-r", "10.0.0.77")
    assert guest.event("bound")["ip"] == "10.0.0.5"


def test_udhcpc_moves_to_the_ports_new_address_when_the_old_one_is_refused(guest: Guest) -> None:
    guest.holds(*WORLD)
    client = guest.udhcpc()
    guest.event("bound")
    ip("-n", guest.name, "address", "add", "10.0.0.5/24", "dev", "eth0")
    moved = replace_addresses("10.0.0.6")
    guest.compiler.merge([(Port, "p", moved)])
    client.send_signal(signal.SIGUSR1)
    guest.answered("nak")
    wait_for(
        lambda: [each.get("ip") for each in guest._events() if each["event"] == "bound"] == ["10.0.0.5", "10.0.0.6"], 20
    )


def test_dhclient_gets_its_lease(guest: Guest) -> None:
    guest.holds(*ROUTED)
    guest.dhclient()
    bound = guest.event("BOUND")
    assert (bound["new_ip_address"], bound["new_subnet_mask"]) == ("10.0.0.5", "255.255.255.0")
    assert (bound["new_domain_name_servers"], bound["new_domain_name"]) == ("9.9.9.9", "cloud.test")
    assert (bound["new_host_name"], bound["new_interface_mtu"]) == ("web-1", "1442")
    assert (bound["new_dhcp_lease_time"], bound["new_dhcp_server_identifier"]) == ("3600", "10.0.0.1")
    assert bound["new_rfc3442_classless_static_routes"] == "16 10 9 10 0 0 9 0 10 0 0 1"


def test_dhclient_renews_by_unicast_when_its_time_comes(guest: Guest) -> None:
    guest.holds(network(), subnet(), port(extra_dhcp_opts=(DhcpOption("t1", "2"),)))
    guest.dhclient()
    guest.event("BOUND")
    ip("-n", guest.name, "address", "add", "10.0.0.5/24", "dev", "eth0")
    assert guest.event("RENEW")["new_ip_address"] == "10.0.0.5"
    assert guest.asked[2] == (SERVER_MAC, 3, "ack")


def test_dhclient_with_a_lease_of_another_time_is_refused_and_starts_again(guest: Guest) -> None:
    guest.holds(*WORLD)
    first = guest.dhclient()
    guest.event("BOUND")
    first.kill()
    first.wait()
    guest.compiler.merge([(Port, "p", replace_addresses("10.0.0.6"))])
    guest.dhclient()
    guest.answered("nak")
    wait_for(lambda: any(each.get("new_ip_address") == "10.0.0.6" for each in guest._events()), 20)


def replace_addresses(address: str) -> Port:
    return port(version=2, fixed_ips=(FixedIP("s", address),))
