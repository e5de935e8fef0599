"""For the inside of a VM: `who.py serve NAME` answers every datagram with its name; `who.py ask N ADDRESS...` asks.

`serve` prints `ready` and runs until its input ends.  `ask` sends a datagram to each address and prints, as JSON, a
list of [address, name] of every answer: it waits some seconds for N of them, then a quarter of one for more.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

PORT = 7777
ANSWERS_SECONDS = 5.0
MORE_SECONDS = 0.25


def serve(name: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", PORT))
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select([server, sys.stdin], [], [])
            if server not in readable:
                return 0
            _, sender = server.recvfrom(65535)
            server.sendto(name.encode(), sender)


def ask(number: int, addresses: list[str]) -> int:
    answers: list[tuple[str, str]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for address in addresses:
            client.sendto(b"who are you?", (address, PORT))
        until = time.monotonic() + ANSWERS_SECONDS
        while (left := until - time.monotonic()) > 0:
            client.settimeout(left)
            try:
                data, (source, _) = client.recvfrom(65535)
            except TimeoutError:
                break
            answers.append((source, data.decode()))
            if len(answers) == number:
                until = time.monotonic() + MORE_SECONDS
    print(json.dumps(answers))
    return 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[2]) if sys.argv[1] == "serve" else ask(int(sys.argv[2]), sys.argv[3:]))
