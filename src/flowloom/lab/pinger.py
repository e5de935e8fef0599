"""Ping that counts exactly, for the inside of a namespace: `pinger.py ADDRESS COUNT INTERVAL SIZE`.

COUNT 0 pings until the input ends.  Then nothing more is sent, the answers still on their way are waited for, and one
JSON object is printed; so a packet is lost only when its answer does not come within a second, never because we left.
Before it, a line `ready` and, with the first answer, a line `first`.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time

_ECHO_REPLY, _ECHO_REQUEST = 0, 8  # RFC 792
_HEADER = struct.Struct("!BBHHH")
_STAMP = struct.Struct("!QQ")
"""In the payload: the number of the request, as the sequence field has 16 bits only, and when it was sent (ns)."""
GRACE_SECONDS = 1.0
_RECEIVE_BUFFER_BYTES = 1 << 20


class Pinger:
    """One series of echo requests to one address.  size: bytes of payload."""

    def __init__(self, address: str, size: int) -> None:
        self._address = address
        self._padding = b"\0" * max(0, size - _STAMP.size)
        self._id = os.getpid() & 0xFFFF
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self._socket.setblocking(False)
        self.sent = 0
        self.missing: dict[int, int] = {}
        self.round_trips_ms: list[float] = []
        self.duplicates = 0

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def send(self) -> None:
        """One request.  An address that cannot be reached makes it a lost one."""
        now = time.monotonic_ns()
        payload = _STAMP.pack(self.sent, now) + self._padding
        head = _HEADER.pack(_ECHO_REQUEST, 0, 0, self._id, self.sent & 0xFFFF)
        check = _checksum(head + payload)
        self.missing[self.sent] = now
        self.sent += 1
        try:
            self._socket.sendto(
                _HEADER.pack(_ECHO_REQUEST, 0, check, self._id, (self.sent - 1) & 0xFFFF) + payload, (self._address, 0)
            )
        except OSError:
            return  # No route, no neighbour, no buffer: the request stays missing, which is what is counted.

    def receive(self) -> None:
        """Every answer that has arrived."""
        while True:
            try:
                packet, (source, _) = self._socket.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError:
                continue  # An ICMP error for an earlier request.
            now = time.monotonic_ns()
            icmp = packet[(packet[0] & 0x0F) * 4 :]
            if source != self._address or len(icmp) < _HEADER.size + _STAMP.size:
                continue
            kind, _, _, id, _ = _HEADER.unpack_from(icmp)
            if (kind, id) != (_ECHO_REPLY, self._id):
                continue
            number, _ = _STAMP.unpack_from(icmp, _HEADER.size)
            sent_at = self.missing.pop(number, None)
            if sent_at is None:
                self.duplicates += 1
            else:
                self.round_trips_ms.append((now - sent_at) / 1e6)

    def result(self) -> dict[str, object]:
        """What `flowloom.lab.probes.PingResult` is made of."""
        times = self.round_trips_ms
        rtt = {"min_ms": min(times), "avg_ms": sum(times) / len(times), "max_ms": max(times)} if times else None
        return {
            "sent": self.sent,
            "received": len(times),
            "lost": len(self.missing),
            "lost_numbers": sorted(self.missing)[:1000],
            "duplicates": self.duplicates,
            "rtt": rtt,
        }


def main(argv: list[str]) -> int:
    address, count, interval, size = argv[0], int(argv[1]), float(argv[2]), int(argv[3])
    pinger = Pinger(address, size)
    print("ready", flush=True)
    announced = False
    asked_to_stop = False
    due = time.monotonic()
    while not asked_to_stop and (count == 0 or pinger.sent < count):
        wait = due - time.monotonic()
        if wait <= 0:
            pinger.send()
            # After a stall the missed ones are not sent in a burst: the interval is kept, the series shifts.
            due = max(due + interval, time.monotonic())
            continue
        readable, _, _ = select.select([pinger, *([sys.stdin] if count == 0 else [])], [], [], wait)
        asked_to_stop = sys.stdin in readable
        pinger.receive()
        if pinger.round_trips_ms and not announced:
            announced = True
            print("first", flush=True)
    last = time.monotonic() + GRACE_SECONDS
    while pinger.missing and (left := last - time.monotonic()) > 0:
        select.select([pinger], [], [], left)
        pinger.receive()
    print(json.dumps(pinger.result()), flush=True)
    return 0


def _checksum(data: bytes) -> int:
    # RFC 1071
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
