"""A real Open vSwitch a test, in a directory of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloom.testing.ovs import RunningOvs, real_ovs


@pytest.fixture
def ovs() -> Iterator[RunningOvs]:
    # A unix socket's path is at most 107 bytes; the test's own tmp_path can be longer.
    directory = Path(tempfile.mkdtemp(prefix="ovs-"))
    try:
        with real_ovs(directory) as running:
            yield running
    finally:
        shutil.rmtree(directory)
