"""A real switch, one for each test module and worker, and bridges on it, one for each test."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

import pytest

from flowloom.drivers.switch.openvswitch import OpenVSwitch, open_switch
from flowloom.southbound.switch import PacketIn
from flowloom.testing.ovs import RunningOvs, real_ovs


@dataclass
class Opened:
    """An open switch and what it told."""

    switch: OpenVSwitch
    packets: Queue[PacketIn] = field(default_factory=Queue)
    lost: Queue[str] = field(default_factory=Queue)


Open = Callable[..., Opened]


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path leaves room for the name of a socket."""
    directory = Path(tempfile.mkdtemp(prefix="fl-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def ovs() -> Iterator[RunningOvs]:
    directory = Path(tempfile.mkdtemp(prefix="fl-"))
    try:
        with real_ovs(directory) as running:
            yield running
    finally:
        shutil.rmtree(directory)


_numbers = itertools.count()


@pytest.fixture
def bridge(ovs: RunningOvs) -> Iterator[str]:
    """Address of a new bridge with ports 1 to 3."""
    name = f"br{next(_numbers)}"
    yield ovs.add_bridge(name, 3)
    ovs.vsctl("del-br", name)


@pytest.fixture
def connect() -> Iterator[Open]:
    """Opens switches; they are closed at the end."""
    opened: list[Opened] = []

    def connect(address: str, deadline_seconds: float = 10.0) -> Opened:
        packets: Queue[PacketIn] = Queue()
        lost: Queue[str] = Queue()
        one = Opened(open_switch(address, packets.put, lost.put, deadline_seconds), packets, lost)
        opened.append(one)
        return one

    yield connect
    for one in opened:
        one.switch.close()
