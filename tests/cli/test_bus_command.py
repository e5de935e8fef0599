"""`flowloom bus` as a process, and what `flowloom status` says of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def directory() -> Iterator[Path]:
    # A short path: unix sockets allow 107 bytes.
    with tempfile.TemporaryDirectory(prefix="fl-bus-") as name:
        yield Path(name)


def bus_row(directory: Path) -> dict[str, object]:
    config = directory / "flowloom.toml"
    config.write_text(
        f'deployment = "lab"\nstore = "sqlite:///{directory}/nb.sqlite"\nbus = "zmq+ipc://{directory}/bus"\n'
    )
    command = [sys.executable, "-m", "flowloom", "--config", str(config), "status", "--json", "--timeout", "2"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return next(row for row in json.loads(shown.stdout) if row["layer"] == "bus")


def test_forwarder_that_is_up_forwards_and_ends_cleanly_on_sigterm(directory: Path) -> None:
    command = [sys.executable, "-m", "flowloom", "bus", "--url", f"zmq+ipc://{directory}/bus"]
    forwarder = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not (directory / "bus" / "out.sock").exists():
            assert time.monotonic() < deadline, "the forwarder does not listen"
            assert forwarder.poll() is None
            time.sleep(0.02)
        assert bus_row(directory) == {
            "layer": "bus",
            "state": "up",
            "backlog": None,
            "oldest_seconds": None,
            "note": f"zmq+ipc://{directory}/bus forwards",
        }
        forwarder.send_signal(signal.SIGTERM)
        assert forwarder.wait(20) == 0
        assert forwarder.stderr
        assert forwarder.stderr.read() == b""
    finally:
        forwarder.kill()
        forwarder.wait()


def test_forwarder_that_is_down_does_not_answer(directory: Path) -> None:
    row = bus_row(directory)
    assert row["state"] == "down"
    assert "did not come back within 2 s" in str(row["note"])


def test_forwarder_with_a_wrong_url_is_one_sentence_and_2(directory: Path) -> None:
    command = [sys.executable, "-m", "flowloom", "bus", "--url", "pigeon://here"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("flowloom: url: pigeon:")
    assert ended.stderr.count("\n") == 1
