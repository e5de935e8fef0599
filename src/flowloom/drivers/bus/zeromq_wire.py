"""The ZeroMQ bus on the wire: addresses out of URLs, and messages.

A message is three frames: topic, header (MessagePack), value.  Topics of notices are keys; of a scope's
heartbeat the scope; of a publisher's own heartbeat `!`, to which everybody subscribes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

import msgspec

from flowloom.kernel.errors import Misconfigured
from flowloom.northbound.bus import Heartbeat, Notice

BEAT_TOPIC = b"!"
_SOCKET_PATH_MAX = 107
"""Longest path of a unix socket, in bytes (unix(7))."""


@dataclass(frozen=True)
class Endpoint:
    """One forwarder.  inward: where publishers connect; outward: where subscribers do."""

    inward: str
    outward: str
    host: str = ""
    port: int = 0
    directory: str = ""


@dataclass(frozen=True)
class Address:
    """What a bus URL says."""

    endpoints: tuple[Endpoint, ...]
    heartbeat_seconds: float
    hwm: int


def parse_url(url: str, setting: str = "bus") -> Address:
    """`zmq+ipc:///dir` or `zmq+tcp://host:port[,host:port…]`, with `?heartbeat_seconds=1&hwm=10000`."""
    place, _, query = url.partition("?")
    scheme, separator, rest = place.partition("://")
    options = dict(parse_qsl(query, keep_blank_values=True))
    heartbeat, hwm = options.pop("heartbeat_seconds", "1"), options.pop("hwm", "10000")
    if options:
        raise Misconfigured(setting, f"{url}: unknown option {next(iter(options))}")
    try:
        heartbeat_seconds, hwm_messages = float(heartbeat), int(hwm)
    except ValueError as error:
        raise Misconfigured(setting, f"{url}: heartbeat_seconds and hwm are numbers") from error
    if not (0.001 <= heartbeat_seconds <= 3600 and hwm_messages >= 1):
        raise Misconfigured(setting, f"{url}: heartbeat_seconds is 0.001 to 3600, hwm at least 1")
    if scheme == "zmq+ipc" and separator:
        endpoints: tuple[Endpoint, ...] = (_ipc(setting, url, unquote(rest)),)
    elif scheme == "zmq+tcp" and separator:
        endpoints = tuple(_tcp(setting, url, part) for part in rest.replace("zmq+tcp://", "").split(","))
    else:
        raise Misconfigured(setting, f"{url} is neither zmq+ipc:///directory nor zmq+tcp://host:port")
    return Address(endpoints, heartbeat_seconds, hwm_messages)


def _ipc(setting: str, url: str, directory: str) -> Endpoint:
    if not os.path.isabs(directory):
        raise Misconfigured(setting, f"{url}: the directory is an absolute path (three slashes)")
    outward = os.path.join(directory, "out.sock")
    if len(os.fsencode(outward)) > _SOCKET_PATH_MAX:
        raise Misconfigured(setting, f"{outward} is longer than a unix socket's {_SOCKET_PATH_MAX} bytes; shorten it")
    return Endpoint(f"ipc://{os.path.join(directory, 'in.sock')}", f"ipc://{outward}", directory=directory)


def _tcp(setting: str, url: str, part: str) -> Endpoint:
    host, _, port = part.rstrip("/").rpartition(":")
    if not host or not port.isdigit() or not 1 <= int(port) <= 65534:
        raise Misconfigured(setting, f"{url}: {part!r} is not host:port with a port of 1 to 65534")
    number = int(port)
    return Endpoint(f"tcp://{host}:{number}", f"tcp://{host}:{number + 1}", host=host.strip("[]"), port=number)


class _Header(msgspec.Struct, array_like=True, gc=False):
    """count: the publisher's messages of all kinds in this epoch; it tells copies that took two ways."""

    publisher: str
    epoch: int
    count: int


class NoticeHeader(_Header, tag="N", array_like=True, gc=False):
    sequence: int
    previous: int
    version: int
    deleted: bool


class BeatHeader(_Header, tag="H", array_like=True, gc=False):
    sequence: int
    scope: str


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(NoticeHeader | BeatHeader)


def encode(event: Notice | Heartbeat, count: int) -> list[bytes]:
    """The frames of one message."""
    if isinstance(event, Notice):
        publisher, epoch, sequence, previous, key, version, value = event
        header: NoticeHeader | BeatHeader = NoticeHeader(
            publisher, epoch, count, sequence, previous, version, value is None
        )
        return [key.encode(), _ENCODER.encode(header), value or b""]
    publisher, epoch, sequence, scope = event
    return [scope.encode() or BEAT_TOPIC, _ENCODER.encode(BeatHeader(publisher, epoch, count, sequence, scope)), b""]


def decode(frames: list[bytes]) -> tuple[Notice | Heartbeat, int] | None:
    """The event and its count; None for what is no message of this bus."""
    try:
        topic, head, value = frames
        header = _DECODER.decode(head)
        if isinstance(header, BeatHeader):
            return Heartbeat(header.publisher, header.epoch, header.sequence, header.scope), header.count
        key = topic.decode("ascii")
    except (ValueError, msgspec.DecodeError):
        return None
    notice = Notice(
        header.publisher,
        header.epoch,
        header.sequence,
        header.previous,
        key,
        header.version,
        None if header.deleted else value,
    )
    return notice, header.count
