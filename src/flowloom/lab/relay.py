"""A host's way to the store: `relay.py NETNS READY_SOCKET PORT...`.

A host's namespace has no road out, as a hypervisor has its management network; the store's servers listen on the
loopback outside.  This process listens on the same ports of the loopback inside and passes bytes on, so that one URL
holds everywhere.  Who cannot be reached outside is not reached from inside either: the connection is reset.
Killed, it refuses; paused, it is a network that swallows.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import sys
from functools import partial
from pathlib import Path

_CLONE_NEWNET = 0x40000000  # setns(2)
_CHUNK_BYTES = 1 << 16
_BACKLOG = 128


def main(argv: list[str]) -> int:
    """Listen and pass on until killed.  OSError when the namespace or a port cannot be had."""
    netns, ready, ports = argv[0], Path(argv[1]), [int(port) for port in argv[2:]]
    listeners = _listen_inside(netns, ports)
    ready.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as told:
        told.bind(str(ready))
        told.listen()
        asyncio.run(_serve(listeners))
    return 0


def _listen_inside(netns: str, ports: list[int]) -> list[socket.socket]:
    """A socket belongs to the namespace it was made in, whoever uses it later: only making it needs the namespace."""
    outside = os.open("/proc/self/ns/net", os.O_RDONLY)
    inside = os.open(f"/run/netns/{netns}", os.O_RDONLY)
    try:
        _enter(inside)
        try:
            return [socket.create_server(("127.0.0.1", port), backlog=_BACKLOG) for port in ports]
        finally:
            _enter(outside)
    finally:
        os.close(inside)
        os.close(outside)


def _enter(descriptor: int) -> None:
    # os.setns is in Python 3.12.
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot enter the network namespace: {os.strerror(code)}")


async def _serve(listeners: list[socket.socket]) -> None:
    servers = [
        await asyncio.start_server(partial(_pass_on, listener.getsockname()[1]), sock=listener)
        for listener in listeners
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def _pass_on(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        _reset(writer)
        return
    await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
    for each in (writer, there_writer):
        each.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, to its end."""
    try:
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Hang up as who died does: the other side is to see that this was no orderly end."""
    with contextlib.suppress(OSError):
        # socket(7): lingering for 0 seconds sends a reset.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
