"""Distributed DHCPv4, the answers: one packet and the records in, one packet or a reason for silence out.

The server keeps no leases: the records are the leases, so it knows for certain what is right for a port
and says NAK to everything else (RFC 2131, section 4.3).  A port is known by the userdata of the flow that
punted its request, never by what the request says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from flowloom.apps.dhcp import SERVER_MAC, DhcpSettings
from flowloom.apps.dhcp_options import Lease, Told, lease_of, told
from flowloom.apps.punts import MALFORMED, Answer, Ignored
from flowloom.compiler.view import View
from flowloom.model.records import Network, Port, Subnet
from flowloom.openflow.actions import PORT_IN, output
from flowloom.packet import dhcp, ethernet, ipv4
from flowloom.packet.dhcp import DhcpMessage
from flowloom.packet.ethernet import mac_int, mac_text
from flowloom.packet.ipv4 import ipv4_text
from flowloom.packet.malformed import Malformed
from flowloom.packet.udp import build_udp4, parse_udp4
from flowloom.southbound.switch import PacketIn

_TO_WHO_ASKED: Final = output(PORT_IN)
_NAMES: Final = {dhcp.OFFER: "offer", dhcp.ACK: "ack", dhcp.NAK: "nak"}
_HEADERS_SIZE: Final = 28
"""Bytes of IP and UDP headers, which option 57 counts and the message does not (RFC 2132, section 9.10)."""


@dataclass(frozen=True)
class DhcpServer:
    """The DHCPv4 answers of a chassis (`apps.punts.Puntable`).

    Counters of answers: offer, ack, nak.  Counters of silence: malformed, unknown_port, unknown_network,
    no_address, foreign_client, other_server, declined, released, unsupported.
    """

    settings: DhcpSettings

    def answer(self, packet: PacketIn, view: View) -> Answer | Ignored:
        """What the port that asks is told.  Never raises, whatever the frame holds."""
        try:
            frame = parse_udp4(packet.frame)
            request = dhcp.parse_dhcp(frame.datagram.payload)
        except Malformed as wrong:
            return Ignored(MALFORMED, str(wrong))
        if request.op != dhcp.REQUEST_OP or frame.datagram.dport != dhcp.SERVER_PORT:
            return Ignored("unsupported", "not a request to a server")
        if (frame.link.tag or 0) & 0xFFF:
            return Ignored("unsupported", f"in VLAN {(frame.link.tag or 0) & 0xFFF} of the port's own")
        client = _client(packet, view)
        if isinstance(client, Ignored):
            return client
        if request.chaddr not in _macs(client.port):
            return Ignored("foreign_client", f"port {client.port.id}: {mac_text(request.chaddr)} is not its MAC")
        reply = _decide(client, request)
        if isinstance(reply, Ignored):
            return reply
        return _answer(packet.in_port, frame.link.src, client, request, reply, self.settings)


@dataclass(frozen=True)
class _Client:
    """Who asks, and what may be given to it: at least one lease, the first by default.

    notes: addresses of the port that cannot be given, and why.
    """

    port: Port
    network: Network
    leases: Sequence[Lease]
    notes: tuple[str, ...]

    def lease(self, address: int) -> Lease | None:
        """Its lease of `address`; None when that is not its own."""
        return next((lease for lease in self.leases if lease.address == address), None)


@dataclass(frozen=True)
class _Reply:
    """kind: OFFER, ACK or NAK.  lease: what is offered or confirmed; of a NAK, whose server speaks."""

    kind: int
    lease: Lease


def _client(packet: PacketIn, view: View) -> _Client | Ignored:
    port_id = packet.userdata[1:].decode("ascii", "replace")
    port = view.get(Port, port_id)
    if port is None:
        return Ignored("unknown_port", f"port {port_id}: unknown")
    network = view.get(Network, port.network_id)
    if network is None:
        return Ignored("unknown_network", f"port {port_id}: its network {port.network_id} is unknown")
    leases: list[Lease] = []
    notes: list[str] = []
    for fixed in port.fixed_ips:
        subnet = view.get(Subnet, fixed.subnet_id)
        if subnet is None or subnet.ip_version != 4 or not subnet.enable_dhcp:
            continue
        try:
            leases.append(lease_of(subnet, fixed.ip_address))
        except ValueError as wrong:
            notes.append(f"port {port_id}, subnet {subnet.id}: {wrong}")
    if not leases:
        return Ignored("no_address", notes[0] if notes else f"port {port_id}: no IPv4 address of a subnet with DHCP")
    return _Client(port, network, leases, tuple(notes))


def _macs(port: Port) -> set[int]:
    """The port's own MAC and those of its allowed address pairs."""
    found: set[int] = set()
    for text in (port.mac_address, *(pair.mac_address for pair in port.allowed_address_pairs)):
        try:
            found.add(mac_int(text))
        except Malformed:
            continue  # A MAC that is none is nobody's.
    return found


