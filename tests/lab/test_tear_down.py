"""A process of a lab is ended even when it has overwritten its environment."""

from __future__ import annotations

import os
from pathlib import Path

from flowloom.lab import build, processes
from flowloom.lab.layout import Layout


def test_process_without_the_mark_is_found_by_its_pid_file(tmp_path: Path) -> None:
    host = tmp_path / "h1"
    host.mkdir()
    environment = {"PATH": os.environ["PATH"]}
    process = processes.spawn(["sleep", "300"], host / "agent.pid", host / "agent.log", environment)
    try:
        assert build.tear_down(Layout.of(tmp_path))
        assert not process.alive
    finally:
        processes.end([process])
