"""Raw Ethernet frames, for the inside of a namespace.

`frames.py send INTERFACE` puts each line of its input, hexadecimal, on the wire; they need not be what a kernel would
send.  `frames.py capture INTERFACE` prints `ready`, then each frame that arrives, until its input ends.
"""

from __future__ import annotations

import select
import socket
import sys

_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_AUXDATA, _PACKET_IGNORE_OUTGOING = 263, 8, 23  # linux/if_packet.h
_TP_STATUS_VLAN_VALID, _TP_STATUS_VLAN_TPID_VALID = 0x10, 0x40
_BUFFER_BYTES = 4 << 20


def send(interface: str) -> int:
    """Send every frame of the input, in order."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        for line in sys.stdin:
            raw.send(bytes.fromhex(line))
    return 0


def capture(interface: str) -> int:
    """Print every frame that arrives at the interface; what leaves by it is not shown."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        raw.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        raw.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        raw.bind((interface, 0))
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select([raw, sys.stdin], [], [])
            if raw in readable:
                data, extra, _, _ = raw.recvmsg(65535, 256)
                print(_with_tag(data, extra).hex(), flush=True)
            elif sys.stdin in readable:
                return 0


def _with_tag(data: bytes, extra: list[tuple[int, int, bytes]]) -> bytes:
    """The frame with its outer VLAN tag, which the kernel takes off and reports beside it: packet(7)."""
    for level, kind, value in extra:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status = int.from_bytes(value[0:4], sys.byteorder)
            if status & _TP_STATUS_VLAN_VALID:
                tci = int.from_bytes(value[16:18], sys.byteorder)
                tpid = int.from_bytes(value[18:20], sys.byteorder) if status & _TP_STATUS_VLAN_TPID_VALID else 0x8100
                return data[:12] + tpid.to_bytes(2, "big") + tci.to_bytes(2, "big") + data[12:]
    return data


if __name__ == "__main__":
    sys.exit({"send": send, "capture": capture}[sys.argv[1]](sys.argv[2]))