def _decide(client: _Client, request: DhcpMessage) -> _Reply | Ignored:
    """The table of RFC 2131, section 4.3, for a server that knows every client's addresses."""
    first = client.leases[0]
    match request.kind:
        case dhcp.DISCOVER:
            wanted = request.number(dhcp.REQUESTED_ADDRESS)
            return _Reply(dhcp.OFFER, first if wanted is None else client.lease(wanted) or first)
        case dhcp.REQUEST:
            return _decide_request(client, request)
        case dhcp.INFORM:
            return _Reply(dhcp.ACK, client.lease(request.ciaddr) or first)
        case dhcp.DECLINE:
            wanted = request.number(dhcp.REQUESTED_ADDRESS) or 0
            return Ignored("declined", f"port {client.port.id}: says that {ipv4_text(wanted)} is in use by another")
        case dhcp.RELEASE:
            return Ignored("released", f"port {client.port.id}: gives {ipv4_text(request.ciaddr)} back")
        case kind:
            return Ignored("unsupported", f"port {client.port.id}: message type {kind}")


def _decide_request(client: _Client, request: DhcpMessage) -> _Reply | Ignored:
    """Selecting (names a server), init-reboot (names an address), renewing and rebinding (have one)."""
    server = request.number(dhcp.SERVER_IDENTIFIER)
    if server is not None and all(server != lease.server for lease in client.leases):
        return Ignored("other_server", f"port {client.port.id}: it takes the offer of {ipv4_text(server)}")
    wanted = request.number(dhcp.REQUESTED_ADDRESS) or request.ciaddr
    if not wanted:
        return Ignored(MALFORMED, "DHCP: a request for no address")
    lease = client.lease(wanted)
    return _Reply(dhcp.NAK, client.leases[0]) if lease is None else _Reply(dhcp.ACK, lease)


def _answer(
    in_port: int, asker_mac: int, client: _Client, request: DhcpMessage, reply: _Reply, settings: DhcpSettings
) -> Answer | Ignored:
    """The frame, with the fields and options of RFC 2131, table 3."""
    lease = reply.lease
    options = {dhcp.MESSAGE_TYPE: bytes((reply.kind,)), dhcp.SERVER_IDENTIFIER: lease.server.to_bytes(4, "big")}
    if dhcp.CLIENT_IDENTIFIER in request.options:  # RFC 6842: given back as it came.
        options[dhcp.CLIENT_IDENTIFIER] = request.options[dhcp.CLIENT_IDENTIFIER]
    if request.giaddr and dhcp.RELAY_AGENT in request.options:  # RFC 3046, section 2.2.
        options[dhcp.RELAY_AGENT] = request.options[dhcp.RELAY_AGENT]
    given = Told()
    yours = theirs = 0
    if reply.kind == dhcp.NAK:
        options[dhcp.MESSAGE] = b"not an address of this port"
    else:
        given = told(client.port, client.network, lease, settings)
        options |= given.selected(request)
        yours = 0 if request.kind == dhcp.INFORM else lease.address
        theirs = request.ciaddr if reply.kind == dhcp.ACK else 0
    # A relay must broadcast a NAK, whatever the client asked for (RFC 2131, section 4.3.2).
    flags = request.flags | (dhcp.BROADCAST_FLAG if reply.kind == dhcp.NAK and request.giaddr else 0)
    message = DhcpMessage(
        op=dhcp.REPLY_OP, xid=request.xid, secs=0, flags=flags, ciaddr=theirs, yiaddr=yours, siaddr=given.siaddr,
        giaddr=request.giaddr, chaddr=request.chaddr, options=options, sname=given.sname, file=given.file,
    )  # fmt: skip
    mac, address, port = _destination(request, message, reply.kind == dhcp.NAK, asker_mac)
    payload = message.encode(_size_max(request, client.network))
    frame = build_udp4(SERVER_MAC, mac, lease.server, address, dhcp.SERVER_PORT, port, payload)
    return Answer(frame, _TO_WHO_ASKED, in_port, _NAMES[reply.kind], (*client.notes, *given.notes))


def _destination(request: DhcpMessage, reply: DhcpMessage, nak: bool, asker_mac: int) -> tuple[int, int, int]:
    """MAC, address and UDP port a reply goes to (RFC 2131, section 4.1)."""
    if request.giaddr:
        return asker_mac, request.giaddr, dhcp.SERVER_PORT
    if not nak and request.ciaddr:
        return request.chaddr, request.ciaddr, dhcp.CLIENT_PORT
    if request.flags & dhcp.BROADCAST_FLAG or not reply.yiaddr:
        return ethernet.BROADCAST, ipv4.BROADCAST, dhcp.CLIENT_PORT
    return request.chaddr, reply.yiaddr, dhcp.CLIENT_PORT


def _size_max(request: DhcpMessage, network: Network) -> int:
    """Bytes of message the client takes and the network carries; no smaller than every client's least."""
    accepted = request.number(dhcp.SIZE_MAX) or 0
    return max(min(accepted, network.mtu) - _HEADERS_SIZE, dhcp.SIZE_MAX_DEFAULT)
