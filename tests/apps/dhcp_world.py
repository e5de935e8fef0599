"""One port of one subnet, requests as a client writes them, and answers taken apart."""

from __future__ import annotations

from typing import Any

from flowloom.apps.dhcp import DhcpSettings
from flowloom.apps.dhcp_server import DhcpServer
from flowloom.apps.punts import DHCP4, Answer, Ignored
from flowloom.compiler.compiler import Compiler
from flowloom.model.records import FixedIP, Network, Port, Record, Subnet
from flowloom.openflow.actions import PORT_IN, output
from flowloom.packet import dhcp
from flowloom.packet.dhcp import DhcpMessage, parse_dhcp
from flowloom.packet.ipv4 import BROADCAST, ipv4_int, ipv4_text
from flowloom.packet.udp import Udp4Frame, build_udp4, parse_udp4
from flowloom.southbound.switch import PacketIn

MAC = 0xFA163E000001
ADDRESS = ipv4_int("10.0.0.5")
GATEWAY = ipv4_int("10.0.0.1")
XID = 0x12345678
SETTINGS = DhcpSettings(lease_seconds=3600, domain="cloud.test", dns_servers=("9.9.9.9",))


def network(**fields: Any) -> Network:
    return Network(**{"id": "n", "version": 1, "key": 7, "mtu": 1442} | fields)


def subnet(**fields: Any) -> Subnet:
    return Subnet(
        **{"id": "s", "version": 1, "network_id": "n", "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.1"} | fields
    )


def port(**fields: Any) -> Port:
    usual = {"id": "p", "version": 1, "key": 9, "network_id": "n", "mac_address": "fa:16:3e:00:00:01", "host": "h1"}
    return Port(**usual | {"fixed_ips": (FixedIP("s", "10.0.0.5"),)} | fields)


WORLD = (network(), subnet(), port())


def request(kind: int | None, options: dict[int, bytes] | None = None, **fields: Any) -> DhcpMessage:
    head = {} if kind is None else {dhcp.MESSAGE_TYPE: bytes((kind,))}
    usual = {"op": 1, "xid": XID, "secs": 3, "flags": 0, "ciaddr": 0, "yiaddr": 0, "siaddr": 0, "giaddr": 0}
    return DhcpMessage(**usual | {"chaddr": MAC, "options": head | (options or {})} | fields)


def framed(message: DhcpMessage, src: int = 0, dst: int = BROADCAST, eth_dst: int = 0xFFFF_FFFF_FFFF) -> bytes:
    return build_udp4(message.chaddr, eth_dst, src, dst, 68, 67, message.encode(1400))


def packet_in(frame: bytes, userdata: bytes = bytes((DHCP4,)) + b"p") -> PacketIn:
    return PacketIn(0, 2, 5, 7, {}, userdata, frame)


def answer(
    message: DhcpMessage | bytes, *records: Record, settings: DhcpSettings = SETTINGS, userdata: bytes = b"\1p"
) -> Answer | Ignored:
    """What the server says to a message, or to a whole frame; records: WORLD unless others are given."""
    compiler = Compiler((), "h1")
    compiler.load(records or WORLD)
    frame = message if isinstance(message, bytes) else framed(message)
    return DhcpServer(settings).answer(packet_in(frame, userdata), compiler.view())


def told(answered: Answer | Ignored) -> tuple[Udp4Frame, DhcpMessage]:
    """The frame and the message of an answer; whatever holds for every answer is held here."""
    assert isinstance(answered, Answer), answered
    frame = parse_udp4(answered.frame)
    message = parse_dhcp(frame.datagram.payload)
    assert (message.op, message.xid, message.secs, frame.datagram.sport) == (2, XID, 0, 67)
    assert message.kind is not None and dhcp.SERVER_IDENTIFIER in message.options
    assert frame.link.src == 0x020000000067
    assert frame.network.src == message.number(dhcp.SERVER_IDENTIFIER)
    assert len(frame.datagram.payload) >= 300
    assert (answered.actions, answered.in_port) == (output(PORT_IN), 5)
    return frame, message


def ask(message: DhcpMessage | bytes, *records: Record, settings: DhcpSettings = SETTINGS) -> DhcpMessage:
    """The message that answers."""
    return told(answer(message, *records, settings=settings))[1]


def quads(value: bytes) -> list[str]:
    """A list of addresses as text."""
    return [ipv4_text(int.from_bytes(value[at : at + 4], "big")) for at in range(0, len(value), 4)]


def wanting(*numbers: int) -> dict[int, bytes]:
    """The parameter request list."""
    return {dhcp.PARAMETER_REQUEST: bytes(numbers)}


def address(number: int, text: str) -> dict[int, bytes]:
    return {number: ipv4_int(text).to_bytes(4, "big")}
